"""A History in memory, for unit tests only; it passes the same contract tests as Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

import msgspec

from coremesh.errors import LeaseLost
from coremesh.events import Event, ForwardEvent, MetagraphEvent, Transcript, decode, encode
from coremesh.history.keys import HOTKEY_MARGIN
from coremesh.history.page import Page, has_pages
from coremesh.history.protocol import Checkpoint, Entry, Lease, Submission, SubmissionEntry
from coremesh.metagraph import Metagraph
from coremesh.types import ORIGIN, StreamId, hotkey_digest, stream_key
from tests.pages import fill


class MemoryHistory:
    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._seen: dict[str, StreamId] = {}
        self._transcripts: dict[str, Transcript] = {}
        self._hotkeys: dict[int, str] = {}
        self._announced: dict[int, int] = {}
        """Digests, by the number of the event that they were last sent with."""
        self._metagraph: Metagraph | None = None
        self._checkpoints: dict[str, tuple[Checkpoint, int]] = {}
        self._leases: dict[str, tuple[str, float]] = {}
        self._fences: dict[str, int] = {}
        self._submissions: list[SubmissionEntry] = []
        self._trimmed = ORIGIN
        self._count = 0
        self._grown = asyncio.Event()

    def _place(self) -> StreamId:
        self._count += 1
        return StreamId(f"{self._count}-0")

    def _add(self, event: Event) -> StreamId:
        if event.id in self._seen:
            return self._seen[event.id]
        place = self._place()
        self._entries.append(Entry(place, event))
        self._seen[event.id] = place
        self._grown.set()
        self._grown = asyncio.Event()
        return place

    def _check(self, lease: Lease) -> None:
        if self._fences.get(lease.role) != lease.token:
            raise LeaseLost("another leader has taken over this role")

    async def append(
        self, event: ForwardEvent, transcript: Transcript | None, hotkeys: list[str]
    ) -> StreamId:
        if event.id not in self._seen and transcript is not None:
            self._transcripts[event.id] = transcript
        place = self._add(event)
        self._announce(hotkeys)
        return place

    def _announce(self, hotkeys: list[str]) -> None:
        named = {hotkey_digest(h): h for h in hotkeys if h}
        self._hotkeys |= named
        self._announced |= dict.fromkeys(named, self._count)

    async def read(
        self,
        after: StreamId,
        count: int,
        block: timedelta | None = None,
        decode: Callable[[bytes], Any] = decode,
    ) -> list[Entry]:
        found = [Entry(e.stream_id, decode(encode(e.event))) for e in self._after(after, count)]
        if found or block is None:
            return found
        try:
            await asyncio.wait_for(self._grown.wait(), block.total_seconds())
        except TimeoutError:
            return []
        return await self.read(after, count, None, decode)

    def _after(self, place: StreamId, count: int) -> list[Entry]:
        return [e for e in self._entries if stream_key(e.stream_id) > stream_key(place)][:count]

    async def sweep(self, after: StreamId, most: int, page: Page, take: Callable[[Page], None]) -> int | None:
        if not has_pages():
            return None
        count = 0
        while count < most:
            fill(page, [(e.stream_id, encode(e.event)) for e in self._after(after, page.most)])
            if not page.count:
                break
            after, count = page.last, count + page.count
            take(page)
        page.taker = None
        return count

    async def tail(self, count: int) -> list[Entry]:
        return self._entries[::-1][:count]

    async def find(self, event_id: str) -> Entry | None:
        place = self._seen.get(event_id)
        return next((e for e in self._entries if e.stream_id == place), None)

    async def last_id(self) -> StreamId:
        return self._entries[-1].stream_id if self._entries else ORIGIN

    async def length(self) -> int:
        return len(self._entries)

    async def trimmed(self) -> StreamId:
        return self._trimmed

    async def trim(self, keep: int, folds: tuple[str, ...]) -> int:
        excess = len(self._entries) - keep
        if excess <= 0 or any(fold not in self._checkpoints for fold in folds):
            return 0
        places = [self._checkpoints[fold][0].last_id for fold in folds]
        slowest = min((stream_key(p) for p in places), default=(2**62, 0))
        drop = [e for e in self._entries[:excess] if stream_key(e.stream_id) <= slowest]
        if drop:
            self._trimmed = drop[-1].stream_id
            self._entries = self._entries[len(drop) :]
        return len(drop)

    async def transcript(self, event_id: str) -> Transcript | None:
        return self._transcripts.get(event_id)

    async def resolve(self, digests: list[int]) -> dict[int, str]:
        return {d: self._hotkeys[d] for d in digests if d in self._hotkeys}

    async def forget_hotkeys(self, keep: Collection[int], margin: timedelta = HOTKEY_MARGIN) -> int:
        if margin:  # there is no time here
            return 0
        self._announced |= dict.fromkeys(self._hotkeys.keys() & set(keep), self._count)
        oldest = stream_key(self._entries[0].stream_id)[0] if self._entries else self._count
        gone = [digest for digest, at in self._announced.items() if at < oldest]
        for digest in gone:
            del self._announced[digest]
            self._hotkeys.pop(digest, None)
        return len(gone)

    async def metagraph(self) -> Metagraph | None:
        return self._metagraph

    async def publish(
        self, metagraph: Metagraph, event: MetagraphEvent | None, lease: Lease
    ) -> StreamId | None:
        self._check(lease)
        self._metagraph = metagraph
        place = self._add(event) if event else None
        self._announce(metagraph.hotkeys)
        return place

    async def load(self, fold: str) -> Checkpoint | None:
        found = self._checkpoints.get(fold)
        return found[0] if found else None

    async def version(self, fold: str) -> int:
        found = self._checkpoints.get(fold)
        return found[0].version if found else 0

    async def save(self, fold: str, checkpoint: Checkpoint, lease: Lease, expected: StreamId) -> Checkpoint:
        self._check(lease)
        found = self._checkpoints.get(fold)
        at, version = (found[0].last_id, found[0].version) if found else (ORIGIN, 0)
        if at != expected:
            again = found is not None and found[1] == lease.token and at == checkpoint.last_id
            if again and found is not None and found[0].state == checkpoint.state:
                return found[0]
            raise LeaseLost("the checkpoint has moved")
        saved = msgspec.structs.replace(checkpoint, version=version + 1)
        self._checkpoints[fold] = (saved, lease.token)
        return saved

    async def acquire(self, role: str, holder: str, ttl: timedelta) -> Lease | None:
        current = self._leases.get(role)
        now = time.monotonic()
        if current and current[1] > now and current[0] != holder:
            return None
        if not current or current[1] <= now:
            self._fences[role] = self._fences.get(role, 0) + 1
        self._leases[role] = (holder, now + ttl.total_seconds())
        return Lease(role, holder, self._fences[role])

    async def renew(self, lease: Lease, ttl: timedelta) -> bool:
        current = self._leases.get(lease.role)
        now = time.monotonic()
        if not current or current[0] != lease.holder or current[1] <= now:
            return False
        if self._fences[lease.role] != lease.token:
            return False
        self._leases[lease.role] = (lease.holder, now + ttl.total_seconds())
        return True

    async def release(self, lease: Lease) -> None:
        current = self._leases.get(lease.role)
        if current and current[0] == lease.holder:
            del self._leases[lease.role]

    async def leader(self, role: str) -> str | None:
        current = self._leases.get(role)
        return current[0] if current and current[1] > time.monotonic() else None

    async def submit(self, submission: Submission, lease: Lease) -> StreamId:
        self._check(lease)
        entry = SubmissionEntry(self._place(), submission)
        self._submissions.append(entry)
        return entry.stream_id

    async def submissions(self, count: int) -> list[SubmissionEntry]:
        return self._submissions[::-1][:count]

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        return None
