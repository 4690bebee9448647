"""What the pallet enforces, call by call, on a chain in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from devnet.chain import accounts, subnet
from devnet.chain.core import core
from devnet.chain.extrinsics import InvalidTransaction
from devnet.chain.options import RAO
from devnet.roster import RESIDENTS
from tests.unit.chain.conftest import Bench

Make = Callable[..., Bench]
NAMES = [resident.name for resident in RESIDENTS]
FUNCTION = "set_mechanism_weights"


def _weights(**changes: Any) -> dict[str, Any]:
    return {"netuid": 1, "mecid": 0, "dests": [2, 3], "weights": [10, 5], "version_key": 0} | changes


def test_genesis_registers_the_roster_in_order(make_bench: Make):
    bench = make_bench()
    wallets = [bench.key(name).ss58_address for name in ("validator", "rival-validator", *NAMES)]
    state = bench.chain.state
    assert subnet.hotkeys(state, 1) == wallets
    assert [state.read("Uids", 1, hotkey) for hotkey in wallets] == list(range(len(wallets)))
    permits = subnet.vector(state, "ValidatorPermit", 1)
    assert permits == [True, True] + [False] * len(NAMES)
    assert accounts.total_stake(state, wallets[0], 1) == 54_000 * RAO
    assert accounts.total_stake(state, wallets[1], 1) == 5_000 * RAO


def test_weights_are_stored_scaled_to_the_largest(make_bench: Make):
    bench = make_bench()
    assert bench.run(bench.key("validator"), "SubtensorModule", FUNCTION, **_weights()) == "Success"
    assert bench.chain.state.read("Weights", 1, 0) == [(2, 65_535), (3, 32_767)]
    assert subnet.vector(bench.chain.state, "LastUpdate", 1)[:2] == [bench.chain.number, 0]


@pytest.mark.parametrize(
    ("changes", "overrides", "error"),
    [
        ({"weights": [10]}, {}, "WeightVecNotEqualSize"),
        ({"mecid": 1}, {}, "MechanismDoesNotExist"),
        ({"netuid": 7}, {}, "CommitRevealEnabled"),
        ({"dests": list(range(100)), "weights": [1] * 100}, {}, "UidsLengthExceedUidsInSubNet"),
        ({"version_key": 4}, {"weights_version": 5}, "IncorrectWeightVersionKey"),
        ({"version_key": 5}, {"weights_version": 5}, "Success"),
        ({"dests": [2, 2]}, {}, "DuplicateUids"),
        ({"dests": [2, 99]}, {}, "UidVecContainInvalidOne"),
        ({}, {"min_allowed_weights": 3}, "WeightVecLengthIsLow"),
        ({"dests": [0], "weights": [1]}, {"min_allowed_weights": 3}, "Success"),
        ({}, {"commit_reveal_weights_enabled": True}, "CommitRevealEnabled"),
        ({}, {"max_weights_limit": 40_000}, "MaxWeightExceeded"),
        ({}, {"max_weights_limit": 44_000}, "Success"),
    ],
)
def test_setting_weights(make_bench: Make, changes: dict[str, Any], overrides: dict[str, Any], error: str):
    bench = make_bench(**overrides)
    assert bench.run(bench.key("validator"), "SubtensorModule", FUNCTION, **_weights(**changes)) == error
    assert bench.chain.state.has("Weights", 1, 0) == (error == "Success")


def test_the_minimum_never_exceeds_the_number_of_uids(make_bench: Make):
    bench = make_bench(min_allowed_weights=1_000)
    everyone = list(range(len(NAMES) + 2))
    vector = _weights(dests=everyone, weights=[1] * len(everyone))
    assert bench.run(bench.key("validator"), "SubtensorModule", FUNCTION, **vector) == "Success"


def test_a_permit_is_needed_and_follows_stake_at_the_epoch(make_bench: Make):
    bench = make_bench(tempo=5, weights_rate_limit=0)
    miner = bench.key(NAMES[0])
    accounts.set_stake(
        bench.chain.state, miner.ss58_address, bench.key(NAMES[0], "coldkeypub").ss58_address, 1, 10**13
    )
    outcome = bench.run(miner, "SubtensorModule", FUNCTION, **_weights())
    assert outcome == "NeuronNoValidatorPermit"
    assert bench.run(miner, "SubtensorModule", FUNCTION, **_weights(dests=[2], weights=[1])) == "Success"
    bench.blocks(5)
    assert bench.run(miner, "SubtensorModule", FUNCTION, **_weights()) == "Success"


def test_the_pool_refuses_weights_without_stake_and_within_the_rate_limit(make_bench: Make):
    bench = make_bench(weights_rate_limit=4)
    with pytest.raises(InvalidTransaction, match="Custom error: 1"):
        bench.run(bench.key(NAMES[0]), "SubtensorModule", FUNCTION, **_weights())
    validator = bench.key("validator")
    assert bench.run(validator, "SubtensorModule", FUNCTION, **_weights()) == "Success"
    with pytest.raises(InvalidTransaction, match="Custom error: 6"):
        bench.run(validator, "SubtensorModule", FUNCTION, **_weights())
    bench.blocks(4)
    assert bench.run(validator, "SubtensorModule", FUNCTION, **_weights(weights=[1, 0])) == "Success"
    assert bench.chain.state.read("Weights", 1, 0) == [(2, 65_535), (3, 0)]


def test_two_sets_in_one_block_meet_the_rate_limit_at_dispatch(make_bench: Make):
    bench, validator = make_bench(), None
    validator = bench.key("validator")
    for nonce in (0, 1):
        bench.chain.submit(bench.signed(validator, "SubtensorModule", FUNCTION, nonce=nonce, **_weights()))
    bench.chain.produce()
    assert bench.outcomes() == ["Success", "SettingWeightsTooFast"]


def _commit(bench: Bench, name: str = "validator", **changes: Any) -> dict[str, Any]:
    commit, reveal_round = core.get_encrypted_commit_v2(
        uids=changes.pop("uids", [2, 3]),
        weights=[65_535, 100],
        version_key=changes.pop("version_key", 0),
        last_epoch_block=0,
        pending_epoch_at=0,
        subnet_epoch_index=0,
        tempo=10,
        blocks_since_last_step=0,
        current_block=1,
        subnet_reveal_period_epochs=1,
        block_time=-1e12,
        hotkey=bytes(bench.key(changes.pop("sealed_by", name)).public_key),
    )
    sealed = {"commit": bytes(commit), "reveal_round": reveal_round, "commit_reveal_version": 4}
    return {"netuid": 1, "mecid": 0} | sealed | changes


COMMIT = "commit_timelocked_mechanism_weights"


def test_a_commit_is_revealed_an_epoch_later(make_bench: Make):
    bench = make_bench(tempo=6, commit_reveal_weights_enabled=True)
    state, validator = bench.chain.state, bench.key("validator")
    assert bench.run(validator, "SubtensorModule", COMMIT, **_commit(bench)) == "Success"
    assert subnet.vector(state, "LastUpdate", 1)[0] == bench.chain.number
    while state.read("SubnetEpochIndex", 1) == 0:
        assert not state.has("Weights", 1, 0)
        bench.chain.produce()
    assert state.read("Weights", 1, 0) == [(2, 65_535), (3, 100)]
    revealed = [r["event"]["event_id"] for r in state.read("System.Events")]
    assert revealed == ["WeightsSet", "TimelockedWeightsRevealed"]
    assert list(state.items("TimelockedWeightCommits", 1)) == []
    # They count in the epoch that reveals them.
    assert subnet.vector(state, "Incentive", 1)[2:4] == [65_435, 100]


@pytest.mark.parametrize(
    ("changes", "overrides"),
    [
        ({"version_key": 1}, {"weights_version": 2}),
        ({"uids": [2, 99]}, {}),
        ({"uids": [2, 2]}, {}),
        ({"uids": [2]}, {}),
        ({"sealed_by": "rival-validator"}, {}),
        ({"commit": b"nonsense"}, {}),
        ({"reveal_round": 2}, {}),
    ],
)
def test_a_bad_commit_is_taken_and_fails_silently(
    make_bench: Make, changes: dict[str, Any], overrides: dict[str, Any]
):
    bench = make_bench(tempo=4, commit_reveal_weights_enabled=True, **overrides)
    call = _commit(bench, **changes)
    assert bench.run(bench.key("validator"), "SubtensorModule", COMMIT, **call) == "Success"
    bench.blocks(12)
    state = bench.chain.state
    assert not state.has("Weights", 1, 0)
    assert list(state.items("TimelockedWeightCommits", 1)) == []


def test_a_commit_waits_without_drand_and_is_dropped_after_its_epoch(make_bench: Make):
    from devnet.chain.options import Drand

    bench = make_bench(drand=Drand.OFF, tempo=5, commit_reveal_weights_enabled=True)
    assert bench.run(bench.key("validator"), "SubtensorModule", COMMIT, **_commit(bench)) == "Success"
    bench.blocks(6)
    assert len(list(bench.chain.state.items("TimelockedWeightCommits", 1))) == 1
    bench.blocks(6)
    assert list(bench.chain.state.items("TimelockedWeightCommits", 1)) == []
    assert not bench.chain.state.has("Weights", 1, 0)


def test_committing_is_limited(make_bench: Make):
    bench = make_bench(tempo=100, weights_rate_limit=0, commit_reveal_weights_enabled=True)
    validator = bench.key("validator")
    outcomes = [bench.run(validator, "SubtensorModule", COMMIT, **_commit(bench)) for _ in range(11)]
    assert outcomes == ["Success"] * 10 + ["TooManyUnrevealedCommits"]
    rival = bench.key("rival-validator")
    assert bench.run(rival, "SubtensorModule", COMMIT, **_commit(bench, commit_reveal_version=3)) == (
        "IncorrectCommitRevealVersion"
    )
    with pytest.raises(InvalidTransaction, match="longer than its bound"):
        bench.run(rival, "SubtensorModule", COMMIT, **_commit(bench, commit=bytes([255]) * 5_001))
    bench.run(rival, "SubtensorModule", COMMIT, **_commit(bench, commit=bytes([255]) * 5_000))
    bench.chain.change(lambda state: state.write("WeightsSetRateLimit", 1, value=50))
    assert bench.run(rival, "SubtensorModule", COMMIT, **_commit(bench)) == "CommittingWeightsTooFast"
    bench.chain.change(lambda state: state.write("CommitRevealWeightsEnabled", 1, value=False))
    assert bench.run(rival, "SubtensorModule", COMMIT, **_commit(bench)) == "CommitRevealDisabled"


def _axon(ip: int = 0x7F010A0A, ip_type: int = 4, port: int = 8_000, netuid: int = 1) -> dict[str, int]:
    blank = {"protocol": 4, "placeholder1": 0, "placeholder2": 0, "version": 1}
    return {"netuid": netuid, "ip": ip, "ip_type": ip_type, "port": port, **blank}


@pytest.mark.parametrize(
    ("axon", "error"),
    [
        (_axon(), "Success"),
        (_axon(ip=0x7F000001), "InvalidIpAddress"),
        (_axon(ip=1, ip_type=6), "InvalidIpAddress"),
        (_axon(ip=1 << 32), "InvalidIpAddress"),
        (_axon(ip=0x2606_4700 << 96, ip_type=6), "Success"),
        (_axon(ip_type=5), "InvalidIpType"),
        (_axon(port=0), "InvalidPort"),
        (_axon(ip=0, port=1), "Success"),
        (_axon(netuid=2), "HotKeyNotRegisteredInNetwork"),
    ],
)
def test_serving(make_bench: Make, axon: dict[str, int], error: str):
    bench = make_bench()
    miner = bench.key(NAMES[0])
    assert bench.run(miner, "SubtensorModule", "serve_axon", **axon) == error
    stored = bench.chain.state.read("Axons", 1, miner.ss58_address)
    served = {key: value for key, value in axon.items() if key != "netuid"} | {"block": bench.chain.number}
    assert stored == (served if error == "Success" else None)


def test_serving_too_often(make_bench: Make):
    bench = make_bench(serving_rate_limit=5)
    miner = bench.key(NAMES[0])
    assert bench.run(miner, "SubtensorModule", "serve_axon", **_axon()) == "Success"
    assert bench.run(miner, "SubtensorModule", "serve_axon", **_axon()) == "ServingRateLimitExceeded"


def test_registering_takes_the_worst_uid_of_a_full_subnet(make_bench: Make):
    count = len(NAMES) + 2
    bench = make_bench(max_allowed_uids=count, immunity_period=0, weights_rate_limit=0)
    state = bench.chain.state
    owner, hotkey = bench.key("owner", "coldkey"), bench.key("nominator-1").ss58_address
    bench.run(bench.key(NAMES[0]), "SubtensorModule", "serve_axon", **_axon())
    bench.chain.change(lambda head: head.write("Emission", 1, value=[5, 5, 1, 0, *[2] * (count - 4)]))
    before, loser = subnet.hotkeys(state, 1), subnet.hotkeys(state, 1)[3]
    paid = accounts.free(state, owner.ss58_address)
    assert bench.run(owner, "SubtensorModule", "burned_register", netuid=1, hotkey=hotkey) == "Success"
    after = subnet.hotkeys(state, 1)
    assert after == [*before[:3], hotkey, *before[4:]]
    assert (state.read("Uids", 1, loser), state.read("Axons", 1, loser)) == (None, None)
    assert state.read("BlockAtRegistration", 1, 3) == bench.chain.number
    assert paid - accounts.free(state, owner.ss58_address) == state.read("Burn", 1)
    again = bench.run(owner, "SubtensorModule", "burned_register", netuid=1, hotkey=hotkey)
    assert again == "HotKeyAlreadyRegisteredInSubNet"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"netuid": 9}, "SubnetNotExists"),
        ({"limit_price": 1}, "RegistrationPriceLimitExceeded"),
        ({"hotkey": "owner"}, "Success"),
        ({"hotkey": "validator"}, "HotKeyAlreadyRegisteredInSubNet"),
    ],
)
def test_registration_refusals(make_bench: Make, call: dict[str, Any], error: str):
    bench = make_bench()
    hotkey = bench.key(call.pop("hotkey", "owner")).ss58_address
    params = {"netuid": 1, "hotkey": hotkey, "limit_price": 10**12} | call
    owner = bench.key("owner", "coldkey")
    assert bench.run(owner, "SubtensorModule", "register_limit", **params) == error


def test_someone_elses_hotkey_and_an_empty_purse(make_bench: Make):
    bench = make_bench()
    stranger, owner_hotkey = bench.key("nominator-1", "coldkey"), bench.key("owner").ss58_address
    call = {"netuid": 1, "hotkey": owner_hotkey}
    assert bench.run(stranger, "SubtensorModule", "burned_register", **call) == "NonAssociatedColdKey"
    poor = {"netuid": 1, "hotkey": bench.key("nominator-2").ss58_address}
    assert (
        bench.run(bench.key(NAMES[0]), "SubtensorModule", "burned_register", **poor)
        == "NotEnoughBalanceToStake"
    )


def test_weights_to_a_replaced_uid_are_masked_until_set_again(make_bench: Make):
    bench = make_bench(tempo=4, weights_rate_limit=0)
    state, validator = bench.chain.state, bench.key("validator")
    assert bench.run(validator, "SubtensorModule", FUNCTION, **_weights()) == "Success"
    new = bench.key("nominator-1")
    bench.chain.change(lambda head: subnet.place(head, 1, 2, new.ss58_address, new.ss58_address))
    bench.blocks(4)
    assert state.read("Weights", 1, 0) == [(2, 65_535), (3, 32_767)]
    assert subnet.vector(state, "Incentive", 1)[2:4] == [0, 65_535]
    assert bench.run(validator, "SubtensorModule", FUNCTION, **_weights()) == "Success"
    bench.blocks(4)
    assert subnet.vector(state, "Incentive", 1)[2:4] == [43_690, 21_845]


def test_transfers_and_stake(make_bench: Make):
    bench = make_bench()
    state = bench.chain.state
    giver, taker = bench.key("owner", "coldkey"), bench.key("nominator-1", "coldkeypub").ss58_address
    issued = state.read("Balances.TotalIssuance")
    assert bench.run(giver, "Balances", "transfer_keep_alive", dest=taker, value=RAO) == "Success"
    assert accounts.free(state, taker) == 10_001 * RAO
    assert bench.run(giver, "Balances", "transfer_keep_alive", dest=taker, value=10**15) == "FundsUnavailable"
    assert (
        bench.run(giver, "Balances", "transfer_allow_death", dest="0x" + "07" * 32, value=1) == "BelowMinimum"
    )
    assert state.read("Balances.TotalIssuance") == issued
    hotkey = bench.key("validator").ss58_address
    stake = {"hotkey": hotkey, "netuid": 1}
    assert bench.run(giver, "SubtensorModule", "add_stake", **stake, amount_staked=5 * RAO) == "Success"
    assert accounts.stake(state, hotkey, giver.ss58_address, 1) == 5 * RAO
    assert bench.run(giver, "SubtensorModule", "add_stake", **stake, amount_staked=1) == "AmountTooLow"
    assert bench.run(giver, "SubtensorModule", "remove_stake", **stake, amount_unstaked=6 * RAO) == (
        "NotEnoughStakeToWithdraw"
    )
    assert bench.run(giver, "SubtensorModule", "remove_stake", **stake, amount_unstaked=5 * RAO) == "Success"
    assert accounts.free(state, giver.ss58_address) == 9_999 * RAO
    assert accounts.total_stake(state, hotkey, 1) == 54_000 * RAO


def test_the_owner_sets_what_an_owner_may(make_bench: Make):
    bench = make_bench(tempo=50)
    state, owner = bench.chain.state, bench.key("owner", "coldkey")
    call = {"netuid": 1, "min_allowed_weights": 7}
    assert bench.run(owner, "AdminUtils", "sudo_set_min_allowed_weights", **call) == "Success"
    assert state.read("MinAllowedWeights", 1) == 7
    stranger = bench.key("validator", "coldkey")
    assert bench.run(stranger, "AdminUtils", "sudo_set_min_allowed_weights", **call) == "BadOrigin"
    root_only = {"netuid": 1, "weights_set_rate_limit": 1}
    assert bench.run(owner, "AdminUtils", "sudo_set_weights_set_rate_limit", **root_only) == "BadOrigin"
    assert bench.run(owner, "SubtensorModule", "set_tempo", netuid=1, tempo=0) == "TempoOutOfBounds"
    assert bench.run(stranger, "SubtensorModule", "trigger_epoch", netuid=1) == "NotSubnetOwner"
    assert bench.run(owner, "SubtensorModule", "trigger_epoch", netuid=1) == "Success"
    bench.chain.produce()
    assert state.read("LastEpochBlock", 1) == bench.chain.number


def test_a_call_the_devnet_lacks_and_odd_arguments_fail_without_stopping_it(make_bench: Make):
    bench = make_bench()
    owner = bench.key("owner", "coldkey")
    assert bench.run(owner, "SubtensorModule", "root_register", hotkey=owner.ss58_address) == "CallFiltered"
    odd = {"dest": {"Index": 5}, "value": RAO}
    assert bench.run(owner, "Balances", "transfer_keep_alive", **odd) == "Corruption"
    assert bench.run(owner, "System", "remark", remark=b"x") == "CallFiltered"
    assert accounts.nonce(bench.chain.state, owner.ss58_address) == 3
