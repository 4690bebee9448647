"""``coremesh keys`` as a process, against a real Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coremesh.history.callers import RedisCallers, id_of

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def keys(redis_url: str, tmp_path: Path) -> Cli:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COREMESH_")}
    environment |= {"COREMESH_REDIS_URL": redis_url, "COLUMNS": "200"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from coremesh.cli import main; main()", "keys", *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def parsed(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_a_key_from_its_making_to_its_end(keys: Cli, store: RedisCallers) -> None:
    made = keys("create", "ada", "--per-minute", "7", "--concurrent", "0", "--private")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    caller_id = id_of(key)
    assert caller_id is not None
    assert key not in made.stderr
    (row,) = parsed(keys("list", "--json"))
    created = row.pop("created")
    assert created.startswith("20")
    expected = {
        "id": caller_id,
        "name": "ada",
        "per_minute": 7,
        "concurrent": 0,
        "scored": True,
        "private": True,
        "revoked": None,
    }
    assert row == expected
    found = await store.record(caller_id)
    assert found is not None
    assert found[0].is_key(key)
    (row,) = parsed(keys("limit", caller_id, "--concurrent", "3", "--not-scored", "--not-private", "--json"))
    assert row == {**expected, "created": created, "concurrent": 3, "scored": False, "private": False}
    shown = keys("list").stdout
    assert "ada" in shown
    assert key not in shown
    (row,) = parsed(keys("revoke", caller_id, "--json"))
    assert row["revoked"] is not None


def test_what_cannot_be_is_said_in_a_sentence(keys: Cli) -> None:
    for words, said in (
        (
            ("revoke", "nothing"),
            "coremesh: there is no key 'nothing'. `coremesh keys list` shows all keys. [unknown_key]\n",
        ),
        (
            ("create", "ada", "--per-minute", "-1"),
            "coremesh: requests a minute: got -1; it takes 0 (no limit) to 60000. "
            "Correct the request; /docs shows what it takes. [bad_request]\n",
        ),
    ):
        done = keys(*words)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
