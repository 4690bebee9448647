"""The other services as the dashboard sees them: each call has a deadline, is shared by all viewers, and may fail."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from coremesh.contracts import (
    HeadResponse,
    ScoresResponse,
    SignedExplanation,
    StackResponse,
    WeightsResponse,
)
from coremesh.errors import ServiceUnavailable
from coremesh.mesh import Mesh, Peer
from coremesh.settings import MeshSettings
from coremesh.text import problem
from services.querier.dashboard.cached import Cached, Seen

DEADLINE = timedelta(seconds=1.5)
EXPLAIN_DEADLINE = timedelta(seconds=20)
EXPLAIN_S = 30.0
"""An explanation reads the whole history, so it stands for a while, and is made for one uid at a time."""
EXPLAINED_EVENTS = 30
NUMBERS_S = 1.0
HEALTH_S = 2.0
SUBMISSIONS_S = 3.0
SUBMISSIONS = 60
EXPLAINED = 64
"""Explanations kept at once."""

R = TypeVar("R", bound=BaseModel)


class SubmissionRecord(BaseModel):
    """What is shown of one record of an attempt to set weights."""

    id: str
    time_ms: int
    block: int
    landed_block: int
    result: str
    reason: str
    uids: tuple[int, ...]
    weights: tuple[float, ...]
    commit_reveal: bool
    rule: str


class SubmissionRecords(BaseModel):
    """Records, newest first."""

    submissions: tuple[SubmissionRecord, ...]


class TrainerState(BaseModel):
    """What the training loop says of itself."""

    leading: bool
    steps: int


class Probe(BaseModel):
    """One service's own word on its health."""

    version: str
    problems: tuple[str, ...]


class Peers:
    """Reads of gating, reward, weights and trainer. An async context manager.

    It has a Mesh of its own: a page that finds a service slow must not make the querier leave it alone.
    """

    def __init__(self, settings: MeshSettings) -> None:
        self._mesh = Mesh(settings)
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=16, keepalive_expiry=20.0),
            follow_redirects=False,
            trust_env=False,
        )
        mesh = self._mesh
        self.scores = Cached(_reading(mesh.weights, "/scores", ScoresResponse), NUMBERS_S)
        self.weights = Cached(_reading(mesh.weights, "/weights", WeightsResponse), NUMBERS_S)
        self.submissions = Cached(
            _reading(mesh.weights, f"/submissions?count={SUBMISSIONS}", SubmissionRecords), SUBMISSIONS_S
        )
        self.head = Cached(_reading(mesh.gating, "/head", HeadResponse), NUMBERS_S)
        self.stack = Cached(_reading(mesh.reward, "/stack", StackResponse), HEALTH_S)
        self.training = Cached(self._training, HEALTH_S)
        self._urls = {
            "trainer": settings.trainer_url,
            "gating": settings.gating_url,
            "reward": settings.reward_url,
            "weights": settings.weights_url,
        }
        self._probes = {name: Cached(self._probing(url), HEALTH_S) for name, url in self._urls.items()}
        self._explained: OrderedDict[int, Cached[SignedExplanation]] = OrderedDict()
        self._explaining = asyncio.Lock()

    async def __aenter__(self) -> Peers:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()
        await self._mesh.__aexit__(kind, error, trace)

    async def health(self) -> dict[str, Probe | None]:
        """Each service with what it says; None for one that does not answer."""
        seen = await asyncio.gather(*(probe.get() for probe in self._probes.values()))
        return {name: one.value for name, one in zip(self._probes, seen, strict=True)}

    async def explain(self, uid: int) -> Seen[SignedExplanation]:
        """The weights service's account of a uid's score."""
        cached = self._explained.get(uid)
        if cached is None:
            cached = self._explained[uid] = Cached(partial(self._explain, uid), EXPLAIN_S)
            if len(self._explained) > EXPLAINED:
                self._explained.popitem(last=False)
        self._explained.move_to_end(uid)
        return await cached.get()

    async def _explain(self, uid: int) -> SignedExplanation:
        async with self._explaining:
            return await self._mesh.weights.call(
                "GET", f"/explain/{uid}?events={EXPLAINED_EVENTS}", SignedExplanation, EXPLAIN_DEADLINE
            )

    async def _training(self) -> TrainerState:
        try:
            return TrainerState.model_validate(await self._json(self._urls["trainer"], "/training"))
        except (httpx.HTTPError, ValueError, TimeoutError):
            raise ServiceUnavailable("trainer does not answer") from None

    def _probing(self, url: str) -> Callable[[], Any]:
        async def probe() -> Probe | None:
            try:
                alive, ready = await asyncio.gather(self._json(url, "/healthz"), self._json(url, "/readyz"))
            except (httpx.HTTPError, ValueError, TimeoutError):
                return None
            checks = ready.get("checks")
            checks = checks if isinstance(checks, dict) else {}
            return Probe(
                version=str(alive.get("version", ""))[:40],
                problems=tuple(problem(n, said)[:300] for n, said in checks.items() if said != "ok"),
            )

        return probe

    async def _json(self, url: str, path: str) -> dict[str, Any]:
        seconds = DEADLINE.total_seconds()
        # httpx counts each read anew; a service that drips must not hold the page.
        async with asyncio.timeout(seconds):
            found = (await self._client.get(url.rstrip("/") + path, timeout=seconds)).json()
        if not isinstance(found, dict):
            raise ValueError("not an object")
        return found


def _reading(peer: Peer, path: str, answer: type[R]) -> Callable[[], Any]:
    async def read() -> R:
        return await peer.call("GET", path, answer, DEADLINE)

    return read
