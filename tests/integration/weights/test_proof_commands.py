"""The commands about the record, as a user runs them, on a real service that archives, trims and is killed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from coremesh.contracts import SignedExplanation
from coremesh.history.redis import RedisHistory
from coremesh.types import ORIGIN
from coremesh.wire.wallets import load_keypair
from devnet.chain.testing import RunningChain, running_chain
from services.weights import backtesting, export, offline, replay
from services.weights import verify as verify_command
from services.weights.chain import Commit, Standing
from services.weights.fold import NAME, ROLE
from services.weights.onchain import judge
from services.weights.proof import verify
from tests.events import alike
from tests.integration.weights.processes import Crowd, WeightsProcess, folded
from tests.integration.weights.test_archive import local, rows_of, tell
from tests.integration.weights.test_every_await import end, runner, story
from tests.wait import wait_until

KILLS = int(os.environ.get("COREMESH_TEST_KILLS", "3"))


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[RunningChain]:
    with running_chain(tmp_path, block_time=0.1, tempo=20, rate_limit=4) as node:
        yield node


async def run(*words: str, cwd: Path) -> tuple[int, str]:
    """``coremesh …`` as a process: its exit code and output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COREMESH_")}
    command = [Path(sys.executable).with_name("coremesh"), *words]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, timeout=90, check=False, cwd=cwd, env=environment
    )
    return done.returncode, done.stdout.decode() + done.stderr.decode()


async def run_here(module: ModuleType, *words: str) -> tuple[int, str]:
    """What `coremesh …` becomes, in this process: several times faster."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = await asyncio.to_thread(module.main, words)
    return code, said.getvalue()


@pytest.mark.timeout(300)
async def test_a_service_that_is_killed_again_and_again_archives_every_row_once(
    redis_history: RedisHistory, redis_url: str, chain: RunningChain, tmp_path: Path
) -> None:
    archive, log = tmp_path / "archive", tmp_path / "events"
    service = WeightsProcess(
        redis_url,
        chain,
        tmp_path,
        flags=(
            f"--archive.to={archive}",
            f"--archive.event_log={log}",
            "--archive.part_rows=50",
            "--archive.part_s=0.2",
            "--weights.keep_events=40",
            "--weights.trim_s=0.2",
            '--weights.trim_folds=["scores"]',
        ),
    )
    service.start()
    crowd = Crowd(redis_history)
    try:
        await wait_until(redis_history.metagraph, timeout=40)
        for n in range(KILLS):
            await crowd.append(40)
            await asyncio.sleep(0.3 + 0.2 * (n % 3))
            service.end()
            await crowd.append(5)
            service.start()
        await crowd.append(30)
        await folded(service, crowd.sent)

        async def stored(name: str) -> bool:
            checkpoint = await redis_history.load(name)
            return checkpoint is not None and checkpoint.last_id == await redis_history.last_id()

        await wait_until(lambda: stored("archive"), timeout=40, every=0.1, why="all archived")
        await wait_until(lambda: stored("eventlog"), timeout=40, every=0.1, why="all logged")

        async def trimmed() -> bool:
            return await redis_history.trimmed() != ORIGIN

        await wait_until(trimmed, timeout=20, why="trimmed behind the archive")
        entries, _ = await rows_of(local(archive))
        forwards = [entry for entry in entries if entry.event.__class__.__name__ == "ForwardEvent"]
        assert len({entry.event.id for entry in forwards}) == len(forwards) == crowd.sent
        lines = [json.loads(line)["event_id"] for line in (log / "events.log").read_text().splitlines()]
        assert lines == [entry.event.id for entry in forwards]

        # The start is gone from Redis, and the proof goes on from the archive and Redis together.
        code, said = await run_here(replay, "--json", f"--redis.url={redis_url}")
        assert code == 3, said
        wanted = ("--json", f"--from-parquet={archive}", f"--redis.url={redis_url}")
        code, said = await run_here(replay, *wanted)
        report: dict[str, Any] = json.loads(said)
        assert (code, report["equal"], report["events"]) == (0, True, crowd.sent), said
        assert report["source"] == f"{archive} and Redis"

        # The chain holds the newest submission that landed.
        async def on_chain() -> dict[str, Any] | None:
            _, out = await run_here(replay, *wanted, "--chain", f"--chain.network={chain.url}")
            found = json.loads(out)
            return found if found["chain"] and found["chain"]["block"] and found["chain"]["equal"] else None

        found = await wait_until(on_chain, timeout=60, why="the chain holds what was submitted")
        assert found is not None
        assert found["chain"]["note"].startswith("the chain holds the weights of block")

        # The running service explains from a kept state and signs with the wallet's hotkey.
        answer = await service.get("/explain/2?sign=true&events=5")
        signed = SignedExplanation.model_validate(answer)
        hotkey = load_keypair(chain.wallets_dir, "validator", "default").ss58_address
        assert verify(signed, signer=hotkey).problems == []
        assert signed.signature
        (tmp_path / "said.json").write_text(json.dumps(answer))
        code, said = await run("verify", "said.json", f"--hotkey={hotkey}", cwd=tmp_path)
        assert (code, said.strip()) == (
            0,
            f"right: {len(answer['explanation']['steps'])} steps, signed by {hotkey}",
        )

        # Redis goes away: the archive alone still proves every submission in it.
        code, said = await run_here(
            replay, "--json", f"--from-parquet={archive}", "--redis.url=redis://127.0.0.1:1/0"
        )
        report = json.loads(said)
        assert (code, report["equal"], report["events"]) == (0, True, crowd.sent), said
        assert len(report["submissions"]) > 0
        assert report["source"] == str(archive)

        (tmp_path / "coremesh.toml").write_text(
            f'[redis]\nurl = "{redis_url}"\n[wallet]\npath = "{chain.wallets_dir}"\nname = "validator"\n'
            f'[mesh]\nweights_url = "http://127.0.0.1:{service.port}"\n'
        )
        code, said = await run("explain", "2", "--events=3", "--sign", "--config=coremesh.toml", cwd=tmp_path)
        assert code == 0, said
        assert f"Signed by {hotkey}" in " ".join(said.split())
        assert "every bit agrees with the served scores." in " ".join(said.split())
        # And offline, from the archive's first event on.
        code, said = await run(
            *("explain", "3", "--sign", "--json", f"--from-parquet={archive}", "--config=coremesh.toml"),
            cwd=tmp_path,
        )
        assert code == 0, said
        offline = SignedExplanation.model_validate_json(said)
        assert verify(offline, signer=hotkey).problems == []
        assert (offline.explanation.since, offline.explanation.agrees) == (ORIGIN, True)
    finally:
        service.end()


async def test_a_forged_or_unsigned_explanation_has_an_exit_code_of_its_own(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path
) -> None:
    await tell(redis_history, story())
    task = asyncio.create_task(runner(redis_history, ROLE).run())

    async def done() -> bool:
        checkpoint = await redis_history.load(NAME)
        return checkpoint is not None and checkpoint.last_id == await redis_history.last_id()

    await wait_until(done)
    await end(task)
    file = tmp_path / "said.json"
    code, said = await run_here(offline, "2", "--json", f"--redis.url={redis_url}")
    assert code == 0, said
    file.write_text(said)
    code, said = await run_here(verify_command, str(file))
    assert (code, said.splitlines()[-1]) == (3, "right: 6 steps, not signed")
    plain = json.loads(file.read_text())
    plain["explanation"]["standing"]["score"] += 1e-9
    file.write_text(json.dumps(plain))
    code, said = await run_here(verify_command, str(file))
    assert (code, said.splitlines()[-1]) == (1, "WRONG: 6 steps, not signed")
    file.write_text("{}")
    assert (await run_here(verify_command, str(file)))[0] == 2
    code, said = await run_here(offline, "99", f"--redis.url={redis_url}")
    assert (code, said.strip()) == (
        1,
        "explain: there is no uid 99: the scores have 4. GET /scores lists the uids. [unknown_uid]",
    )


async def test_an_export_is_an_archive_that_replays_and_is_not_written_twice(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path
) -> None:
    await tell(redis_history, [*story(), *story()], submissions=1)
    words = ("--json", f"--redis.url={redis_url}", "--texts", "--archive.part_rows=4")
    code, said = await run_here(export, f"--to={tmp_path}/all", *words)
    assert code == 0, said
    last = await redis_history.last_id()
    assert json.loads(said) == {
        "to": f"{tmp_path}/all",
        "after": ORIGIN,
        "last": last,
        "rows": {"events": 12, "metagraph": 2, "submissions": 1},
    }
    entries, submissions = await rows_of(local(tmp_path / "all"))
    assert entries == alike(await redis_history.read(ORIGIN, 100))
    assert submissions == await redis_history.submissions(10)
    code, said = await run_here(export, f"--to={tmp_path}/all", *words)
    assert (code, "rows would be there twice" in said) == (2, True)
    # A time without events.
    code, said = await run_here(export, f"--to={tmp_path}/none", "--until=2001-01-01", *words)
    assert (code, json.loads(said)["rows"]) == (0, {})
    code, said = await run(
        "history", "export", f"--to={tmp_path}/late", "--from=2001-01-01T00:00:00Z", *words, cwd=tmp_path
    )
    assert json.loads(said)["rows"]["events"] == 12
    # The backtest reads it, and Redis beside it where it is.
    code, said = await run_here(
        backtesting,
        *(f"--from-parquet={tmp_path}/all", "--rule=shrunk_z", "--rule=softmax_ema:alpha=0.5"),
        *("--json=-", f"--png={tmp_path}/rules.png", "--redis.url=redis://127.0.0.1:1/0"),
    )
    assert code == 0, said
    assert [one["rule"] for one in json.loads(said)["rules"]] == ["shrunk_z", "softmax_ema:alpha=0.5"]
    assert (tmp_path / "rules.png").read_bytes()[:4] == b"\x89PNG"


async def test_the_tail_shows_the_newest_and_follows(
    redis_history: RedisHistory, redis_url: str, tmp_path: Path
) -> None:
    await tell(redis_history, story())
    (tmp_path / "coremesh.toml").write_text(f'[redis]\nurl = "{redis_url}"\n')
    script = Path(sys.executable).with_name("coremesh")
    process = await asyncio.create_subprocess_exec(
        *(str(script), "history", "tail", "-n", "2", "--follow", "--json", "--config", "coremesh.toml"),
        stdout=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    try:
        kept = await redis_history.read(ORIGIN, 100)
        for wanted in kept[-2:]:
            line = await asyncio.wait_for(process.stdout.readline(), 30)
            assert json.loads(line)["stream_id"] == wanted.stream_id
        await tell(redis_history, story()[3:4])
        line = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        assert (line["kind"], line["size"], line["excluded"]) == ("metagraph", 4, [0])
        assert line["changes"] == [{"uid": 1, "old": "5Hotkey0001", "new": "new"}]
    finally:
        process.terminate()
        await process.wait()
    done = await asyncio.to_thread(
        subprocess.run,
        [script, "history", "tail", "-n", "1", "--config", "coremesh.toml"],
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert b"metagraph: 4 uids, 1 changed 1" in done.stdout


async def test_the_chain_is_judged_by_the_newest_submission(redis_history: RedisHistory) -> None:
    await tell(redis_history, [], submissions=1)
    newest = (await redis_history.submissions(1))[0].submission

    def standing(weights: dict[int, int], uid: int | None = 0, commits: tuple[Commit, ...] = ()) -> Standing:
        return Standing(9, uid, 0, weights, commits, bool(commits), True, False)

    held = dict(zip(newest.uids, newest.values, strict=True))
    assert judge(newest, standing(held)).equal
    assert judge(newest, standing({}, commits=(Commit(newest.landed_block, 1),))).equal
    other = judge(newest, standing({1: 1, 7: 65535}))
    assert (other.equal, other.note) == (False, "the chain holds other weights for uids [1, 2, 7]")
    assert judge(newest, standing({}, uid=None)).note == "5Validator is not registered"
