"""Subtensor's own pool checks, which refuse an extrinsic before any block, mostly with ``Custom error: N``."""

from __future__ import annotations

from devnet.chain.calls.weights import MAX_COMMIT_BYTES, has_stake_for_weights, too_soon
from devnet.chain.codec import octets
from devnet.chain.extrinsics import Extrinsic, InvalidTransaction
from devnet.chain.state import View

STAKE_AMOUNT_TOO_LOW = 1
RATE_LIMIT_EXCEEDED = 6
_PLAIN = {"set_weights", "set_mechanism_weights"}
_COMMITS = {"commit_timelocked_weights", "commit_timelocked_mechanism_weights"}


def check(view: View, extrinsic: Extrinsic, netuid: int) -> None:
    """InvalidTransaction when the pool refuses; N is a code of subtensor's ``CustomTransactionError``.

    Rate errors of timelocked commits come only at dispatch.
    """
    if extrinsic.module != "SubtensorModule" or extrinsic.function not in _PLAIN | _COMMITS:
        return
    if extrinsic.function in _COMMITS and len(octets(extrinsic.args["commit"])) > MAX_COMMIT_BYTES:
        raise InvalidTransaction("Unable to decode the extrinsic: the commit is longer than its bound")
    if extrinsic.args["netuid"] != netuid:
        return
    if not has_stake_for_weights(view, extrinsic.signer, netuid):
        raise InvalidTransaction(f"Custom error: {STAKE_AMOUNT_TOO_LOW}")
    if extrinsic.function in _PLAIN and too_soon(view, netuid, extrinsic.signer):
        raise InvalidTransaction(f"Custom error: {RATE_LIMIT_EXCEEDED}")
