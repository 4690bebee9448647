"""The first block's state: the subnet, its owner, validators and residents, funded and registered."""

from __future__ import annotations

from dataclasses import fields

from devnet.chain import accounts, subnet
from devnet.chain.hyperparameters import set_hyperparameter
from devnet.chain.options import RAO, Hyperparameters
from devnet.chain.state import State
from devnet.roster import OWNER, RESIDENTS, RIVAL, VALIDATOR
from devnet.wallets import NOMINATORS, WalletKeys

BALANCE_RAO = 10_000 * RAO
VALIDATOR_STAKE_RAO = 50_000 * RAO
RIVAL_STAKE_RAO = 5_000 * RAO
NOMINATED_RAO = (2_500 * RAO, 1_500 * RAO)
STAKE_THRESHOLD_RAO = 1_000 * RAO
DELEGATE_TAKE = 11_796  # 18 % of 65,535
BURN_RAO = RAO // 10
COMMIT_REVEAL_VERSION = 4


def write_genesis(state: State, netuid: int, wallets: dict[str, WalletKeys]) -> None:
    """Fill an empty state; uids: the validator, the rival, then the residents in roster order."""
    owner, validator, rival = wallets[OWNER], wallets[VALIDATOR], wallets[RIVAL]
    for number in (0, netuid):
        state.write("NetworksAdded", number, value=True)
        state.write("SubnetworkN", number, value=0)
    state.write("TotalNetworks", value=2)
    state.write("TokenSymbol", 0, value="τ".encode())
    state.write("TokenSymbol", netuid, value="α".encode())
    state.write("SubnetOwner", netuid, value=owner.coldkey)
    state.write("SubnetOwnerHotkey", netuid, value=owner.hotkey)
    state.write("NetworkRegisteredAt", netuid, value=0)
    state.write("FirstEmissionBlockNumber", netuid, value=1)
    state.write("SubtokenEnabled", netuid, value=True)
    state.write("NetworkRegistrationAllowed", netuid, value=True)
    state.write("Burn", netuid, value=BURN_RAO)
    state.write("MinBurn", netuid, value=BURN_RAO)
    state.write("StakeThreshold", value=STAKE_THRESHOLD_RAO)
    state.write("CommitRevealWeightsVersion", value=COMMIT_REVEAL_VERSION)
    state.write("SubnetTAO", netuid, value=VALIDATOR_STAKE_RAO * 2)
    state.write("SubnetAlphaIn", netuid, value=VALIDATOR_STAKE_RAO * 2)
    state.write("MaxWeightsLimit", netuid, value=65_535)
    defaults = Hyperparameters()
    for field in fields(defaults):
        set_hyperparameter(state, netuid, field.name, getattr(defaults, field.name))
    for keys in wallets.values():
        accounts.set_free(state, keys.coldkey, BALANCE_RAO)
    subnet.own(state, owner.hotkey, owner.coldkey)
    for name in (VALIDATOR, RIVAL, *(resident.name for resident in RESIDENTS)):
        subnet.register(state, netuid, wallets[name].hotkey, wallets[name].coldkey)
    for keys in (validator, rival):
        state.write("Delegates", keys.hotkey, value=DELEGATE_TAKE)
    accounts.set_stake(state, validator.hotkey, validator.coldkey, netuid, VALIDATOR_STAKE_RAO)
    accounts.set_stake(state, rival.hotkey, rival.coldkey, netuid, RIVAL_STAKE_RAO)
    for name, rao in zip(NOMINATORS, NOMINATED_RAO, strict=True):
        accounts.set_stake(state, validator.hotkey, wallets[name].coldkey, netuid, rao)
    # Rate limits count from the registration, so a validator may set weights as soon as the chain is up.
    for uid in (0, 1):
        subnet.set_at(state, "LastUpdate", netuid, uid, 0)
        subnet.set_at(state, "ValidatorPermit", netuid, uid, True)
