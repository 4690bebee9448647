"""``btauth/1``: a request signed by one hotkey for another.

The headers say who sends, to whom, when and over which body; the signature binds them to the method
and the path. The format is that of bittensor 11's ``http_auth``. We rebuild it from its specification
because the SDK digests the body again for each receiver, and because its ``verify`` takes the scheme from the
sender in 11.3.0 and must be told it in later releases: here the scheme is always sr25519.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from coremesh.errors import BadWallet, Unauthorized
from coremesh.types import Hotkey
from coremesh.wire.keys import SR25519, KeyPair, verifies
from coremesh.wire.nonces import NS, NonceStore, SharedNonceStore

PROTOCOL = "btauth/1"
VERSION = "1"
SCHEME = "sr25519"

HEADER_VERSION = "X-Bittensor-Version"
HEADER_HOTKEY = "X-Bittensor-Hotkey"
HEADER_RECEIVER = "X-Bittensor-Receiver"
HEADER_NONCE = "X-Bittensor-Nonce"
HEADER_SIGNATURE = "X-Bittensor-Signature"
HEADER_CRYPTO = "X-Bittensor-Crypto"

MAX_AGE_S = 10.0
MAX_AHEAD_S = 2.0

_MAX_NONCE_DIGITS = 20
_SIGNATURE_DIGITS = 128


class BadAuth(Unauthorized):
    """A signed request that is not accepted; subclasses say why. Messages never echo the request."""

    code = "bad_auth"
    default_remedy = (
        "Sign the exact bytes you send with your sr25519 hotkey, for this receiver, per btauth/1."
    )


class MalformedAuth(BadAuth):
    """A header is missing or cannot be read, or the scheme is not sr25519."""

    code = "malformed_auth"


class WrongReceiver(BadAuth):
    """The request was signed for another receiver, or for none."""

    code = "wrong_receiver"
    default_remedy = "Take this server's hotkey from the metagraph and sign for it."


class StaleRequest(BadAuth):
    """The nonce lies outside the window of 10 s back and 2 s ahead."""

    code = "stale_request"
    default_remedy = "Set the clock (NTP), and sign each request, retries too, just before it is sent."


class ReplayedRequest(BadAuth):
    """This nonce of this hotkey has been accepted before."""

    code = "replayed_request"
    default_remedy = "Use a fresh, growing nonce for each request, retries too."


class BadSignature(BadAuth):
    """The signature is not the hotkey's over this request."""

    code = "bad_signature"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent an authenticated request, and its nonce."""

    hotkey: Hotkey
    nonce_ns: int


def body_digest(body: bytes) -> str:
    """What the signature says of the body: sha256 of the raw bytes, lowercase hex."""
    return sha256(body).hexdigest()


class _Clock(Protocol):
    def __call__(self) -> int: ...


class Signer:
    """Signs for one hotkey; built once, cheap ever after.

    Nonces are nanoseconds and strictly grow, whatever the clock does, so two requests of this process
    never share one.
    """

    def __init__(self, keypair: KeyPair, *, clock_ns: _Clock = time.time_ns) -> None:
        """Raises BadWallet when the key is not sr25519."""
        if keypair.crypto_type != SR25519:
            raise BadWallet("miners accept sr25519 signatures only, and this hotkey is of another scheme")
        self._sign = keypair.sign
        self._clock_ns = clock_ns
        self._last_ns = 0
        self.hotkey = Hotkey(keypair.ss58_address)

    def sign(self, message: bytes) -> bytes:
        """64 bytes over ``message``, for protocols other than btauth."""
        return self._sign(message)

    def next_nonce(self) -> int:
        """The time in nanoseconds, or one more than the last nonce where the clock has not advanced."""
        now = self._clock_ns()
        self._last_ns = now if now > self._last_ns else self._last_ns + 1
        return self._last_ns

    def prepare(self, method: str, path: str, body: bytes) -> SignedBody:
        """All that the K requests of one forward have in common; digests ``body`` once."""
        return SignedBody(self, method, path, body_digest(body))

    def headers(
        self,
        method: str,
        path: str,
        body: bytes | str,
        receiver_ss58: str,
        nonce_ns: int | None = None,
    ) -> dict[str, str]:
        """The btauth headers of one request; ``body`` is the raw bytes, or their ``body_digest``.

        ``path`` is the request target as sent, with its query.
        """
        digest = body if isinstance(body, str) else body_digest(body)
        return SignedBody(self, method, path, digest).headers(receiver_ss58, nonce_ns)


class SignedBody:
    """One body on its way to many receivers."""

    __slots__ = ("_head", "_signer", "_static")

    def __init__(self, signer: Signer, method: str, path: str, digest: str) -> None:
        self._signer = signer
        self._head = "\n".join((PROTOCOL, SCHEME, method.upper(), path, digest, ""))
        self._static = (
            f"{HEADER_VERSION}: {VERSION}\r\n{HEADER_HOTKEY}: {signer.hotkey}\r\n{HEADER_RECEIVER}: "
        )

    def _sign(self, receiver: str, nonce: int) -> str:
        message = f"{self._head}{nonce}\n{self._signer.hotkey}\n{receiver}"
        return self._signer.sign(message.encode()).hex()

    def headers(self, receiver_ss58: str, nonce_ns: int | None = None) -> dict[str, str]:
        """As a mapping, for any HTTP client."""
        nonce = self._signer.next_nonce() if nonce_ns is None else nonce_ns
        return {
            HEADER_VERSION: VERSION,
            HEADER_HOTKEY: self._signer.hotkey,
            HEADER_RECEIVER: receiver_ss58,
            HEADER_NONCE: str(nonce),
            HEADER_SIGNATURE: "0x" + self._sign(receiver_ss58, nonce),
        }

    def block(self, receiver_ss58: str) -> bytes:
        """As the lines of an HTTP/1.1 request, each ended by CRLF."""
        nonce = self._signer.next_nonce()
        signature = self._sign(receiver_ss58, nonce)
        return (
            f"{self._static}{receiver_ss58}\r\n{HEADER_NONCE}: {nonce}\r\n{HEADER_SIGNATURE}: 0x{signature}\r\n"
        ).encode()


def authenticate(
    headers: Mapping[str, str], body: bytes, method: str, path: str, self_hotkey: str, *, now_ns: int
) -> Caller:
    """Check all but the replay: shape, scheme, receiver, freshness, then the signature.

    ``headers`` is any mapping, in any case; ``path`` the request target with its query; ``body`` the raw bytes.
    Raises a subclass of BadAuth. Follow it with a nonce store, as ``verify`` does.
    """
    lowered = {name.lower(): value for name, value in headers.items()}

    def need(name: str) -> str:
        value = lowered.get(name.lower())
        if not value:
            raise MalformedAuth(f"the header {name} is missing")
        return value

    if need(HEADER_VERSION) != VERSION:
        raise MalformedAuth(f"{HEADER_VERSION} must be {VERSION}")
    if lowered.get(HEADER_CRYPTO.lower(), SCHEME) != SCHEME:
        raise MalformedAuth(f"only {SCHEME} signatures are accepted")
    sender, raw_nonce, raw_signature = need(HEADER_HOTKEY), need(HEADER_NONCE), need(HEADER_SIGNATURE)
    if not (raw_nonce.isascii() and raw_nonce.isdigit() and len(raw_nonce) <= _MAX_NONCE_DIGITS):
        raise MalformedAuth(f"{HEADER_NONCE} is not a decimal number of nanoseconds")
    nonce = int(raw_nonce)
    digits = raw_signature.removeprefix("0x")
    try:
        if len(digits) != _SIGNATURE_DIGITS:
            raise ValueError
        signature = bytes.fromhex(digits)
    except ValueError:
        raise MalformedAuth(f"{HEADER_SIGNATURE} is not 64 bytes of hex") from None
    if lowered.get(HEADER_RECEIVER.lower()) != self_hotkey:
        raise WrongReceiver("the request is not signed for this receiver")
    if now_ns - nonce > MAX_AGE_S * NS:
        raise StaleRequest(f"the nonce is more than {MAX_AGE_S:g} s old")
    if nonce - now_ns > MAX_AHEAD_S * NS:
        raise StaleRequest(f"the nonce is more than {MAX_AHEAD_S:g} s ahead of this server's clock")
    message = "\n".join(
        (PROTOCOL, SCHEME, method.upper(), path, body_digest(body), str(nonce), sender, self_hotkey)
    )
    try:
        genuine = verifies(message.encode(), signature, sender)
    except ValueError:  # not an address, or text that no bytes stand for
        raise MalformedAuth(f"{HEADER_HOTKEY} is not an ss58 address") from None
    if not genuine:
        raise BadSignature("the signature is not that hotkey's over this request")
    return Caller(Hotkey(sender), nonce)


def verify(
    headers: Mapping[str, str],
    body: bytes,
    method: str,
    path: str,
    self_hotkey: str,
    nonce_store: NonceStore,
    now_ns: int | None = None,
) -> Hotkey:
    """The hotkey that signed this request for ``self_hotkey``, seen for the first time.

    Raises a subclass of BadAuth (status 401), or Busy from the store. The nonce is recorded only after the signature
    has been verified, so that nobody can spend another's nonces.
    """
    now = time.time_ns() if now_ns is None else now_ns
    caller = authenticate(headers, body, method, path, self_hotkey, now_ns=now)
    if not nonce_store.add(caller.hotkey, caller.nonce_ns, now):
        raise ReplayedRequest("this nonce has been used before")
    return caller.hotkey


async def verify_shared(
    headers: Mapping[str, str],
    body: bytes,
    method: str,
    path: str,
    self_hotkey: str,
    nonce_store: SharedNonceStore,
    now_ns: int | None = None,
) -> Hotkey:
    """``verify`` for several processes that share one nonce store."""
    now = time.time_ns() if now_ns is None else now_ns
    caller = authenticate(headers, body, method, path, self_hotkey, now_ns=now)
    if not await nonce_store.add(caller.hotkey, caller.nonce_ns, now):
        raise ReplayedRequest("this nonce has been used before")
    return caller.hotkey
