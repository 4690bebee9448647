"""Hyperparameters by name: where each is stored, how it is reported, and which extrinsic sets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from devnet.chain.state import State, View


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """``kind`` is the variant of the runtime's ``HyperparamValue``; ``call`` the AdminUtils extrinsic."""

    item: str
    kind: str
    call: str | None = None
    owner_may_set: bool = False


HYPERPARAMETERS: dict[str, Hyperparameter] = {
    "rho": Hyperparameter("Rho", "U16", "sudo_set_rho", True),
    "kappa": Hyperparameter("Kappa", "U16", "sudo_set_kappa"),
    "immunity_period": Hyperparameter("ImmunityPeriod", "U16", "sudo_set_immunity_period", True),
    "min_allowed_weights": Hyperparameter("MinAllowedWeights", "U16", "sudo_set_min_allowed_weights", True),
    "max_weights_limit": Hyperparameter("MaxWeightsLimit", "U16"),
    "tempo": Hyperparameter("Tempo", "U16", "sudo_set_tempo"),
    "weights_version": Hyperparameter("WeightsVersionKey", "U64", "sudo_set_weights_version_key", True),
    "weights_rate_limit": Hyperparameter("WeightsSetRateLimit", "U64", "sudo_set_weights_set_rate_limit"),
    "activity_cutoff": Hyperparameter("ActivityCutoff", "U16", "sudo_set_activity_cutoff", True),
    "registration_allowed": Hyperparameter(
        "NetworkRegistrationAllowed", "Bool", "sudo_set_network_registration_allowed", True
    ),
    "min_burn": Hyperparameter("MinBurn", "TaoBalance", "sudo_set_min_burn", True),
    "max_burn": Hyperparameter("MaxBurn", "TaoBalance", "sudo_set_max_burn", True),
    "serving_rate_limit": Hyperparameter("ServingRateLimit", "U64", "sudo_set_serving_rate_limit", True),
    "max_validators": Hyperparameter("MaxAllowedValidators", "U16", "sudo_set_max_allowed_validators"),
    "commit_reveal_period": Hyperparameter(
        "RevealPeriodEpochs", "U64", "sudo_set_commit_reveal_weights_interval", True
    ),
    "commit_reveal_weights_enabled": Hyperparameter(
        "CommitRevealWeightsEnabled", "Bool", "sudo_set_commit_reveal_weights_enabled", True
    ),
    "max_allowed_uids": Hyperparameter("MaxAllowedUids", "U16", "sudo_set_max_allowed_uids", True),
}

BY_CALL = {entry.call: name for name, entry in HYPERPARAMETERS.items() if entry.call is not None}


def set_hyperparameter(state: State, netuid: int, name: str, value: int | bool) -> None:
    """Write one hyperparameter; KeyError for an unknown name, ValueError for a value it cannot hold."""
    entry = HYPERPARAMETERS[name]
    if entry.kind == "Bool":
        value = bool(value)
    elif isinstance(value, bool) or not 0 <= value < 2 ** (16 if entry.kind == "U16" else 64):
        raise ValueError(f"{name} takes a {entry.kind}, not {value!r}")
    if name in ("tempo", "commit_reveal_period") and value < 1:
        raise ValueError(f"{name} takes at least 1")
    state.write(entry.item, netuid, value=value)
    if name in ("activity_cutoff", "tempo"):
        cutoff, tempo = state.read("ActivityCutoff", netuid), max(1, state.read("Tempo", netuid))
        state.write("ActivityCutoffFactorMilli", netuid, value=min(2**32 - 1, cutoff * 1000 // tempo))


def as_entries(view: View, netuid: int) -> list[dict[str, Any]]:
    """The value of ``get_subnet_hyperparams_v3``."""
    return [
        {"name": name.encode(), "value": {entry.kind: view.read(entry.item, netuid)}}
        for name, entry in HYPERPARAMETERS.items()
    ]
