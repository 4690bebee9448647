"""A causal language model in this process, through transformers, on a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import TextStreamer

from coremesh.errors import BadModel, Busy, DeadlineExceeded, Unavailable
from miner.backends.deadline import within
from miner.backends.protocol import BackendFailed, Turns

log = structlog.get_logger(__name__)

LOADING_S = 600.0
JOIN_S = 10.0
ROOM_FOR_LAST_TOKEN_S = 0.1
"""Generation stops so long before its deadline, so that what there is still reaches the caller."""


@dataclass
class _Job:
    """One conversation; the worker puts pieces, then None or an error."""

    turns: Turns
    deadline: float
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[str | Exception | None] = field(default_factory=asyncio.Queue)
    dropped: threading.Event = field(default_factory=threading.Event)

    def put(self, piece: str | Exception | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)
        except RuntimeError:
            # The loop has closed: nobody is left to read it.
            self.dropped.set()

    def over(self) -> bool:
        return self.dropped.is_set() or time.monotonic() > self.deadline - ROOM_FOR_LAST_TOKEN_S


class TransformersBackend:
    """Completes one conversation after another; at most ``max_queue`` wait, others are told Busy."""

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        max_tokens: int = 256,
        temperature: float = 0.7,
        max_queue: int = 16,
        threads: int | None = None,
    ) -> None:
        """``model`` is a directory, or a name on the model hub; nothing is loaded before ``start``."""
        self._name = model
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._threads = threads
        self._jobs: queue.Queue[_Job | None] = queue.Queue(max_queue)
        self._worker = threading.Thread(target=self._work, name="model", daemon=True)
        self._closing = threading.Event()
        self._model: Any = None
        self._tokenizer: Any = None

    async def start(self) -> None:
        """Load the model and start the worker. Raises BadModel."""
        async with asyncio.timeout(LOADING_S):
            await asyncio.to_thread(self._load)
        self._worker.start()

    async def close(self) -> None:
        """Stop generating and end the worker."""
        self._closing.set()
        if self._worker.is_alive():
            try:
                self._jobs.put_nowait(None)
            except queue.Full:
                # The worker drops everything queued once it is closing, and then looks at the flag.
                log.debug("closing with a full queue")
            await asyncio.to_thread(self._worker.join, JOIN_S)

    async def problem(self) -> str | None:
        """Whether the worker lives."""
        return None if self._worker.is_alive() else "the model's thread has ended"

    async def stream(self, turns: Turns, *, timeout_s: float) -> AsyncGenerator[str, None]:
        """See Backend."""
        if not self._worker.is_alive():
            raise Unavailable("the model's thread has ended")
        job = _Job(turns, time.monotonic() + timeout_s, asyncio.get_running_loop())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Busy("too many conversations wait for the model") from None
        given = False
        try:
            async with aclosing(within(_pieces(job), timeout_s)) as pieces:
                async for piece in pieces:
                    given = True
                    yield piece
        finally:
            job.dropped.set()
        if not given:
            raise BackendFailed("the model has nothing to say to this")

    def _load(self) -> None:
        local = Path(self._name).expanduser()
        source = str(local) if local.exists() else self._name
        options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local.exists()}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source, **options)
            model: Any = AutoModelForCausalLM.from_pretrained(
                source,
                use_safetensors=True,
                dtype="auto" if self._device != "cpu" else torch.float32,
                **options,
            )
            self._model = model.to(self._device).eval()
        except Exception as error:
            # transformers promises no class of error for a model that is missing or does not fit.
            reason = " ".join(str(error).split())[:300]
            raise BadModel(
                f"--model {self._name}: cannot be loaded as a causal language model: {reason}"
            ) from error
        if self._threads:
            torch.set_num_threads(self._threads)

    def _work(self) -> None:
        while not self._closing.is_set():
            job = self._jobs.get()
            if job is None or self._closing.is_set():
                break
            if job.over():
                job.put(DeadlineExceeded("the model had no time for this before its deadline"))
                continue
            try:
                self._generate(job)
            except Exception as error:
                log.error("generation failed", exc_info=error)
                job.put(BackendFailed(f"the model failed: {type(error).__name__}"))
            else:
                job.put(None)

    def _generate(self, job: _Job) -> None:
        ids = self._encode(job.turns)
        sampling: dict[str, Any] = {"do_sample": False}
        if self._temperature > 0:
            sampling = {"do_sample": True, "temperature": self._temperature}
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self._max_tokens,
                pad_token_id=self._padding(),
                streamer=_Words(self._tokenizer, job),
                stopping_criteria=StoppingCriteriaList([_Over(job, self._closing)]),
                **sampling,
            )

    def _encode(self, turns: Turns) -> torch.Tensor:
        """Token ids [1, n] of the conversation, its beginning cut off where the model would have no room to answer."""
        if self._tokenizer.chat_template:
            ids = self._tokenizer(self._rendered(turns), add_special_tokens=False)["input_ids"]
        else:
            lines = [f"{turn['role']}: {turn['content']}" for turn in turns]
            ids = self._tokenizer("\n".join([*lines, "assistant:"]))["input_ids"]
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room:
            ids = ids[-max(1, room - self._max_tokens) :]
        return torch.tensor([ids], device=self._device)

    def _rendered(self, turns: Turns) -> str:
        """The conversation in the model's own template. Some (Gemma's) refuse system messages, with which training's
        questions begin, or two turns of one role in a row: such a conversation is told in turns that alternate."""
        try:
            return self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except Exception:  # a template is a program of the model's author
            told = alternating(turns)
            return self._tokenizer.apply_chat_template(told, add_generation_prompt=True, tokenize=False)

    def _padding(self) -> int:
        for token in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0


def alternating(turns: Turns) -> Turns:
    """The conversation with a user's turn first and no two of one role in a row; what the system says, a user does."""
    told: Turns = []
    for turn in turns:
        role = turn["role"] if turn["role"] == "assistant" and told else "user"
        if told and told[-1]["role"] == role:
            told[-1]["content"] += "\n\n" + turn["content"]
        else:
            told.append({"role": role, "content": turn["content"]})
    return told


async def _pieces(job: _Job) -> AsyncGenerator[str, None]:
    while (piece := await job.pieces.get()) is not None:
        if isinstance(piece, Exception):
            raise piece
        yield piece


class _Words(TextStreamer):
    """Hands whole words to a job as they are generated."""

    def __init__(self, tokenizer: Any, job: _Job) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._job = job

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by generate."""
        if text:
            self._job.put(text)


class _Over(StoppingCriteria):
    """Ends generation when its caller has gone, its deadline is near, or the miner closes."""

    def __init__(self, job: _Job, closing: threading.Event) -> None:
        self._job = job
        self._closing = closing

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Called by generate after every token."""
        over = self._closing.is_set() or self._job.over()
        return torch.full((input_ids.shape[0],), over, dtype=torch.bool, device=input_ids.device)
