"""Answers of the services, for people (tables) or programs (JSON)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr
from rich.text import Text

from coremesh import tables
from coremesh.settings import Loaded
from coremesh.text import problem

_PASSWORD = re.compile(r"://[^/@\s]*@")


def as_json(value: Any) -> None:
    """Anything as JSON."""
    _json(value)


def _json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


NUMERIC = ("uid", "score", "weight", "on chain", "answered", "reward", "seconds", "a minute", "at once")
STATES = {"landed": "green", "revealed": "green", "committed": "green", "held": "yellow", "failed": "red"}
BAR_WIDTH = 20
NARROW = 110
"""Terminals with fewer columns get short hotkeys and short bars."""


def bar(share: float, width: int = BAR_WIDTH) -> Text:
    """A share of 1 as a bar of up to ``width`` cells, to an eighth of a cell."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    tip = " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return Text("█" * (eighths // 8) + tip, style="cyan")


def plain(text: str) -> Text:
    """Text from a miner, shown as it is: no markup, no control characters."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text))


def status(found: dict[str, Any], as_json: bool) -> None:
    """Health of the mesh."""
    if as_json:
        _json(found)
        return
    console = tables.console()
    table = tables.table("services", "service", "ready", "address", "note")
    for service in found["services"]:
        wrong = "; ".join(problem(name, said) for name, said in service["checks"].items() if said != "ok")
        ready = Text("yes", style="green") if service["ready"] else Text("NO", style="bold red")
        note = wrong or (f"led by {_process(service['leader'])}" if service.get("leader") else "")
        table.add_row(service["name"], ready, service["url"], plain(note))
    console.print(table)
    if not any(service["answers"] for service in found["services"]):
        console.print("Nothing of the mesh answers. `make up` starts it on this machine.", highlight=False)
    if found["scores"]:
        console.print(
            f"events folded  {found['scores']['events']:,} ({found['scores']['rule']})", highlight=False
        )
    last = found["submission"]
    if last:
        console.print(
            Text("last weights   ")
            + Text(last["result"], style=STATES.get(last["result"], ""))
            + plain(f" at block {last['block']:,} {last['reason']}".rstrip()),
            highlight=False,
        )


def _process(leader: str) -> str:
    """Host and process of a leader, without what tells its lives apart."""
    return leader.rpartition(":")[0] or leader


def answer(found: dict[str, Any], as_json: bool) -> None:
    """The best completion, and all of them when asked for."""
    if as_json:
        _json(found)
        return
    console = tables.console()
    console.print(plain(found["completion"]))
    reward = "-" if found["reward"] is None else f"{found['reward']:.3f}"
    note = f" · without {', '.join(found['degraded'])}" if found["degraded"] else ""
    console.print(
        f"uid {found['uid']} · reward {reward} · {found['timings']['total']:.2f} s · {found['hotkey']} · "
        f"event {found['event_id']}{note}",
        style="dim",
        highlight=False,
    )
    if not found.get("completions"):
        return
    table = tables.table(
        "completions", "uid", "reward", "", "status", "seconds", "completion", numbers=NUMERIC
    )
    width = 8 if console.width < NARROW else BAR_WIDTH
    best = max((item["reward"] or 0.0 for item in found["completions"]), default=0.0)
    for item in found["completions"]:
        reward = item["reward"]
        value = "-" if reward is None else f"{reward:.3f}"
        chosen = item["uid"] == found["uid"]
        table.add_row(
            str(item["uid"]),
            value,
            bar((reward or 0.0) / best if best > 0 else 0.0, width),
            Text(item["status"], style="green" if item["status"] == "ok" else "red"),
            f"{item['latency_s']:.2f}",
            plain(item["completion"][:300]),
            style="bold" if chosen else "",
        )
    console.print(table)


def scores(found: dict[str, Any], as_json: bool) -> None:
    """Moving scores, best first."""
    if as_json:
        _json(found)
        return
    console = tables.console()
    narrow = console.width < NARROW
    title = f"{found['rule']} over {found['events']:,} events"
    table = tables.table(title, "uid", "score", "", "answered", "hotkey", numbers=NUMERIC)
    rows = sorted(found["rows"], key=lambda row: (-row["score"], row["uid"]))
    best = rows[0]["score"] if rows else 0.0
    for row in rows:
        asked = row["successes"] + row["failures"]
        answered = f"{row['successes'] / asked:.0%} of {asked:,}" if asked else ""
        table.add_row(
            str(row["uid"]),
            f"{row['score']:.5f}",
            Text("validator", style="dim")
            if row["excluded"]
            else bar(row["score"] / best if best > 0 else 0.0),
            answered,
            tables.short(row["hotkey"]) if narrow else row["hotkey"],
            style="dim" if row["excluded"] or not row["score"] else "",
        )
    console.print(table)
    if narrow:
        console.print("A wider terminal, or --json, shows whole hotkeys.", style="dim", highlight=False)


def weights(found: dict[str, Any], as_json: bool) -> None:
    """What would be set now, beside the chain."""
    if as_json:
        _json(found)
        return
    on_chain: dict[str, int] = found["on_chain"]
    read = found["on_chain_block"]
    title = f"weights that would be set now, beside the chain's at block {read:,}" if read else "weights now"
    table = tables.table(title, "uid", "weight", "", "on chain", numbers=NUMERIC)
    total = sum(on_chain.values()) or 1
    now = {str(uid): weight for uid, weight in zip(found["uids"], found["weights"], strict=True)}
    heaviest = max(now.values(), default=0.0)
    for uid in sorted({*now, *on_chain}, key=lambda uid: (-now.get(uid, 0.0), int(uid))):
        weight, held = now.get(uid), on_chain.get(uid)
        table.add_row(
            uid,
            "-" if weight is None else f"{weight:.2%}",
            bar((weight or 0.0) / heaviest if heaviest > 0 else 0.0),
            "-" if held is None else f"{held / total:.2%}",
        )
    console = tables.console()
    console.print(table)
    if found["held"]:
        console.print(Text(f"would be held now: {found['held']}", style="yellow"), highlight=False)


def value_of(setting: Loaded) -> Any:
    """A setting's value as JSON takes it; a secret, and a password in an address, are hidden."""
    return _hidden(setting.value)


def without_password(address: str) -> str:
    """An address without the user and password in it."""
    return _PASSWORD.sub("://***@", address)


def _hidden(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    if isinstance(value, tuple | list):
        return [_hidden(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, str):
        return _PASSWORD.sub("://***@", value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def settings(loaded: Sequence[Loaded], as_json: bool) -> None:
    """Every setting with its source."""
    if as_json:
        _json(
            [
                {
                    "flag": s.flag,
                    "variable": s.variable,
                    "value": value_of(s),
                    "source": s.source,
                    "meaning": s.help,
                }
                for s in loaded
            ]
        )
        return
    table = tables.table("settings", "setting", "value", "from", "meaning")
    for setting in loaded:
        value = value_of(setting)
        shown = value if isinstance(value, str) else json.dumps(value)
        given = setting.source != "default"
        table.add_row(
            Text(setting.flag[2:], style="bold" if given else ""),
            Text(plain(shown).plain, style="bold" if given else "dim"),
            Text(setting.source, style="green" if given else "dim"),
            plain(setting.help),
        )
    console = tables.console()
    console.print(table)
    console.print(
        "As a flag: --redis.url=URL; in the environment: COREMESH_REDIS_URL; in a TOML file: [redis] url.",
        style="dim",
        highlight=False,
    )


def keys(rows: list[dict[str, Any]], as_json: bool) -> None:
    """API keys with their limits."""
    if as_json:
        _json(rows)
        return
    if not rows:
        print("There are no keys. `coremesh keys create NAME` makes one.")
        return
    columns = ("id", "name", "a minute", "at once", "scored", "private", "created", "revoked")
    table = tables.table("keys", *columns, numbers=NUMERIC)
    for row in rows:
        table.add_row(
            row["id"],
            plain(row["name"]),
            str(row["per_minute"] or "no limit"),
            str(row["concurrent"] or "no limit"),
            "yes" if row["scored"] else "no",
            "yes" if row["private"] else "no",
            row["created"],
            row["revoked"] or "",
        )
    tables.console().print(table)
