"""Subtensor's own pool checks, which refuse an extrinsic with ``Custom error: N`` before any block."""

from __future__ import annotations

from devnet.chain.calls.weights import has_stake_for_weights, too_soon
from devnet.chain.extrinsics import Extrinsic
from devnet.chain.state import View

STAKE_AMOUNT_TOO_LOW = 1
RATE_LIMIT_EXCEEDED = 6
_PLAIN = {"set_weights", "set_mechanism_weights"}
_COMMITS = {"commit_timelocked_weights", "commit_timelocked_mechanism_weights"}


def custom_code(view: View, extrinsic: Extrinsic, netuid: int) -> int | None:
    """The code of subtensor's ``CustomTransactionError``, None when the extrinsic may enter the pool.

    Rate errors of timelocked commits come only at dispatch.
    """
    if extrinsic.module != "SubtensorModule" or extrinsic.function not in _PLAIN | _COMMITS:
        return None
    if extrinsic.args.get("netuid") != netuid:
        return None
    if not has_stake_for_weights(view, extrinsic.signer, netuid):
        return STAKE_AMOUNT_TOO_LOW
    if extrinsic.function in _PLAIN and too_soon(view, netuid, extrinsic.signer):
        return RATE_LIMIT_EXCEEDED
    return None
