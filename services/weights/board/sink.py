"""Following the history and telling wandb's process of it, whatever that does."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog

from coremesh.errors import BadSetting
from coremesh.events import ForwardEvent
from coremesh.history import Checkpoint, Entry, History, Lease
from coremesh.leading import TTL, Leading
from coremesh.settings import WandbSettings
from coremesh.types import ORIGIN, stream_key
from services.weights.board.metrics import EVENTS, FAILURES, GAPS
from services.weights.board.row import Row, row_of

log = structlog.get_logger(__name__)

NAME = ROLE = "wandb"
FORMAT = "wandb/1"
PAGE = 50
WAIT = timedelta(seconds=1)
LONGEST_BACKOFF_S = 600.0
END_S = 3.0
LINE_BYTES = 64 * 1024
COMMAND = (sys.executable, "-m", "services.weights.board.child")
PASSED_ON = (
    "PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LANG",
    "LC_ALL",
    "TZ",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
)


class BoardFailed(Exception):
    """wandb's process failed, hung or ended."""


def need_wandb() -> None:
    """Raise BadSetting where the library is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise BadSetting(
            "COREMESH_WANDB_MODE is set, and wandb is not installed",
            remedy="pip install 'coremesh[wandb]', build the image with EXTRAS=wandb, or unset it.",
        )


class Board:
    """wandb's process. An async context manager: leaving it ends the process, by force where it must."""

    def __init__(
        self, settings: WandbSettings, *, name: str, config: dict[str, Any], command: Sequence[str] = COMMAND
    ) -> None:
        self._settings = settings
        self._command = command
        self._made = {
            "project": settings.project,
            "entity": settings.entity,
            "mode": settings.mode,
            "directory": str(settings.directory.absolute()),
            "run_events": settings.run_events,
            "notes": settings.notes,
            "tags": list(settings.tags),
            "name": name,
            "config": config,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._ending: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Board:
        self._settings.directory.mkdir(parents=True, exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=LINE_BYTES,
            start_new_session=True,
        )
        try:
            await self._say(self._made)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        # Whoever is cancelled here is cancelled again and again; the last run may finish meanwhile.
        self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), END_S)
        finally:
            # With all that it started: wandb has a process of its own too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        # asyncio takes a process for ended only when its pipes are: what is still in them goes away.
        while await process.stdout.read(LINE_BYTES):
            pass
        await process.wait()

    async def log(self, rows: list[Row]) -> None:
        """Tell of rows. Raises BoardFailed."""
        if rows:
            await self._say(rows)

    async def _say(self, what: object) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                process.stdin.write(json.dumps(what).encode() + b"\n")
                await process.stdin.drain()
                answer = await process.stdout.readline()
        except TimeoutError:
            raise BoardFailed(f"it did not answer within {self._settings.timeout_s:g} s") from None
        except (OSError, ValueError) as error:
            raise BoardFailed(f"it ended: {type(error).__name__}") from None
        if not answer:
            raise BoardFailed("it ended")
        try:
            problem = json.loads(answer).get("error")
        except (ValueError, AttributeError):
            problem = "it said something that is no answer"
        if problem:
            raise BoardFailed(str(problem)[:500])

    def _environment(self) -> dict[str, str]:
        """Not ours: settings hold secrets, and wandb keeps what it finds around it."""
        folder = self._made["directory"]
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in PASSED_ON or name.startswith("WANDB_") or name.lower().endswith("_proxy")
        }
        key = self._settings.key.get_secret_value()
        return {
            **kept,
            **({"WANDB_API_KEY": key} if key else {}),
            "HOME": folder,
            "WANDB_CACHE_DIR": folder,
            "WANDB_CONFIG_DIR": folder,
            "WANDB_DATA_DIR": folder,
        }


class Sink:
    """Follows the history while it leads, and tells wandb of every forward."""

    def __init__(
        self,
        history: History,
        settings: WandbSettings,
        *,
        name: str,
        config: dict[str, Any],
        holder: str,
        ttl: timedelta = TTL,
        wait: timedelta = WAIT,
        backoff_s: float = 5.0,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._history = history
        self._settings = settings
        self._name = name
        self._config = config
        self._leading = Leading(history, role=ROLE, holder=holder, ttl=ttl)
        self._wait = wait
        self._backoff_s = backoff_s
        self._command = command
        self._told = False

    async def run(self) -> None:
        """Tell while leading, for ever. Ends when cancelled."""
        await self._leading.run(self._work)

    async def _work(self, lease: Lease) -> None:
        backoff = self._backoff_s
        while True:
            board = Board(self._settings, name=self._name, config=self._config, command=self._command)
            try:
                async with board:
                    await self._follow(board, lease)
            except (BoardFailed, OSError) as error:
                if self._told:
                    backoff, self._told = self._backoff_s, False
                FAILURES.inc()
                log.warning("wandb is not told", reason=str(error)[:300], retry_in_s=backoff)
            await asyncio.sleep(backoff)
            backoff = min(LONGEST_BACKOFF_S, backoff * 2)

    async def _follow(self, board: Board, lease: Lease) -> None:
        checkpoint = await self._history.load(NAME)
        if checkpoint is not None:
            at = saved_at = checkpoint.last_id
        else:
            # A board shows what happens: it does not begin with all that ever happened.
            at, saved_at = await self._history.last_id(), ORIGIN
        trimmed = await self._history.trimmed()
        if stream_key(at) < stream_key(trimmed):
            GAPS.inc()
            log.warning("events were trimmed before wandb was told of them", at=at, trimmed=trimmed)
        while True:
            if at != saved_at:
                draft = Checkpoint(last_id=at, state=b"", format=FORMAT)
                await self._history.save(NAME, draft, lease, saved_at)
                saved_at = at
            entries = await self._history.read(at, PAGE, self._wait)
            if entries:
                rows = await self._rows(entries)
                await board.log(rows)
                EVENTS.inc(len(rows))
                self._told = True
                at = entries[-1].stream_id

    async def _rows(self, entries: Sequence[Entry]) -> list[Row]:
        forwards = [
            (entry.stream_id, entry.event)
            for entry in entries
            if isinstance(entry.event, ForwardEvent) and entry.event.sound
        ]
        digests = {int(digest) for _, event in forwards for digest in event.hotkeys}
        names = await self._history.resolve(sorted(digests - {0}))
        rows: list[Row] = []
        for place, event in forwards:
            # A private event has no texts anywhere.
            texts = await self._history.transcript(event.id) if self._settings.texts else None
            rows.append(row_of(place, event, names, texts=texts, prompt=self._settings.texts))
        return rows
