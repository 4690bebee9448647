"""Headers and hashes of recent blocks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from devnet.chain.metadata import compact
from devnet.chain.store import WINDOW_BLOCKS

MAX_HASHES = 4_096


@dataclass(frozen=True, slots=True)
class Block:
    """One block; extrinsics as raw bytes, the inherent first."""

    number: int
    parent_hash: str
    state_root: str
    extrinsics_root: str
    extrinsics: tuple[bytes, ...] = ()

    @property
    def hash(self) -> str:
        """blake2b-256 of the SCALE header, as on a real chain."""
        roots = bytes.fromhex(self.parent_hash[2:]) + compact(self.number)
        roots += bytes.fromhex(self.state_root[2:]) + bytes.fromhex(self.extrinsics_root[2:]) + b"\x00"
        return digest(roots)

    def header(self) -> dict[str, Any]:
        """The header as JSON-RPC gives it."""
        return {
            "parentHash": self.parent_hash,
            "number": hex(self.number),
            "stateRoot": self.state_root,
            "extrinsicsRoot": self.extrinsics_root,
            "digest": {"logs": []},
        }


def digest(data: bytes) -> str:
    """0x-hex blake2b-256."""
    return "0x" + blake2b(data, digest_size=32).hexdigest()


class Blocks:
    """The last `WINDOW_BLOCKS` blocks by hash, and hashes by number somewhat further back, genesis for ever."""

    def __init__(self, genesis_hash: str, hashes: dict[int, str]) -> None:
        self.genesis_hash = genesis_hash
        self._hashes: OrderedDict[int, str] = OrderedDict(sorted(hashes.items()))
        self._blocks: OrderedDict[str, Block] = OrderedDict()
        self._head: Block | None = None

    @property
    def head(self) -> Block:
        """The newest block."""
        if self._head is None:
            raise RuntimeError("no block has been made yet")
        return self._head

    @property
    def head_hash(self) -> str:
        """Hash of the newest block known, which after a restart is older than the first `head`."""
        return next(reversed(self._hashes.values()), self.genesis_hash)

    def append(self, block: Block) -> str:
        """Add the next block and return its hash."""
        self._head = block
        block_hash = block.hash
        self._hashes[block.number] = block_hash
        self._blocks[block_hash] = block
        while len(self._blocks) > WINDOW_BLOCKS:
            self._blocks.popitem(last=False)
        while len(self._hashes) > MAX_HASHES:
            self._hashes.popitem(last=False)
        return block_hash

    def hash_of(self, number: int) -> str | None:
        """Hash of a block by number, None when it is unknown or long past."""
        return self.genesis_hash if number == 0 else self._hashes.get(number)

    def by_hash(self, block_hash: str) -> Block | None:
        """A block within the window."""
        return self._blocks.get(block_hash)

    def recent_hashes(self, count: int) -> dict[int, str]:
        """The last ``count`` hashes by number, for the state file."""
        numbers = list(self._hashes)[-count:]
        return {number: self._hashes[number] for number in numbers}
