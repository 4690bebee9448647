"""What Redis raises, turned into our own errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from coremesh.errors import HistoryUnavailable, LeaseLost

P = ParamSpec("P")
T = TypeVar("T")


def guarded(method: Callable[P, CoroutineType[Any, Any, T]]) -> Callable[P, CoroutineType[Any, Any, T]]:
    """``method``, raising HistoryUnavailable for all that Redis raises, and LeaseLost where a script says so."""

    @wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except ResponseError as error:
            if "LEASELOST" in str(error):
                raise LeaseLost("another leader has taken over this role") from None
            raise HistoryUnavailable(f"Redis refused a command: {error}") from error
        except (TimeoutError, RedisConnectionError, RedisTimeoutError, OSError) as error:
            raise HistoryUnavailable(f"Redis does not answer: {error or type(error).__name__}") from error
        except RedisError as error:
            raise HistoryUnavailable(f"Redis failed: {error}") from error

    return wrapper
