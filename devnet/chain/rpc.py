"""JSON-RPC: one method, one function; results are what a substrate node would give."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol

from devnet.chain.apis import UnknownApi, answer
from devnet.chain.chain import Chain
from devnet.chain.extrinsics import MAX_EXTRINSIC_BYTES, InvalidTransaction
from devnet.chain.metadata import TRANSACTION_VERSION
from devnet.chain.state import View

MAX_KEYS = 1_000
MAX_SUBSCRIPTIONS = 64

PARSE_ERROR, INVALID_REQUEST, UNKNOWN_METHOD, INVALID_PARAMS = -32700, -32600, -32601, -32602
INVALID_TRANSACTION, EXECUTION_FAILED, UNKNOWN_BLOCK = 1010, 4003, 4000


class RpcError(Exception):
    """An error reply: code, message and optional data."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class Session(Protocol):
    """A connection that can be notified later; subscriptions die with it."""

    def subscribe(self, kind: str) -> str:
        """Open a subscription of a kind and return its id; RpcError when there are too many."""
        ...

    def unsubscribe(self, subscription: str) -> bool:
        """Close a subscription; whether it was open."""
        ...

    def notify(self, subscription: str, method: str, result: Any) -> None:
        """Send one notification, if the subscription is still open."""
        ...


Method = Callable[[Chain, Session, list[Any]], Any]
_METHODS: dict[str, Method] = {}


def _method(*names: str) -> Callable[[Method], Method]:
    def register(function: Method) -> Method:
        for name in names:
            _METHODS[name] = function
        return function

    return register


def call(chain: Chain, session: Session, method: str, params: list[Any]) -> Any:
    """Run one method; RpcError for whatever goes wrong with the request."""
    function = _METHODS.get(method)
    if function is None:
        raise RpcError(UNKNOWN_METHOD, f"Method not found: {method}")
    try:
        return function(chain, session, params)
    except (TypeError, IndexError, KeyError, ValueError, AttributeError, OverflowError) as problem:
        raise RpcError(INVALID_PARAMS, f"Invalid params: {problem}") from problem


def _at(params: list[Any], index: int) -> Any:
    return params[index] if len(params) > index else None


def _octets(value: str) -> bytes:
    return bytes.fromhex(value.removeprefix("0x"))


def _view(chain: Chain, block_hash: str | None) -> View:
    if block_hash is None or block_hash == chain.blocks.head_hash:
        return chain.state
    block = chain.blocks.by_hash(block_hash)
    if block is None:
        raise RpcError(UNKNOWN_BLOCK, f"UnknownBlock: State already discarded for {block_hash}")
    return chain.state.at(block.number)


# -- chain ---------------------------------------------------------------------------------------


@_method("chain_getHead", "chain_getFinalizedHead", "chain_getFinalisedHead")
def _head(chain: Chain, _session: Session, _params: list[Any]) -> str:
    return chain.blocks.head_hash


@_method("chain_getBlockHash")
def _block_hash(chain: Chain, _session: Session, params: list[Any]) -> Any:
    wanted = _at(params, 0)
    if wanted is None:
        return chain.blocks.head_hash
    if isinstance(wanted, list):
        return [chain.blocks.hash_of(_number(one)) for one in islice(wanted, MAX_KEYS)]
    return chain.blocks.hash_of(_number(wanted))


def _number(value: Any) -> int:
    return int(value, 16) if isinstance(value, str) else int(value)


@_method("chain_getHeader")
def _header(chain: Chain, _session: Session, params: list[Any]) -> dict[str, Any] | None:
    block = chain.blocks.by_hash(_at(params, 0) or chain.blocks.head_hash)
    return block.header() if block else None


@_method("chain_getBlock")
def _block(chain: Chain, _session: Session, params: list[Any]) -> dict[str, Any] | None:
    block = chain.blocks.by_hash(_at(params, 0) or chain.blocks.head_hash)
    if block is None:
        return None
    extrinsics = ["0x" + raw.hex() for raw in block.extrinsics]
    return {"block": {"header": block.header(), "extrinsics": extrinsics}, "justifications": None}


@_method("chain_subscribeNewHeads", "chain_subscribeNewHead", "chain_subscribeAllHeads")
def _subscribe_new(_chain: Chain, session: Session, _params: list[Any]) -> str:
    return session.subscribe("chain_newHead")


@_method("chain_subscribeFinalizedHeads", "chain_subscribeFinalisedHeads")
def _subscribe_finalized(_chain: Chain, session: Session, _params: list[Any]) -> str:
    return session.subscribe("chain_finalizedHead")


@_method(
    "chain_unsubscribeNewHeads",
    "chain_unsubscribeNewHead",
    "chain_unsubscribeAllHeads",
    "chain_unsubscribeFinalizedHeads",
    "chain_unsubscribeFinalisedHeads",
    "author_unwatchExtrinsic",
)
def _unsubscribe(_chain: Chain, session: Session, params: list[Any]) -> bool:
    return session.unsubscribe(str(_at(params, 0)))


# -- state ---------------------------------------------------------------------------------------


@_method("state_getRuntimeVersion", "chain_getRuntimeVersion")
def _runtime_version(chain: Chain, _session: Session, _params: list[Any]) -> dict[str, Any]:
    return {
        "specName": "node-subtensor",
        "implName": "node-subtensor",
        "authoringVersion": 1,
        "specVersion": chain.codec.spec_version,
        "implVersion": 1,
        "apis": [],
        "transactionVersion": TRANSACTION_VERSION,
        "stateVersion": 1,
    }


@_method("state_getMetadata")
def _metadata(chain: Chain, _session: Session, _params: list[Any]) -> str:
    return "0x" + chain.codec.metadata_bytes.hex()


@_method("state_getStorage", "state_getStorageAt")
def _storage(chain: Chain, _session: Session, params: list[Any]) -> str | None:
    view = _view(chain, _at(params, 1))
    value = view.store.get(_octets(params[0]), view.block)
    return None if value is None else "0x" + value.hex()


@_method("state_queryStorageAt")
def _query_storage(chain: Chain, _session: Session, params: list[Any]) -> list[dict[str, Any]]:
    keys, block_hash = params[0], _at(params, 1) or chain.blocks.head_hash
    if len(keys) > MAX_KEYS:
        raise RpcError(INVALID_PARAMS, f"at most {MAX_KEYS} keys a request")
    view = _view(chain, block_hash)
    changes = []
    for key in keys:
        value = view.store.get(_octets(key), view.block)
        changes.append([key, None if value is None else "0x" + value.hex()])
    return [{"block": block_hash, "changes": changes}]


@_method("state_getKeysPaged", "state_getKeysPagedAt")
def _keys(chain: Chain, _session: Session, params: list[Any]) -> list[str]:
    after = _at(params, 2)
    view = _view(chain, _at(params, 3))
    count = int(params[1])
    if not 0 <= count <= MAX_KEYS:
        raise RpcError(INVALID_PARAMS, f"count must be 0..{MAX_KEYS}")
    found = view.store.keys(_octets(params[0]), after=_octets(after) if after else None, block=view.block)
    return ["0x" + key.hex() for key in islice(found, count)]


@_method("state_call")
def _runtime_api(chain: Chain, _session: Session, params: list[Any]) -> str:
    view = _view(chain, _at(params, 2))
    try:
        return "0x" + answer(view, params[0], _octets(params[1])).hex()
    except UnknownApi as problem:
        message = f"Client error: Execution failed: Exported method {problem} is not found"
        raise RpcError(EXECUTION_FAILED, message) from problem


# -- extrinsics ----------------------------------------------------------------------------------


def _invalid(problem: InvalidTransaction) -> RpcError:
    return RpcError(INVALID_TRANSACTION, "Invalid Transaction", str(problem))


def _raw(params: list[Any]) -> bytes:
    if len(params[0]) > 2 * MAX_EXTRINSIC_BYTES + 2:
        raise _invalid(InvalidTransaction("Transaction would exhaust the block limits"))
    return _octets(params[0])


@_method("account_nextIndex", "system_accountNextIndex")
def _next_index(chain: Chain, _session: Session, params: list[Any]) -> int:
    return chain.next_nonce(params[0])


@_method("author_submitExtrinsic")
def _submit(chain: Chain, _session: Session, params: list[Any]) -> str:
    try:
        return chain.submit(_raw(params)).hash
    except InvalidTransaction as problem:
        raise _invalid(problem) from problem


@_method("author_submitAndWatchExtrinsic")
def _submit_and_watch(chain: Chain, session: Session, params: list[Any]) -> str:
    raw = _raw(params)
    subscription = session.subscribe("author_extrinsicUpdate")

    def tell(status: Any) -> None:
        session.notify(subscription, "author_extrinsicUpdate", status)
        if status == "invalid" or "finalized" in status:
            session.unsubscribe(subscription)

    try:
        chain.submit(raw, tell)
    except InvalidTransaction as problem:
        session.unsubscribe(subscription)
        raise _invalid(problem) from problem
    # After the reply that carries the id.
    asyncio.get_running_loop().call_soon(tell, "ready")
    return subscription


# -- node ----------------------------------------------------------------------------------------


@_method("system_chain")
def _chain_name(_chain: Chain, _session: Session, _params: list[Any]) -> str:
    return "coremesh devnet"


@_method("system_name")
def _node_name(_chain: Chain, _session: Session, _params: list[Any]) -> str:
    return "coremesh-devnet"


@_method("system_version")
def _node_version(_chain: Chain, _session: Session, _params: list[Any]) -> str:
    return "1"


@_method("system_health")
def _health(_chain: Chain, _session: Session, _params: list[Any]) -> dict[str, Any]:
    return {"peers": 0, "isSyncing": False, "shouldHavePeers": False}


@_method("system_properties")
def _properties(_chain: Chain, _session: Session, _params: list[Any]) -> dict[str, Any]:
    return {"ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "TAO"}


@_method("rpc_methods")
def _methods(_chain: Chain, _session: Session, _params: list[Any]) -> dict[str, Any]:
    return {"methods": sorted(_METHODS)}
