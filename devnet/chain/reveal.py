"""Applying timelocked commits in the epoch they are due."""

from __future__ import annotations

import logging
from typing import Any

from devnet.chain.calls.weights import store_weights
from devnet.chain.codec import octets
from devnet.chain.dispatch import Context, Fail
from devnet.chain.drand import Beacon, unseal
from devnet.chain.state import State

log = logging.getLogger(__name__)


def reveal_due(state: State, netuid: int, beacon: Beacon) -> list[dict[str, Any]]:
    """Open the commits of the epoch that is due, and drop those of earlier ones; the events they cause.

    A commit whose round has no signature yet waits, as long as its epoch is due. One that does not open, or
    whose weights the pallet refuses, is gone without a trace on the chain: that is what real chains do.
    """
    due = state.read("SubnetEpochIndex", netuid) - state.read("RevealPeriodEpochs", netuid)
    events: list[dict[str, Any]] = []
    for committed_in, commits in list(state.items("TimelockedWeightCommits", netuid)):
        if committed_in > due:
            continue
        waiting: list[tuple[str, int, bytes, int]] = []
        for signer, block, commit, reveal_round in commits if committed_in == due else ():
            signature = beacon.signature(reveal_round)
            if signature is None:
                waiting.append((signer, block, octets(commit), reveal_round))
                continue
            events += _reveal(state, netuid, signer, octets(commit), reveal_round, signature)
        if not waiting:
            state.delete("TimelockedWeightCommits", netuid, committed_in)
        elif len(waiting) != len(commits):
            state.write("TimelockedWeightCommits", netuid, committed_in, value=waiting)
    return events


def _reveal(
    state: State, netuid: int, signer: str, commit: bytes, reveal_round: int, signature: str
) -> list[dict[str, Any]]:
    context = Context(state, signer, netuid)
    state.store.begin()
    try:
        revealed = unseal(commit, reveal_round, signature)
        if bytes(state.codec.encode("AccountId32", signer)) != revealed.hotkey:
            raise ValueError("the payload names another hotkey")
        store_weights(context, netuid, 0, revealed.uids, revealed.values, revealed.version_key, revealed=True)
    except (Fail, ValueError) as problem:
        state.store.rollback()
        log.info("a commit of %s came to nothing: %s", signer, problem)
        return []
    state.store.commit()
    context.emit("TimelockedWeightsRevealed", (netuid, signer))
    return context.events
