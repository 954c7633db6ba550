"""The one line that lets a machine join."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.base.credentials import ClusterCredentials
from remora.base.join_string import JoinString
from remora.base.network_address import join_address, split_address

CREDENTIALS = ClusterCredentials(bytes(range(32)), bytes(range(32, 64)))
TEXT = str(JoinString("10.0.0.1", 6390, CREDENTIALS))


@given(
    st.sampled_from(["10.0.0.1", "head.example.org", "fd00::1", "::1", "node-1"]),
    st.integers(1, 65535),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.booleans(),
)
def test_what_was_written_is_read(host: str, port: int, secret: bytes, fingerprint: bytes, encrypt: bool) -> None:
    credentials = ClusterCredentials(secret, fingerprint, encrypt)
    text = str(JoinString(host, port, credentials))
    parsed = JoinString.parse(f"  {text}\n")
    assert (parsed.host, parsed.port, parsed.credentials) == (host, port, credentials)


def test_it_is_one_word_that_no_shell_touches() -> None:
    assert len(TEXT.split()) == 1
    assert TEXT.startswith("remora://10.0.0.1:6390/")
    assert not set(TEXT) & set("?&*;|<>$`'\"\\#!(){}~% ")


def test_paths_of_this_machine_are_not_in_it() -> None:
    credentials = ClusterCredentials(bytes(32), bytes(32), True, "/here/certificate.pem", "/here/key.pem")
    assert "here" not in str(JoinString("h", 1, credentials))


def test_its_repr_shows_the_address_and_no_secret() -> None:
    joined = JoinString.parse(TEXT)
    secret = TEXT.rpartition("/")[2]
    for text in (repr(joined), repr(joined.credentials), f"{[joined]}"):
        assert secret not in text
    assert "10.0.0.1:6390" in repr(joined)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("10.0.0.1:6390", "does not start with remora://"),
        (TEXT[:40] + " " + TEXT[40:], "white space"),
        (TEXT[:30], "parts"),
        (TEXT[:-1], "secret .*damaged|secret .*31 bytes"),
        (TEXT[:-2], "secret"),
        (TEXT + "AAAA", "35 bytes"),
        (TEXT[:-5] + "*" + TEXT[-4:], "damaged"),
        (TEXT.replace(":6390", ""), "no port"),
        (TEXT.replace("6390", "66666"), "no valid port"),
        (TEXT.replace("/tls/", "/TLS/"), "tls or clear"),
        (TEXT.replace("/1/", "/9/"), "speaks protocol 9.*install the same version"),
        (TEXT.replace("/1/", "/9/") + "/and/more", "speaks protocol 9"),
        (TEXT.replace("/1/", "/x/"), "number of the protocol"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as raised:
        JoinString.parse(text)
    assert TEXT.rpartition("/")[2][:20] not in str(raised.value)


@pytest.mark.parametrize("address", [("fd00::1", 1), ("host", 65535), ("10.1.2.3", 80)])
def test_addresses_are_joined_and_split(address: tuple[str, int]) -> None:
    assert split_address(join_address(*address)) == address


@pytest.mark.parametrize("address", ["host", "host:", "host:0", "host:70000", "host:8a", ":80", "fd00::1:80", "a b:80"])
def test_what_is_no_address_is_refused_with_its_text(address: str) -> None:
    with pytest.raises(ValueError, match="the address"):
        split_address(address)
