"""The service as a process: what it says when it cannot start, and how it stops."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import httpx
import pytest

from coremesh.errors import BadModel, BadSetting
from tests.integration.reward.serving import serving, settings
from tests.unit.reward.models import save_classifier

JUDGE = '[[function]]\ntype = "judge"\nmodel = "m"\n'


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
    # The first import of torch in a fresh environment takes a minute on a busy machine.
    _, said = await asyncio.wait_for(process.communicate(), 240)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path):
    file = tmp_path / "stack.toml"
    file.write_text('[[function]]\ntype = "relevance"\nmodel = "/no/such/model"')
    code, said = await refused(f"--reward.stack={file}", "--http.port=0")
    assert code == 2
    assert said.startswith("reward: there is no model at /no/such/model")
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("stack", "error", "says"),
    [
        ('[[function]]\ntype = "relevance"\nmodel = "someone/unheard-of"', BadModel, "someone/unheard-of"),
        ('[[function]]\ntype = "relevance"\nmodel = "m"\nweight = "much"', BadSetting, "got 'much'"),
        ('[[function]]\ntype = "sequence_classifier"\nmodel = "{path}"', BadModel, "safetensors"),
        ('[[function]]\ntype = "value_head"\nmodel = "{whole}"\nhead = "absent"', BadModel, "absent"),
        (
            '[[function]]\ntype = "judge"\nmodel = "m"\nbase_url = "http://x"\nkey_variable = "NO_KEY"',
            BadSetting,
            "NO_KEY",
        ),
        ('[[function]]\ntype = "judge"\nmodel = "m"\nbase_url = "file:///etc"', BadSetting, "base_url"),
    ],
)
async def test_it_does_not_start_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: str, error: type[Exception], says: str
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = save_classifier(tmp_path / "model", bert=True)
    whole = save_classifier(tmp_path / "whole")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    text = stack.replace("{path}", str(path)).replace("{whole}", str(whole))
    with pytest.raises(error, match=says):
        async with serving(settings(stack=text, folder=tmp_path)):
            pass


async def test_an_open_address_needs_a_token():
    with pytest.raises(BadSetting, match="without any token"):
        async with serving(settings("--http.host=0.0.0.0")):
            pass


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
