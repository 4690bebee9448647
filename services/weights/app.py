"""The HTTP surface of the weights service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query

from coremesh.contracts import ScoreRow, ScoresResponse, SignedExplanation, WeightsResponse
from coremesh.errors import BadUid, CoremeshError, Unavailable
from coremesh.history import History
from coremesh.metagraph import Metagraph
from coremesh.service import Health, Loops
from coremesh.service import create_app as create_base_app
from coremesh.service.auth import require_token
from coremesh.service.metrics import watch_fold
from coremesh.wire.keys import KeyPair
from services.weights.anchors import keep_anchors
from services.weights.api import (
    OverrideResponse,
    PreviewRequest,
    SubmissionRow,
    SubmissionsResponse,
    row,
)
from services.weights.book import Page
from services.weights.engine import Engine
from services.weights.explain import MOST_EVENTS
from services.weights.fold import NAME
from services.weights.newest import watch_history
from services.weights.witness import Witness

MOST_SUBMISSIONS = 1000


class NotLeading(CoremeshError):
    """Only the leader can do this."""

    code = "not_leading"
    status = 409
    default_remedy = "Ask the instance that leads."


def create_app(
    engine: Engine,
    loops: Loops,
    health: Health,
    *,
    token: str,
    alpha: float,
    netuid: int = 1,
    keypair: KeyPair | None = None,
    followers: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] | None = None,
    keep_events: int = 100_000,
    anchor_s: float = 15.0,
) -> FastAPI:
    """The API over a running engine; the app's lifespan starts the engine's loops and closes what it uses.

    ``keypair``: the validator's hotkey, which signs explanations; ``followers``: more loops, by name;
    ``keep_events``: how many the history keeps, for states to explain scores from, looked after every ``anchor_s``.
    """
    witness = Witness(engine, netuid, keypair)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loops.start("scores-fold", engine.fold())
        loops.start("follow", engine.follow())
        loops.start("chain", engine.watch())
        loops.start("submit", engine.submit())
        loops.start("trim", engine.trim())
        loops.start("fold-guard", engine.guard())
        loops.start("fold-metrics", watch_fold(NAME, lambda: engine.runner.status))
        loops.start("history-metrics", watch_history(engine.history))
        loops.start("anchors", keep_anchors(engine, keep_events, anchor_s))
        for name, run in (followers or {}).items():
            loops.start(name, run())
        try:
            yield
        finally:
            await loops.stop()
            await engine.chain.close()
            await engine.history.close()

    health.checks["redis"] = engine.history_problem
    health.checks["chain"] = engine.chain_problem
    health.checks["metagraph"] = engine.metagraph_problem
    health.notes["trimming"] = engine.trim_problem
    app = create_base_app(
        "coremesh weights",
        description="Moving scores of miners, and the weights set on the chain.",
        lifespan=lifespan,
        health=health,
    )
    secured = [Depends(require_token(token))]

    @app.get("/scores", dependencies=secured, tags=["weights"], summary="The moving scores")
    async def scores() -> ScoresResponse:
        page = engine.book.page
        return ScoresResponse(
            rule=engine.book.rule.name,
            alpha=alpha,
            events=page.state.events,
            last_id=page.last_id,
            version=page.version,
            rows=await _rows(engine, page),
        )

    @app.get("/weights", dependencies=secured, tags=["weights"], summary="What would be set, and what is set")
    async def weights() -> WeightsResponse:
        return await _weights(engine, None)

    @app.post("/weights/preview", dependencies=secured, tags=["weights"], summary="What would be set, if")
    async def preview(request: PreviewRequest) -> WeightsResponse:
        return await _weights(engine, request)

    @app.post("/weights/override", dependencies=secured, tags=["weights"], summary="Let the next one pass")
    async def override() -> OverrideResponse:
        if engine.runner.lease is None:
            leader = await engine.history.leader("weights")
            raise NotLeading(f"{leader or 'nobody'} leads, and this instance stands by")
        engine.submitter.override_once()
        return OverrideResponse(overridden=tuple(reason.code for reason in engine.submitter.reasons))

    @app.get("/submissions", dependencies=secured, tags=["weights"], summary="Attempts to set weights")
    async def submissions(
        count: Annotated[int, Query(ge=1, le=MOST_SUBMISSIONS)] = 20,
    ) -> SubmissionsResponse:
        found: tuple[SubmissionRow, ...] = tuple(
            row(entry) for entry in await engine.history.submissions(count)
        )
        return SubmissionsResponse(submissions=found)

    @app.get("/explain/{uid}", dependencies=secured, tags=["weights"], summary="How a score came about")
    async def explain(
        uid: int,
        events: Annotated[int, Query(ge=1, le=MOST_EVENTS, description="the last so many")] = 50,
        sign: Annotated[bool, Query(description="with the signature of the validator's hotkey")] = False,
    ) -> SignedExplanation:
        return await witness.explain(uid, events, signed=sign)

    _ = (scores, weights, preview, override, submissions, explain)
    return app


async def _rows(engine: Engine, page: Page) -> tuple[ScoreRow, ...]:
    state = page.state
    names = await _names(engine.history, [int(digest) for digest in state.digests if digest])
    found = engine.book.scores(page).tolist()
    return tuple(
        ScoreRow(
            uid=uid,
            hotkey=names.get(int(state.digests[uid]), ""),
            score=found[uid],
            successes=int(state.successes[uid]),
            failures=int(state.failures[uid]),
            excluded=bool(state.excluded[uid]),
            reset_block=int(state.reset_blocks[uid]),
        )
        for uid in range(state.size)
    )


async def _names(history: History, digests: list[int]) -> dict[int, str]:
    return await history.resolve(digests)


async def _weights(engine: Engine, wanted: PreviewRequest | None) -> WeightsResponse:
    metagraph = engine.sync.newest
    if metagraph is None:
        raise Unavailable(
            "no metagraph has been published yet", remedy="Wait for the first sync with the chain."
        )
    standing = await engine.standing()
    block = engine.tick.block if engine.tick else metagraph.block
    proposal = engine.book.propose(
        metagraph,
        block,
        since_events=engine.ledger.events,
        previous=engine.ledger.previous,
        given=_given(metagraph, wanted),
        min_weights=wanted.min_weights if wanted else None,
        max_weight=wanted.max_weight if wanted else None,
    )
    reasons = proposal.reasons or (engine.submitter.reasons if wanted is None else ())
    return WeightsResponse(
        uids=proposal.vector.uids,
        weights=proposal.vector.weights,
        values=proposal.vector.values,
        on_chain=dict(standing.weights) if standing else {},
        on_chain_block=standing.block if standing else 0,
        last_id=proposal.page.last_id,
        held="; ".join(reason.text for reason in reasons) or None,
    )


def _given(metagraph: Metagraph, wanted: PreviewRequest | None) -> np.ndarray | None:
    if wanted is None or wanted.scores is None:
        return None
    given = np.zeros(metagraph.size)
    for uid, score in wanted.scores.items():
        if not 0 <= uid < metagraph.size:
            raise BadUid(f"there is no uid {uid}: the subnet has {metagraph.size}")
        given[uid] = score
    return given
