"""Running out of memory halves the token budget and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as tf

from services.reward.engine import ModelError, TokenBudget
from tests.unit.reward_engine import models

# A real shortage: the address space ends 220 MB above what the loaded model uses; the model's inner layer is so wide
# that 16,384 tokens want 512 MB for one matrix.
SHORTAGE = """
import json, resource, sys
import numpy as np
from pathlib import Path
from services.reward.engine import load_classifier
import torch
torch.set_num_threads(1)
engine = load_classifier(Path(sys.argv[1]), token_budget=1 << 16)
assert engine.budget.tokens == 2048
engine.budget.tokens = 1 << 14
texts = [f"{i} the validator asks many miners " * 7 for i in range(300)]
engine.score_texts(texts[:20])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 220 * 2**20, resource.RLIM_INFINITY))
found = engine.score_texts(texts)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
halvings = engine.oom_halvings
wanted = np.concatenate([engine.score_texts([t]) for t in texts[::30]])
print(json.dumps([halvings, engine.budget.tokens, float(abs(found[::30] - wanted).max())]))
"""


def test_a_real_shortage(tmp_path: Path) -> None:
    sizes = {**models.SIZES, "num_hidden_layers": 2, "intermediate_size": 8192, "num_key_value_heads": 4}
    config = tf.LlamaConfig(**sizes)
    path = models.saved(
        lambda: tf.LlamaForSequenceClassification(config), models.byte_level(), tmp_path / "wide"
    )
    ran = subprocess.run(
        [sys.executable, "-c", SHORTAGE, str(path)], capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    halvings, tokens, error = json.loads(ran.stdout.splitlines()[-1])
    assert halvings >= 1
    assert tokens == (1 << 14) >> halvings
    assert error < 1e-5


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_halving(error: Exception) -> None:
    budget = TokenBudget(1000)
    asked: list[int] = []

    def work(tokens: int) -> str:
        asked.append(tokens)
        if tokens > 250:
            raise error
        return "done"

    assert budget.run(work) == "done"
    assert (asked, budget.tokens, budget.oom_halvings) == ([1000, 500, 250], 250, 2)
    assert budget.run(work) == "done"
    assert asked[3:] == [250]


def test_a_model_that_never_fits() -> None:
    budget = TokenBudget(64)

    def work(tokens: int) -> None:
        raise torch.OutOfMemoryError(f"{tokens}")

    with pytest.raises(ModelError) as caught:
        budget.run(work)
    assert (caught.value.code, budget.tokens, budget.oom_halvings) == ("out_of_memory", 16, 2)


def test_other_errors_pass_through() -> None:
    budget = TokenBudget(64)

    def work(tokens: int) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        budget.run(work)
    assert budget.oom_halvings == 0
