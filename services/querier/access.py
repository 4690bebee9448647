"""Who may ask: callers with keys or signatures, and operators."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

from fastapi import Request

from coremesh.errors import Forbidden, Unauthorized
from coremesh.history.callers import PREFIX
from coremesh.service.auth import is_loopback
from coremesh.settings import QuerierSettings
from services.querier.admission import Admission, CallerChanged
from services.querier.caller import ANYBODY, OPERATOR, STATIC, Caller
from services.querier.hotkeys import Hotkeys, is_signed
from services.querier.keyring import KeyRing


class Access:
    """Tells callers apart. Its methods are FastAPI dependencies.

    A signature of a hotkey counts, and is never passed over when it is wrong; so does a key made with
    ``coremesh keys``. Otherwise the bearer token has to be one of the settings' keys or the operator's, compared in
    constant time; without keys in the settings (and without ``require_key``) everybody is a caller, see ``allow_open``.
    """

    def __init__(
        self, settings: QuerierSettings, keyring: KeyRing, hotkeys: Hotkeys, admission: Admission
    ) -> None:
        # Digests have one length, so that comparing them tells nothing about a key's.
        self._keys = tuple(_digest(key.get_secret_value()) for key in settings.api_keys)
        self._open = not (self._keys or settings.require_key)
        token = settings.operator_token.get_secret_value()
        self._operator = _digest(token) if token else None
        self._keyring = keyring
        self._hotkeys = hotkeys
        self._admission = admission

    async def caller(self, request: Request) -> Caller:
        """Who asks, without counting it. Raises Unauthorized, Forbidden, Unavailable."""
        return await self._identify(request)

    async def asker(self, request: Request) -> AsyncIterator[Caller]:
        """Who asks, counted against its limits until the answer has been sent. Raises Busy too."""
        async with self.counted(request) as caller:
            yield caller

    async def operator(self, request: Request) -> None:
        """Raises Unauthorized or Forbidden for all but operators."""
        if self._operator is None:
            if not _from_loopback(request):
                raise Forbidden(
                    "this is for operators, and without an operator token only from the machine itself",
                    remedy="Set COREMESH_QUERIER_OPERATOR_TOKEN and send it as a bearer token.",
                )
            await self._of_bearer(_bearer(request))
        elif not hmac.compare_digest(_digest(_bearer(request)), self._operator):
            raise Unauthorized("this is for operators, who send the operator token")

    async def operator_or_hotkey(self, request: Request) -> AsyncIterator[Caller]:
        """An operator, or the hotkey that signed, counted as an asker."""
        if is_signed(request):
            async with self.counted(request) as caller:
                yield caller
        else:
            await self.operator(request)
            yield OPERATOR

    async def is_operator(self, request: Request) -> bool:
        """Whether ``operator`` would let the request pass."""
        try:
            await self.operator(request)
        except (Unauthorized, Forbidden):
            return False
        return True

    @asynccontextmanager
    async def counted(self, request: Request) -> AsyncIterator[Caller]:
        """``asker`` for who is no dependency of FastAPI's."""
        caller = await self._identify(request)
        try:
            ticket = await self._admission.enter(caller)
        except CallerChanged:
            caller = await self._keyring.caller(_bearer(request), fresh=True)
            ticket = await self._admission.enter(caller)
        try:
            yield caller
        finally:
            await self._admission.leave(caller, ticket)

    async def _identify(self, request: Request) -> Caller:
        if is_signed(request):
            return await self._hotkeys.caller(request)
        return await self._of_bearer(_bearer(request))

    async def _of_bearer(self, given: str) -> Caller:
        digest = _digest(given)
        # Every key is compared: the time does not tell which one came close.
        matches = [hmac.compare_digest(digest, key) for key in self._keys]
        if self._operator is not None and hmac.compare_digest(digest, self._operator):
            return OPERATOR
        if any(matches):
            return STATIC
        if given.startswith(PREFIX):
            return await self._keyring.caller(given)
        if self._open:
            return ANYBODY
        raise Unauthorized("this querier needs an API key")


async def hung_up(request: Request) -> None:
    """Return when the client of ``request``, whose body has been read, closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _bearer(request: Request) -> str:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


def _from_loopback(request: Request) -> bool:
    # A reverse proxy on this machine would make strangers look local; its headers give them away.
    forwarded = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))
    # So would a page in a browser here whose own name leads to this machine (DNS rebinding): that name is the host.
    host = request.headers.get("host", "localhost")
    named = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    local = request.client is not None and is_loopback(request.client.host) and is_loopback(named)
    return local and not forwarded
