"""The chain itself: genesis or a saved state, a pool, and one block after another."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from devnet.chain import accounts, calls, dispatch, epoch, metadata, shield, validity
from devnet.chain.blocks import Block, Blocks, digest
from devnet.chain.codec import runtime_codec
from devnet.chain.drand import PAST_SLOT_MS, Beacon
from devnet.chain.extrinsics import Extrinsic, InvalidTransaction, birth, inherent, parse, verify
from devnet.chain.genesis import write_genesis
from devnet.chain.hyperparameters import set_hyperparameter
from devnet.chain.options import ChainOptions, Drand
from devnet.chain.pool import Pool, Waiting, Watcher
from devnet.chain.reveal import reveal_due
from devnet.chain.saved import BadState, Saved, load
from devnet.chain.state import State
from devnet.chain.store import Store
from devnet.roster import OWNER
from devnet.wallets import ensure_wallets

_SAVED_HASHES = 512
# A kill may lose the blocks since the last save; their numbers are passed over, never used twice.
_LOST_SECONDS = 3.0

Notice = Callable[[], None]

log = logging.getLogger(__name__)
assert calls.__all__  # importing the package registers the extrinsics


class Chain:
    """State, blocks and pool of one chain. Everything runs on one thread and nothing awaits."""

    def __init__(self, options: ChainOptions) -> None:
        self.options = options
        self.beacon = Beacon(options.drand, options.drand_url)
        self.pool = Pool()
        self.shield = shield.Shield()
        self.extrinsics_applied = 0
        slot_ms = PAST_SLOT_MS if options.drand is Drand.PAST else round(options.block_time_s * 1000)
        saved = load(options.state_file) if options.state_file else None
        wallets = ensure_wallets(options.wallets_dir)
        if saved is None:
            spec_version, genesis_hash, hashes = metadata.SPEC_VERSION, "", {}
        else:
            # Clients cache metadata by genesis and version: another block time must look like an upgrade.
            spec_version = saved.spec_version + (saved.slot_ms != slot_ms)
            genesis_hash, hashes = saved.genesis_hash, saved.hashes
        self._slot_ms = slot_ms
        self.codec = runtime_codec(slot_ms, spec_version)
        self.state = State(Store(saved.values if saved else None), self.codec)
        if saved is None:
            write_genesis(self.state, options.netuid, wallets)
            self.state.write("MevShield.NextKey", value=self.shield.public_key)
            genesis = Block(0, _hex(bytes(32)), _hex(secrets.token_bytes(32)), _hex(bytes(32)))
            genesis_hash = genesis.hash
        elif self.state.read("SubnetOwner", options.netuid) != wallets[OWNER].coldkey:
            raise BadState(
                f"{options.state_file} was made for another netuid or other wallets than {options.wallets_dir}; "
                "pass those, or remove the state to start a new chain."
            )
        self.blocks = Blocks(genesis_hash, hashes)
        for name, value in options.overrides.items():
            set_hyperparameter(self.state, options.netuid, name, value)
        self.unsaved = True
        lost = 0 if saved is None or saved.clean else int(_LOST_SECONDS / options.block_time_s) + 1
        for _ in range(lost):
            self._append(())
        self.produce()

    @property
    def netuid(self) -> int:
        """The subnet."""
        return self.options.netuid

    @property
    def number(self) -> int:
        """Number of the newest block."""
        return self.state.number

    # -- extrinsics ------------------------------------------------------------------------------

    def submit(self, raw: bytes, watcher: Watcher | None = None) -> Extrinsic:
        """Verify an extrinsic and queue it; InvalidTransaction when a node's pool would refuse it."""
        extrinsic, born = self._validated(raw)
        watchers = [watcher] if watcher else []
        self.pool.add(Waiting(extrinsic, born, watchers), accounts.nonce(self.state, extrinsic.signer))
        return extrinsic

    def _validated(self, raw: bytes) -> tuple[Extrinsic, int | None]:
        extrinsic = parse(raw, self.codec)
        born = None if extrinsic.era is None else birth(extrinsic.era, self.number)
        birth_hash = self.blocks.genesis_hash if born is None else self.blocks.hash_of(born)
        if birth_hash is None:
            raise InvalidTransaction("Transaction has an ancient birth block")
        verify(extrinsic, self.codec, genesis_hash=self.blocks.genesis_hash, birth_hash=birth_hash)
        if extrinsic.tip > accounts.free(self.state, extrinsic.signer):
            raise InvalidTransaction("Inability to pay some fees , e.g. account balance too low")
        validity.check(self.state, extrinsic, self.netuid)
        return extrinsic, born

    def next_nonce(self, account: str) -> int:
        """The nonce for an account's next extrinsic, those in the pool counted."""
        return self.pool.next_nonce(account, accounts.nonce(self.state, account))

    # -- blocks ----------------------------------------------------------------------------------

    def produce(self) -> list[Notice]:
        """Make the next block from what the pool holds; the notices are for its submitters, once it is safe."""
        number = int(self.state.read("System.Number")) + 1
        self.state.store.begin_block(number)
        now_ms = time.time_ns() // 1_000_000
        self.state.write("System.Number", value=number)
        self.state.write("Timestamp.Now", value=now_ms)
        events = [_event(None, event) for event in self._step(number)]
        included: list[bytes] = [inherent(self.codec, now_ms)]
        notices: list[Notice] = []
        settled: list[Waiting] = []
        shielded: list[bytes] = []
        self.pool.expire(number)
        while True:
            if shielded:
                waiting = self._opened(shielded.pop(0))
            else:
                waiting = self.pool.ready(lambda account: accounts.nonce(self.state, account))
                if waiting is None:
                    break
            if waiting is None:
                continue
            extrinsic = waiting.extrinsic
            if extrinsic.era is not None and birth(extrinsic.era, number) != waiting.birth:
                waiting.tell("invalid")
                continue
            index = len(included)
            included.append(extrinsic.raw)
            accounts.bump_nonce(self.state, extrinsic.signer)
            outcome = dispatch.apply(extrinsic, self.state, self.netuid)
            events += [_event(index, event) for event in outcome]
            settled.append(waiting)
            self.extrinsics_applied += 1
            inner = self.shield.opened(extrinsic)
            if inner is not None:
                shielded.append(inner)
        self.state.write("System.Events", value=events)
        block_hash = self._finish(number, tuple(included))
        self.unsaved = self.unsaved or bool(settled) or len(events) > 0
        for status in ({"inBlock": block_hash}, {"finalized": block_hash}):
            notices += [partial(waiting.tell, status) for waiting in settled]
        return notices

    def _opened(self, raw: bytes) -> Waiting | None:
        try:
            extrinsic, born = self._validated(raw)
        except InvalidTransaction as problem:
            log.info("a shielded extrinsic was refused: %s", problem)
            return None
        if extrinsic.nonce != accounts.nonce(self.state, extrinsic.signer):
            return None
        return Waiting(extrinsic, born)

    def _append(self, extrinsics: tuple[bytes, ...]) -> None:
        number = int(self.state.read("System.Number")) + 1
        self.state.write("System.Number", value=number)
        self._finish(number, extrinsics)

    def _finish(self, number: int, extrinsics: tuple[bytes, ...]) -> str:
        parent = self.blocks.head_hash
        root = digest(bytes.fromhex(parent[2:]) + number.to_bytes(8, "little"))
        return self.blocks.append(Block(number, parent, root, digest(b"".join(extrinsics)), extrinsics))

    def _step(self, number: int) -> list[dict[str, Any]]:
        """What a block does before its extrinsics: count, reveal, and run the epoch when it is due."""
        state, netuid = self.state, self.netuid
        if number >= epoch.due_at(state, netuid):
            state.write("LastEpochBlock", netuid, value=number)
            state.write("PendingEpochAt", netuid, value=0)
            state.write("BlocksSinceLastStep", netuid, value=0)
            state.write("LastMechansimStepBlock", netuid, value=number)
            state.write("SubnetEpochIndex", netuid, value=state.read("SubnetEpochIndex", netuid) + 1)
            events = reveal_due(state, netuid, self.beacon)
            epoch.run(state, netuid)
            self.unsaved = True
            return events
        state.write("BlocksSinceLastStep", netuid, value=state.read("BlocksSinceLastStep", netuid) + 1)
        return reveal_due(state, netuid, self.beacon)

    # -- saving ----------------------------------------------------------------------------------

    def saved(self, *, clean: bool) -> Saved:
        """What the state file holds; ``clean`` says that no later block was made."""
        return Saved(
            genesis_hash=self.blocks.genesis_hash,
            spec_version=self.codec.spec_version,
            slot_ms=self._slot_ms,
            clean=clean,
            hashes=self.blocks.recent_hashes(_SAVED_HASHES),
            values=self.state.store.values(),
        )

    def change(self, write: Callable[[State], None]) -> None:
        """Apply an administrator's write to the head, outside any extrinsic; it is undone if it fails."""
        self.state.store.begin()
        try:
            write(self.state)
        except BaseException:
            self.state.store.rollback()
            raise
        self.state.store.commit()
        self.unsaved = True


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _event(index: int | None, event: dict[str, Any]) -> dict[str, Any]:
    phase = "Initialization" if index is None else {"ApplyExtrinsic": index}
    return {"phase": phase, "event": event, "topics": []}
