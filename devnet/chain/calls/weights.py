"""Setting weights in the open, committing them timelocked, and applying a revealed commit."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from devnet.chain import accounts, subnet
from devnet.chain.codec import octets
from devnet.chain.dispatch import Context, Fail, handles
from devnet.chain.options import U16_MAX
from devnet.chain.state import View

MAX_PENDING_COMMITS = 10
MAX_COMMIT_BYTES = 5_000
TAO_WEIGHT = 0.18


def weighed_stake(view: View, hotkey: str, netuid: int) -> int:
    """What a hotkey's stake counts for on a subnet: its alpha, and root TAO at a discount."""
    return accounts.total_stake(view, hotkey, netuid) + int(
        accounts.total_stake(view, hotkey, 0) * TAO_WEIGHT
    )


def has_stake_for_weights(view: View, hotkey: str, netuid: int) -> bool:
    """Whether a hotkey holds the minimum stake to set weights."""
    return weighed_stake(view, hotkey, netuid) >= view.read("StakeThreshold")


def too_soon(view: View, netuid: int, hotkey: str) -> bool:
    """Whether the rate limit since the hotkey's last update still holds; False for the unregistered."""
    uid = view.read("Uids", netuid, hotkey)
    if uid is None:
        return False
    last = subnet.vector(view, "LastUpdate", netuid)[uid]
    return last > 0 and view.number - last < view.read("WeightsSetRateLimit", netuid)


@handles("SubtensorModule", "set_weights")
def set_weights(
    context: Context, netuid: int, dests: list[int], weights: list[int], version_key: int
) -> None:
    """Plain weights of the first mechanism."""
    set_mechanism_weights(context, netuid, 0, dests, weights, version_key)


@handles("SubtensorModule", "set_mechanism_weights")
def set_mechanism_weights(
    context: Context, netuid: int, mecid: int, dests: list[int], weights: list[int], version_key: int
) -> None:
    """Plain weights; refused while commit-reveal is on."""
    if context.state.read("CommitRevealWeightsEnabled", netuid):
        raise Fail("CommitRevealEnabled")
    store_weights(context, netuid, mecid, dests, weights, version_key, revealed=False)


def store_weights(
    context: Context,
    netuid: int,
    mecid: int,
    dests: list[int],
    weights: list[int],
    version_key: int,
    *,
    revealed: bool,
) -> None:
    """Check and write a weight vector for the signer; a revealed one is exempt from the rate limit."""
    state = context.state
    if len(dests) != len(weights):
        raise Fail("WeightVecNotEqualSize")
    if mecid != 0:
        raise Fail("MechanismDoesNotExist")
    context.require_subnet(netuid, "MechanismDoesNotExist")
    length = subnet.size(state, netuid)
    if len(dests) > length:
        raise Fail("UidsLengthExceedUidsInSubNet")
    uid = state.read("Uids", netuid, context.signer)
    if uid is None:
        raise Fail("HotKeyNotRegisteredInSubNet")
    if not has_stake_for_weights(state, context.signer, netuid):
        raise Fail("NotEnoughStakeToSetWeights")
    required = state.read("WeightsVersionKey", netuid)
    if required and version_key < required:
        raise Fail("IncorrectWeightVersionKey")
    if not revealed and too_soon(state, netuid, context.signer):
        raise Fail("SettingWeightsTooFast")
    to_self = dests == [uid]
    owner = context.signer == state.read("SubnetOwnerHotkey", netuid)
    if not (to_self or owner or subnet.vector(state, "ValidatorPermit", netuid)[uid]):
        raise Fail("NeuronNoValidatorPermit")
    if len(set(dests)) != len(dests):
        raise Fail("DuplicateUids")
    if any(dest >= length for dest in dests):
        raise Fail("UidVecContainInvalidOne")
    if not to_self:
        if len(dests) < min(length, state.read("MinAllowedWeights", netuid)):
            raise Fail("WeightVecLengthIsLow")
        limit = state.read("MaxWeightsLimit", netuid)
        if limit < U16_MAX and max(weights, default=0) * U16_MAX > limit * sum(weights):
            raise Fail("MaxWeightExceeded")
    top = max(weights, default=0)
    scaled = [weight * U16_MAX // top if top else 0 for weight in weights]
    state.write("Weights", netuid, uid, value=list(zip(dests, scaled, strict=True)))
    if not revealed:
        subnet.set_at(state, "LastUpdate", netuid, uid, context.block)
    context.emit("WeightsSet", (netuid, uid))


@handles("SubtensorModule", "commit_timelocked_weights")
def commit_timelocked_weights(
    context: Context, netuid: int, commit: Any, reveal_round: int, commit_reveal_version: int
) -> None:
    """A timelocked commit for the first mechanism."""
    commit_timelocked_mechanism_weights(context, netuid, 0, commit, reveal_round, commit_reveal_version)


@handles("SubtensorModule", "commit_timelocked_mechanism_weights")
def commit_timelocked_mechanism_weights(
    context: Context, netuid: int, mecid: int, commit: Any, reveal_round: int, commit_reveal_version: int
) -> None:
    """Keep a sealed vector until its reveal epoch. Permit, version key and lengths are looked at only then."""
    state, sealed = context.state, octets(commit)
    if mecid != 0:
        raise Fail("MechanismDoesNotExist")
    context.require_subnet(netuid)
    if not state.read("CommitRevealWeightsEnabled", netuid):
        raise Fail("CommitRevealDisabled")
    if commit_reveal_version != state.read("CommitRevealWeightsVersion"):
        raise Fail("IncorrectCommitRevealVersion")
    uid = state.read("Uids", netuid, context.signer)
    if uid is None:
        raise Fail("HotKeyNotRegisteredInSubNet")
    if too_soon(state, netuid, context.signer):
        raise Fail("CommittingWeightsTooFast")
    epoch = state.read("SubnetEpochIndex", netuid)
    pending = [_plain(entry) for entry in state.read("TimelockedWeightCommits", netuid, epoch)]
    if sum(entry[0] == context.signer for entry in pending) >= MAX_PENDING_COMMITS:
        raise Fail("TooManyUnrevealedCommits")
    pending.append((context.signer, context.block, sealed, reveal_round))
    state.write("TimelockedWeightCommits", netuid, epoch, value=pending)
    subnet.set_at(state, "LastUpdate", netuid, uid, context.block)
    digest = "0x" + blake2b(sealed, digest_size=32).hexdigest()
    context.emit("TimelockedWeightsCommitted", (context.signer, netuid, digest, reveal_round))


def _plain(entry: tuple[str, int, Any, int]) -> tuple[str, int, bytes, int]:
    signer, block, commit, reveal_round = entry
    return signer, block, octets(commit), reveal_round
