"""Typed reads and writes over the store: storage items by name, at the head or at one block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from devnet.chain.codec import Codec
from devnet.chain.store import Store

PALLET = "SubtensorModule"


def _split(item: str) -> tuple[str, str]:
    pallet, dot, name = item.partition(".")
    return (pallet, name) if dot else (PALLET, item)


class View:
    """State as it was after one block (None: as it is now). Items without a dot are the subtensor pallet's."""

    def __init__(self, store: Store, codec: Codec, block: int | None = None) -> None:
        self.store = store
        self.codec = codec
        self.block = block

    def read(self, item: str, *params: Any) -> Any:
        """The decoded value, or the item's default when there is none."""
        pallet, name = _split(item)
        raw = self.store.get(self.codec.key(pallet, name, *params), self.block)
        return self.codec.decode_item(pallet, name, raw)

    def has(self, item: str, *params: Any) -> bool:
        """Whether the item holds a value."""
        return self.store.get(self.codec.key(*_split(item), *params), self.block) is not None

    def items(self, item: str, *params: Any) -> Iterator[tuple[Any, Any]]:
        """The free key part(s) and value of every entry under a partial key."""
        pallet, name = _split(item)
        prefix = self.codec.key(pallet, name, *params)
        for key in self.store.keys(prefix, block=self.block):
            free = self.codec.runtime.decode_storage_key_params(pallet, name, key, len(params))
            raw = self.store.get(key, self.block)
            yield (free[0] if len(free) == 1 else tuple(free)), self.codec.decode_item(pallet, name, raw)

    @property
    def number(self) -> int:
        """The block this view shows."""
        return self.read("System.Number") if self.block is None else self.block


class State(View):
    """The head, which can be written."""

    def write(self, item: str, *params: Any, value: Any) -> None:
        """Set one item; the parameters come first, as in `read`."""
        pallet, name = _split(item)
        self.store.set(self.codec.key(pallet, name, *params), self.codec.encode_item(pallet, name, value))

    def delete(self, item: str, *params: Any) -> None:
        """Remove one item, if it is there."""
        self.store.set(self.codec.key(*_split(item), *params), None)

    def clear(self, item: str, *params: Any) -> None:
        """Remove every entry under a partial key."""
        for key in list(self.store.keys(self.codec.key(*_split(item), *params))):
            self.store.set(key, None)

    def at(self, block: int) -> View:
        """The state after ``block``, which the caller knows to be within the window."""
        return View(self.store, self.codec, block)
