"""What single prompts showed is remembered where it proves right, and not believed where it does not."""

from __future__ import annotations

import numpy as np
import pytest

from services.gating.bayes import BayesHead, BayesOptions
from services.gating.memory import Memory, unit

DIM, MINERS, ASKED = 48, 24, 12
HOTKEYS = np.arange(1, MINERS + 1, dtype=np.uint64)


def taught(own: float, noise: float, horizon: float = 2000.0) -> tuple[BayesHead, np.ndarray, np.ndarray]:
    """A head that saw 120 prompts without any topic six times; each miner has a skill of size ``own`` on each, and
    a reward scatters by ``noise``."""
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=(120, DIM)).astype(np.float32)
    skill = own * rng.normal(size=(120, MINERS))
    head = BayesHead(DIM, "", BayesOptions(horizon=horizon))
    for _ in range(6):
        for prompt in rng.permutation(120):
            asked = rng.choice(MINERS, ASKED, replace=False)
            rewards = skill[prompt, asked] + noise * rng.normal(size=ASKED)
            head.observe(prompts[prompt], HOTKEYS[asked], rewards, np.ones(ASKED, dtype=bool))
    return head, prompts, skill


def test_who_answered_which_prompt_well_is_remembered() -> None:
    head, prompts, skill = taught(own=1.0, noise=0.3)
    chosen = np.argsort(-head.scores(prompts, HOTKEYS)[0], axis=1)[:, :4]
    kept = np.take_along_axis(skill, chosen, 1).mean() / np.sort(skill, axis=1)[:, -4:].mean()
    assert kept > 0.5  # the few directions of the basis alone: 0.19


def test_noise_is_not_believed() -> None:
    head, prompts, _ = taught(own=0.0, noise=1.0)
    assert np.abs(head.scores(prompts, HOTKEYS)[0]).max() < 0.5


def test_the_memory_of_a_hotkey_that_left_is_gone() -> None:
    head, prompts, _ = taught(own=1.0, noise=0.3)
    stranger = head.scores(prompts, np.array([999], dtype=np.uint64))[0]
    head.retire(HOTKEYS[:1])
    head.observe(prompts[0], HOTKEYS[1:], np.arange(MINERS - 1.0), np.ones(MINERS - 1, dtype=bool))
    found = head.scores(prompts, HOTKEYS[:1])[0]
    assert found == pytest.approx(stranger, abs=0.05)


def test_learning_step_by_step_is_ridge_regression() -> None:
    rng = np.random.default_rng(1)
    z = unit(rng.normal(size=(40, 8)))
    residuals = rng.normal(size=(1, 40))
    steps, at_once = Memory(8), Memory(8)
    steps.grow(1)
    for prompt in range(40):
        steps.learn(z[prompt], np.array([0]), residuals[:, prompt], 1.0)
    at_once.relearn(z, np.ones((1, 40)), residuals)
    assert steps.weights[0] == pytest.approx(at_once.weights[0], abs=1e-5)
    pending = steps.pending[: steps.changes]
    assert 0 < steps.changes < 40
    assert steps.inverse - pending.T @ pending == pytest.approx(at_once.inverse, abs=1e-9)


def test_a_design_that_forgot_lets_rows_be_overwritten() -> None:
    z, row = np.eye(4)[0], np.array([0])
    kept, forgot = Memory(4), Memory(4)
    for memory in (kept, forgot):
        memory.grow(1)
        for _ in range(400):
            memory.learn(z, row, np.array([1.0]), 1.0)
    forgot.forget(100.0)
    for memory in (kept, forgot):
        for _ in range(20):
            memory.learn(z, row, np.array([-1.0]), 1.0)
    assert kept.weights[0, 0] > 0.8
    assert forgot.weights[0, 0] < -0.2


def test_trust_follows_what_came_true() -> None:
    rng = np.random.default_rng(2)
    memory, rows = Memory(4), np.arange(16)
    memory.grow(16)
    skill = rng.normal(size=(4, 16))
    for at in range(200):
        memory.learn(np.eye(4)[at % 4], rows, skill[at % 4], 1.0)
    assert memory.trust(np.eye(4)).min() > 0.9
    for at in range(400):
        memory.learn(np.eye(4)[at % 4], rows, rng.normal(size=16), 1.0)
    assert memory.trust(np.eye(4)).max() < 0.3


def test_new_prompts_are_trusted_by_what_new_prompts_showed() -> None:
    rng = np.random.default_rng(3)
    memory, rows, z = Memory(32), np.arange(16), unit(rng.normal(size=(60, 32)))
    memory.grow(16)
    skill = rng.normal(size=(60, 16))
    for _ in range(6):
        for at in range(50):
            memory.learn(z[at], rows, skill[at], 1.0)
    assert memory.trust(z[:50]).min() > 0.5  # 50 prompts in 32 dimensions
    assert memory.trust(z[:50] + 1e-7).min() > 0.5
    assert memory.trust(z[50:]).max() < 0.2
    again = Memory.from_arrays(memory.arrays(16))
    assert again.trust(z).tolist() == memory.trust(z).tolist()


def test_a_state_from_before_changes_were_kept_together_is_read() -> None:
    z = unit(np.random.default_rng(2).normal(size=(16, 8)))
    memory = Memory(8)
    memory.grow(1)
    for prompt in z:
        memory.learn(prompt, np.array([0]), np.array([1.0]), 1.0)
    arrays = memory.arrays(1)
    assert len(arrays.pop("memory_pending")) == memory.changes == 0
    old = Memory.from_arrays({name: array.copy() for name, array in arrays.items()})
    for one in (old, memory):
        one.learn(z[0], np.array([0]), np.array([-1.0]), 1.0)
    assert old.weights[0].tolist() == memory.weights[0].tolist()
    assert memory.changes == 1
    again = Memory.from_arrays(memory.arrays(1))
    assert again.pending[:1].tolist() == memory.pending[:1].tolist()
