from __future__ import annotations

import numpy as np
import pytest

from devnet.chain.epoch import Inputs, consensus, permits


def _inputs(weights: list[list[float]], stake: list[float], **changes: list[bool]) -> Inputs:
    count = len(stake)
    flags = {name: np.array(changes.get(name, [True] * count)) for name in ("active", "permits")}
    return Inputs(np.array(weights, dtype=float), np.array(stake), kappa=0.5, **flags)


def test_a_sole_validator_decides():
    outcome = consensus(_inputs([[0, 3, 1], [0, 0, 0], [0, 0, 0]], [10.0, 0.0, 0.0]))
    np.testing.assert_allclose(outcome.incentive, [0, 0.75, 0.25])
    np.testing.assert_allclose(outcome.dividends, [1, 0, 0])
    np.testing.assert_allclose(outcome.consensus, [0, 0.75, 0.25])
    np.testing.assert_allclose(outcome.validator_trust, [1, 0, 0])


def test_a_minority_cannot_raise_a_miner_above_the_median():
    # Validators 0 (60 %) and 1 (40 %); the minority gives everything to miner 3.
    weights = [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    outcome = consensus(_inputs(weights, [60.0, 40.0, 0.0, 0.0]))
    np.testing.assert_allclose(outcome.incentive, [0, 0, 1, 0])
    np.testing.assert_allclose(outcome.dividends, [1, 0, 0, 0])
    np.testing.assert_allclose(outcome.validator_trust, [1, 0, 0, 0])


@pytest.mark.parametrize("flag", ["active", "permits"])
def test_the_inactive_and_the_unpermitted_do_not_count(flag: str):
    weights = [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    outcome = consensus(_inputs(weights, [60.0, 40.0, 0.0, 0.0], **{flag: [False, True, True, True]}))
    np.testing.assert_allclose(outcome.incentive, [0, 0, 0, 1])


def test_no_stake_means_nobody_earns():
    outcome = consensus(_inputs([[0, 1], [0, 0]], [0.0, 0.0]))
    assert not np.concatenate([outcome.incentive, outcome.dividends, outcome.consensus]).any()


def test_shares_sum_to_one_on_a_full_subnet():
    generator = np.random.default_rng(7)
    weights = generator.random((256, 256)) * (generator.random((256, 256)) < 0.3)
    stake = np.where(np.arange(256) < 64, generator.random(256) * 1e13, 0.0)
    outcome = consensus(_inputs(weights.tolist(), stake.tolist()))
    np.testing.assert_allclose([outcome.incentive.sum(), outcome.dividends.sum()], [1.0, 1.0])
    assert outcome.dividends[64:].sum() == 0


def test_permits_go_to_the_largest_stakes():
    chosen = permits(np.array([5.0, 0.0, 9.0, 5.0, 7.0]), limit=3)
    assert chosen.tolist() == [True, False, True, False, True]
    assert permits(np.zeros(3), limit=2).tolist() == [False, False, False]
