"""What the reward engine's benchmark on a GPU says of the work that was done, and of the engine without kernels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu_reward, reward_data
from services.reward.engine import Group, fused, load_classifier

BLOCKED = (
    "coremesh",
    "redis",
    "httpx",
    "fastapi",
    "pydantic",
    "msgspec",
    "scipy",
    "bittensor",
    "uvicorn",
    "structlog",
)


@pytest.mark.parametrize("name", ["decoder", "deberta"])
def test_the_projections_that_are_reported_are_those_that_torch_counts(name: str, tmp_path: Path) -> None:
    model = getattr(gpu_reward, name)(True)
    path = reward_data.saved(model, tmp_path / name, framed=name == "deberta")
    groups = [Group(p, c) for p, c in reward_data.groups(3, 4)]
    # In bf16 all products of the CPU go through operators that torch counts.
    engine = load_classifier(path, dtype=torch.bfloat16)
    assert engine.why_fallback is None
    ids = [engine.tokens.of([g.prompt + c for c in g.completions]) for g in groups]
    work = gpu_reward.computed(model, ids, share=name == "decoder")
    counter = FlopCounterMode(display=False)
    with counter:
        engine.score(groups)
    counted = counter.get_flop_counts()["Global"]
    products = sum(counted.get(op, 0) for op in (torch.ops.aten.mm, torch.ops.aten.addmm))
    # The head, once a text, is all that is not reported.
    assert 0 <= products - work.projections <= 12 * 2 * 65 * 64
    assert counted[torch.ops.aten.bmm] >= work.attention > 0
    assert work.flops == work.projections + work.attention


def test_a_shared_prompt_is_computed_once() -> None:
    model = gpu_reward.decoder(True)
    prompt = list(range(10, 60))
    together = gpu_reward.computed(model, [[[*prompt, 1], [*prompt, 2]]], share=True)
    apart = gpu_reward.computed(model, [[[*prompt, 1]], [[*prompt, 2]]], share=True)
    assert (together.tokens, apart.tokens) == (52, 102)
    assert together.flops < apart.flops


def test_an_engine_without_kernels_has_none_for_what_is_chosen_at_loading_either(tmp_path: Path) -> None:
    path = reward_data.saved(gpu_reward.decoder(True), tmp_path / "decoder", framed=False)
    with fused.fixed({}):
        backend: Any = load_classifier(path).backend
    blocks = backend.model.decoder.blocks
    assert all(block.out.own is None and block.up.own is None for block in blocks)
    assert type(backend.model.attention).__name__ == "CpuAttention"


def test_the_whole_program_runs_where_torch_transformers_and_numpy_are_and_nothing_else_is() -> None:
    script = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))
import benchmarks.gpu_gating
sys.argv = ["gpu_reward", "--device", "cpu", "--tiny", "--prompts", "1", "--k", "3", "--repeats", "1"]
runpy.run_module("benchmarks.gpu_reward", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["metric"]: row for row in map(json.loads, done.stdout.splitlines())}
    for name in ("decoder", "decoder_diff", "deberta"):
        assert rows[f"gpu_reward.{name}.completions_per_s.k3"]["value"] > 0
        # The limits are for K=50.
        assert rows[f"gpu_reward.{name}.completions_per_s.k3"]["baseline"] is None
        assert rows[f"gpu_reward.{name}.plain.completions_per_s.k3"]["value"] > 0
    assert {f"gpu_reward.kernel.{step}" for step in fused.steps(torch.device("cpu"))} <= rows.keys()
    assert rows["gpu_reward.decoder.max_abs_error"]["value"] < 1e-3
