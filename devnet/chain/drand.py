"""Opening timelocked commits: drand signatures, and the weights inside a sealed commit."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from dataclasses import dataclass

from devnet.chain.core import core
from devnet.chain.metadata import compact, read_compact
from devnet.chain.options import Drand

# Public randomness of drand's quicknet (https://api.drand.sh/52db9ba7…/public/1).
KNOWN_SIGNATURES = {
    1: "b55e7cb2d5c613ee0b2e28d6750aabbb78c39dcc96bd9d38c2c2e12198df95571de8e8e402a0cc48871c7089a2b3af4b",
}
QUICKNET = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
QUICKNET_GENESIS_S = 1_692_803_367
QUICKNET_PERIOD_S = 3
# Milliseconds a block: far enough back that the SDK's arithmetic ends up at its floor, round 1.
PAST_SLOT_MS = -(10**15)
_MAX_CACHED = 4_096
_MAX_BEACON_BYTES = 4_096

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Revealed:
    """What a validator sealed."""

    hotkey: bytes
    uids: list[int]
    values: list[int]
    version_key: int


def unseal(commit: bytes, reveal_round: int, signature: str) -> Revealed:
    """Open a commit; ValueError when it was sealed to another round or holds something else."""
    envelope = compact(len(commit)) + commit + reveal_round.to_bytes(8, "little")
    plain = core.decrypt_with_signature(envelope, signature)
    if plain is None:
        raise ValueError("the commit does not open with the round's signature")
    return decode_payload(bytes(plain))


def decode_payload(plain: bytes) -> Revealed:
    """Decode ``(hotkey: Vec<u8>, uids: Vec<u16>, values: Vec<u16>, version_key: u64)``."""
    length, at = read_compact(plain, 0)
    hotkey, at = plain[at : at + length], at + length
    uids, at = _u16s(plain, at)
    values, at = _u16s(plain, at)
    if len(plain) != at + 8:
        raise ValueError("a payload of the wrong length")
    return Revealed(hotkey, uids, values, int.from_bytes(plain[at:], "little"))


def _u16s(plain: bytes, at: int) -> tuple[list[int], int]:
    length, at = read_compact(plain, at)
    end = at + 2 * length
    if end > len(plain):
        raise ValueError("a vector longer than the payload")
    return [int.from_bytes(plain[i : i + 2], "little") for i in range(at, end, 2)], end


class Beacon:
    """Signatures by round: the known ones, and with ``Drand.BEACON`` those a relay has published."""

    def __init__(self, mode: Drand, url: str) -> None:
        self._mode = mode
        self._url = url.rstrip("/")
        self._signatures: dict[int, str] = dict(KNOWN_SIGNATURES) if mode is not Drand.OFF else {}
        self._wanted: set[int] = set()

    def signature(self, reveal_round: int) -> str | None:
        """The signature of a round if it is here; otherwise `fetch` will ask for it."""
        found = self._signatures.get(reveal_round)
        if found is None and self._mode is Drand.BEACON and len(self._wanted) < _MAX_CACHED:
            self._wanted.add(reveal_round)
        return found

    async def fetch(self, now_s: float) -> None:
        """Ask the relay for the wanted rounds that are due; what fails is asked for again next time."""
        due = [r for r in self._wanted if QUICKNET_GENESIS_S + (r - 1) * QUICKNET_PERIOD_S <= now_s]
        for reveal_round in due:
            try:
                self._signatures[reveal_round] = await asyncio.to_thread(self._download, reveal_round)
            except (OSError, ValueError, KeyError) as problem:
                log.warning("drand round %d is not to be had: %s", reveal_round, problem)
                return
            self._wanted.discard(reveal_round)
        while len(self._signatures) > _MAX_CACHED:
            self._signatures.pop(next(iter(self._signatures)))

    def _download(self, reveal_round: int) -> str:
        with urllib.request.urlopen(f"{self._url}/{QUICKNET}/public/{reveal_round}", timeout=5) as reply:
            return str(json.loads(reply.read(_MAX_BEACON_BYTES))["signature"])
