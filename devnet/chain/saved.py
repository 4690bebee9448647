"""The state file: everything a restart needs, written atomically."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

MAX_STATE_BYTES = 256 * 1024 * 1024


class BadState(Exception):
    """The state file is unreadable or belongs to another chain; the message says what to do."""


class Saved(msgspec.Struct, frozen=True):
    """Head state by key, recent hashes by number, and what must not change for clients that cache."""

    genesis_hash: str
    spec_version: int
    slot_ms: int
    clean: bool
    hashes: dict[int, str]
    values: dict[bytes, bytes]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Saved)


def load(path: Path) -> Saved | None:
    """Read a state file, None when there is none; BadState when it is not one."""
    try:
        if path.stat().st_size > MAX_STATE_BYTES:
            raise BadState(f"{path} is too large to be a chain state; move it away or pass another --state.")
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as problem:
        raise BadState(
            f"{path} is not a readable chain state ({problem}); remove it or pass another --state."
        ) from problem


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a state file for this process; BadState when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadState(f"{path} is in use by another chain; stop that or pass another --state.") from None
        yield


def store(path: Path, saved: Saved) -> None:
    """Replace the state file in one step; OSError when it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(_encoder.encode(saved))
    os.replace(temporary, path)
