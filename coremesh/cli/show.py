"""Answers of the services, for people (tables) or programs (JSON)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coremesh.settings import Loaded

_PASSWORD = re.compile(r"://[^/@\s]*@")


def as_json(value: Any) -> None:
    """Anything as JSON."""
    _json(value)


def _json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(title: str, *columns: str) -> Table:
    """An empty table with its numbers to the right."""
    return _table(title, *columns)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        numeric = column in ("uid", "score", "weight", "u16", "on chain", "ok", "failed", "reward", "seconds")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table


def plain(text: str) -> Text:
    """Text from a miner, shown as it is: no markup, no control characters."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text))


def status(found: dict[str, Any], as_json: bool) -> None:
    """Health of the mesh."""
    if as_json:
        _json(found)
        return
    console = Console()
    table = _table("services", "service", "ready", "address", "note")
    for service in found["services"]:
        wrong = "; ".join(f"{name}: {said}" for name, said in service["checks"].items() if said != "ok")
        table.add_row(service["name"], "yes" if service["ready"] else "NO", service["url"], plain(wrong))
    console.print(table)
    if found["scores"]:
        console.print(
            f"events folded: {found['scores']['events']} ({found['scores']['rule']})", highlight=False
        )
    last = found["submission"]
    if last:
        console.print(
            f"last weights: {last['result']} at block {last['block']} {last['reason']}", highlight=False
        )


def answer(found: dict[str, Any], as_json: bool) -> None:
    """The best completion, and all of them when asked for."""
    if as_json:
        _json(found)
        return
    console = Console()
    console.print(plain(found["completion"]))
    reward = "-" if found["reward"] is None else f"{found['reward']:.3f}"
    note = f" degraded: {', '.join(found['degraded'])}" if found["degraded"] else ""
    console.print(
        f"uid {found['uid']} {found['hotkey']} reward {reward} in {found['timings']['total']:.2f} s, "
        f"event {found['event_id']}{note}",
        style="dim",
        highlight=False,
    )
    if found.get("completions"):
        table = _table("completions", "uid", "reward", "status", "seconds", "completion")
        for item in found["completions"]:
            value = "-" if item["reward"] is None else f"{item['reward']:.3f}"
            text = plain(item["completion"][:300])
            table.add_row(str(item["uid"]), value, item["status"], f"{item['latency_s']:.2f}", text)
        console.print(table)


def scores(found: dict[str, Any], as_json: bool) -> None:
    """Moving scores, best first."""
    if as_json:
        _json(found)
        return
    table = _table(
        f"{found['rule']} over {found['events']} events", "uid", "score", "ok", "failed", "hotkey", "note"
    )
    for row in sorted(found["rows"], key=lambda row: (-row["score"], row["uid"])):
        note = "validator" if row["excluded"] else ""
        counts = (str(row["successes"]), str(row["failures"]))
        table.add_row(str(row["uid"]), f"{row['score']:.5f}", *counts, row["hotkey"], note)
    Console().print(table)


def weights(found: dict[str, Any], as_json: bool) -> None:
    """What would be set now, beside the chain."""
    if as_json:
        _json(found)
        return
    table = _table(f"chain read at block {found['on_chain_block']}", "uid", "weight", "u16", "on chain")
    on_chain = found["on_chain"]
    for uid, weight, value in zip(found["uids"], found["weights"], found["values"], strict=True):
        table.add_row(str(uid), f"{weight:.5f}", str(value), str(on_chain.get(str(uid), "-")))
    console = Console()
    console.print(table)
    if found["held"]:
        console.print(f"held: {found['held']}", style="yellow", highlight=False)


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
    table = _table("settings", "setting", "value", "from", "meaning")
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
    console = Console()
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
    table = _table("keys", "id", "name", "a minute", "at once", "scored", "private", "created", "revoked")
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
    Console().print(table)
