"""Adding and removing stake, one alpha a TAO."""

from __future__ import annotations

from devnet.chain import accounts
from devnet.chain.dispatch import Context, Fail, handles
from devnet.chain.options import RAO

MIN_STAKE_RAO = 2_000_000


@handles("SubtensorModule", "add_stake")
def add_stake(context: Context, hotkey: str, netuid: int, amount_staked: int) -> None:
    """Turn the signer's TAO into stake on a hotkey."""
    state = context.state
    if netuid:
        context.require_subnet(netuid)
    if not state.has("Owner", hotkey):
        raise Fail("HotKeyAccountNotExists")
    if amount_staked < MIN_STAKE_RAO:
        raise Fail("AmountTooLow")
    available = accounts.free(state, context.signer)
    if available < amount_staked:
        raise Fail("NotEnoughBalanceToStake")
    accounts.set_free(state, context.signer, available - amount_staked)
    held = accounts.stake(state, hotkey, context.signer, netuid)
    accounts.set_stake(state, hotkey, context.signer, netuid, held + amount_staked)
    context.emit("StakeAdded", (context.signer, hotkey, amount_staked, amount_staked, netuid, 0))


@handles("SubtensorModule", "remove_stake")
def remove_stake(context: Context, hotkey: str, netuid: int, amount_unstaked: int) -> None:
    """Turn the signer's stake on a hotkey back into TAO."""
    state = context.state
    if netuid:
        context.require_subnet(netuid)
    held = accounts.stake(state, hotkey, context.signer, netuid)
    if held < amount_unstaked:
        raise Fail("NotEnoughStakeToWithdraw")
    accounts.set_stake(state, hotkey, context.signer, netuid, held - amount_unstaked)
    accounts.set_free(state, context.signer, accounts.free(state, context.signer) + amount_unstaked)
    context.emit("StakeRemoved", (context.signer, hotkey, amount_unstaked, amount_unstaked, netuid, 0))


def _within(limit_price: int, *, buying: bool) -> None:
    """Alpha always costs one TAO: a limit that excludes that price is slippage."""
    if limit_price < RAO if buying else limit_price > RAO:
        raise Fail("SlippageTooHigh")


@handles("SubtensorModule", "add_stake_limit")
def add_stake_limit(
    context: Context, hotkey: str, netuid: int, amount_staked: int, limit_price: int, allow_partial: bool
) -> None:
    """Add stake unless alpha costs more than ``limit_price``."""
    _within(limit_price, buying=True)
    add_stake(context, hotkey, netuid, amount_staked)


@handles("SubtensorModule", "remove_stake_limit")
def remove_stake_limit(
    context: Context, hotkey: str, netuid: int, amount_unstaked: int, limit_price: int, allow_partial: bool
) -> None:
    """Remove stake unless alpha costs less than ``limit_price``."""
    _within(limit_price, buying=False)
    remove_stake(context, hotkey, netuid, amount_unstaked)
