"""The chain through bittensor's SDK: the only place of the service that imports it.

The SDK has one async client per event loop, no overall deadlines, and reconnects by itself most of the time. So it
lives on a thread with a loop of its own; every call has a deadline here; and a client that fails repeatedly, or a
thread that does not come back, is thrown away and built anew on the next endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import bittensor as bt
import structlog
from bittensor.settings import default_fallback_endpoints, resolve_endpoint

from coremesh.errors import BadSetting, ChainUnavailable
from coremesh.metagraph import Metagraph
from coremesh.settings import ChainSettings
from coremesh.wire.keys import KeyPair
from services.weights.chain import decode
from services.weights.chain.fence import FencedSigner
from services.weights.chain.protocol import ERA_BLOCKS, Commit, Sent, Standing, Tick
from services.weights.chain.thread import LoopStuck, LoopThread

log = structlog.get_logger(__name__)

T = TypeVar("T")
PALLET: Any = bt.storage.SubtensorModule
FAILURES_TO_REBUILD = 3
CLOSE_S = 2.0
MOST_STUCK = 4
"""Threads left behind that never came back."""
UNCERTAIN = ("may already be", "timed out", "timeout", "connection", "usurped", "retracted", "dropped")
"""Words of SDK messages after which the extrinsic may still be included."""


class BittensorChain:
    """A Chain. ``keypair`` is our unlocked hotkey. Raises BadSetting for a network that there is not."""

    def __init__(self, settings: ChainSettings, keypair: KeyPair) -> None:
        try:
            label, endpoint = resolve_endpoint(settings.network)
        except ValueError as error:
            raise BadSetting(f"COREMESH_CHAIN_NETWORK: {error}") from None
        others = settings.fallbacks or tuple(default_fallback_endpoints(label))
        self._endpoints = [endpoint, *(url for url in others if url != endpoint)]
        self._netuid = settings.netuid
        self._limit = settings.vpermit_tao_limit
        self._deadline_s = settings.timeout_s
        self._keypair = keypair
        self._hotkey = keypair.ss58_address
        self._thread = LoopThread("chain")
        self._stuck: list[LoopThread] = []
        self._submit_s = settings.submit_timeout_s
        self._client: Any = None
        self._substrate: Any = None
        self._connecting: asyncio.Lock | None = None
        self._failures: Counter[str] = Counter()
        self._turn = 0

    async def tick(self) -> Tick:
        """See Chain."""

        async def read(client: Any) -> Tick:
            at = await client.at()
            updates, epoch, since = await asyncio.gather(
                at.query(PALLET.LastUpdate, [self._netuid]),
                at.query(PALLET.LastEpochBlock, [self._netuid]),
                at.query(PALLET.BlocksSinceLastStep, [self._netuid]),
            )
            block = int(at.block)
            start = int(epoch or 0) or max(0, block - int(since or 0))
            return Tick(block, start, tuple(int(update) for update in updates or ()))

        return await self._call("tick", read)

    async def metagraph(self) -> Metagraph:
        """See Chain."""

        async def read(client: Any) -> Metagraph:
            at = await client.at()
            graph, delegate, version_key, certificates, genesis = await asyncio.gather(
                at.runtime(bt.runtime_api.SubnetInfoRuntimeApi.get_metagraph, [self._netuid]),
                at.runtime(bt.runtime_api.DelegateInfoRuntimeApi.get_delegate, [self._hotkey]),
                at.query(PALLET.WeightsVersionKey, [self._netuid]),
                at.query_map(PALLET.NeuronCertificates, [self._netuid]),
                self._substrate.block_hash(0),
            )
            if not isinstance(graph, dict):
                raise ChainUnavailable(
                    f"the chain has no subnet {self._netuid}", remedy="Check COREMESH_CHAIN_NETUID."
                )
            return decode.metagraph(
                cast("dict[str, Any]", graph),
                delegate,
                certificates,
                netuid=self._netuid,
                version_key=int(version_key or 0),
                hotkey=self._hotkey,
                vpermit_tao_limit=self._limit,
                genesis=str(genesis or ""),
            )

        return await self._call("metagraph", read)

    async def hotkeys_of(self, uids: tuple[int, ...]) -> tuple[str, ...]:
        """See Chain."""

        async def read(client: Any) -> tuple[str, ...]:
            at = await client.at()
            found = await asyncio.gather(*(at.query(PALLET.Keys, [self._netuid, uid]) for uid in uids))
            return tuple(str(hotkey) for hotkey in found)

        return await self._call("hotkeys", read)

    async def standing(self) -> Standing:
        """See Chain."""

        async def read(client: Any) -> Standing:
            at = await client.at()
            uid, updates, permits, owner, sealed, version_key, account, commits = await asyncio.gather(
                at.query(PALLET.Uids, [self._netuid, self._hotkey]),
                at.query(PALLET.LastUpdate, [self._netuid]),
                at.query(PALLET.ValidatorPermit, [self._netuid]),
                at.query(PALLET.SubnetOwnerHotkey, [self._netuid]),
                at.query(PALLET.CommitRevealWeightsEnabled, [self._netuid]),
                at.query(PALLET.WeightsVersionKey, [self._netuid]),
                at.query(bt.storage.System.Account, [self._hotkey]),
                at.query_map(PALLET.TimelockedWeightCommits, [self._netuid]),
            )
            row = await at.query(PALLET.Weights, [self._netuid, uid]) if uid is not None else ()
            index = -1 if uid is None else int(uid)
            # Asked after the block was chosen: what was included since counts as pending, and is seen next time.
            following = await _next_nonce(self._substrate, self._hotkey)
            return Standing(
                block=int(at.block),
                uid=None if uid is None else index,
                last_update=int(updates[index]) if 0 <= index < len(updates or ()) else 0,
                weights={int(target): int(value) for target, value in row or ()},
                commits=tuple(
                    Commit(int(block), int(reveal_round))
                    for _, pending in commits
                    for hotkey, block, _, reveal_round in pending or ()
                    if str(hotkey) == self._hotkey
                ),
                commit_reveal=bool(sealed),
                permit=0 <= index < len(permits or ()) and bool(permits[index]),
                owner=str(owner) == self._hotkey,
                pending=following > int(account["nonce"]),
                version_key=int(version_key or 0),
            )

        return await self._call("standing", read)

    async def set_weights(
        self,
        uids: tuple[int, ...],
        values: tuple[int, ...],
        version_key: int,
        least: int,
        may: Callable[[], bool],
    ) -> Sent:
        """See Chain."""

        async def write(client: Any) -> Sent:
            intent = bt.SetWeights(
                netuid=self._netuid,
                uids=list(uids),
                weights=[float(value) for value in values],
                version_key=version_key,
            )
            substrate = _OurTerms(self._substrate, self._netuid, least)
            ours = bt.Client(client.network, substrate=cast(Any, substrate))
            signer = cast(Any, FencedSigner(self._keypair, may))
            try:
                result = await ours.execute(intent, signer, period=ERA_BLOCKS, wait_for_finalization=False)
            except bt.ChainError as error:
                return Sent(False, True, _code(error), str(error))
            except bt.RpcConnectionError:
                raise
            except bt.BittensorError as error:
                return Sent(False, True, type(error).__name__, str(error))
            if result.success:
                return Sent(True, True)
            message = str(result.message or "")
            certain = result.error is not None and not any(word in message.lower() for word in UNCERTAIN)
            return Sent(False, certain, _code(result.error), message)

        try:
            return await self._call("set_weights", write, self._submit_s)
        except ChainUnavailable as error:
            return Sent(False, False, error.code, error.message)

    async def rebuild(self) -> None:
        """See Chain."""
        self._turn += 1
        self._failures.clear()
        await self._drop()

    async def close(self) -> None:
        """See Chain."""
        await self._drop()
        self._thread.stop()

    async def _call(
        self, name: str, work: Callable[[Any], Awaitable[T]], deadline_s: float | None = None
    ) -> T:
        async def run() -> T:
            return await work(await self._connected())

        thread, seconds = self._thread, deadline_s or self._deadline_s
        try:
            result = await thread.call(run, seconds)
        except ChainUnavailable:
            raise
        except LoopStuck:
            self._leave(thread)
            raise ChainUnavailable("the chain client is stuck") from None
        except Exception as error:  # the SDK's own, the transport's, and what a node says that nobody foresaw
            # By call: a node that answers the small questions and never the large ones is left as well.
            self._failures[name] += 1
            if self._failures[name] >= FAILURES_TO_REBUILD or self._client is None:
                await self.rebuild()
            raise ChainUnavailable(f"the chain does not answer: {_said(error, seconds)}") from error
        self._failures.pop(name, None)
        return result

    def _leave(self, thread: LoopThread) -> None:
        """Go on with another thread, unless too many hang already: then with this one, should it come back."""
        if self._thread is not thread:
            return
        self._stuck = [stuck for stuck in self._stuck if stuck.alive]
        if len(self._stuck) >= MOST_STUCK:
            log.error("the chain client does not come back", stuck=len(self._stuck) + 1)
            return
        log.error("the chain client does not come back; starting another", stuck=len(self._stuck) + 1)
        self._stuck.append(thread)
        thread.stop()
        self._thread, self._client, self._connecting = LoopThread("chain"), None, None
        self._turn += 1

    async def _connected(self) -> Any:
        """The client, built when there is none. Runs on the thread."""
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._client is None:
                turn = self._turn % len(self._endpoints)
                first, *others = self._endpoints[turn:] + self._endpoints[:turn]
                self._substrate = bt.RpcSubstrate(first, fallback_endpoints=others)
                client = bt.Client(first, substrate=self._substrate)
                await client.connect()
                self._client = client
            return self._client

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        with contextlib.suppress(Exception):  # it is thrown away because it does not work
            await self._thread.call(client.close, CLOSE_S)


class _OurTerms:
    """A substrate on which weights go out as we need them.

    It reports the least number of weights as the chain applies it: the SDK refuses fewer than MinAllowedWeights,
    where the chain takes min(n, MinAllowedWeights). And it asks the node for every nonce: the SDK counts on from its
    own last one, which is wrong once another instance has submitted, or after a submission that was given up.
    """

    def __init__(self, substrate: Any, netuid: int, least: int) -> None:
        self._substrate = substrate
        self._netuid = netuid
        self._least = least

    def __getattr__(self, name: str) -> Any:
        return getattr(self._substrate, name)

    async def query(
        self, module: str, item: str, params: list[Any] | None = None, block_hash: str | None = None
    ) -> Any:
        found = await self._substrate.query(module, item, params, block_hash=block_hash)
        if (module, item) == tuple(PALLET.MinAllowedWeights) and params == [self._netuid]:
            return min(int(found or 0), self._least)
        return found

    async def submit(self, call: Any, keypair: Any, **options: Any) -> Any:
        nonce = await _next_nonce(self._substrate, keypair.ss58_address)
        return await self._substrate.submit(call, keypair, **{**options, "nonce": nonce})


async def _next_nonce(substrate: Any, address: str) -> int:
    """The nonce after those on the chain and in the node's pool."""
    return int(await substrate.raw.get_account_next_index(address, use_cache=False))


def _code(error: Any) -> str:
    code = getattr(error, "code", None)
    return str(getattr(code, "value", code) or type(error).__name__)


def _said(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:g} s"
    known = isinstance(error, bt.BittensorError | OSError)
    return ((known and str(error)) or f"{type(error).__name__}: {error}")[:300]
