"""The websocket itself: bounds, errors, and what connections leave behind."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from devnet.chain.rpc import MAX_KEYS, MAX_SUBSCRIPTIONS
from devnet.chain.server import MAX_BATCH, MAX_MESSAGE_BYTES
from devnet.chain.testing import RunningChain


def _ask(chain: RunningChain, *messages: str) -> list[Any]:
    with connect(chain.url, compression=None, max_size=1 << 24) as socket:
        replies = []
        for message in messages:
            socket.send(message)
            replies.append(json.loads(socket.recv(timeout=10)))
        return replies


def _request(method: str, *params: Any, number: int = 1) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("nonsense", -32700),
        ("[" * 5_000, -32700),
        ("{}", -32600),
        ("[]", -32600),
        ("7", -32600),
        (json.dumps([{}] * (MAX_BATCH + 1)), -32600),
        (_request("chain_fly"), -32601),
        (_request("devnet_fly"), -32601),
        (_request("state_getStorage", "zz"), -32602),
        (_request("state_getStorage"), -32602),
        (_request("state_getStorage", "0x00", "0x" + "11" * 32), 4000),
        (_request("state_getKeysPaged", "0x", MAX_KEYS + 1), -32602),
        (_request("state_queryStorageAt", ["0x00"] * (MAX_KEYS + 1)), -32602),
        (_request("state_call", "Core_fly", "0x"), 4003),
        (_request("state_call", "SubnetInfoRuntimeApi_get_metagraph", "0x"), -32602),
        (_request("account_nextIndex", "nobody"), -32602),
        (_request("author_submitExtrinsic", "0x0000"), 1010),
        (_request("author_submitAndWatchExtrinsic", "0x" + "ff" * 40_000), 1010),
    ],
)
def test_a_bad_request_gets_an_error_and_the_connection_lives(
    still_chain: RunningChain, message: str, code: int
):
    bad, good = _ask(still_chain, message, _request("system_chain", number=2))
    assert bad["error"]["code"] == code
    assert good == {"jsonrpc": "2.0", "id": 2, "result": "coremesh devnet"}


def test_a_batch_is_answered_as_one(still_chain: RunningChain):
    batch = [json.loads(_request("chain_getBlockHash", 0, number=n)) for n in (1, 2)]
    batch.append({"jsonrpc": "2.0", "method": "system_name", "params": []})
    (replies,) = _ask(still_chain, json.dumps(batch))
    assert [reply["id"] for reply in replies] == [1, 2]
    assert replies[0]["result"] == replies[1]["result"]


def test_an_oversized_message_ends_its_connection_only(still_chain: RunningChain):
    with connect(still_chain.url, compression=None) as socket:
        with contextlib.suppress(ConnectionClosed):
            socket.send("x" * (MAX_MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed, match="too big"):
            socket.recv(timeout=10)
    assert _ask(still_chain, _request("system_name"))[0]["result"] == "coremesh-devnet"


def test_subscriptions_are_counted_and_can_be_given_up(still_chain: RunningChain):
    with connect(still_chain.url, compression=None) as socket:

        def ask(method: str, *params: Any) -> Any:
            socket.send(_request(method, *params))
            while True:
                reply = json.loads(socket.recv(timeout=10))
                if "id" in reply:
                    return reply

        opened = [ask("chain_subscribeNewHeads")["result"] for _ in range(MAX_SUBSCRIPTIONS)]
        assert ask("chain_subscribeNewHeads")["error"]["code"] == -32600
        assert ask("chain_unsubscribeNewHeads", opened[0])["result"] is True
        assert ask("chain_unsubscribeNewHeads", opened[0])["result"] is False
        assert "result" in ask("chain_subscribeFinalizedHeads")
