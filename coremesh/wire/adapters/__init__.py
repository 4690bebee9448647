"""The wire protocols behind one interface: ``btauth``, ``synapse``, ``epistula``."""

from __future__ import annotations

from coremesh.errors import BadSetting
from coremesh.wire.adapters.btauth import BtauthAdapter
from coremesh.wire.adapters.epistula import EpistulaAdapter
from coremesh.wire.adapters.protocol import Adapter, BadAnswer, Call, DeltaReader, MinerRequest, RewardNotice
from coremesh.wire.adapters.synapse import SynapseAdapter
from coremesh.wire.btauth import Signer

__all__ = [
    "Adapter",
    "BadAnswer",
    "BtauthAdapter",
    "Call",
    "DeltaReader",
    "EpistulaAdapter",
    "MinerRequest",
    "RewardNotice",
    "SynapseAdapter",
    "make_adapter",
]


def make_adapter(name: str, signer: Signer) -> Adapter:
    """The adapter of the setting ``querier.protocol``, with its defaults. Raises BadSetting."""
    if name == "btauth":
        return BtauthAdapter(signer)
    if name == "synapse":
        return SynapseAdapter(signer)
    if name == "epistula":
        return EpistulaAdapter(signer)
    raise BadSetting(f"there is no miner protocol {name!r}", remedy="Use btauth, synapse or epistula.")
