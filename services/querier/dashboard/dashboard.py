"""The parts of the dashboard, wired."""

from __future__ import annotations

from types import TracebackType

from fastapi import FastAPI

from coremesh.history import History
from coremesh.history.recorder import Recorder
from coremesh.service import Health, Loops
from coremesh.settings import ChainSettings, MeshSettings, QuerierSettings, Settings
from services.querier.access import Access
from services.querier.dashboard import api, pages
from services.querier.dashboard.follower import HistoryFollower
from services.querier.dashboard.overview import Overview
from services.querier.dashboard.peers import Peers
from services.querier.dashboard.viewer import Viewers
from services.querier.snapshot import SnapshotFollower


class Dashboard:
    """An async context manager: inside it the history is followed. ``install`` adds its routes to an app."""

    def __init__(
        self,
        settings: Settings,
        *,
        snapshot: SnapshotFollower,
        history: History,
        recorder: Recorder,
        health: Health,
        own_hotkey: str,
    ) -> None:
        self._snapshot = snapshot
        self._history = history
        self._own_hotkey = own_hotkey
        self._peers = Peers(settings[MeshSettings])
        self._follower = HistoryFollower(history, lambda: snapshot.current)
        self._overview = Overview(
            peers=self._peers,
            follower=self._follower,
            snapshot=snapshot,
            recorder=recorder,
            health=health,
            own_hotkey=own_hotkey,
            netuid=settings[ChainSettings].netuid,
            top_k=settings[QuerierSettings].inference_topk,
        )

    async def __aenter__(self) -> Dashboard:
        await self._peers.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._peers.__aexit__(kind, error, trace)

    def start(self, loops: Loops) -> None:
        """Follow the history, for ever."""
        loops.start("dashboard", self._follower.run())

    def install(self, app: FastAPI, access: Access) -> None:
        """Add ``/`` and ``/dashboard/…``."""
        app.include_router(
            api.routes(
                viewers=Viewers(access, self._snapshot),
                overview=self._overview,
                follower=self._follower,
                peers=self._peers,
                snapshot=self._snapshot,
                history=self._history,
                own_hotkey=self._own_hotkey,
            )
        )
        app.include_router(pages.routes())
