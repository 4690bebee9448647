"""infinity-emb 0.0.78 on the same texts, in an environment of its own.

`COREMESH_BENCH_CACHE` (by default `coremesh-bench` in `XDG_CACHE_HOME`, by default `~/.cache`) holds that environment;
the first run makes it there, with the torch this project pins. Where it cannot be made, the benchmark says so and
reports no baseline.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

WANTED = "infinity-emb[torch]==0.0.78"
DEFAULT, SMALL = BATCHES = (32, 8)
"""Its default batch size, at which NUMBERS.md found 2.6 times the original's rate, and one that pads less."""
ROUND_S = 240.0
FAILS = "infinity-emb does not run this model, or not in time"

# Run inside the environment; arguments are the model, a file of groups, a batch size. A model with one label is a
# re-ranker to infinity, so it scores (prompt, completion) pairs: the same tokens, one [SEP] more. It prints 0 when it
# has scored the first group. For each line on standard input all of them are scored once, and the completions scored a
# CPU-second are printed.
SCRIPT = """
import asyncio, json, sys, time
import torch
torch.set_num_threads(1)
from infinity_emb import AsyncEmbeddingEngine, EngineArgs
path, file, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
groups = json.load(open(file))
async def main():
    engine = AsyncEmbeddingEngine.from_args(EngineArgs(
        model_name_or_path=path, engine="torch", device="cpu", dtype="float32", bettertransformer=False,
        compile=False, model_warmup=False, lengths_via_tokenize=True, batch_size=batch))
    async with engine:
        await engine.rerank(query=groups[0][0], docs=groups[0][1], raw_scores=True)
        print(0, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            started = time.process_time()
            found = await asyncio.gather(*(engine.rerank(query=p, docs=d, raw_scores=True) for p, d in groups))
            taken = time.process_time() - started
            print(json.dumps(sum(len(scores) for scores, _ in found) / taken), flush=True)
asyncio.run(main())
"""


class Infinity:
    """An environment with infinity-emb in it."""

    def __init__(self, python: Path) -> None:
        self.python = python

    @classmethod
    def find(cls) -> Infinity | None:
        """The environment, made if need be; None (and a line on standard error) if it cannot be."""
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = Path(os.environ.get("COREMESH_BENCH_CACHE") or root / "coremesh-bench")
        python = cache / "infinity" / "bin" / "python"
        try:
            if not python.is_file():
                cache.mkdir(parents=True, exist_ok=True)
                subprocess.run(
                    [sys.executable, "-m", "venv", str(cache / "infinity")], check=True, stdout=sys.stderr
                )
            # Not by importing it: that takes ten seconds.
            asked = "from importlib.metadata import version; print(version('infinity_emb'))"
            found = subprocess.run([python, "-c", asked], capture_output=True, text=True, timeout=120)
            if found.stdout.strip() != WANTED.partition("==")[2]:
                torch_version = torch.__version__.split("+")[0]
                install = [python, "-m", "pip", "install", "-q", WANTED, f"torch=={torch_version}"]
                subprocess.run(install, check=True, stdout=sys.stderr, timeout=240)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"infinity-emb could not be installed ({error}): no baseline", file=sys.stderr)
            return None
        return cls(python)

    @contextmanager
    def serving(self, path: Path, groups: list[tuple[str, list[str]]]) -> Iterator[Running]:
        """The model loaded, once for each batch size."""
        file = path / "groups.json"
        file.write_text(json.dumps(groups))
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        }
        processes = {
            batch: subprocess.Popen(
                [self.python, "-c", SCRIPT, str(path), str(file), str(batch)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            for batch in BATCHES
        }
        try:
            yield Running(processes)
        finally:
            for process in processes.values():
                process.kill()
                process.wait()


class Running:
    """Loaded models that wait for a round."""

    def __init__(self, processes: dict[int, subprocess.Popen[str]]) -> None:
        self._processes = processes

    def warm(self) -> None:
        """Wait until all have scored something. Raises RuntimeError."""
        for process in self._processes.values():
            self._answer(process)

    def rates(self) -> dict[int, float]:
        """Completions scored a CPU-second in one round, for each batch size. Raises RuntimeError."""
        return {batch: self._round(process) for batch, process in self._processes.items()}

    def _round(self, process: subprocess.Popen[str]) -> float:
        assert process.stdin is not None
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except OSError:
            raise RuntimeError(FAILS) from None
        return self._answer(process)

    def _answer(self, process: subprocess.Popen[str]) -> float:
        assert process.stdout is not None
        watch = threading.Timer(ROUND_S, process.kill)
        watch.start()
        try:
            return float(process.stdout.readline())
        except (OSError, ValueError):
            raise RuntimeError(FAILS) from None
        finally:
            watch.cancel()
