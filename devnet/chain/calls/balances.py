"""Moving TAO."""

from __future__ import annotations

from devnet.chain import accounts
from devnet.chain.dispatch import Context, Fail, handles

EXISTENTIAL_RAO = 500


def _move(context: Context, dest: str, value: int, *, keep: int) -> None:
    state = context.state
    available = accounts.free(state, context.signer)
    if available - value < keep:
        raise Fail({"Token": "FundsUnavailable"}, None)
    if accounts.free(state, dest) + value < EXISTENTIAL_RAO:
        raise Fail({"Token": "BelowMinimum"}, None)
    accounts.set_free(state, context.signer, available - value)
    accounts.set_free(state, dest, accounts.free(state, dest) + value)
    context.emit("Transfer", {"from": context.signer, "to": dest, "amount": value}, "Balances")


@handles("Balances", "transfer_keep_alive")
def transfer_keep_alive(context: Context, dest: str, value: int) -> None:
    """Transfer, leaving the sender at least the existential deposit."""
    _move(context, dest, value, keep=EXISTENTIAL_RAO)


@handles("Balances", "transfer_allow_death")
def transfer_allow_death(context: Context, dest: str, value: int) -> None:
    """Transfer, even all of it."""
    _move(context, dest, value, keep=0)


@handles("Balances", "transfer_all")
def transfer_all(context: Context, dest: str, keep_alive: bool) -> None:
    """Transfer everything."""
    keep = EXISTENTIAL_RAO if keep_alive else 0
    _move(context, dest, max(0, accounts.free(context.state, context.signer) - keep), keep=keep)
