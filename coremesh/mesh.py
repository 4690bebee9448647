"""Calling the other services: one httpx transport a process, a deadline on every call, clear errors."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from coremesh import contracts
from coremesh.errors import BadRequest, Busy, DeadlineExceeded, ServiceUnavailable
from coremesh.service import traces
from coremesh.settings import MeshSettings
from coremesh.transport import HttptoolsTransport

R = TypeVar("R", bound=BaseModel)

COOL_DOWN_S = 2.0
"""How long a service that did not answer is left alone, so that callers do not each wait for it."""
FAILURES_TO_OPEN = 3
CONNECT_TIMEOUT_S = 1.0
IDLE_S = 20.0
"""Kept connections are renewed, so that load spreads over replicas that come and go."""


class Peer:
    """One service of the mesh. Fails fast for a while after several failures in a row."""

    def __init__(
        self, name: str, base_url: str, transport: httpx.AsyncBaseTransport, *, token: str = ""
    ) -> None:
        self.name = name
        self._base_url = base_url.rstrip("/")
        self._transport = transport
        self._headers = [(b"host", httpx.URL(base_url).netloc)]
        if token:
            self._headers.append((b"authorization", f"Bearer {token}".encode()))
        self._urls: dict[str, httpx.URL] = {}
        """Parsed once: paths are few and fixed."""
        self._failures = 0
        self._closed_until = 0.0

    async def call(
        self, method: str, path: str, answer: type[R], timeout: timedelta, body: BaseModel | None = None
    ) -> R:
        """Call and validate the answer.

        Raises ServiceUnavailable (no answer, a 5xx, or an answer of the wrong shape), DeadlineExceeded, Busy,
        BadRequest (the service refused what we sent).
        """
        response = await self._send(method, path, timeout, body)
        try:
            said = answer.model_validate_json(response.content)
        except ValidationError:
            raise ServiceUnavailable(f"{self.name} gave an answer of the wrong shape") from None
        if isinstance(said, contracts.Timed):
            said.after(response.headers.get(contracts.TOOK_HEADER, ""))
        return said

    async def get(self, path: str, timeout: timedelta) -> Any:
        """GET any JSON. Raises as ``call``."""
        response = await self._send("GET", path, timeout, None)
        try:
            return response.json()
        except ValueError:
            raise ServiceUnavailable(f"{self.name} gave an answer of the wrong shape") from None

    async def _send(
        self, method: str, path: str, timeout: timedelta, body: BaseModel | None
    ) -> httpx.Response:
        if time.monotonic() < self._closed_until:
            raise ServiceUnavailable(f"{self.name} did not answer a moment ago")
        seconds = timeout.total_seconds()
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = httpx.URL(self._base_url + path)
        headers = [*self._headers, *((k.encode(), v.encode()) for k, v in traces.headers().items())]
        content = b""
        if body is not None:
            content = body.model_dump_json().encode()
            headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        limits = {
            "read": seconds,
            "write": seconds,
            "connect": min(seconds, CONNECT_TIMEOUT_S),
            "pool": min(seconds, 1.0),
        }
        # No httpx client around it: cookies, redirects and merged defaults cost twice as much as the call itself.
        # The stream is given for the same reason: httpx derives headers from ``content``, at five times the cost.
        request = httpx.Request(
            method,
            url,
            headers=headers,
            stream=httpx.ByteStream(content),
            extensions={"timeout": limits},
        )
        try:
            response = await self._transport.handle_async_request(request)
            await response.aread()
        except httpx.ReadTimeout:
            self._failed()
            raise DeadlineExceeded(f"{self.name} did not answer within {seconds:g} s") from None
        except httpx.HTTPError as error:
            self._failed()
            raise ServiceUnavailable(f"{self.name} does not answer: {why_silent(error)}") from None
        if response.status_code == 429:
            raise Busy(f"{self.name} is busy", retry_after_s=_retry_after(response))
        if response.status_code >= 500:
            self._failed()
            raise ServiceUnavailable(f"{self.name} answered {response.status_code}: {_message(response)}")
        self._failures = 0
        if response.status_code >= 400:
            raise BadRequest(f"{self.name} refused the request: {_message(response)}")
        return response

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES_TO_OPEN:
            self._closed_until = time.monotonic() + COOL_DOWN_S
            self._failures = FAILURES_TO_OPEN - 1  # one more failure afterwards closes it again


SILENT: tuple[tuple[type[httpx.HTTPError], str], ...] = (
    (httpx.ConnectError, "no connection"),
    (httpx.ConnectTimeout, "no connection in time"),
    (httpx.PoolTimeout, "all connections to it are in use"),
    (httpx.TimeoutException, "no answer in time"),
    (httpx.ProtocolError, "what it says is no HTTP"),
    (httpx.NetworkError, "the connection broke"),
)


class Mesh:
    """The client side of gating, reward, weights and the querier. An async context manager."""

    def __init__(self, settings: MeshSettings) -> None:
        token = settings.token.get_secret_value()
        self._transport = HttptoolsTransport(idle_s=IDLE_S)
        self.gating = GatingPeer("gating", settings.gating_url, self._transport, token=token)
        self.reward = RewardPeer("reward", settings.reward_url, self._transport, token=token)
        self.weights = Peer("weights", settings.weights_url, self._transport, token=token)
        self.querier = Peer("querier", settings.querier_url, self._transport, token=token)

    async def __aenter__(self) -> Mesh:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()


class GatingPeer(Peer):
    """The gating service."""

    async def score(self, request: contracts.ScoreRequest, timeout: timedelta) -> contracts.ScoreResponse:
        """POST /score."""
        return await self.call("POST", "/score", contracts.ScoreResponse, timeout, request)


class RewardPeer(Peer):
    """The reward service."""

    async def reward(self, request: contracts.RewardRequest, timeout: timedelta) -> contracts.RewardResponse:
        """POST /reward."""
        return await self.call("POST", "/reward", contracts.RewardResponse, timeout, request)

    async def filter(self, request: contracts.FilterRequest, timeout: timedelta) -> contracts.FilterResponse:
        """POST /filter."""
        return await self.call("POST", "/filter", contracts.FilterResponse, timeout, request)


def why_silent(error: httpx.HTTPError) -> str:
    """Why a service gave no answer, in a few words."""
    return next((why for kind, why in SILENT if isinstance(error, kind)), type(error).__name__)


def _retry_after(response: httpx.Response) -> float:
    try:
        return float(response.headers.get("retry-after", "1"))
    except ValueError:
        return 1.0


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return "no reason given"
