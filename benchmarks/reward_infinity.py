"""infinity-emb 0.0.78 on the same texts, in an environment of its own.

`COREMESH_BENCH_CACHE` (by default `~/.cache/coremesh-bench`) holds that environment; the first run makes it there,
with the torch this project pins. Where it cannot be made, the benchmark says so and reports no baseline.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

WANTED = "infinity-emb[torch]==0.0.78"
# Run inside the environment: arguments are the model, a file of groups, the rounds, the batch size. A model with
# one label is a re-ranker to infinity, so it scores (prompt, completion) pairs: the same tokens, one [SEP] more.
SCRIPT = """
import asyncio, json, statistics, sys, time
import torch
torch.set_num_threads(1)
from infinity_emb import AsyncEmbeddingEngine, EngineArgs
path, file, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
groups = json.load(open(file))
count = sum(len(docs) for _, docs in groups)
async def main():
    engine = AsyncEmbeddingEngine.from_args(EngineArgs(
        model_name_or_path=path, engine="torch", device="cpu", dtype="float32", bettertransformer=False,
        compile=False, model_warmup=False, lengths_via_tokenize=True, batch_size=int(sys.argv[4])))
    async with engine:
        await engine.rerank(query=groups[0][0], docs=groups[0][1], raw_scores=True)
        taken = []
        for _ in range(rounds):
            started = time.process_time()
            found = await asyncio.gather(*(engine.rerank(query=p, docs=d, raw_scores=True) for p, d in groups))
            taken.append(time.process_time() - started)
        assert sum(len(scores) for scores, _ in found) == count
        print(json.dumps(count / statistics.median(taken)))
asyncio.run(main())
"""


class Infinity:
    """An environment with infinity-emb in it."""

    def __init__(self, python: Path) -> None:
        self.python = python

    @classmethod
    def find(cls) -> Infinity | None:
        """The environment, made if need be; None (and a line on standard error) if it cannot be."""
        cache = Path(os.environ.get("COREMESH_BENCH_CACHE") or Path.home() / ".cache" / "coremesh-bench")
        python = cache / "infinity" / "bin" / "python"
        try:
            if not python.is_file():
                cache.mkdir(parents=True, exist_ok=True)
                subprocess.run(
                    [sys.executable, "-m", "venv", str(cache / "infinity")], check=True, stdout=sys.stderr
                )
            if subprocess.run(
                [python, "-c", "import infinity_emb"], capture_output=True, timeout=120
            ).returncode:
                torch_version = torch.__version__.split("+")[0]
                install = [python, "-m", "pip", "install", "-q", WANTED, f"torch=={torch_version}"]
                subprocess.run(install, check=True, stdout=sys.stderr, timeout=240)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"infinity-emb could not be installed ({error}): no baseline", file=sys.stderr)
            return None
        return cls(python)

    def rate(self, path: Path, groups: list[tuple[str, list[str]]], rounds: int = 2) -> float | None:
        """Completions scored a CPU-second, at the better of two batch sizes; None if it does not run."""
        file = path / "groups.json"
        file.write_text(json.dumps(groups))
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "DO_NOT_TRACK": "1",
        }
        environment |= {"HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
        found = []
        for batch in (8, 32):
            command = [self.python, "-c", SCRIPT, str(path), str(file), str(rounds), str(batch)]
            ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
            if ran.returncode:
                print(f"infinity-emb did not run: {ran.stderr.strip()[-500:]}", file=sys.stderr)
                return None
            found.append(float(ran.stdout.strip().splitlines()[-1]))
            print(f"  infinity-emb, batches of {batch}: {found[-1]:.2f} completions/s", file=sys.stderr)
        return max(found)
