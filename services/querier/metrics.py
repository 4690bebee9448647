"""What the querier measures. Names carry their unit; labels come from fixed sets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from coremesh.service.metrics import BUCKETS_S

STAGE_SECONDS = Histogram(
    "coremesh_querier_stage_seconds",
    "Time in each stage of a forward: filter, gating, query, reward, record",
    ["stage"],
    buckets=BUCKETS_S,
)
OVERHEAD_SECONDS = Histogram(
    "coremesh_querier_overhead_seconds",
    "What an answer took beyond waiting for miners",
    buckets=BUCKETS_S,
)
FORWARDS = Counter("coremesh_forwards_total", "Forwards by kind and result", ["kind", "result"])
FORWARDS_IN_FLIGHT = Gauge("coremesh_forwards_in_flight", "Forwards that are not recorded yet")
REPLIES = Counter("coremesh_miner_replies_total", "Answers of miners by status", ["status"])
EVENTS = Counter("coremesh_events_total", "Events by what became of them", ["outcome"])
EVENTS.labels("lost")  # from 0 on: what begins at 1 has not risen, as an alert sees it
DEGRADED = Counter("coremesh_degraded_total", "Forwards that did without a part of the mesh", ["part"])
SPOOLED_EVENTS = Gauge("coremesh_spool_events", "Events that wait on disk for Redis")
SET_ASIDE_EVENTS = Gauge(
    "coremesh_spool_set_aside_events",
    "Files of the spool that cannot be read or sent, until they are seen to",
)
MINER_CLIENT = Gauge("coremesh_miner_client_size", "What the miner client holds, by kind", ["kind"])
METAGRAPH_AGE_SECONDS = Gauge("coremesh_metagraph_age_seconds", "Age of the metagraph in use")
CALLERS = Gauge("coremesh_querier_callers", "User requests being served")
CALLERS_WAITING = Gauge("coremesh_querier_callers_waiting", "User requests that queue for a place")
CALLERS_REFUSED = Counter(
    "coremesh_querier_callers_refused_total",
    "User requests answered with 429, by the limit: rate, concurrent (of one caller), queue",
    ["limit"],
)
TRAINER_LEADING = Gauge("coremesh_trainer_leading", "1 while this instance trains")
TRAINER_TEXTS = Counter(
    "coremesh_trainer_texts_total", "Texts wanted from a source of questions", ["source", "result"]
)
TRAINER_WINDOW = Gauge("coremesh_trainer_window", "Training forwards that may run at once")
TRAINER_STEPS = Counter("coremesh_trainer_steps_total", "Training steps by result", ["step", "result"])


class Stopwatch:
    """Seconds per stage of one forward; a stage that runs twice adds up."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as ``name``, in the histogram too."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            STAGE_SECONDS.labels(name).observe(took)

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start
