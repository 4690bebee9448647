"""The service as a process: what it says when it cannot start, and how it stops."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import httpx

from tests.unit.reward.models import save_classifier


async def start(*argv: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.reward",
        *argv,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def refused(*argv: str) -> tuple[int, str]:
    """Exit code and what was printed."""
    process = await start(*argv)
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path):
    path = save_classifier(tmp_path / "model", bert=True)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    stacks = {
        '[[function]]\ntype = "relevance"\nmodel = "/no/such/model"': "there is no model at /no/such/model",
        '[[function]]\ntype = "relevance"\nmodel = "someone/unheard-of"': "someone/unheard-of",
        '[[function]]\ntype = "relevance"\nmodel = "m"\nweight = "much"': "function[0].weight: got 'much'",
        f'[[function]]\ntype = "sequence_classifier"\nmodel = "{path}"': "safetensors",
    }
    flags: dict[str, str] = {"--http.host=0.0.0.0": "COREMESH_MESH_TOKEN"}
    for i, (stack, says) in enumerate(stacks.items()):
        file = tmp_path / f"stack{i}.toml"
        file.write_text(stack)
        flags[f"--reward.stack={file}"] = says
    ends = await asyncio.gather(*(refused(flag) for flag in flags))
    for (code, said), says in zip(ends, flags.values(), strict=True):
        assert code == 2
        assert said.startswith("reward: ")
        assert says in said
        assert len(said.strip().splitlines()) == 1


async def test_it_serves_and_stops_cleanly():
    process = await start("--http.port=0", "--log.level=info")
    assert process.stderr is not None
    port = 0
    while not port:
        line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
        assert line
        found = re.search(r"listens on http://127.0.0.1:(\d+)", line)
        port = int(found.group(1)) if found else 0
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        ready = await client.get("/readyz")
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 30)
    assert ready.status_code == 200
    assert process.returncode == 0
