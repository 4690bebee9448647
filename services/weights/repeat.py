"""When the last weights are better set again than none: the new ones are held, and the activity cutoff is near.

The record of a repeated submission keeps the place and the rule of the first, from which a replay gives it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from coremesh.history import Submission
from services.weights.book import Proposal
from services.weights.compute import U16
from services.weights.gate import Reason

MARGIN_BLOCKS = 32
"""A hotkey that is newer than so many blocks before the last weights may not have been known to them."""
OF_VECTOR = frozenset({"empty", "not_finite", "all_equal", "moved"})
"""Reasons that speak against the new vector, and say nothing against the last one."""


def repeatable(last: Submission, reasons: Sequence[Reason], proposal: Proposal, size: int) -> bool:
    """Whether ``last``, which the chain took, is still good in a network of ``size``: all ``reasons`` are the new
    vector's own, everybody in the old one is who it was, and the subnet's limits allow it."""
    state, limits = proposal.page.state, proposal.limits
    if not last.uids or not {reason.code for reason in reasons} <= OF_VECTOR:
        return False
    known = last.block - MARGIN_BLOCKS
    if any(uid >= min(state.size, size) or state.reset_blocks[uid] >= known for uid in last.uids):
        return False  # a newcomer would be given what another has earned
    within = max(last.values) * U16 <= limits.max_weight * sum(last.values)
    return len(last.uids) >= limits.fewest and within
