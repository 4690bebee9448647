"""Earlier states of the score fold, kept so that scores can be explained when the start of the history is gone."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from coremesh.errors import HistoryUnavailable, LeaseLost
from coremesh.history import Checkpoint, History, Lease
from coremesh.types import ORIGIN, StreamId, stream_key
from services.weights import scores
from services.weights.book import Page
from services.weights.engine import Engine
from services.weights.explain import Base
from services.weights.fold import ScoreFold
from services.weights.rules import Rule
from services.weights.scores import ScoreState

log = structlog.get_logger(__name__)

NAME = "scores:anchors"
SPREAD = 8
"""As many anchors as lie within the kept events."""


class Anchor(msgspec.Struct, frozen=True, array_like=True):
    """A state, the place that it stands at, and the scored events in it."""

    place: StreamId
    state: bytes
    events: int


_decoder = msgspec.msgpack.Decoder(tuple[Anchor, ...])


async def base(history: History, rule: Rule) -> Base | None:
    """Where to fold from: the start of a whole history, else the oldest anchor within what is left of it.

    Raises HistoryUnavailable.
    """
    trimmed = await history.trimmed()
    if trimmed == ORIGIN:
        return Base(ScoreState(), ORIGIN)
    for anchor in await _kept(history, rule):
        if stream_key(anchor.place) >= stream_key(trimmed):
            return Base(scores.load(anchor.state), anchor.place)
    return None


async def keep(history: History, page: Page, rule: Rule, lease: Lease, every: int) -> bool:
    """Add ``page`` to the anchors when ``every`` events were scored since the newest. Raises LeaseLost,
    HistoryUnavailable."""
    checkpoint = await history.load(NAME)
    anchors = await _kept(history, rule)
    newest = anchors[-1].events if anchors else 0
    # Fewer than before: the fold began anew.
    if newest <= page.state.events < newest + every or page.last_id == ORIGIN:
        return False
    if anchors and stream_key(anchors[-1].place) >= stream_key(page.last_id):
        anchors = []
    trimmed = await history.trimmed()
    anchors = [one for one in anchors if stream_key(one.place) >= stream_key(trimmed)][-SPREAD:]
    added = Anchor(page.last_id, scores.dump(page.state), page.state.events)
    draft = Checkpoint(
        last_id=page.last_id,
        state=msgspec.msgpack.encode((*anchors, added)),
        format=_format(rule),
    )
    await history.save(NAME, draft, lease, checkpoint.last_id if checkpoint else ORIGIN)
    return True


async def keep_anchors(engine: Engine, keep_events: int, every_s: float) -> None:
    """Keep anchors while leading, for ever. Ends when cancelled."""
    while True:
        await asyncio.sleep(every_s)
        lease = engine.runner.lease
        if lease is None:
            continue
        try:
            await keep(
                engine.history, engine.book.page, engine.book.rule, lease, max(1, keep_events // SPREAD)
            )
        except (HistoryUnavailable, LeaseLost) as error:
            log.warning("anchor not kept", reason=error.message)


async def _kept(history: History, rule: Rule) -> list[Anchor]:
    checkpoint = await history.load(NAME)
    if checkpoint is None or checkpoint.format != _format(rule):
        return []
    return list(_decoder.decode(checkpoint.state))


def _format(rule: Rule) -> str:
    return f"anchors/1:{ScoreFold(rule).format}"
