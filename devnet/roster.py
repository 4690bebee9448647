"""Who lives on the devnet: wallets, addresses and the character of every miner.

The chain reads it to create, fund and register wallets at genesis; the miner processes read it to know whom
to play. The validator's services never read it: skill is known to the miner alone.
"""

from __future__ import annotations

from dataclasses import dataclass

TOPICS = (
    "astronomy",
    "biology",
    "chemistry",
    "computing",
    "geography",
    "history",
    "medicine",
    "music",
)

OWNER = "owner"
VALIDATOR = "validator"
RIVAL = "rival-validator"
HOTKEY = "default"


@dataclass(frozen=True, slots=True)
class Resident:
    """One devnet miner: a wallet (coldkey ``name``, hotkey ``default``), an address and a character."""

    name: str
    host: str
    port: int
    character: str
    topic: str | None = None


def _residents() -> tuple[Resident, ...]:
    cast: list[tuple[str, str, str | None]] = [(f"specialist-{t}", "specialist", t) for t in TOPICS]
    cast += [("generalist-1", "generalist", None), ("generalist-2", "generalist", None)]
    cast += [("vague-1", "vague", None), ("vague-2", "vague", None), ("offtopic", "offtopic", None)]
    cast += [("slow", "slow", None), ("flaky", "flaky", None), ("dead", "dead", None)]
    hostile = ("redirect", "drip", "gzip-bomb", "huge-body", "deep-json", "nan", "special-tokens")
    cast += [(f"hostile-{h}", h, None) for h in hostile]
    # One /24 each, as honest miners on separate hosts would have.
    return tuple(
        Resident(name, f"127.1.{i}.10", 8700 + i, character, topic)
        for i, (name, character, topic) in enumerate(cast, start=1)
    )


RESIDENTS: tuple[Resident, ...] = _residents()
