"""On the benchmark's subnet: the numbers that must hold, as far as a few seconds show them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gating import auto_of, learn, quality, unit
from benchmarks.gating_sim import Subnet
from services.gating.basis import constant_basis, fit_basis
from services.gating.head import make_head


@pytest.mark.parametrize(("noise", "must"), [(1.0, 0.93), (2.0, 0.92)])
def test_200_steps_are_enough_to_choose_well(noise: float, must: float) -> None:
    net, head = Subnet(0, noise), make_head("bayes", 384)
    learn(head, net, 200)
    assert quality(head, net) >= must


def test_auto_keeps_the_best_of_50_asking_few() -> None:
    net, head = Subnet(0, 2.0), make_head("bayes", 384)
    learn(head, net, 300)
    kept, asked = auto_of(head, net, 100, np.random.default_rng(0))
    assert kept >= 0.97
    assert asked <= 12


def test_a_replaced_hotkey_starts_as_a_stranger_and_catches_up() -> None:
    net, head = Subnet(3, 1.0, replace_every=0), make_head("bayes", 384)
    learn(head, net, 400)
    before = quality(head, net)
    prompts = np.stack([unit(net.offset + centre) for centre in net.centres])
    old = net.hotkeys.copy()
    for uid in range(16):
        net.replace_hotkey(uid)
    strangers = head.scores(prompts, np.array([5], dtype=np.uint64))[0]
    others = head.scores(prompts, net.hotkeys[16:])[0]
    assert np.array_equal(head.scores(prompts, net.hotkeys[:16])[0], np.repeat(strangers, 16, axis=1))
    assert np.array_equal(head.scores(prompts, old[16:])[0], others)
    learn(head, net, 200)
    assert quality(head, net) >= before - 0.01


def test_the_basis_finds_as_many_directions_as_the_topics_span() -> None:
    net = Subnet(0, 1.0)
    x = np.stack([unit(net.prompt()[1]) for _ in range(1024)])
    basis = fit_basis(x[:512])
    assert basis.size == net.topics  # the constant, and eight centres less their mean
    fresh = basis.features(x[512:])[:, 1:]
    assert abs(fresh.var(axis=0).mean() - 1) < 0.1  # each also varies with how often its topics came
    assert np.abs(basis.fitted_features(x[:512])[:, 1:].var(axis=0) - 1).max() < 1e-6
    assert (basis.shrinkage < 1).all()


def test_the_basis_bears_odd_prompts() -> None:
    same = np.ones((40, 8), dtype=np.float32)
    assert fit_basis(same).size == 1
    noise = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    assert fit_basis(noise).size == 1 + 4  # nothing above the edge: the least
    assert np.isfinite(fit_basis(np.vstack([same[:2], noise[:1]])).features(noise)).all()
    assert constant_basis(8).features(noise).tolist() == [[1.0]] * 300
