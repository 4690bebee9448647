"""What a chain is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

RAO = 10**9
U16_MAX = 65_535


class Drand(StrEnum):
    """How timelocked commits are opened.

    ``past``: clients are told a slot duration so negative that the SDK seals to drand's round 1, whose
    signature is public and known here; reveals then need no network. The price is that ``block_time()`` of
    the SDK is nonsense. ``beacon``: the true slot duration, and signatures fetched from a drand HTTP relay.
    ``off``: the true slot duration, and commits are never opened.
    """

    PAST = "past"
    BEACON = "beacon"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Settings of the subnet at genesis; None in `ChainOptions.overrides` keeps what a state file holds."""

    tempo: int = 60
    weights_rate_limit: int = 20
    min_allowed_weights: int = 1
    commit_reveal_weights_enabled: bool = False
    commit_reveal_period: int = 1
    activity_cutoff: int = 5_000
    immunity_period: int = 100
    max_allowed_uids: int = 256
    max_validators: int = 64
    serving_rate_limit: int = 0
    weights_version: int = 0


@dataclass(frozen=True, slots=True)
class ChainOptions:
    """One chain process. ``overrides`` are hyperparameters given by name; they also apply to an old state."""

    wallets_dir: Path
    state_file: Path | None = None
    host: str = "127.0.0.1"
    port: int = 9944
    block_time_s: float = 0.25
    netuid: int = 1
    drand: Drand = Drand.PAST
    drand_url: str = "https://api.drand.sh"
    overrides: dict[str, int | bool] = field(default_factory=dict)
