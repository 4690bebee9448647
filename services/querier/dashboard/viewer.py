"""Who looks at the page, and what that lets them see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import Request

from coremesh.errors import CoremeshError, Unauthorized
from services.querier.access import Access
from services.querier.snapshot import SnapshotFollower


@dataclass(frozen=True, slots=True)
class Viewer:
    """One viewer. ``numbers``: scores, weights and rewards; ``texts``: prompts and completions."""

    key: Literal["none", "accepted", "refused"]
    asks: bool
    numbers: bool
    texts: bool


class Viewers:
    """Tells viewers apart. Its methods are FastAPI dependencies.

    Texts are for operators, as everywhere. Numbers are for everybody, but where the subnet keeps weights secret until
    they are revealed: there they would let strangers copy ours, and are for callers.
    """

    def __init__(self, access: Access, snapshot: SnapshotFollower) -> None:
        self._access = access
        self._snapshot = snapshot

    async def anybody(self, request: Request) -> Viewer:
        """Who looks. Never raises: a wrong key makes a stranger."""
        given = "authorization" in request.headers
        try:
            await self._access.caller(request)
            asks = True
        except CoremeshError:
            asks = False
        try:
            texts = await self._access.is_operator(request)
        except CoremeshError:
            texts = False
        metagraph = self._snapshot.current
        secret = metagraph is not None and metagraph.hyperparameters.commit_reveal
        accepted = asks or texts
        return Viewer(
            key=("accepted" if accepted else "refused") if given else "none",
            asks=asks,
            numbers=accepted or not secret,
            texts=texts,
        )

    async def caller(self, request: Request) -> Viewer:
        """Who may ask the network. Raises Unauthorized for all others."""
        viewer = await self.anybody(request)
        if not viewer.asks:
            raise Unauthorized("this needs an API key", remedy="Enter a key of this validator.")
        return viewer

    async def reader(self, request: Request) -> Viewer:
        """Who looks at numbers. Raises Unauthorized for a stranger where they are kept secret."""
        viewer = await self.anybody(request)
        if not viewer.numbers:
            raise Unauthorized(
                "this subnet keeps weights secret until they are revealed, so scores and rewards need an API key",
                remedy="Enter a key of this validator.",
            )
        return viewer
