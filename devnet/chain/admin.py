"""A small client for the ``devnet_*`` methods."""

from __future__ import annotations

import json
from itertools import count
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

_TIMEOUT_S = 10.0


class AdminError(Exception):
    """The node refused a request."""


class DevnetAdmin:
    """One connection to a devnet chain; use it as a context manager. OSError when there is no node."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ids = count(1)
        self._socket: ClientConnection | None = None

    def __enter__(self) -> Self:
        self._socket = connect(self._url, open_timeout=_TIMEOUT_S, compression=None, max_size=1 << 24)
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def request(self, method: str, *params: Any) -> Any:
        """Call any JSON-RPC method and return its result; AdminError for an error reply."""
        if self._socket is None:
            raise AdminError("not connected: use `with DevnetAdmin(url) as admin`")
        number = next(self._ids)
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
        self._socket.send(json.dumps(body))
        while True:
            reply = json.loads(self._socket.recv(timeout=_TIMEOUT_S))
            if reply.get("id") == number:
                break
        if "error" in reply:
            raise AdminError(f"{method}: {reply['error']['message']}")
        return reply["result"]

    def info(self) -> dict[str, Any]:
        """What the node is and holds."""
        return self.request("devnet_info")

    def faucet(self, account: str, tao: float) -> dict[str, Any]:
        """Add TAO to an account."""
        return self.request("devnet_faucet", account, tao)

    def replace_hotkey(self, netuid: int, uid: int, hotkey: str, coldkey: str) -> dict[str, Any]:
        """Give a uid to another hotkey: registered now, axon cleared, earlier weights to it masked."""
        return self.request("devnet_replaceHotkey", netuid, uid, hotkey, coldkey)

    def set_hyperparameter(self, netuid: int, name: str, value: int | bool) -> None:
        """Set a hyperparameter by its name in ``get_subnet_hyperparams_v3``."""
        self.request("devnet_setHyperparameter", netuid, name, value)

    def set_stake(self, netuid: int, hotkey: str, coldkey: str, tao: float) -> dict[str, Any]:
        """Set a coldkey's stake on a hotkey."""
        return self.request("devnet_setStake", netuid, hotkey, coldkey, tao)

    def pause(self, *, blocks: bool = True) -> None:
        """Make the node hang: connections stay open, nothing is answered, no block is made."""
        self.request("devnet_pause", True, blocks)

    def resume(self) -> None:
        """End a pause."""
        self.request("devnet_pause", False)
