"""Many callers, one model, one thread: what is queued when the thread is free is encoded together."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from hashlib import blake2b

import numpy as np
from prometheus_client import Gauge, Histogram

from coremesh.errors import Busy, ServiceUnavailable
from coremesh.service.metrics import BUCKETS_S
from coremesh.service.priority import step_back
from services.gating.encoder import TextEncoder

QUEUE_DEPTH = Gauge("coremesh_gating_queue_depth", "Prompts that wait for the encoder")
WAIT_SECONDS = Histogram(
    "coremesh_gating_wait_seconds", "Time that a prompt waits until the encoder takes it", buckets=BUCKETS_S
)
TAKEN_PROMPTS = Histogram(
    "coremesh_gating_batch_prompts",
    "Prompts that the encoder takes at once",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)

STUCK_AFTER = timedelta(minutes=10)
"""No batch takes so long: what encodes it hangs, and with it the fold, whose lease is renewed all the same."""
JOIN_S = 10.0
"""For the batch in hand when it is time to stop; one that hangs is left behind."""
STEP_BACK = 5
"""Less than reward's models: users wait for gating first, and not for long."""


class EmbeddingCache:
    """The last ``entries`` embeddings by text; the text itself is not kept."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._kept: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> np.ndarray | None:
        """The embedding, now the most recently used, or None."""
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return found

    def put(self, key: bytes, embedding: np.ndarray) -> None:
        """Keep it, and drop the least recently used over the bound."""
        if self._entries <= 0:
            return
        self._kept[key] = embedding
        self._kept.move_to_end(key)
        while len(self._kept) > self._entries:
            self._kept.popitem(last=False)


class _Job:
    """A text on its way, shared by all who asked for it meanwhile."""

    __slots__ = ("key", "since", "text", "waiting")

    def __init__(self, key: bytes, text: str) -> None:
        self.key, self.text = key, text
        self.waiting: list[asyncio.Future[np.ndarray]] = []
        self.since = time.perf_counter()


class BatchingEncoder:
    """``await encode(texts)`` on one worker thread. Use as an async context manager.

    The thread takes what is queued when it is free, up to ``batch_characters`` (or one text); it never waits for a
    batch to fill. More than ``max_queued`` texts waiting is Busy. When encoding raises an Exception, the callers of
    that batch get it; when the thread itself dies, all callers get ServiceUnavailable at once, ``alive`` turns
    false, and so do all later ones.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        *,
        max_queued: int = 1024,
        batch_characters: int = 65_536,
        cache_entries: int = 4096,
    ) -> None:
        self._encoder = encoder
        self._max_queued = max_queued
        self._batch_characters = batch_characters
        self.cache = EmbeddingCache(cache_entries)
        self._flying: dict[bytes, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._death: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._since_s: float | None = None
        self.batches = 0

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._encoder.dim

    @property
    def identity(self) -> str:
        """Of the encoder underneath."""
        return self._encoder.identity

    @property
    def alive(self) -> bool:
        """Whether it can still encode."""
        return self._thread is not None and self._thread.is_alive() and self._death is None

    @property
    def busy_s(self) -> float:
        """Seconds that the batch in hand has taken already; 0 without one."""
        since_s = self._since_s
        return 0.0 if since_s is None else time.perf_counter() - since_s

    @property
    def queued(self) -> int:
        """Texts that wait for the thread."""
        return len(self._queue)

    async def __aenter__(self) -> BatchingEncoder:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="gating-encoder", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, JOIN_S)
        self._fail_all(ServiceUnavailable("the encoder is shutting down"))

    async def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, dim], aligned with ``texts``. Raises Busy, ServiceUnavailable, or what the model
        raised."""
        if not self.alive or self._stopping:
            raise ServiceUnavailable("the encoder is not running") from self._death
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        waiting: list[tuple[int, asyncio.Future[np.ndarray]]] = []
        assert self._loop is not None
        fresh: dict[bytes, _Job] = {}
        for at, text in enumerate(texts):
            key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if (found := self.cache.get(key)) is not None:
                out[at] = found
                continue
            job = self._flying.get(key) or fresh.get(key)
            if job is None:
                job = fresh[key] = _Job(key, text)
            future = self._loop.create_future()  # one a caller: whoever gives up harms nobody else
            job.waiting.append(future)
            waiting.append((at, future))
        if fresh:
            self._submit(fresh)
        for at, future in waiting:
            out[at] = await future
        return out

    async def watch(self, stuck_after: timedelta = STUCK_AFTER) -> None:
        """Raises RuntimeError when the thread has died, or hangs: its callers then get ServiceUnavailable. Else never
        ends."""
        while self.alive:
            if self.busy_s > stuck_after.total_seconds():
                self._fail_all(ServiceUnavailable("the encoder hangs"))
                raise RuntimeError(f"the encoder has had one batch for over {self.busy_s:.0f} s")
            await asyncio.sleep(0.5)
        raise RuntimeError("the encoder's thread died") from self._death

    def _submit(self, fresh: dict[bytes, _Job]) -> None:
        with self._wake:
            if len(self._queue) + len(fresh) > self._max_queued:
                raise Busy(f"{len(self._queue)} prompts already wait for the encoder")
            self._queue.extend(fresh.values())
            QUEUE_DEPTH.set(len(self._queue))
            self._wake.notify()
        self._flying.update(fresh)

    # -- on the worker thread

    def _run(self) -> None:
        step_back(STEP_BACK)
        try:
            while batch := self._take():
                self._since_s = time.perf_counter()
                try:
                    vectors = self._encoder.encode([job.text for job in batch])
                except Exception as error:
                    self._tell(self._fail, batch, error)
                else:
                    self._tell(self._deliver, batch, vectors)
                self._since_s = None
        except BaseException as error:
            self._death = error
            self._tell(self._fail_all, ServiceUnavailable(f"the encoder's thread died: {error!r}"))

    def _take(self) -> list[_Job]:
        """What is queued, up to the budget; empty when it is time to stop."""
        with self._wake:
            while not self._queue and not self._stopping:
                self._wake.wait()
            batch: list[_Job] = []
            characters = 0
            while self._queue and not self._stopping:
                characters += len(self._queue[0].text)
                if batch and characters > self._batch_characters:
                    break
                batch.append(self._queue.popleft())
            QUEUE_DEPTH.set(len(self._queue))
        now = time.perf_counter()
        for job in batch:
            WAIT_SECONDS.observe(now - job.since)
        if batch:
            TAKEN_PROMPTS.observe(len(batch))
        return batch

    def _tell(self, what: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(what, *args)

    # -- on the event loop

    def _deliver(self, batch: list[_Job], vectors: np.ndarray) -> None:
        self.batches += 1
        for job, vector in zip(batch, vectors, strict=True):
            self._flying.pop(job.key, None)
            self.cache.put(job.key, vector.copy())
            for future in job.waiting:
                if not future.done():
                    future.set_result(vector)

    def _fail(self, batch: list[_Job], error: BaseException) -> None:
        for job in batch:
            self._flying.pop(job.key, None)
            for future in job.waiting:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # its caller may wait for another text, which failed too

    def _fail_all(self, error: BaseException) -> None:
        with self._wake:
            self._queue.clear()
            QUEUE_DEPTH.set(0)
        self._fail(list(self._flying.values()), error)
