"""What a caller may ask for. Every refusal says what is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coremesh.contracts import ChatMessage, ForwardRequest, InferenceRequest
from coremesh.errors import BadMessages, BadRequest, TooLong
from coremesh.settings import QuerierSettings
from services.querier.caller import Caller
from services.querier.choose import TopK
from services.querier.query import Query
from services.querier.snapshot import SnapshotFollower
from services.querier.timeouts import timeout_s

FORWARD_REWARD_TIMEOUT_S = 60.0
"""Operators wait for rewards rather than have a forward unscored."""

MARGIN_S = 2.0
"""Seconds that an answer may take beyond the deadlines of its stages."""


class Limits:
    """Turns requests into queries. Raises BadRequest and its kin for what cannot be."""

    def __init__(self, settings: QuerierSettings, snapshot: SnapshotFollower) -> None:
        self._settings = settings
        self._snapshot = snapshot

    def inference(self, request: InferenceRequest, caller: Caller) -> Query:
        """The query for a caller's prompt."""
        settings = self._settings
        topk = request.top_k if request.top_k is not None else settings.inference_topk
        if request.top_k is not None and request.top_k != "auto":
            self._check_topk(request.top_k)
        if request.wait_for is not None and topk != "auto" and request.wait_for > topk:
            raise BadRequest(f"wait_for is {request.wait_for} and only {topk} miners are asked")
        by_reward = True if request.use_reward_model is None else request.use_reward_model
        messages = self.messages(request.messages)
        return Query(
            messages=messages,
            kind="inference",
            topk=topk,
            timeout_s=self.timeout(request.timeout, messages),
            wait_for=request.wait_for,
            by_reward=by_reward,
            every=request.return_all,
            scored=settings.score_organic and caller.scored,
            private=request.private or caller.private,
            filter_prompt=not settings.no_nsfw_filter,
            filter_completions=not settings.no_nsfw_filter,
            must_filter=settings.filter_when_away == "refuse",
            reward_timeout_s=settings.reward_timeout_s,
        )

    @property
    def usual_topk(self) -> int:
        """Miners asked when the caller does not say."""
        return self._settings.inference_topk

    @property
    def most_miners(self) -> float:
        """How many there are at most; without bound before anything is known of the network."""
        return self._snapshot.current.size if self._snapshot.current else math.inf

    def axon(self, request: ForwardRequest, caller: Caller) -> Query:
        """The query for what another neuron asks our axon: as a user's."""
        if extra := sorted(request.model_fields_set - {"roles", "messages", "timeout"}):
            raise BadRequest(f"{', '.join(extra)}: for operators only, not for hotkeys")
        asked = InferenceRequest.model_validate({"messages": _turns(request), "timeout": request.timeout})
        return self.inference(asked, caller)

    def forward(self, request: ForwardRequest) -> Query:
        """The query for an operator's forward."""
        topk: TopK = None if request.topk == -1 else request.topk
        if topk is not None and isinstance(topk, int) and topk < 1:
            raise BadRequest(f"topk is {topk}; it takes a number of miners, or -1 for all")
        messages = self.messages(_turns(request))
        return Query(
            messages=messages,
            kind=request.kind,
            topk=topk,
            timeout_s=self.timeout(request.timeout, messages),
            sample=request.random_sample_uids,
            train_gating=request.train_gating_model,
            train_network=request.train_network,
            difference=request.difference,
            every=True,
            reward_timeout_s=FORWARD_REWARD_TIMEOUT_S,
        )

    def patience_s(self, query: Query) -> float:
        """Seconds after which a caller has an answer or an error, whatever happens."""
        return query.timeout_s + self._settings.gating_timeout_s + query.reward_timeout_s + MARGIN_S

    def messages(self, messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
        """``messages`` when miners can be asked them."""
        settings = self._settings
        if not messages:
            raise BadMessages("there are no messages")
        if len(messages) > settings.max_messages:
            raise TooLong(f"{len(messages)} messages; at most {settings.max_messages} are taken")
        for at, message in enumerate(messages):
            if not message.content.strip():
                raise BadMessages(f"messages.{at}.content is only white space")
        chars = sum(len(message.content) for message in messages)
        if chars > settings.max_prompt_chars:
            raise TooLong(f"{chars} characters; at most {settings.max_prompt_chars} are taken")
        if all(message.role == "system" for message in messages):
            raise BadMessages("there is no message of a user")
        return tuple(messages)

    def timeout(self, asked: float | None, messages: Sequence[ChatMessage]) -> float:
        """``asked`` seconds when miners may have so many; the usual ones for these messages when none are asked for."""
        settings = self._settings
        most = settings.max_timeout_s
        if asked is None:
            return timeout_s(settings.inference_timeout_s, settings.timeout_per_char_s, messages, most_s=most)
        if not math.isfinite(asked) or asked <= 0 or asked > most:
            raise BadRequest(f"timeout is {asked!r}; it takes seconds, more than 0 and at most {most:g}")
        return asked

    def _check_topk(self, topk: int) -> None:
        if topk < 1:
            raise BadRequest(f"top_k is {topk}; it takes 1 or more")
        size = self._snapshot.current.size if self._snapshot.current else None
        if size is not None and topk > size:
            raise BadRequest(f"top_k is {topk} and the network has {size} uids")


def _turns(request: ForwardRequest) -> tuple[ChatMessage, ...]:
    if len(request.roles) != len(request.messages):
        raise BadMessages(f"{len(request.roles)} roles for {len(request.messages)} messages")
    return tuple(
        ChatMessage(role=role, content=content)
        for role, content in zip(request.roles, request.messages, strict=True)
    )
