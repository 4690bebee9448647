"""Which GPU a replica takes."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy/docker/spread"


def load() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("spread", str(SCRIPT))
    spec = importlib.util.spec_from_loader("spread", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "gpus", "chosen"),
    [
        ("coremesh-reward-1.coremesh_mesh", 4, 0),
        ("coremesh-reward-4.coremesh_mesh", 4, 3),
        ("coremesh-reward-5.coremesh_mesh", 4, 0),
        ("coremesh_reward_2.coremesh_mesh", 2, 1),  # compose 1
        ("my-2nd-mesh-reward-3", 8, 2),
        ("coremesh-reward-2.coremesh_mesh", 1, None),
        ("coremesh-reward-2.coremesh_mesh", 0, None),
        ("reward", 4, None),
    ],
)
def test_replicas_take_gpus_in_turn(name: str, gpus: int, chosen: int | None) -> None:
    assert load().gpu_of(name, gpus) == chosen
