"""Looking at a Redis before anything is trusted to it: version, persistence, what it does when memory is full."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from redis.exceptions import RedisError

from coremesh.errors import HistoryUnavailable
from coremesh.history.connect import blocking_clients
from coremesh.history.guard import why_silent


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What INFO and TIME say. ``clock_ahead_s``: how far Redis' clock is ahead of this machine's."""

    version: str
    appendonly: bool
    append_ok: bool
    saves: bool
    policy: str
    maxmemory: int
    used: int
    clock_ahead_s: float


def probe(url: str, timeout: timedelta) -> RedisFacts:
    """Ask the Redis at ``url``, of a cluster the first member that answers.

    Raises HistoryUnavailable when none does, or refuses INFO.
    """
    try:
        clients = blocking_clients(url, timeout_s=timeout.total_seconds())
    except ValueError as error:
        raise HistoryUnavailable(f"the address of Redis {error}") from None
    problem = ""
    for client in clients:
        try:
            with client:
                return _facts(client)
        except (RedisError, OSError) as error:
            problem = why_silent(error)
    raise HistoryUnavailable(f"Redis does not answer: {problem}")


def _facts(client: Any) -> RedisFacts:
    before = time.time()
    told = cast(tuple[int, int], client.time())
    now = (before + time.time()) / 2
    info = cast(dict[str, Any], client.info())
    return RedisFacts(
        version=str(info.get("redis_version", "0")),
        appendonly=bool(info.get("aof_enabled")),
        append_ok=info.get("aof_last_write_status", "ok") == "ok",
        saves=int(info.get("rdb_last_save_time", 0)) > 0 and info.get("rdb_last_bgsave_status") == "ok",
        policy=str(info.get("maxmemory_policy", "noeviction")),
        maxmemory=int(info.get("maxmemory", 0)),
        used=int(info.get("used_memory", 0)),
        clock_ahead_s=told[0] + told[1] / 1e6 - now,
    )
