"""A LiteLLM proxy before one fake upstream, in an environment of its own outside the repository.

Made on first use under ``$XDG_CACHE_HOME/coremesh`` (else ``~/.cache/coremesh``) and kept there.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

VERSION = "1.80.0"
START_S = 90
KEY = "sk-bench"


class NotAvailable(Exception):
    """Why there is no LiteLLM to compare with."""


def interpreter(timeout_s: float) -> Path:
    """The interpreter of that environment, made if need be. Raises NotAvailable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coremesh"
    folder = cache / f"litellm-{VERSION}-py{sys.version_info[0]}.{sys.version_info[1]}"
    python, stamp = folder / "bin" / "python", folder / ".complete"
    if stamp.exists():
        return python
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        for command in ((sys.executable, "-m", "venv", folder), (*install, f"litellm[proxy]=={VERSION}")):
            subprocess.run(command, check=True, timeout=timeout_s, stdout=sys.stderr, stderr=sys.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise NotAvailable(f"litellm {VERSION} cannot be installed: {error}") from None
    stamp.touch()
    return python


def upstream(latency_s: float, text: str) -> FastAPI:
    """An OpenAI-compatible server that says ``text`` after ``latency_s``."""
    app = FastAPI()
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }

    @app.post("/v1/chat/completions")
    async def complete() -> dict[str, object]:
        await asyncio.sleep(latency_s)
        return answer

    _ = complete
    return app


class _Upstream(uvicorn.Server):
    """One that leaves signals to the benchmark: who stops it would wait for the rest of the load otherwise."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def proxy(
    python: Path, directory: Path, *, ports: tuple[int, int], latency_s: float, text: str
) -> AsyncIterator[str]:
    """A running proxy's address. ``ports``: of the proxy, of its upstream. Raises NotAvailable."""
    server = _Upstream(
        uvicorn.Config(upstream(latency_s, text), host="127.0.0.1", port=ports[1], log_config=None)
    )
    config = directory / "litellm.json"
    model = {"model": "openai/fake", "api_base": f"http://127.0.0.1:{ports[1]}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "fake", "litellm_params": model}]}))
    with (directory / "litellm.log").open("wb") as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *(str(python.parent / "litellm"), "--config", str(config)),
                *("--host", "127.0.0.1", "--port", str(ports[0]), "--num_workers", "1"),
                stdout=output,
                stderr=output,
                env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
            )
        except OSError as error:
            raise NotAvailable(f"litellm cannot be started: {error}") from None
    serving = asyncio.create_task(server.serve())
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            for _ in range(START_S * 2):
                if process.returncode is not None:
                    raise NotAvailable(f"litellm ended with {process.returncode}")
                try:
                    if (await client.get(f"{url}/health/liveliness")).is_success:
                        break
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.5)
            else:
                raise NotAvailable(f"litellm did not start within {START_S} s")
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()
        server.should_exit = True
        await serving
