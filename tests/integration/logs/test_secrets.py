"""What real services log at info while users, miners and the machine misbehave: events and hotkeys, never a text."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from pydantic import BaseModel

from coremesh.service.logs import HIDDEN, configure_logging
from coremesh.settings import LogSettings, load
from tests.integration.querier.conftest import World
from tests.integration.querier.network import VALIDATOR, answers, says
from tests.integration.traces.test_mesh import free_port
from tests.logs import captured
from tests.wait import wait_until

KEY, TOKEN, OPERATOR, STRANGER = "MARKERKEY", "MARKERTOKEN", "MARKEROPERATOR", "MARKERSTRANGER"
PROMPT = "MARKERPROMPT why is the sky blue?"
ANSWER = "MARKERANSWER because air scatters blue light more than red light."


class Logged:
    """The log files of services, a line of JSON each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def text(self) -> str:
        return "".join(file.read_text() for file in sorted(self.folder.glob("*.log")))

    def lines(self, **fields: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.text().splitlines()]
        return [line for line in found if fields.items() <= line.items()]


@asynccontextmanager
async def service(
    world: World, folder: Path, name: str, port: int, *flags: str, role: str = ""
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    with (folder / f"{role or name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", f"services.{name}", f"--http.port={port}", f"--redis.url={world.redis_url}", *flags),
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "COREMESH_MESH_TOKEN": TOKEN,
                "COREMESH_WALLET_PATH": str(world.wallet_path),
                "COREMESH_WALLET_NAME": "validator",
                "COREMESH_QUERIER_API_KEYS": json.dumps([KEY]),
                "COREMESH_QUERIER_OPERATOR_TOKEN": OPERATOR,
                "COREMESH_WANDB_KEY": "MARKERWANDB",
            },
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            async def alive() -> bool:
                try:
                    return (await client.get("/healthz")).status_code == 200
                except httpx.HTTPError:
                    return False

            await wait_until(alive, timeout=90, every=0.1, why=f"{name} is alive")
            yield process, client
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 40)


@pytest.mark.timeout(240)
async def test_no_text_and_no_secret_is_logged_at_info(world: World, tmp_path: Path) -> None:
    logged = Logged(tmp_path / "logs")
    logged.folder.mkdir()
    await world.miners(says(ANSWER), answers(500), says("short"))
    ports = {name: free_port() for name in ("gating", "reward", "querier", "trainer", "weights")}
    flags = [
        f"--mesh.gating_url=http://127.0.0.1:{ports['gating']}",
        f"--mesh.reward_url=http://127.0.0.1:{ports['reward']}",
        f"--mesh.weights_url={world.services_url}",
        "--querier.allow_loopback=true",
        "--querier.axon_off=true",
        "--querier.reward_timeout_s=20",
        "--querier.gating_timeout_s=20",
    ]
    async with AsyncExitStack() as stack:

        async def run(name: str, *more: str, role: str = "") -> tuple[Any, httpx.AsyncClient]:
            port = ports[role or name]
            return await stack.enter_async_context(
                service(world, logged.folder, name, port, *more, role=role)
            )

        _, gating = await run("gating")
        reward_process, reward = await run("reward")
        board = ("--wandb.mode=offline", f"--wandb.directory={tmp_path / 'board'}")
        await run("weights", "--chain.network=ws://127.0.0.1:1", "--chain.timeout_s=1", *board)
        await wait_until(lambda: logged.lines(role="wandb", event="leading"), timeout=60)
        _, querier = await run("querier", *flags, f"--querier.spool={world.spool}")

        async def ready() -> bool:
            return (await querier.get("/readyz")).status_code == 200

        await wait_until(ready, timeout=60, every=0.2)
        user = {"authorization": f"Bearer {KEY}"}
        said = {"messages": [{"role": "user", "content": PROMPT}]}
        good = await querier.post("/inference", json=said, headers=user)
        assert (good.status_code, good.json()["completion"]) == (200, ANSWER)
        model = (await querier.get("/v1/models", headers=user)).json()["data"][0]["id"]
        chat = await querier.post("/v1/chat/completions", json={"model": model, **said}, headers=user)
        assert chat.status_code == 200
        # Callers that err, and strangers.
        for body in (
            {"messages": PROMPT},
            {"messages": [{"role": PROMPT, "content": PROMPT}]},
            {"x": PROMPT},
        ):
            assert (await querier.post("/inference", json=body, headers=user)).status_code >= 400
        broken = await querier.post(
            "/inference",
            content=f'{{"messages": "{PROMPT}',
            headers={**user, "content-type": "application/json"},
        )
        assert broken.status_code >= 400
        refused = await querier.post("/inference", json=said, headers={"authorization": f"Bearer {STRANGER}"})
        assert refused.status_code == 401
        for client, path, body in (
            (gating, "/score", {"text": PROMPT}),
            (reward, "/reward", {"messages": said["messages"], "completions": [ANSWER]}),
        ):
            assert (await client.post(path, json=body)).status_code == 401
            mesh = {"authorization": f"Bearer {TOKEN}"}
            assert (
                await client.post(path, json={**body, "k": PROMPT, "kind": PROMPT}, headers=mesh)
            ).status_code == 400
        operator = {"authorization": f"Bearer {OPERATOR}"}
        forward = await querier.post(
            "/forward", json={"roles": ["user"], "messages": [PROMPT]}, headers=operator
        )
        assert forward.status_code == 200
        # Parts that are missing.
        reward_process.kill()
        await reward_process.wait()
        degraded = (await querier.post("/inference", json=said, headers=user)).json()
        assert "reward" in degraded["degraded"]
        # Training, whose questions are texts too.
        await run(
            *("querier", *flags, "--querier.role=trainer", "--trainer.source=bundled"),
            f"--querier.spool={tmp_path / 'trainer-spool'}",
            role="trainer",
        )

        async def trained() -> list[str]:
            return [m.content for e in await world.forwards() if e.kind == "answer" for m in e.messages]

        questions = [text for text in await wait_until(trained, timeout=60) if len(text) > 10]
        await wait_until(lambda: logged.lines(service="weights", event="chain away"), timeout=60)

        async def shown() -> bool:
            place = await world.history.load("wandb")
            return place is not None and bool(list((tmp_path / "board").glob("wandb/offline-run-*/*.wandb")))

        await wait_until(shown, timeout=90, why="wandb's files of the events")

    kept = b"".join(file.read_bytes() for file in (tmp_path / "board").rglob("*") if file.is_file())
    assert good.json()["event_id"].encode() in kept
    assert b"MARKER" not in kept
    text = logged.text()
    # The wallet's own file holds its seed; no part of it is anywhere.
    (hotkey_file,) = world.wallet_path.glob("*/hotkeys/default")
    wallet = json.loads(hotkey_file.read_text())
    secrets = [value for name, value in wallet.items() if "seed" in name.lower() or "phrase" in name.lower()]
    secrets += [value for name, value in wallet.items() if "private" in name.lower()]
    assert any(secrets)
    assert "MARKER" not in text
    assert not [question for question in questions if question in text]
    assert not [one for one in secrets if one and str(one).removeprefix("0x") in text]
    # What was wrong is said nevertheless, with the event and the validator as fields.
    lines = logged.lines(event="nothing scored", event_id=degraded["event_id"])
    assert [(line["level"], line["service"], line["hotkey"]) for line in lines] == [
        ("warning", "querier", str(VALIDATOR.ss58_address))
    ] * len(lines)
    assert lines
    assert {line["service"] for line in logged.lines()} >= {
        "querier",
        "trainer",
        "gating",
        "reward",
        "weights",
    }


@pytest.fixture(params=["json", "console"])
def written(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    with captured([f"--log.format={request.param}"]) as lines:
        yield lines


MARK = "mark" + "er of a text"
"""Put together here, so that it stands in no line of code that a traceback shows."""


class Asked(BaseModel):
    number: int


def quoting(kind: str) -> None:
    local = f"{MARK} in a frame"
    if kind == "pydantic":
        Asked.model_validate({"number": local})
    elif kind == "json":
        json.loads('{"' + MARK)
    elif kind == "lookup":
        {}[MARK]
    elif kind == "chained":
        try:
            int(MARK)
        except ValueError as error:
            raise RuntimeError("what came of it") from error
    else:
        raise ExceptionGroup("several", [ValueError(MARK), OSError("the disk is full")])


@pytest.mark.parametrize("kind", ["pydantic", "json", "lookup", "chained", "group"])
def test_errors_show_where_and_what_and_no_text(written: io.StringIO, kind: str) -> None:
    try:
        quoting(kind)
    except Exception as error:
        structlog.get_logger("one").error("failed", exc_info=error)
        logging.getLogger("other").error("failed too", exc_info=error)
    said = written.getvalue()
    assert MARK not in said
    assert "test_secrets.py" in said
    assert "failed too" in said
    if kind == "chained":
        assert "what came of it" in said
    if kind != "group":
        assert HIDDEN in said


def test_at_debug_errors_are_shown_whole(written: io.StringIO) -> None:
    configure_logging(load([LogSettings], ["--log.level=debug"])[LogSettings], "tests")
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(written)
    try:
        quoting("json")
    except ValueError as error:
        structlog.get_logger("a third").error("failed", exc_info=error)
    assert "Unterminated string" in written.getvalue()
