"""Connections to a Redis, however it is reached: one server, by Sentinels, or a cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import AbstractBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry as BlockingRetry
from redis.sentinel import Sentinel as BlockingSentinel

from coremesh.settings.redisurl import RedisAddress, parse_address

SENTINEL_TIMEOUT_S = 1.0
"""How long one Sentinel may take before the next is asked."""

T = TypeVar("T")


class ToWriters(Retry):
    """A retry that leaves a server which became a replica, as it leaves one that does not answer.

    Whoever demotes a master closes its clients' connections, but one may slip through, and a script's refusal is no
    ReadOnlyError before Redis 7, so that the client would keep the connection and be refused for ever.
    """

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """See Retry.call_with_retry. Nothing that was refused has been done: it may be said again."""

        async def done() -> T:
            try:
                return await do()
            except ResponseError as error:
                if "READONLY" in str(error) or isinstance(error, ReadOnlyError):
                    raise RedisConnectionError("it has become a replica, which takes no writes") from error
                raise

        return await super().call_with_retry(done, fail, is_retryable, with_failure_count)


class Connection:
    """A client for all commands, ``redis``, with all that has to be closed with it.

    ``timeout_s`` bounds a try, None waits for ever (for reads that block); ``tries`` are made beyond the first when a
    connection turns out dead, and with ``patient`` also when one does not answer in time.
    Nothing is connected before the first command. Raises ValueError for an address that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float | None,
        connect_s: float,
        backoff: Callable[[], AbstractBackoff],
        tries: int,
        patient: bool = True,
    ) -> None:
        address = parse_address(url)
        again = (RedisConnectionError, RedisTimeoutError) if patient else (RedisConnectionError,)
        common: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": connect_s,
            "retry": ToWriters(backoff(), tries, again),
        }
        self._sentinels: list[Any] = []
        self.redis: Any
        if address.kind == "one":
            self.redis = Redis.from_url(address.url, **common)  # pyright: ignore[reportUnknownMemberType]
        elif address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.nodes]
            self.redis = RedisCluster(
                startup_nodes=nodes,
                **_login(address),
                **_tls(address),
                **common,
            )
        else:
            sentinel: Any = Sentinel(address.nodes, sentinel_kwargs=_sentinel(address, Retry(NoBackoff(), 0)))
            self._sentinels = sentinel.sentinels
            self.redis = sentinel.master_for(
                address.master,
                db=address.db,
                **_login(address),
                **_tls(address),
                **common,
            )

    async def close(self) -> None:
        """Give the connections back."""
        await self.redis.aclose()
        for sentinel in self._sentinels:
            await sentinel.aclose()


def blocking_pool(
    url: str, *, timeout_s: float, connect_s: float, backoff: AbstractBackoff, tries: int
) -> Any:
    """A pool of blocking connections to the one server that takes writes; None for a cluster, which has several."""
    address = parse_address(url)
    if address.kind == "cluster":
        return None
    retry = BlockingRetry(backoff, tries)
    return _blocking(address, timeout_s, connect_s, retry).connection_pool


def blocking_clients(url: str, *, timeout_s: float) -> list[Any]:
    """Blocking clients, each to be closed: of the one server that takes writes, or of each member of a cluster named
    in the address. Raises ValueError for an address that is none."""
    address = parse_address(url)
    retry = BlockingRetry(NoBackoff(), 0)
    if address.kind != "cluster":
        return [_blocking(address, timeout_s, timeout_s, retry)]
    return [
        BlockingRedis(
            host=host,
            port=port,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=retry,
            **_login(address),
            **_tls(address),
        )
        for host, port in address.nodes
    ]


def _blocking(address: RedisAddress, timeout_s: float, connect_s: float, retry: BlockingRetry) -> Any:
    common: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": connect_s,
        "retry": retry,
    }
    if address.kind == "one":
        return BlockingRedis.from_url(address.url, **common)  # pyright: ignore[reportUnknownMemberType]
    sentinel: Any = BlockingSentinel(
        address.nodes, sentinel_kwargs=_sentinel(address, BlockingRetry(NoBackoff(), 0))
    )
    return sentinel.master_for(address.master, db=address.db, **_login(address), **_tls(address), **common)


def _login(address: RedisAddress) -> dict[str, Any]:
    return {"username": address.username or None, "password": address.password or None}


def _tls(address: RedisAddress) -> dict[str, Any]:
    if not address.tls:
        return {}
    files = {name: value for name, value in address.options.items() if name.startswith("ssl_")}
    return {"ssl": True, **files}


def _sentinel(address: RedisAddress, retry: Any) -> dict[str, Any]:
    return {
        # One that does not answer is not asked again: the next is.
        "retry": retry,
        "protocol": 2,
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        "username": address.options.get("sentinel_username"),
        "password": address.options.get("sentinel_password"),
        **_tls(address),
    }
