"""What both sides say before the first message, without any I/O.

A side is a generator. It yields what it needs: ``bytes`` are to be written, an ``int`` is a number of bytes to be read
and sent into the generator, :data:`START_TLS` is to go over to TLS, and the fingerprint of the peer's certificate is
sent in. It returns when the other side has proved that it knows the secret. The same steps are driven by an event loop
(:mod:`~remora.system.network.handshake`) and by blocking threads (:mod:`~remora.system.network.data_socket`)::

    opener                                    acceptor
    preface                           ->
                                      <-      status
    TLS, if the cluster encrypts: the opener checks the certificate's fingerprint
    nonce                             ->
                                      <-      nonce, proof
    proof                             ->
                                      <-      status

A proof is an HMAC-SHA256 by the secret over the side's name, the preface, the fingerprint and both nonces: it is worth
nothing in another connection, for another target, or sent back to its maker. Whoever reads it learns nothing of the
secret, which has 256 random bits. In a cluster that does not encrypt, somebody in between can pass both proofs on and
change what follows; in one that does, the opener has compared the certificate before, whose key only nodes have.
"""

from __future__ import annotations

import enum
import hmac
import os
from collections.abc import Generator

from remora.base.credentials import ClusterCredentials
from remora.system.network.preface import Preface
from remora.system.network.refusals import DETAIL_SIZE_BYTES, GO_ON, Refusal, StreamRefused, encode_refusal

NONCE_SIZE_BYTES = 32
PROOF_SIZE_BYTES = 32


class _Tls(enum.Enum):
    START = "start TLS"


START_TLS = _Tls.START
Steps = Generator[bytes | int | _Tls, bytes, None]


def open_steps(preface: Preface, credentials: ClusterCredentials, address: str) -> Steps:
    """The opener's side; *address* is for the messages.

    Raises:
        StreamRefused: the acceptor refused, or did not prove itself.
    """
    yield preface.encode()
    yield from _read_status(address)
    if credentials.encrypt:
        fingerprint = yield START_TLS
        if not hmac.compare_digest(fingerprint, credentials.fingerprint):
            raise StreamRefused(Refusal.WRONG_CERTIFICATE, address)
    own_nonce = os.urandom(NONCE_SIZE_BYTES)
    yield own_nonce
    answer = yield NONCE_SIZE_BYTES + PROOF_SIZE_BYTES
    nonces = own_nonce + answer[:NONCE_SIZE_BYTES]
    # Sent in any case, so that the acceptor's log says what was wrong.
    yield _prove(credentials, b"opener", preface, nonces)
    if not hmac.compare_digest(answer[NONCE_SIZE_BYTES:], _prove(credentials, b"acceptor", preface, nonces)):
        raise StreamRefused(Refusal.WRONG_SECRET, address)
    yield from _read_status(address)


def accept_steps(preface: Preface, credentials: ClusterCredentials, address: str) -> Steps:
    """The acceptor's side, after the preface was read and found right.

    Raises:
        StreamRefused: the opener does not know the secret.
    """
    yield GO_ON
    if credentials.encrypt:
        yield START_TLS
    nonce = yield NONCE_SIZE_BYTES
    own_nonce = os.urandom(NONCE_SIZE_BYTES)
    nonces = nonce + own_nonce
    yield own_nonce + _prove(credentials, b"acceptor", preface, nonces)
    proof = yield PROOF_SIZE_BYTES
    if not hmac.compare_digest(proof, _prove(credentials, b"opener", preface, nonces)):
        yield encode_refusal(Refusal.WRONG_SECRET)
        raise StreamRefused(Refusal.WRONG_SECRET, address)
    yield GO_ON


def _read_status(address: str) -> Steps:
    status = yield len(GO_ON)
    if status == GO_ON:
        return
    code = status[0]
    if code not in Refusal.__members__.values():
        raise StreamRefused(Refusal.STRANGE_ANSWER, address)
    detail = yield DETAIL_SIZE_BYTES
    raise StreamRefused(code, address, detail)


def _prove(credentials: ClusterCredentials, side: bytes, preface: Preface, nonces: bytes) -> bytes:
    said = b"remora " + side + b"\0" + preface.encode() + credentials.fingerprint + nonces
    return hmac.digest(credentials.secret, said, "sha256")
