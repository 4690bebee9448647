"""The whole mesh as a user starts it: what the README promises, on real parts, through kills and restarts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import bittensor
import httpx
import pytest
from bittensor import storage

from devnet.roster import RESIDENTS
from tests.e2e.mesh import Mesh, running_mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SKILLED = ("specialist", "generalist")
WORTHLESS = ("dead", "redirect", "drip", "gzip-bomb", "huge-body", "deep-json", "nan", "special-tokens")
SERVICES = (
    "services.gating",
    "services.reward",
    "services.weights",
    "services.querier",
    "services.querier.trainer",
)


def residents(mesh: Mesh) -> dict[str, str]:
    """Hotkey to character."""
    found: dict[str, str] = {}
    for resident in RESIDENTS:
        path = mesh.directory / "wallets" / resident.name / "hotkeys" / "default"
        found[json.loads(path.read_text())["ss58Address"]] = resident.character
    return found


def events(mesh: Mesh) -> int:
    return mesh.weights("scores")["events"]


def trained(mesh: Mesh, count: int) -> dict[str, Any]:
    """The scores, once so many events have been folded."""

    def look() -> dict[str, Any] | None:
        scores = mesh.weights("scores")
        return scores if scores["events"] >= count else None

    return mesh.until(look, 300, f"{count} events folded")


def test_a_user_gets_a_relevant_answer(mesh: Mesh) -> None:
    trained(mesh, 40)
    answer = mesh.ask("How do vaccines train the immune system?", return_all=True)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert {"immune", "germ", "antibodies"} & set(body["completion"].lower().replace(",", "").split())
    assert residents(mesh)[body["hotkey"]] in SKILLED
    assert body["reward"] == max(c["reward"] for c in body["completions"] if c["reward"] is not None)
    assert set(body["timings"]) == {"filter", "gating", "query", "reward", "total", "models"}
    assert body["degraded"] == []

    def recorded() -> dict[str, Any] | None:
        history = httpx.get(f"{mesh.url}/history", params={"count": 50}).json()
        found = [event for event in history["events"] if event["event_id"] == body["event_id"]]
        return found[0] if found else None

    event = mesh.until(recorded, 20, "the event is in the history")
    assert body["uid"] in event["uids"]


def test_training_ranks_the_skilled_first_and_the_hostile_nowhere(mesh: Mesh) -> None:
    scores = trained(mesh, 250)
    names = residents(mesh)
    found: dict[str, list[float]] = {}
    for row in scores["rows"]:
        if row["hotkey"] in names:
            found.setdefault(names[row["hotkey"]], []).append(row["score"])
    skilled = [score for character in SKILLED for score in found[character]]
    assert len(skilled) == 10
    # The vague and the off-topic are both near nothing after so few events: which of them is last is chance.
    assert min(skilled) > max(found["vague"] + found["offtopic"])
    assert {character: found[character] for character in WORTHLESS} == {c: [0.0] for c in WORTHLESS}


VALIDATOR_UID = 0


def chain_weights(mesh: Mesh) -> dict[int, int]:
    """What an independent SDK client reads: uid to u16."""

    async def read() -> dict[int, int]:
        client = await bittensor.Subtensor(mesh.chain_url)
        try:
            rows = await client.query(storage.SubtensorModule.Weights, [1, VALIDATOR_UID])
            return {int(u): int(w) for u, w in rows}
        finally:
            await client.close()

    return asyncio.run(asyncio.wait_for(read(), 30))


def newest(mesh: Mesh, *results: str) -> dict[str, Any] | None:
    """The newest record of a submission that ended in one of ``results``."""
    return next((s for s in submissions(mesh) if s["result"] in results), None)


def submissions(mesh: Mesh) -> list[dict[str, Any]]:
    return mesh.weights("submissions", count=50)["submissions"]


def assert_on_chain(mesh: Mesh, result: str) -> None:
    """The newest vector with this result is what the chain holds, to u16 rounding."""

    def look() -> bool | None:
        before = newest(mesh, result)
        held = chain_weights(mesh)
        if before is None or before != newest(mesh, result):
            return None
        wanted = {uid: value for uid, value in zip(before["uids"], before["values"], strict=True) if value}
        assert set(held) == set(wanted)
        assert all(abs(held[uid] - value) <= 1 for uid, value in wanted.items())
        return True

    mesh.until(look, 120, f"the {result} vector is on the chain")


def test_weights_land_on_the_chain(mesh: Mesh) -> None:
    trained(mesh, 60)
    assert_on_chain(mesh, "landed")
    shares = btcli_weights(mesh)
    # The chain moves on between two reads: the vector is that of one of the newest submissions.
    assert any(_equal(shares, submission) for submission in submissions(mesh)[:6])


def btcli_weights(mesh: Mesh) -> dict[int, float]:
    """What btcli prints: uid to share of the row."""
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "btcli"), "--network", mesh.chain_url, "--json"),
            *("query", "weights", "--netuid", "1"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HOME": str(mesh.directory)},
    )
    assert done.returncode == 0, done.stderr
    return {int(uid): share for uid, share in json.loads(done.stdout)[str(VALIDATOR_UID)].items()}


def _equal(shares: dict[int, float], submission: dict[str, Any]) -> bool:
    values = {
        uid: value for uid, value in zip(submission["uids"], submission["values"], strict=True) if value
    }
    total = sum(values.values())
    return set(shares) == set(values) and all(
        abs(shares[uid] - value / total) < 2 / 65535 for uid, value in values.items()
    )


def assert_replays(mesh: Mesh) -> None:
    report = mesh.cli("replay")
    assert report["equal"] is True, report


@pytest.mark.parametrize("victim", [*SERVICES, "redis-server"])
def test_a_killed_process_loses_no_event_and_counts_none_twice(mesh: Mesh, victim: str) -> None:
    trained(mesh, 10)
    before = mesh.until(lambda: mesh.pids().get(victim), 60, f"{victim} runs")
    folded = events(mesh)
    os.kill(before, signal.SIGKILL)

    def back() -> bool | None:
        pid = mesh.pids().get(victim)
        ready = mesh.cli("status", check=False)
        return True if pid not in (None, before) and all(s["ready"] for s in ready["services"]) else None

    mesh.until(back, 90, f"{victim} is back")
    trained(mesh, folded + 6)
    assert_replays(mesh)


def test_a_replaced_hotkey_starts_again(mesh: Mesh) -> None:
    trained(mesh, 60)
    names = residents(mesh)
    rows = mesh.cli("scores")["rows"]
    row = next(r for r in rows if names.get(r["hotkey"]) == "vague")
    assert row["score"] > 0
    done = subprocess.run(
        [
            *(sys.executable, "-m", "devnet", "replace", "--uid", str(row["uid"])),
            *("--node", mesh.chain_url, "--wallets", str(mesh.directory / "wallets")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr

    def replaced() -> dict[int, dict[str, Any]] | None:
        now = {r["uid"]: r for r in mesh.weights("scores")["rows"]}
        return now if now[row["uid"]]["hotkey"] != row["hotkey"] else None

    now = mesh.until(replaced, 90, "the metagraph event is folded")
    assert (now[row["uid"]]["score"], now[row["uid"]]["successes"]) == (0.0, 0)
    for other in rows:
        if other["uid"] != row["uid"]:
            after = now[other["uid"]]
            assert after["hotkey"] == other["hotkey"]
            assert after["successes"] + after["failures"] >= other["successes"] + other["failures"]
    assert_replays(mesh)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "bad_request"),
        ({"messages": []}, 400, None),
        ({"messages": [{"role": "robot", "content": "hi"}]}, 400, None),
        ({"messages": [{"role": "user", "content": ""}]}, 400, None),
        ({"messages": [{"role": "user", "content": 7}]}, 400, None),
        ({"messages": [{"role": "user", "content": "x" * 100_000}]}, 413, "too_long"),
        ({"messages": [{"role": "user", "content": "x"}], "top_k": 0}, 400, None),
        ({"messages": [{"role": "user", "content": "x"}], "top_k": 5000}, 400, None),
        ({"messages": [{"role": "user", "content": "x"}], "timeout": -1}, 400, None),
        ({"messages": [{"role": "user", "content": "x"}], "timeout": 1e9}, 400, None),
    ],
)
def test_bad_input_is_refused_with_a_code_a_sentence_and_a_remedy(
    mesh: Mesh, body: dict[str, Any], status: int, code: str | None
) -> None:
    mesh.until(lambda: True if httpx.get(f"{mesh.url}/healthz").is_success else None, 60, "the querier is up")
    answer = httpx.post(f"{mesh.url}/inference", json=body, timeout=30)
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert set(problem) == {"code", "message", "remedy"}
    assert all(problem.values())
    assert code is None or problem["code"] == code


def test_commit_reveal_and_a_clean_stop(tmp_path: Path) -> None:
    flags = ("--commit-reveal", "--block-time", "0.15", "--tempo", "40", "--rate-limit", "10")
    with running_mesh(tmp_path / "devnet", *flags) as mesh:
        mesh.until(lambda: newest(mesh, "revealed"), 240, "a vector is revealed")
        assert_on_chain(mesh, "revealed")
        pids = mesh.pids()
        assert {"redis-server", "devnet.chain", "devnet.miners", *SERVICES} <= set(pids)
        assert mesh.stop() == 0
        assert mesh.output().rstrip().endswith("coremesh: stopped")
        assert [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()] == []
