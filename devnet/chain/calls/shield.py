"""MEV-shielded submission: the carrier is recorded here, the block opens it (see `devnet.chain.shield`)."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from devnet.chain.codec import octets
from devnet.chain.dispatch import Context, handles


@handles("MevShield", "submit_encrypted")
def submit_encrypted(context: Context, ciphertext: Any) -> None:
    """Accept a sealed extrinsic; what it holds is queued behind this one in the same block."""
    digest = "0x" + blake2b(octets(ciphertext), digest_size=32).hexdigest()
    context.emit("EncryptedSubmitted", {"id": digest, "who": context.signer}, "MevShield")
