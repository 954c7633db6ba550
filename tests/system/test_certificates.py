"""The secrets of a cluster in files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from remora.system.certificates import (
    certificate_and_key,
    create_credentials,
    fingerprint_of,
    install_credentials,
    open_credentials,
    read_credentials,
)


@pytest.mark.parametrize("encrypt", [True, False])
def test_a_head_that_starts_again_has_the_same_secrets(tmp_path: Path, encrypt: bool) -> None:
    folder = str(tmp_path / "secrets")
    made = open_credentials(folder, encrypt)
    assert made.encrypt is encrypt
    assert read_credentials(folder) == open_credentials(folder, encrypt) == made


def test_no_two_clusters_have_the_same_secrets(tmp_path: Path) -> None:
    first, second = (create_credentials(str(tmp_path / name)) for name in "ab")
    assert first.secret != second.secret
    assert first.fingerprint != second.fingerprint


def test_only_their_owner_can_read_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    create_credentials(str(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["certificate.pem", "key.pem", "secret"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(PermissionError, match="everybody may write"):
        open_credentials(str(tmp_path), False)
    assert not list(tmp_path.iterdir())


def test_a_secret_that_another_user_has_put_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_credentials(str(tmp_path), False)
    maker = os.getuid()
    if maker == 0:
        os.chown(tmp_path / "secret", 4242, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: maker + 1)
    with pytest.raises(PermissionError, match="belongs to user"):
        open_credentials(str(tmp_path), False)


def test_a_node_that_joins_has_the_same_certificate(tmp_path: Path) -> None:
    head = create_credentials(str(tmp_path / "head"))
    certificate, key = certificate_and_key(head)
    joined = install_credentials(str(tmp_path / "joined"), head.secret, certificate, key)
    assert joined.fingerprint == head.fingerprint == fingerprint_of(certificate)
    assert joined.secret == head.secret
    assert joined.key_path != head.key_path
    assert certificate_and_key(joined) == (certificate, key)


def test_a_cluster_that_does_not_encrypt_has_no_certificate(tmp_path: Path) -> None:
    head = create_credentials(str(tmp_path / "head"), encrypt=False)
    assert certificate_and_key(head) == (b"", b"")
    joined = install_credentials(str(tmp_path / "joined"), head.secret, b"", b"")
    assert (joined.fingerprint, joined.encrypt) == (head.fingerprint, False)


def test_a_cluster_is_not_started_again_with_another_kind_of_encryption(tmp_path: Path) -> None:
    open_credentials(str(tmp_path), True)
    with pytest.raises(ValueError, match="was started with encrypt=True"):
        open_credentials(str(tmp_path), False)


def test_a_damaged_secret_is_reported_with_its_path(tmp_path: Path) -> None:
    create_credentials(str(tmp_path), encrypt=False)
    (tmp_path / "secret").write_text("abc tls\n")
    with pytest.raises(ValueError, match=f"{tmp_path}/secret is damaged"):
        read_credentials(str(tmp_path))


def test_there_is_nothing_to_read_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_credentials(str(tmp_path))
