"""One epoch of consensus over a subnet: permits, consensus, incentives and dividends, vectorised.

A plain Yuma without bonds over time: the stake-weighted median clips every weight, clipped weights rank miners,
and validators earn by what the clip left them. Published formula: docs.learnbittensor.org, "Yuma Consensus".
Stake does not compound on the devnet, so emission is reported and not credited.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from devnet.chain import subnet
from devnet.chain.calls.weights import weighed_stake
from devnet.chain.options import RAO, U16_MAX
from devnet.chain.state import State, View

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ALPHA_PER_BLOCK = 1.0
_MINER_SHARE = 0.41
_VALIDATOR_SHARE = 0.41


@dataclass(frozen=True, slots=True)
class Inputs:
    """``weights[i, j]`` is what uid i gives uid j, raw; vectors are by uid; ``kappa`` in 0..1."""

    weights: Floats
    stake: Floats
    active: Bools
    permits: Bools
    kappa: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """All by uid and in 0..1; incentive and dividends each sum to 1, or to 0 when nobody earned."""

    consensus: Floats
    incentive: Floats
    dividends: Floats
    validator_trust: Floats


def consensus(inputs: Inputs) -> Outcome:
    """Run consensus; weights of uids without permit, stake or recent activity count for nothing."""
    stake = np.where(inputs.active & inputs.permits, inputs.stake, 0.0)
    if stake.sum() == 0:
        nothing = np.zeros(len(stake))
        return Outcome(nothing, nothing, nothing, nothing)
    stake = stake / stake.sum()
    rows = _normalised(np.where(stake[:, None] > 0, inputs.weights, 0.0), axis=1)
    median = _weighted_median(rows, stake, inputs.kappa)
    clipped = np.minimum(rows, median[None, :])
    ranks = stake @ clipped
    bonds = _normalised(stake[:, None] * clipped, axis=0)
    incentive = _normalised(ranks, axis=0)
    return Outcome(
        consensus=median,
        incentive=incentive,
        dividends=_normalised(bonds @ incentive, axis=0),
        validator_trust=clipped.sum(axis=1),
    )


def _normalised(values: Floats, axis: int) -> Floats:
    total = values.sum(axis=axis, keepdims=True)
    return np.divide(values, total, out=np.zeros_like(values), where=total > 0)


def _weighted_median(rows: Floats, stake: Floats, kappa: float) -> Floats:
    """By column: the largest weight that more than ``kappa`` of the stake supports."""
    order = np.argsort(-rows, axis=0, kind="stable")
    support = np.cumsum(stake[order], axis=0)
    first = np.argmax(support > kappa, axis=0)
    columns = np.arange(rows.shape[1])
    return rows[order[first, columns], columns]


def permits(stake: Floats, *, limit: int) -> Bools:
    """The ``limit`` largest positive stakes; a tie goes to the lower uid."""
    chosen = np.zeros(len(stake), dtype=np.bool_)
    order = np.argsort(-stake, kind="stable")[:limit]
    chosen[order] = stake[order] > 0
    return chosen


def weight_matrix(view: View, netuid: int) -> Floats:
    """Raw weights, with those to oneself and those set at or before the target's registration masked."""
    length = subnet.size(view, netuid)
    matrix = np.zeros((length, length))
    for uid, row in view.items("Weights", netuid):
        if uid < length and row:
            targets, values = np.array(row, dtype=np.int64).T
            inside = targets < length
            matrix[uid, targets[inside]] = values[inside]
    updated = np.array(subnet.vector(view, "LastUpdate", netuid))
    registered = np.array([view.read("BlockAtRegistration", netuid, uid) for uid in range(length)])
    matrix[updated[:, None] <= registered[None, :]] = 0.0
    np.fill_diagonal(matrix, 0.0)
    return matrix


def due_at(view: View, netuid: int) -> int:
    """The block the next epoch is due at: a tempo after the last, or sooner when the owner asked for it."""
    regular = view.read("LastEpochBlock", netuid) + view.read("Tempo", netuid)
    pending = view.read("PendingEpochAt", netuid)
    return min(regular, pending) if pending else regular


def run(state: State, netuid: int) -> None:
    """Compute one epoch from the state and write its vectors; then choose the permits of the next."""
    length, now = subnet.size(state, netuid), state.number
    if length == 0:
        return
    stake = np.array([weighed_stake(state, key, netuid) for key in subnet.hotkeys(state, netuid)], float)
    updated = np.array(subnet.vector(state, "LastUpdate", netuid))
    active = updated + state.read("ActivityCutoff", netuid) >= now
    allowed = np.array(subnet.vector(state, "ValidatorPermit", netuid), dtype=np.bool_)
    kappa = state.read("Kappa", netuid) / U16_MAX
    outcome = consensus(Inputs(weight_matrix(state, netuid), stake, active, allowed, kappa))
    blocks = state.read("Tempo", netuid)
    share = _MINER_SHARE * outcome.incentive + _VALIDATOR_SHARE * outcome.dividends
    emission = share * blocks * ALPHA_PER_BLOCK * RAO
    state.write("Consensus", netuid, value=_u16(outcome.consensus))
    state.write("Incentive", netuid, value=_u16(outcome.incentive))
    state.write("Dividends", netuid, value=_u16(outcome.dividends))
    state.write("ValidatorTrust", netuid, value=_u16(outcome.validator_trust))
    state.write("Emission", netuid, value=[int(rao) for rao in emission])
    state.write("Active", netuid, value=active.tolist())
    threshold = state.read("StakeThreshold")
    eligible = np.where(stake >= threshold, stake, 0.0)
    chosen = permits(eligible, limit=state.read("MaxAllowedValidators", netuid))
    state.write("ValidatorPermit", netuid, value=chosen.tolist())


def _u16(values: Floats) -> list[int]:
    return [int(value) for value in np.clip(np.rint(values * U16_MAX), 0, U16_MAX)]
