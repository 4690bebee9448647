"""The bearer token that the services of one mesh share."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable

from fastapi import Request

from coremesh.errors import BadSetting, Unauthorized


def require_token(token: str) -> Callable[[Request], Awaitable[None]]:
    """A FastAPI dependency that lets only bearers of ``token`` pass; an empty token lets everybody pass."""
    expected = token.encode()

    async def check(request: Request) -> None:
        if not expected:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), expected):
            raise Unauthorized("this service needs the mesh token")

    return check


def refuse_open_bind(host: str, secured: bool, *, remedy: str) -> None:
    """Raise BadSetting for an address that others can reach while nothing secures the service."""
    if not secured and not is_loopback(host):
        raise BadSetting(
            f"--http.host {host}: an address that others can reach, without any token", remedy=remedy
        )


def is_loopback(host: str) -> bool:
    """Whether an address or ``localhost`` means this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
