"""The metagraph snapshot that the weights leader publishes and everybody reads."""

from __future__ import annotations

import msgspec

from coremesh.events import Change, MetagraphEvent, pack
from coremesh.types import new_event_id


class Neuron(msgspec.Struct, frozen=True, kw_only=True):
    """One uid at the snapshot's block. Stake in TAO (alpha and root weighed by the chain), blocks as numbers."""

    uid: int
    hotkey: str
    coldkey: str
    ip: str = "0.0.0.0"
    port: int = 0
    protocol: int = 0
    stake: float = 0.0
    permit: bool = False
    last_update: int = 0
    registered_at: int = 0
    active: bool = True
    certificate: str = ""
    """Its neuron certificate, hex of one byte for the algorithm and the public key: it is spoken to over TLS, and by
    this key alone. Empty for none."""

    @property
    def serving(self) -> bool:
        """Whether an axon is published."""
        return self.port > 0 and self.ip not in ("", "0.0.0.0", "::")


class Hyperparameters(msgspec.Struct, frozen=True, kw_only=True):
    """What the subnet demands of weights. Blocks, and u16 for weights."""

    tempo: int = 360
    rate_limit: int = 100
    min_weights: int = 1
    max_weight: int = 65535
    activity_cutoff: int = 5000
    version_key: int = 0
    commit_reveal: bool = False
    reveal_period: int = 1


class Nominator(msgspec.Struct, frozen=True, kw_only=True):
    """A coldkey that delegates to us, with how much (TAO)."""

    coldkey: str
    stake: float


class Metagraph(msgspec.Struct, frozen=True, kw_only=True):
    """The subnet as of one block, in uid order."""

    netuid: int
    block: int
    time_ms: int
    neurons: tuple[Neuron, ...]
    hyperparameters: Hyperparameters = Hyperparameters()
    nominators: tuple[Nominator, ...] = ()
    hotkey: str = ""
    """Our own."""
    vpermit_tao_limit: float = 1024.0
    genesis: str = ""
    """The hash of the chain's block 0, hex: it tells one chain from another. Empty where nobody asked for it."""
    version: int = 1

    @property
    def size(self) -> int:
        """The number of uids."""
        return len(self.neurons)

    @property
    def hotkeys(self) -> list[str]:
        """Hotkeys in uid order."""
        return [neuron.hotkey for neuron in self.neurons]

    def is_behind(self, other: Metagraph) -> bool:
        """Whether it is an earlier state of the chain that ``other`` is of."""
        return bool(self.genesis) and self.genesis == other.genesis and self.block < other.block

    def is_validator(self, neuron: Neuron) -> bool:
        """Whether a neuron has a permit and stake above the limit: it is never asked, and scored 0."""
        return neuron.permit and neuron.stake > self.vpermit_tao_limit

    def available(self, own_hotkey: str = "") -> list[Neuron]:
        """Who can be asked: serving, no validator, not ourselves."""
        own = {own_hotkey, self.hotkey} - {""}
        return [n for n in self.neurons if n.serving and not self.is_validator(n) and n.hotkey not in own]

    def uid_of(self, hotkey: str) -> int | None:
        """The uid of a hotkey, or None."""
        return next((n.uid for n in self.neurons if n.hotkey == hotkey), None)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Metagraph)


def encode_metagraph(metagraph: Metagraph) -> bytes:
    """The snapshot as msgpack."""
    return _encoder.encode(metagraph)


def decode_metagraph(packed: bytes) -> Metagraph:
    """The snapshot in ``packed``. Raises msgspec.ValidationError when it is not one."""
    return _decoder.decode(packed)


def difference(old: Metagraph | None, new: Metagraph) -> MetagraphEvent | None:
    """The event between two snapshots, or None when nothing that folds care about changed.

    With no ``old`` every uid is new, so that a replay from the start knows every hotkey.
    """
    before = old.hotkeys if old else []
    after = new.hotkeys
    changes = [
        Change(uid, before[uid] if uid < len(before) else "", after[uid] if uid < len(after) else "")
        for uid in range(max(len(before), len(after)))
        if (before[uid] if uid < len(before) else "") != (after[uid] if uid < len(after) else "")
    ]
    permits = [n.uid for n in new.neurons if n.permit]
    excluded = [n.uid for n in new.neurons if new.is_validator(n)]
    same = (
        old is not None
        and not changes
        and permits == [n.uid for n in old.neurons if n.permit]
        and excluded == [n.uid for n in old.neurons if old.is_validator(n)]
    )
    if same:
        return None
    return MetagraphEvent(
        id=new_event_id(),
        time_ms=new.time_ms,
        block=new.block,
        size=new.size,
        changes=tuple(changes),
        permits_=pack(permits, "<u2"),
        excluded_=pack(excluded, "<u2"),
    )
