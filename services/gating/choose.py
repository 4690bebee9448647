"""Whom to ask: from what is believed of each miner to a bounded set of indices, with the chance each had.

Everything random takes a Generator. ``candidates`` are indices into the score arrays; results are too, in the order
in which their answers should be preferred. Siblings (equal labels in any row of ``groups``: a coldkey, a /24) share
at most ``per_group`` places while there are others to ask; label -1 belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from services.gating.expect import fewest

AUTO_PER_GROUP = 2
"""Siblings asked at most under ``k="auto"``, when the caller does not say."""
_DRAWS = 64


@dataclass(frozen=True)
class Choice:
    """``indices`` int64 [k], best first; ``propensities`` float64 [k]: how likely each was to be chosen, in (0, 1].

    A propensity is exact for uniform and for at most one exploring place, and otherwise an estimate.
    """

    indices: np.ndarray
    propensities: np.ndarray

    def __len__(self) -> int:
        return self.indices.size


def choose(
    mean: np.ndarray,
    std: np.ndarray | None,
    candidates: np.ndarray,
    k: int | Literal["auto"],
    *,
    rng: np.random.Generator,
    explore: float = 0.0,
    k_max: int = 64,
    groups: Sequence[np.ndarray] = (),
    per_group: int | None = None,
    noise: float = 0.5,
    keep: float = 0.97,
) -> Choice:
    """The best ``k`` of ``candidates`` by mean [n], a share ``explore`` of the places drawn from the others.

    ``k="auto"`` asks the fewest that keep the share ``keep`` of the expected best reward's lead over the average
    miner; a single reward scatters by ``std`` and ``noise``; no other ``k`` reads ``std``. It never asks siblings in
    excess, unless all are siblings. Never more than ``k_max``, never a candidate twice.
    """
    candidates = _distinct(candidates)
    mu = _finite(mean)
    ranked = candidates[np.argsort(-mu[candidates], kind="stable")]
    limit = min(k_max, ranked.size)
    if limit <= 0:
        return Choice(np.zeros(0, dtype=np.int64), np.zeros(0))
    if k == "auto":
        assert std is not None
        share = per_group or AUTO_PER_GROUP
        groups = [labels for labels in groups if not _one(labels[candidates])]
        order, placed = _order(ranked, limit, groups, share)
        scatter = np.sqrt(np.square(_finite(std)[order]) + noise * noise)
        size = min(fewest(mu[order], scatter, keep), placed)
    else:
        size = max(1, min(int(k), limit))
        share = per_group or max(1, size // 3)
        order, _ = _order(ranked, size, groups, share)
    places = min(explore * size, size - 1.0)
    exploring = int(places) + int(rng.random() < places - int(places))
    first = size - exploring
    indices, ranks = order[:size], list(range(size))
    if exploring:
        best = order[:first]
        drawn, _ = _order(rng.permutation(order[first:]), exploring, groups, share, taken=best)
        drawn = drawn[:exploring]
        indices = np.concatenate([best, drawn])
        ranks[first:] = [int(np.flatnonzero(order == index)[0]) for index in drawn]
    return Choice(indices, _chances(ranks, order.size, size, places))


def _chances(ranks: list[int], n: int, size: int, places: float) -> np.ndarray:
    """The chance of those at ``ranks`` among ``n`` to be of ``size``, ``places`` of them on average at random."""
    fewer, part = int(places), places - int(places)
    chance = [0.0] * len(ranks)
    for exploring, weight in ((fewer, 1.0 - part), (fewer + 1, part)):
        if weight > 0:
            drawn = exploring / max(n - size + exploring, 1)
            for at, rank in enumerate(ranks):
                chance[at] += weight * (1.0 if rank < size - exploring else drawn)
    return np.array([min(max(one, 1e-6), 1.0) for one in chance])


def uniform(candidates: np.ndarray, k: int, *, rng: np.random.Generator) -> Choice:
    """``k`` of ``candidates`` at random, each equally likely."""
    candidates = _distinct(candidates)
    size = max(0, min(k, candidates.size))
    chosen = rng.permutation(candidates)[:size]
    return Choice(chosen, np.full(size, size / max(candidates.size, 1)))


def sample(
    mean: np.ndarray,
    std: np.ndarray,
    candidates: np.ndarray,
    k: int,
    *,
    rng: np.random.Generator,
    thompson: float = 0.5,
    groups: Sequence[np.ndarray] = (),
    per_group: int | None = None,
) -> Choice:
    """``k`` of ``candidates`` to learn from: a share ``thompson`` by Thompson sampling, the others at random.

    The random ones are drawn first. Each of the rest gets a draw from its posterior, and the highest are taken.
    Their propensities are estimated with 64 further draws.
    """
    candidates = _distinct(candidates)
    size = max(0, min(k, candidates.size))
    drawn = uniform(candidates, size - round(size * thompson), rng=rng)
    wanted = size - len(drawn)
    if wanted == 0:
        return drawn
    mu, spread = _finite(mean)[candidates], _finite(std)[candidates]
    blocked = np.isin(candidates, drawn.indices)
    value = np.where(blocked, -np.inf, mu + spread * rng.standard_normal(candidates.size))
    ranked = candidates[np.argsort(-value, kind="stable")][: candidates.size - len(drawn)]
    picked, _ = _order(ranked, wanted, groups, per_group or max(1, size // 3), taken=drawn.indices)
    picked = picked[:wanted]
    others = mu + spread * rng.standard_normal((_DRAWS, candidates.size))
    top = np.argpartition(-others, wanted - 1, axis=1)[:, :wanted]
    share = (np.bincount(top.ravel(), minlength=candidates.size) + 0.5) / (_DRAWS + 1.0)
    random_share = len(drawn) / candidates.size
    chance = random_share + (1.0 - random_share) * share
    indices = np.r_[drawn.indices, picked]
    place = {int(c): at for at, c in enumerate(candidates)}
    return Choice(indices, np.clip(chance[[place[int(i)] for i in indices]], 1e-6, 1.0))


def _order(
    ranked: np.ndarray,
    k: int,
    groups: Sequence[np.ndarray],
    per_group: int,
    taken: np.ndarray | None = None,
) -> tuple[np.ndarray, int]:
    """``ranked`` with its first ``k`` places freed of siblings in excess, as far as there are others, and how many
    places were filled before the siblings in excess begin."""
    if not groups or k <= 0:
        return ranked, min(max(k, 0), ranked.size)
    counted: list[tuple[list[int], dict[int, int]]] = [(labels.tolist(), {}) for labels in groups]

    def count(index: int) -> None:
        for labels, seen in counted:
            label = labels[index]
            if label >= 0:
                seen[label] = seen.get(label, 0) + 1

    for index in [] if taken is None else taken.tolist():
        count(index)
    first: list[int] = []
    passed: list[int] = []
    for index in ranked.tolist():
        if len(first) == k:
            break
        for labels, seen in counted:
            if seen.get(labels[index], 0) >= per_group:
                passed.append(index)
                break
        else:
            first.append(index)
            count(index)
    looked_at = first + passed
    order = np.concatenate([np.array(looked_at, dtype=np.int64), ranked[len(looked_at) :]])
    return order, len(first)


def _one(labels: np.ndarray) -> bool:
    """Whether all are siblings of one another: then nobody can be told apart by it."""
    return labels.size > 0 and int(labels[0]) >= 0 and bool((labels == labels[0]).all())


def _finite(values: np.ndarray) -> np.ndarray:
    """Whatever is not a number ranks last and spreads not at all."""
    return np.fmin(np.fmax(np.asarray(values, dtype=np.float64), -1e9), 1e9)  # both pass over NaN


def _distinct(candidates: np.ndarray) -> np.ndarray:
    candidates = np.asarray(candidates, dtype=np.int64)
    if (candidates[1:] > candidates[:-1]).all():
        return candidates
    return np.unique(candidates)
