"""Reading many events: plain sockets in a thread, without the client's own work on every reply.

Of the time that an asyncio client takes for a page of events, most goes into waking up for every 64 KB and into
dictionaries that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from coremesh.history.protocol import Entry
from coremesh.types import StreamId


class BulkReader:
    """Reads pages of a stream. Blocking, and safe to call from several threads."""

    def __init__(self, url: str, timeout_s: float) -> None:
        client: Any = Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            protocol=2,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(timeout_s, 2.0),
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), 2),
        )
        self._pool: Any = client.connection_pool

    def read(self, key: str, after: StreamId, count: int, decode: Callable[[bytes], Any]) -> list[Entry]:
        """Up to ``count`` entries after a place, oldest first. Raises what redis-py raises."""
        connection = self._pool.get_connection()

        def ask() -> list[list[Any]]:
            connection.send_command("XRANGE", key, f"({after}", "+", "COUNT", count)
            return connection.read_response()

        def failed(_: Exception) -> None:
            connection.disconnect()

        try:
            rows = connection.retry.call_with_retry(ask, failed)
        finally:
            self._pool.release(connection)
        return [Entry(cast(StreamId, place.decode()), decode(fields[1])) for place, fields in rows]

    def close(self) -> None:
        """Give the connections back."""
        self._pool.disconnect()
