"""Serving the newest head: whom to ask for a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from prometheus_client import Counter, Gauge, Histogram

from coremesh.contracts import ScoreRequest, ScoreResponse
from coremesh.errors import BadMessages, BadRequest, NoMinerAvailable, ServiceUnavailable, TooLong
from coremesh.history.protocol import Checkpoint
from coremesh.settings import GatingSettings
from services.gating.choose import Choice, choose, sample, uniform
from services.gating.fold import FoldOutlook, GatingFold
from services.gating.learning import Encoder, prompt_text
from services.gating.snapshot import Roll, RollBook

ENCODE_SECONDS = Histogram("coremesh_gating_encode_seconds", "Time to embed a prompt, queueing included")
CHOSEN = Counter("coremesh_gating_chosen_total", "Miners chosen", ["how"])
HEAD_EVENTS = Gauge("coremesh_gating_head_events", "Events in the head that is served")
MAX_CHARS = 200_000


class GatingService:
    """Scores and choices from the newest checkpoint. Until there is one, everybody is expected to be average."""

    def __init__(
        self,
        settings: GatingSettings,
        encoder: Encoder,
        book: RollBook,
        nothing: GatingFold,
        seed: int | None = None,
        lacking: Callable[[], str | None] = lambda: None,
    ) -> None:
        """``lacking`` says why there is no head to serve with yet, None when there is."""
        self._settings = settings
        self._encoder = encoder
        self._book = book
        self._fold = nothing
        self._lacking = lacking
        self._rng = np.random.default_rng(seed)
        self._ready: tuple[GatingFold, Roll, FoldOutlook] | None = None
        self.version = 0
        self.last_id = "0-0"

    @property
    def fold(self) -> GatingFold:
        """What is served."""
        return self._fold

    async def on_state(self, fold: GatingFold, checkpoint: Checkpoint) -> None:
        """Serve a newer head."""
        self._fold = fold
        self.version = checkpoint.version
        self.last_id = checkpoint.last_id
        HEAD_EVENTS.set(fold.events)

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Expected reward per uid, and the chosen ones. Raises BadRequest and its kin, NoMinerAvailable, Busy,
        ServiceUnavailable while a head grows up beside that of another generation."""
        roll = self._book.roll
        if roll is None:
            raise NoMinerAvailable("no metagraph has been published yet")
        text = _text(request)
        if (why := self._lacking()) is not None:
            raise ServiceUnavailable(why, remedy="Ask a replica that is ready; GET /readyz tells.")
        uids = roll.uids(request.uids)
        k = request.k
        if k is not None and k != "auto" and k < 1:
            raise BadRequest(f"k is {k}", remedy='Send a k of 1 or more, or "auto".')
        if not uids.size:
            raise NoMinerAvailable("no miner serves an axon")
        with ENCODE_SECONDS.time():
            embedding = await self._encoder.encode([text])
        # From here on nothing is awaited: head, roll and version belong together.
        fold, version = self._fold, self.version
        outlook = self._outlook(fold, roll)
        x = outlook.describe(embedding[0])
        mean = outlook.mean(x, request.deadline_s)[uids]
        choice = None
        if k is not None:
            needed = k == "auto" or request.random
            std = outlook.std(x, request.deadline_s)[uids] if needed else None
            choice = self._choose(fold, mean, std, uids, roll, k, request.random)
        # Nothing to validate: all of it was made here.
        return ScoreResponse.model_construct(
            uids=tuple(uids.tolist()),
            scores=tuple(_finite(mean).tolist()),
            chosen=tuple(uids[choice.indices].tolist()) if choice else (),
            propensities=tuple(choice.propensities.tolist()) if choice else (),
            head_version=version,
            block=roll.block,
        )

    def _outlook(self, fold: GatingFold, roll: Roll) -> FoldOutlook:
        """Made once for a head and a metagraph; both are replaced, never changed."""
        ready = self._ready
        if ready is None or ready[0] is not fold or ready[1] is not roll:
            ready = self._ready = (fold, roll, fold.outlook(roll.digests))
        return ready[2]

    def _choose(
        self,
        fold: GatingFold,
        mean: np.ndarray,
        std: np.ndarray | None,
        uids: np.ndarray,
        roll: Roll,
        k: int | Literal["auto"],
        random: bool,
    ) -> Choice:
        candidates = np.arange(uids.size)
        groups = (roll.coldkeys[uids], roll.networks[uids])
        if random:
            count = self._settings.k_max if k == "auto" else k
            if not fold.learnt:
                found = uniform(candidates, count, rng=self._rng)
            else:
                assert std is not None
                found = sample(mean, std, candidates, count, rng=self._rng, groups=groups)
            CHOSEN.labels("sample").inc(len(found))
            return found
        found = choose(
            mean,
            std,
            candidates,
            k,
            rng=self._rng,
            explore=self._settings.explore,
            k_max=self._settings.k_max if k == "auto" else max(self._settings.k_max, k),
            groups=groups,
            noise=fold.head.noise,
        )
        CHOSEN.labels("best").inc(len(found))
        return found


def _finite(mean: np.ndarray) -> np.ndarray:
    """Scores that JSON can hold."""
    return mean if np.isfinite(mean).all() else np.nan_to_num(mean)


def _text(request: ScoreRequest) -> str:
    if (request.text is None) == (request.messages is None):
        raise BadRequest("give either text or messages", remedy='Send "text" or "messages", one of them.')
    text = request.text if request.text is not None else prompt_text(request.messages or ())
    if not text.strip():
        raise BadMessages("the prompt is empty")
    if len(text) > MAX_CHARS:
        raise TooLong(f"the prompt has {len(text)} characters; at most {MAX_CHARS} are read")
    return text
