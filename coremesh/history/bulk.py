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

from coremesh.history.page import OddReply, Page, has_pages
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

    def sweep(
        self, key: str, after: StreamId, most: int, page: Page, take: Callable[[Page], None]
    ) -> int | None:
        """See History.sweep. Raises what redis-py raises, and what ``take`` does.

        Replies go from the socket into the page, whatever kind of connection it is. The next request is sent before
        the end of a reply is taken, so that the store works on it meanwhile.
        """
        if not has_pages():
            return None
        connection = self._pool.get_connection()
        place, count = after, 0

        def ask(after: StreamId) -> None:
            connection.send_command("XRANGE", key, f"({after}", "+", "COUNT", page.most)

        def taken() -> None:
            nonlocal place, count
            if page.come:
                last, came = page.last, page.come
                take(page)
                place, count = last, count + came

        def go_on() -> None:
            ask(place)
            page.clear()
            replied = 0
            while True:
                try:
                    done = _receive(page, connection._get_socket())
                except (OSError, RedisConnectionError, OddReply):
                    # Only what was taken is not asked for again; a taker may have had some of it already.
                    taken()
                    raise
                replied += page.come
                ahead = done and replied == page.most and count + page.come < most
                if ahead:
                    ask(page.last)
                taken()
                if not done:
                    page.forget()
                elif ahead:
                    page.clear()
                    replied = 0
                else:
                    return

        def failed(_: Exception) -> None:
            connection.disconnect()

        try:
            connection.retry.call_with_retry(go_on, failed)
        except OddReply:
            connection.disconnect()
            return count or None
        except BaseException:
            connection.disconnect()
            raise
        finally:
            page.clear()
            page.taker = None
            self._pool.release(connection)
        return count

    def close(self) -> None:
        """Give the connections back."""
        self._pool.disconnect()


def _receive(page: Page, connected: socket.socket) -> bool:
    """A piece of a reply, or its end: whether it was that. Raises OddReply, TimeoutError, and ConnectionError where the
    connection ends."""
    try:
        if not isinstance(connected, SSLSocket) and connected.gettimeout() is not None:
            return page.receive(connected.fileno(), connected.gettimeout())
        while received := connected.recv_into(page.space()):
            if page.take(received):
                return True
            if page.has_piece:
                return False
    except ConnectionError as error:
        raise RedisConnectionError(str(error)) from error
    raise RedisConnectionError("the connection was closed within a reply")
