"""Opening MEV-shielded extrinsics, with an ML-KEM-768 key that hides nothing.

The key's vector ``t`` is zero, so an encapsulation's second part is the message plus small noise and opens
without a secret. That is useless as a shield and all a devnet needs: the SDK shields every burned registration,
and whoever runs a devnet may read them. FIPS 203 gives the sizes and the shared secret.
"""

from __future__ import annotations

from hashlib import sha3_256, sha3_512

from Crypto.Cipher import ChaCha20_Poly1305

from devnet.chain.codec import octets
from devnet.chain.extrinsics import Extrinsic

_T_BYTES = 1_152
_U_BYTES = 960
_V_BYTES = 128
_KEY_HASH_BYTES = 16
_NONCE_BYTES = 24
_TAG_BYTES = 16


class Shield:
    """The key offered in ``MevShield.NextKey`` and what is sealed to it."""

    public_key: bytes = bytes(_T_BYTES) + sha3_256(b"devnet shield").digest()

    def opened(self, extrinsic: Extrinsic) -> bytes | None:
        """The extrinsic inside an applied carrier; None for any other call or one that does not open."""
        if (extrinsic.module, extrinsic.function) != ("MevShield", "submit_encrypted"):
            return None
        try:
            return self.unseal(octets(extrinsic.args["ciphertext"]))
        except ValueError:
            return None

    def unseal(self, sealed: bytes) -> bytes:
        """Open ``key hash, u16 length, encapsulation, nonce, ciphertext, tag``; ValueError if it is not that."""
        start = _KEY_HASH_BYTES + 2
        length = int.from_bytes(sealed[_KEY_HASH_BYTES:start], "little")
        body = start + length
        if length != _U_BYTES + _V_BYTES or len(sealed) < body + _NONCE_BYTES + _TAG_BYTES:
            raise ValueError("not an ML-KEM-768 sealed extrinsic")
        message = _message(sealed[start + _U_BYTES : body])
        secret = sha3_512(message + sha3_256(self.public_key).digest()).digest()[:32]
        nonce = sealed[body : body + _NONCE_BYTES]
        cipher = ChaCha20_Poly1305.new(key=secret, nonce=nonce)
        return cipher.decrypt_and_verify(sealed[body + _NONCE_BYTES : -_TAG_BYTES], sealed[-_TAG_BYTES:])


def _message(v: bytes) -> bytes:
    """The 256 message bits: four-bit coefficients nearer to half the modulus (8 of 16) than to zero are ones."""
    bits = 0
    for index, pair in enumerate(v):
        for half, coefficient in enumerate((pair & 15, pair >> 4)):
            if 4 <= coefficient < 12:
                bits |= 1 << (2 * index + half)
    return bits.to_bytes(32, "little")
