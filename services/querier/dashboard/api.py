"""The dashboard's endpoints: reads only, each answered from memory or from one call shared by all viewers."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel

from coremesh.errors import BadUid, NotFound, Unavailable
from coremesh.events import ForwardEvent
from coremesh.history import History
from coremesh.metagraph import Metagraph
from coremesh.types import ORIGIN, StreamId, hotkey_digest
from services.querier.dashboard import board
from services.querier.dashboard.cached import Cached, Seen
from services.querier.dashboard.follower import HistoryFollower
from services.querier.dashboard.overview import Overview
from services.querier.dashboard.peers import Peers
from services.querier.dashboard.shapes import (
    EventResponse,
    EventsResponse,
    ExplanationResponse,
    LeaderboardResponse,
    LearningResponse,
    MinerPage,
    OverviewResponse,
    SubmissionList,
)
from services.querier.dashboard.viewer import Viewer, Viewers
from services.querier.snapshot import SnapshotFollower

MOST_EVENTS = 200
BOARD_S = 1.0
LEARNING_S = 2.0
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

Uid = Annotated[int, Path(ge=0, le=65535)]
Place = Annotated[str, Query(pattern=r"^\d{1,15}-\d{1,15}$", description="a stream id: only newer events")]
EventIdText = Annotated[str, Path(min_length=26, max_length=26, pattern=r"^[0-9A-Z]+$")]


def routes(
    *,
    viewers: Viewers,
    overview: Overview,
    follower: HistoryFollower,
    peers: Peers,
    snapshot: SnapshotFollower,
    history: History,
    own_hotkey: str,
) -> APIRouter:
    """``/dashboard/api/…``."""
    router = APIRouter(prefix="/dashboard/api", tags=["dashboard"])
    reads = APIRouter(dependencies=[Depends(viewers.reader)])

    async def build_board() -> bytes:
        scores, weights = await asyncio.gather(peers.scores.get(), peers.weights.get())
        found = board.leaderboard(snapshot.current, own_hotkey, follower.window, scores, weights)
        return found.model_dump_json().encode()

    async def build_learning() -> bytes:
        return board.learning(follower, await peers.head.get()).model_dump_json().encode()

    boards = Cached(build_board, BOARD_S)
    curves = Cached(build_learning, LEARNING_S)

    @router.get("/overview", summary="The mesh at a glance", response_model=OverviewResponse)
    async def at_a_glance(viewer: Viewer = Depends(viewers.anybody)) -> Response:
        return _json(await overview.at_a_glance(viewer))

    @reads.get("/leaderboard", summary="Every uid with its standing", response_model=LeaderboardResponse)
    async def leaderboard() -> Response:
        return _packed(await boards.get())

    @reads.get("/learning", summary="What gating has learnt", response_model=LearningResponse)
    async def learning() -> Response:
        return _packed(await curves.get())

    @reads.get("/miners/{uid}", summary="One miner", response_model=MinerPage)
    async def miner(uid: Uid) -> Response:
        metagraph = _known(snapshot, uid)
        scores, weights = await asyncio.gather(peers.scores.get(), peers.weights.get())
        return _json(board.miner(uid, metagraph, own_hotkey, follower, scores, weights))

    # Who may ask may read: both dependencies would take the nonce of a signed request.
    @router.get(
        "/miners/{uid}/explanation",
        summary="Why it has its score; for callers, as it reads the whole history",
        response_model=ExplanationResponse,
        dependencies=[Depends(viewers.caller)],
    )
    async def explanation(uid: Uid) -> Response:
        _known(snapshot, uid)
        seen = await peers.explain(uid)
        found = seen.value.explanation if seen.value is not None and seen.problem is None else None
        return _json(ExplanationResponse(available=found is not None, reason=seen.problem, explanation=found))

    @reads.get("/events", summary="The newest events, newest first", response_model=EventsResponse)
    async def events(
        after: Place = ORIGIN, count: Annotated[int, Query(ge=1, le=MOST_EVENTS)] = 50
    ) -> Response:
        return _json(
            EventsResponse(
                events=tuple(board.event_row(entry) for entry in follower.newest(count, StreamId(after))),
                last_id=follower.last_id,
                stale=follower.problem,
            )
        )

    @router.get("/events/{event_id}", summary="One forward in full", response_model=EventResponse)
    async def event(event_id: EventIdText, viewer: Viewer = Depends(viewers.reader)) -> Response:
        entry = follower.find(event_id)
        if entry is None or not isinstance(entry.event, ForwardEvent):
            raise NotFound(
                "there is no such forward among the newest",
                remedy="GET /history on the querier, or read the history itself.",
            )
        full, transcript = None, None
        if viewer.texts:
            found, transcript = await asyncio.gather(history.find(event_id), history.transcript(event_id))
            full = found.event if found is not None and isinstance(found.event, ForwardEvent) else None
        metagraph = snapshot.current
        hotkeys = {hotkey_digest(hotkey): hotkey for hotkey in metagraph.hotkeys} if metagraph else {}
        return _json(
            board.event(entry, entry.event, hotkeys, texts=viewer.texts, full=full, transcript=transcript)
        )

    @reads.get("/submissions", summary="Attempts to set weights", response_model=SubmissionList)
    async def submissions() -> Response:
        seen, weights = await asyncio.gather(peers.submissions.get(), peers.weights.get())
        held = weights.value.held if weights.value is not None and weights.problem is None else None
        records = seen.value.submissions if seen.value is not None else ()
        return _json(board.submissions(records, held, seen.problem, seen.age_s))

    _ = (at_a_glance, leaderboard, learning, miner, explanation, events, event, submissions)
    router.include_router(reads)
    return router


def _known(snapshot: SnapshotFollower, uid: int) -> Metagraph:
    metagraph = snapshot.current
    if metagraph is None:
        raise Unavailable("no metagraph is known yet", remedy="Wait for the first sync with the chain.")
    if uid >= metagraph.size:
        raise BadUid(f"there is no uid {uid}: the subnet has {metagraph.size}")
    return metagraph


def _json(answer: BaseModel) -> Response:
    # Serialised here: FastAPI would validate what we have just built once more.
    return Response(answer.model_dump_json(), media_type="application/json", headers=HEADERS)


def _packed(seen: Seen[bytes]) -> Response:
    if seen.value is None:
        raise Unavailable(seen.problem or "nothing is known yet")
    return Response(seen.value, media_type="application/json", headers=HEADERS)
