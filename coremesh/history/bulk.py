"""Reading many events: plain sockets in a thread, without the client's own work on every reply.

Of the time that an asyncio client takes for a page of events, most goes into waking up for every 64 KB and into
dictionaries that nobody asked for.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from ssl import SSLSocket
from typing import Any, cast

from redis.exceptions import ConnectionError as RedisConnectionError

from coremesh.history.page import OddReply, Page, can_fill
from coremesh.history.protocol import Entry
from coremesh.types import StreamId


class BulkReader:
    """Reads pages of a stream by a pool of blocking connections. Safe to call from several threads."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

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

    def fill(self, page: Page, key: str, after: StreamId) -> bool:
        """Fill a page with the entries after a place. Raises what redis-py raises.

        The reply goes from the socket into the page, whatever kind of connection it is. False, with nothing in the
        page, where that cannot be done: then ``read`` gets the entries, or says what is wrong.
        """
        if not can_fill():
            return False
        connection = self._pool.get_connection()

        def ask() -> bool:
            page.clear()
            connection.send_command("XRANGE", key, f"({after}", "+", "COUNT", page.most)
            try:
                _receive(page, connection._get_socket())
            except ConnectionError as error:
                raise RedisConnectionError(str(error)) from error
            return True

        def failed(_: Exception) -> None:
            connection.disconnect()

        try:
            return connection.retry.call_with_retry(ask, failed)
        except OddReply:
            connection.disconnect()
            page.clear()
            return False
        except BaseException:
            connection.disconnect()
            page.clear()
            raise
        finally:
            self._pool.release(connection)

    def close(self) -> None:
        """Give the connections back."""
        self._pool.disconnect()


def _receive(page: Page, connected: socket.socket) -> None:
    """A whole reply. Raises OddReply, TimeoutError, and ConnectionError where the connection ends."""
    if not isinstance(connected, SSLSocket) and connected.gettimeout() is not None:
        return page.receive(connected.fileno(), connected.gettimeout())
    while received := connected.recv_into(page.space()):
        if page.take(received):
            return None
    raise ConnectionError("the connection was closed within a reply")
