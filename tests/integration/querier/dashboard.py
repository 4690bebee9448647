"""A history as a devnet writes it, and doubles of the services that the dashboard reads, over real HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from coremesh.contracts import (
    ExplainedEvent,
    ExplainedReset,
    Explanation,
    ScoreStanding,
    SignedExplanation,
)
from coremesh.events import Flag, ForwardEvent, Message, Transcript, forward_event
from coremesh.history.redis import RedisHistory
from coremesh.metagraph import Metagraph
from coremesh.types import event_id_ms, hotkey_digest, new_event_id
from coremesh.wire.status import Status

VERSION = "0.1.0"


def make_event(
    metagraph: Metagraph,
    rewards: dict[int, float | Status],
    *,
    time_ms: int,
    kind: str = "answer",
    gating: dict[int, float] | None = None,
    propensity: float | None = None,
    prompt: str = "Why is the sky blue?",
    **more: Any,
) -> ForwardEvent:
    """One forward: a reward per uid, or the status of its failure."""
    uids = list(rewards)
    found = [rewards[uid] for uid in uids]
    good = [not isinstance(one, Status) for one in found]
    best = max((i for i, fine in enumerate(good) if fine), key=lambda i: found[i], default=-1)
    return forward_event(
        id=new_event_id(time_ms),
        time_ms=time_ms,
        block=metagraph.block,
        kind=kind,
        flags=Flag.SCORED | Flag.TRAIN_GATING,
        messages=(Message("user", prompt),),
        uids=uids,
        hotkeys=[metagraph.neurons[uid].hotkey for uid in uids],
        status=[Status.OK if fine else one for one, fine in zip(found, good, strict=True)],
        latency_s=[0.05 * (1 + uid) for uid in uids],
        rewards=[one if fine else np.nan for one, fine in zip(found, good, strict=True)],
        parts={"relevance": [one if fine else np.nan for one, fine in zip(found, good, strict=True)]},
        gating=[gating[uid] for uid in uids] if gating else (),
        best=best,
        head_version=3,
        stack_version="stack-1",
        available=len(metagraph.available()),
        propensity=[propensity] * len(uids) if propensity else (),
        **more,
    )


async def append(history: RedisHistory, event: ForwardEvent, completions: tuple[str, ...] = ()) -> str:
    """Record an event as a querier does. Gives its place."""
    assert event_id_ms(event.id)
    transcript = Transcript(id=event.id, completions=completions) if completions else None
    return await history.append(event, transcript, [])


async def seed(
    history: RedisHistory, metagraph: Metagraph, count: int, *, seed: int = 5
) -> list[ForwardEvent]:
    """``count`` forwards of the last minutes: miners of different skill, and a gating that learns to tell."""
    rng = np.random.default_rng(seed)
    uids = [neuron.uid for neuron in metagraph.available()]
    skill = dict(zip(uids, np.linspace(0.9, 0.15, len(uids)), strict=True))
    reliable = dict(zip(uids, rng.uniform(0.7, 1.0, len(uids)), strict=True))
    now_ms = time.time_ns() // 1_000_000
    made: list[ForwardEvent] = []
    for i in range(count):
        asked = [int(uid) for uid in rng.choice(uids, size=min(len(uids), 8), replace=False)]
        rewards: dict[int, float | Status] = {}
        for uid in asked:
            fine = rng.random() < reliable[uid]
            noisy = float(np.clip(skill[uid] + rng.normal(0, 0.12), 0, 1))
            rewards[uid] = noisy if fine else Status(int(rng.choice([1, 2, 3, 7])))
        sure = 1 - np.exp(-i / (count / 3))
        gating = {uid: float(sure * skill[uid] + (1 - sure) * rng.random()) for uid in asked}
        event = make_event(
            metagraph,
            rewards,
            time_ms=now_ms - (count - i) * 700,
            kind="question" if i % 3 == 2 else "answer",
            gating=gating,
            propensity=len(asked) / len(uids),
            degraded=("reward",) if i == count - 7 else (),
        )
        await append(history, event, tuple(f"Completion of uid {uid}." for uid in asked))
        made.append(event)
    return made


@dataclass
class Doubles:
    """gating, reward, weights and trainer as the dashboard reads them. ``down`` names what fails."""

    metagraph: Metagraph
    last_id: str = "0-0"
    scores: dict[int, float] = field(default_factory=dict)
    on_chain: dict[int, int] = field(default_factory=dict)
    submissions: list[dict[str, Any]] = field(default_factory=list)
    held: str | None = None
    explanations: dict[int, Any] = field(default_factory=dict)
    checks: dict[str, str] = field(default_factory=lambda: {"redis": "ok"})
    down: set[str] = field(default_factory=set)
    asked: dict[str, int] = field(default_factory=dict)

    def add_to(self, app: FastAPI) -> None:
        """Serve what is not there yet; of ``/healthz`` and ``/scores`` this one counts."""
        app.router.routes[:] = [
            route for route in app.router.routes if getattr(route, "path", "") not in ("/healthz", "/scores")
        ]

        def serve(path: str, answer: Any) -> None:
            async def endpoint() -> Response:
                self.asked[path] = self.asked.get(path, 0) + 1
                if path in self.down:
                    return JSONResponse({"code": "x", "message": "it is down", "remedy": ""}, 503)
                return JSONResponse(answer())

            app.get(path)(endpoint)

        def ready() -> dict[str, Any]:
            return {"ready": all(v == "ok" for v in self.checks.values()), "checks": self.checks}

        serve("/healthz", lambda: {"status": "alive", "version": VERSION})
        serve("/readyz", ready)
        serve("/scores", self._scores)
        serve("/weights", self._weights)
        serve("/submissions", lambda: {"submissions": self.submissions})
        serve("/head", self._head)
        serve("/stack", self._stack)

        @app.get("/explain/{uid}")
        async def explain(uid: int) -> Response:
            if uid not in self.explanations:
                return JSONResponse({"code": "not_found", "message": "nothing is known", "remedy": ""}, 404)
            return JSONResponse(self.explanations[uid])

        _ = explain

    def _scores(self) -> dict[str, Any]:
        rows = [
            {
                "uid": n.uid,
                "hotkey": n.hotkey,
                "score": self.scores.get(n.uid, 0.0),
                "successes": 10 * n.uid,
                "failures": n.uid,
                "excluded": self.metagraph.is_validator(n),
                "reset_block": 0,
            }
            for n in self.metagraph.neurons
        ]
        return {
            "rule": "softmax_ema",
            "alpha": 0.99,
            "events": 42,
            "last_id": self.last_id,
            "version": 9,
            "rows": rows,
        }

    def _weights(self) -> dict[str, Any]:
        total = sum(self.scores.values()) or 1.0
        return {
            "uids": list(self.scores),
            "weights": [score / total for score in self.scores.values()],
            "values": [1 for _ in self.scores],
            "on_chain": self.on_chain,
            "on_chain_block": 5,
            "last_id": self.last_id,
            "held": self.held,
        }

    def _head(self) -> dict[str, Any]:
        return {
            "rule": "bayes",
            "encoder": "all-MiniLM-L6-v2",
            "version": 17,
            "last_id": self.last_id,
            "steps": 40,
            "hotkeys": 10,
            "features": 64,
            "leading": True,
            "leader": "here:1",
        }

    def _stack(self) -> dict[str, Any]:
        return {
            "version": "stack-1",
            "functions": {"relevance": 1.0},
            "masks": ["length"],
            "models": {},
            "stats_version": 0,
            "safety": False,
        }


def explanation(metagraph: Metagraph, uid: int, score: float, *, note: str = "") -> dict[str, Any]:
    """An account of a score as the weights service gives it: a new beginning, a failure, a success."""
    hotkey = metagraph.neurons[uid].hotkey

    def standing(value: float) -> ScoreStanding:
        digest = f"{hotkey_digest(hotkey):016x}"
        return ScoreStanding(
            moving=value, score=value, successes=10, failures=1, hotkey=digest, former=(), excluded=False
        )

    def asked(reward: float | None, share: float | None) -> ExplainedEvent:
        return ExplainedEvent(
            event_id=new_event_id(),
            stream_id="1-0",
            time_ms=time.time_ns() // 1_000_000,
            block=7,
            kind="answer",
            asked=3,
            places=(0,),
            hotkeys=(f"{hotkey_digest(hotkey):016x}",),
            rewards=(reward, 0.4, None),
            reward=reward,
            status="timeout" if reward is None else "ok",
            share=share,
            counted=True,
            before=standing(score - 0.002),
            after=standing(score),
        )

    reset = ExplainedReset(
        event_id=new_event_id(),
        stream_id="1-0",
        time_ms=time.time_ns() // 1_000_000,
        block=7,
        old_hotkey="",
        new_hotkey=hotkey,
        reason="the hotkey changed",
        before=standing(score),
        after=standing(0.0),
    )
    found = Explanation(
        netuid=1,
        validator=metagraph.hotkey,
        uid=uid,
        hotkey=hotkey,
        rule="softmax_ema alpha=0.99",
        standing=standing(score),
        rank=1,
        weight=0.5,
        excluded=False,
        reset_block=0,
        events=42,
        last_id="1-0",
        since="0-0",
        trimmed="0-0",
        agrees=True,
        note=note,
        steps=(reset, asked(None, None), asked(0.9, 0.6)),
    )
    return SignedExplanation(explanation=found).model_dump(mode="json")


def submission(
    n: int, result: str, *, reason: str = "", weights: dict[int, float] | None = None
) -> dict[str, Any]:
    """A record as the weights service gives it."""
    weights = weights or {1: 0.5, 2: 0.3, 3: 0.2}
    return {
        "stream_id": f"{n}-0",
        "id": f"S{n}",
        "time_ms": time.time_ns() // 1_000_000 - (20 - n) * 60_000,
        "block": 100 * n,
        "landed_block": 100 * n + 1 if result == "landed" else 0,
        "result": result,
        "reason": reason,
        "uids": list(weights),
        "weights": list(weights.values()),
        "values": [1 for _ in weights],
        "commit_reveal": False,
        "rule": "softmax_ema",
        "version_key": 0,
        "last_id": "1-0",
    }
