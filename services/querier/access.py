"""Who may ask: callers with keys, and operators."""

from __future__ import annotations

import hmac
from hashlib import sha256

from fastapi import Request

from coremesh.errors import Busy, Forbidden, Unauthorized
from coremesh.service.auth import is_loopback
from coremesh.settings import QuerierSettings
from services.querier.metrics import CALLERS


class Access:
    """Checks bearer keys in constant time. Without keys everybody is a caller; see ``allow_open``."""

    def __init__(self, settings: QuerierSettings) -> None:
        # Digests have one length, so that comparing them tells nothing about a key's.
        self._keys = tuple(_digest(key.get_secret_value()) for key in settings.api_keys)
        token = settings.operator_token.get_secret_value()
        self._operator = _digest(token) if token else None

    async def caller(self, request: Request) -> None:
        """A FastAPI dependency: raises Unauthorized for a missing or wrong key. Operators are callers too."""
        if not self._keys:
            return
        given = _bearer(request)
        # Every key is compared: the time does not tell which one came close.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        if not (any(matches) or (self._operator is not None and hmac.compare_digest(given, self._operator))):
            raise Unauthorized("this querier needs an API key")

    async def operator(self, request: Request) -> None:
        """A FastAPI dependency: raises Unauthorized or Forbidden for all but operators."""
        if self._operator is None:
            if not _from_loopback(request):
                raise Forbidden(
                    "this is for operators, and without an operator token only from the machine itself",
                    remedy="Set COREMESH_QUERIER_OPERATOR_TOKEN and send it as a bearer token.",
                )
            await self.caller(request)
        elif not hmac.compare_digest(_bearer(request), self._operator):
            raise Unauthorized("this is for operators, who send the operator token")

    async def is_operator(self, request: Request) -> bool:
        """Whether ``operator`` would let the request pass."""
        try:
            await self.operator(request)
        except (Unauthorized, Forbidden):
            return False
        return True


class Slots:
    """How many user requests are served at once; a context manager that raises Busy beyond."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    def __enter__(self) -> Slots:
        if self._taken >= self._most:
            raise Busy(f"{self._most} requests are being served already")
        self._taken += 1
        CALLERS.set(self._taken)
        return self

    def __exit__(self, *_: object) -> None:
        self._taken -= 1
        CALLERS.set(self._taken)


def _bearer(request: Request) -> bytes:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return _digest(given.strip() if scheme.lower() == "bearer" else "")


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


def _from_loopback(request: Request) -> bool:
    # A reverse proxy on this machine would make strangers look local; its headers give them away.
    forwarded = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))
    return request.client is not None and is_loopback(request.client.host) and not forwarded
