"""``coremesh keys``: who may ask this validator, and how much."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from coremesh.cli import show
from coremesh.history.callers import CallerRecord, Changes, RedisCallers
from coremesh.settings import ALL_SECTIONS, ChainSettings, RedisSettings, load

T = TypeVar("T")

DEVNET_CONFIG = Path(".devnet/coremesh.toml")

app = typer.Typer(help="API keys of users: made, listed, limited, revoked.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="TOML file of settings; default: COREMESH_CONFIG, else .devnet/coremesh.toml"
    ),
]
PerMinute = Annotated[
    int | None, typer.Option("--per-minute", help="requests a minute, on all replicas together; 0: no limit")
]
Concurrent = Annotated[
    int | None, typer.Option("--concurrent", help="requests at once, on all replicas together; 0: no limit")
]
Scored = Annotated[
    bool | None, typer.Option("--scored/--not-scored", help="whether its requests may count for scores")
]
Private = Annotated[
    bool | None, typer.Option("--private/--not-private", help="whether its requests leave no text behind")
]
Id = Annotated[str, typer.Argument(help="id of the key, as `coremesh keys list` shows it")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="whose key it is")],
    per_minute: PerMinute = None,
    concurrent: Concurrent = None,
    scored: Scored = None,
    private: Private = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, this once: only its digest is kept."""
    changes = Changes(per_minute=per_minute, concurrent=concurrent, scored=scored, private=private)
    key, record = _with_store(config, lambda store: store.create(name, changes))
    if as_json:
        show.as_json({"key": key, **_row(record)})
        return
    print(key)
    Console(stderr=True).print(
        f"Key {record.id} of {name!r}. It cannot be shown again.", highlight=False, markup=False
    )


@app.command("list")
def list_keys(config: Config = None, as_json: AsJson = False) -> None:
    """All keys with their limits, revoked ones too."""
    records = _with_store(config, lambda store: store.records())
    show.keys([_row(record) for record in records], as_json)


@app.command()
def revoke(key: Id, config: Config = None, as_json: AsJson = False) -> None:
    """Let a key in no more, from its next request on."""
    show.keys([_row(_with_store(config, lambda store: store.revoke(key)))], as_json)


@app.command()
def limit(
    key: Id,
    per_minute: PerMinute = None,
    concurrent: Concurrent = None,
    scored: Scored = None,
    private: Private = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Change what a key may do, from its next request on. What is not given stays as it is."""
    changes = Changes(per_minute=per_minute, concurrent=concurrent, scored=scored, private=private)
    show.keys([_row(_with_store(config, lambda store: store.change(key, changes)))], as_json)


def _with_store(config: Path | None, work: Callable[[RedisCallers], Awaitable[T]]) -> T:
    path = config_path(config)
    words = ["--config", str(path)] if path else []
    settings = load([RedisSettings, ChainSettings], words, known=ALL_SECTIONS)
    redis = settings[RedisSettings]

    async def run() -> T:
        store = RedisCallers(
            redis.address, settings[ChainSettings].netuid, timeout=timedelta(seconds=redis.timeout_s)
        )
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def config_path(given: Path | None) -> Path | None:
    """The settings file that a command reads: as given, else by COREMESH_CONFIG, else the devnet's."""
    if given is not None:
        return given
    if os.environ.get("COREMESH_CONFIG"):
        return Path(os.environ["COREMESH_CONFIG"])
    return DEVNET_CONFIG if DEVNET_CONFIG.exists() else None


def with_config(words: Sequence[str], given: Path | None = None) -> list[str]:
    """The words of a command that becomes a service's own, and the settings file that it reads where they name none."""
    named = any(word in ("--help", "--config") or word.startswith("--config=") for word in words)
    path = None if named else config_path(given)
    return [*words, *(["--config", str(path)] if path else [])]


def _row(record: CallerRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "created": _time(record.created_ms),
        "per_minute": record.per_minute,
        "concurrent": record.concurrent,
        "scored": record.scored,
        "private": record.private,
        "revoked": _time(record.revoked_ms) if record.revoked_ms else None,
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
