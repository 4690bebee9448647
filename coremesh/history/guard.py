"""What Redis raises, turned into our own errors."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable
from functools import wraps
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from coremesh.errors import HistoryUnavailable, LeaseLost

_REFUSED = re.compile(rf"Error {errno.ECONNREFUSED} connecting to (\S+)\.(?: |$)")
P = ParamSpec("P")
T = TypeVar("T")


def why_silent(error: Exception) -> str:
    """Why Redis did not answer, in plain words where the client's are of its own."""
    text = str(error)
    if found := _REFUSED.match(text):
        return f"nobody listens at {found[1]}"
    return text or type(error).__name__


def guarded(method: Callable[P, CoroutineType[Any, Any, T]]) -> Callable[P, CoroutineType[Any, Any, T]]:
    """``method``, raising HistoryUnavailable for all that Redis raises, and LeaseLost where a script says so.

    redis-py's client swallows a cancellation that meets its own timeout of 0 seconds: one that came meanwhile is
    raised here, so that a cancelled task ends.
    """

    @wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.current_task()
        asked_before = task.cancelling() if task else 0
        try:
            answer = await method(*args, **kwargs)
            if task is not None and task.cancelling() > asked_before:
                raise asyncio.CancelledError
            return answer
        except ResponseError as error:
            if "LEASELOST" in str(error):
                raise LeaseLost("another leader has taken over this role") from None
            if "OTHERSERVER" in str(error):
                raise LeaseLost(
                    "Redis was restarted or replaced, so that what it has is read again"
                ) from None
            raise HistoryUnavailable(f"Redis refused a command: {error}") from error
        except (TimeoutError, RedisConnectionError, RedisTimeoutError, OSError) as error:
            raise HistoryUnavailable(f"Redis does not answer: {why_silent(error)}") from error
        except (RedisError, RedisClusterException) as error:
            raise HistoryUnavailable(f"Redis failed: {error}") from error

    return wrapper
