"""The querier's own endpoints."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response

from coremesh.contracts import (
    AxonResponse,
    ForwardRequest,
    ForwardResponse,
    HistoryResponse,
    InferenceRequest,
    InferenceResponse,
    MetagraphResponse,
    MinersResponse,
)
from coremesh.errors import HistoryUnavailable
from coremesh.events import ForwardEvent
from coremesh.history import History
from coremesh.history.recorder import Recorder
from coremesh.service.route import take_short_way
from services.querier import views
from services.querier.access import Access, hung_up
from services.querier.book import Book
from services.querier.caller import OPERATOR, Caller
from services.querier.forwarder import Forwarder
from services.querier.limits import Limits
from services.querier.slots import Slots
from services.querier.snapshot import SnapshotFollower

HISTORY_S = 8.0
"""Seconds that reading the history may take while somebody waits."""


def routes(
    app: FastAPI,
    *,
    access: Access,
    slots: Slots,
    limits: Limits,
    forwarder: Forwarder,
    snapshot: SnapshotFollower,
    book: Book,
    history: History,
    recorder: Recorder,
) -> APIRouter:
    """``/inference``, ``/forward``, ``/history``, ``/miners``, ``/metagraph``; ``app`` is what they are put into."""
    router = APIRouter()
    reads = APIRouter(dependencies=[Depends(access.caller)])

    async def answered(request: InferenceRequest, http: Request, caller: Caller) -> Response:
        query = limits.inference(request, caller)
        async with slots.take(caller.priority, partial(hung_up, http)):
            answer = await forwarder.ask(query, within_s=limits.patience_s(query))
        # Written here: FastAPI would validate and rebuild what is of the right shape already.
        told = views.inference(answer, every=request.return_all)
        return Response(told.model_dump_json(), media_type="application/json")

    async def inference(
        request: InferenceRequest, http: Request, caller: Caller = Depends(access.asker)
    ) -> Response:
        return await answered(request, http, caller)

    async def short(request: InferenceRequest, http: Request) -> Response:
        async with access.counted(http) as caller:
            return await answered(request, http, caller)

    router.add_api_route(
        "/inference",
        inference,
        methods=["POST"],
        summary="Ask the network",
        tags=["inference"],
        response_model=InferenceResponse,
    )
    take_short_way(app, "/inference", InferenceRequest, short, router=router)

    @router.post(
        "/forward",
        summary="One query of the network, as the original's forward; signed by a hotkey: as its axon",
        tags=["operators"],
        response_model=ForwardResponse | AxonResponse,
    )
    async def forward(
        request: ForwardRequest, http: Request, caller: Caller = Depends(access.operator_or_hotkey)
    ) -> ForwardResponse | AxonResponse:
        operator = caller is OPERATOR
        query = limits.forward(request) if operator else limits.axon(request, caller)
        async with slots.take(caller.priority, partial(hung_up, http)):
            answer = await forwarder.ask(query, within_s=limits.patience_s(query))
        return views.forward(answer) if operator else views.axon(answer)

    @reads.get("/history", summary="The newest forwards, newest first", tags=["history"])
    async def events(
        request: Request,
        count: Annotated[int, Query(ge=1, le=500, description="events wanted")] = 20,
        texts: Annotated[bool, Query(description="with prompts and completions; operators only")] = True,
    ) -> HistoryResponse:
        texts = texts and await access.is_operator(request)
        try:
            async with asyncio.timeout(HISTORY_S):
                entries = await history.tail(count)
                forwards = [
                    (entry, entry.event)
                    for entry in entries
                    if isinstance(entry.event, ForwardEvent) and entry.event.sound
                ]
                digests = sorted({int(digest) for _, event in forwards for digest in event.hotkeys})
                hotkeys = await history.resolve(digests)
                transcripts = (
                    await asyncio.gather(*(history.transcript(event.id) for _, event in forwards))
                    if texts
                    else [None] * len(forwards)
                )
        except TimeoutError:
            raise HistoryUnavailable(f"Redis took more than {HISTORY_S:g} s") from None
        return HistoryResponse(
            events=tuple(
                views.history_row(entry, event, hotkeys, transcript, texts=texts)
                for (entry, event), transcript in zip(forwards, transcripts, strict=True)
            ),
            last_id=entries[0].stream_id if entries else "0-0",
            waiting=recorder.waiting,
        )

    @reads.get("/miners", summary="How each miner did since this process started", tags=["network"])
    async def miners() -> MinersResponse:
        return views.miners(snapshot, book)

    @reads.get("/metagraph", summary="The metagraph in use", tags=["network"])
    async def metagraph() -> MetagraphResponse:
        return views.metagraph(snapshot)

    _ = (forward, events, miners, metagraph)
    router.include_router(reads)
    return router
