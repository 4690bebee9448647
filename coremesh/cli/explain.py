"""``coremesh explain``: how a miner's score came about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from coremesh import tables
from coremesh.cli import show
from coremesh.cli.client import Client
from coremesh.progress import waiting

WAIT_S = 120.0
COLUMNS: tuple[str, ...] = ("time", "event", "reward", "asked", "share", "before", "after", "note")
WIDE = ("event", "asked")
"""What there is no room for in a narrow terminal."""
NUMERIC = ("time", "reward", "asked", "share", "before", "after")


def explain(client: Client, uid: int, events: int, *, sign: bool, as_json: bool) -> None:
    """Ask the weights service and show its answer. Raises ServiceUnavailable or Refused."""
    flag = "&sign=true" if sign else ""
    with waiting("folding the history"):
        found = client.get("weights", f"/explain/{uid}?events={events}{flag}", timeout_s=WAIT_S)
    if as_json:
        show.as_json(found)
        return
    explanation(found)


def explanation(found: dict[str, Any]) -> None:
    """An explanation, signed or not, for people."""
    said: dict[str, Any] = found["explanation"]
    stands: dict[str, Any] = said["standing"]
    console = tables.console()
    weight = "unknown" if said["weight"] is None else f"{said['weight']:.6f}"
    lines = [
        f"uid {said['uid']} {said['hotkey']} on subnet {said['netuid']}",
        f"score {stands['score']!r}, rank {said['rank']}, weight {weight}",
        f"{stands['successes']} successes and {stands['failures']} failures since block {said['reset_block']}",
        f"{said['rule']} over {said['events']} scored events up to {said['last_id']}",
        said["note"] + ".",
    ]
    if said["excluded"]:
        lines.append("A validator over the stake limit: scored 0.")
    if found["signature"]:
        lines.append(
            f"Signed by {found['signer']}: save it with --json, and `coremesh verify FILE` checks it."
        )
    for line in lines:
        console.print(show.plain(line), highlight=False)
    kept = [name for name in COLUMNS if console.width >= show.NARROW or name not in WIDE]
    table = tables.table("the last steps, oldest first", *kept, numbers=NUMERIC)
    for step in said["steps"]:
        row = dict(zip(COLUMNS, _row(step), strict=True))
        table.add_row(*(show.plain(row[name]) for name in kept))
    console.print(table)


def _row(step: dict[str, Any]) -> list[str]:
    before, after = _score(step["before"]), _score(step["after"])
    if step["what"] == "reset":
        return [
            _time(step["time_ms"]),
            step["event_id"],
            "",
            "",
            "",
            before,
            after,
            f"reset: {step['reason']}",
        ]
    reward = step["status"] if step["reward"] is None else f"{step['reward']:.4f}"
    share = "" if step["share"] is None else f"{step['share']:.4f}"
    return [
        *(_time(step["time_ms"]), step["event_id"], reward, str(step["asked"]), share),
        *(before, after, step["note"]),
    ]


def _score(standing: dict[str, Any] | None) -> str:
    return "" if standing is None else f"{standing['score']:.6f}"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%m-%d %H:%M:%S")
