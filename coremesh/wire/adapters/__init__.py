"""The wire protocols behind one interface: ``btauth``, ``synapse``, ``epistula``."""

from __future__ import annotations

from coremesh.errors import BadSetting
from coremesh.settings import QuerierSettings
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


def make_adapter(name: str, signer: Signer, names: QuerierSettings | None = None) -> Adapter:
    """The adapter of the setting ``querier.protocol``, with the subnet's own ``names``. Raises BadSetting."""
    names = names or QuerierSettings.model_construct()
    if name == "btauth":
        return BtauthAdapter(signer)
    if name == "synapse":
        fields = {
            "roles": names.synapse_roles,
            "messages": names.synapse_messages,
            "completion": names.synapse_completion,
        }
        required = dict(field.split(":", 1) for field in names.synapse_required)
        return SynapseAdapter(
            signer,
            class_name=names.synapse_class,
            backward_class_name=names.synapse_backward_class,
            required=required or None,
            hash_fields=names.synapse_hash_fields,
            fields=fields,
        )
    if name == "epistula":
        return EpistulaAdapter(signer, model=names.epistula_model)
    raise BadSetting(f"there is no miner protocol {name!r}", remedy="Use btauth, synapse or epistula.")
