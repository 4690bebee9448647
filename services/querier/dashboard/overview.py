"""The mesh at a glance: who is up, who lags, what holds the weights."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from coremesh import __version__
from coremesh.history.recorder import Recorder
from coremesh.service import Health
from coremesh.types import StreamId, stream_key
from services.querier.dashboard.cached import Seen
from services.querier.dashboard.follower import HistoryFollower
from services.querier.dashboard.peers import Peers, Probe, SubmissionRecords
from services.querier.dashboard.shapes import OverviewResponse, ServiceState, ViewerState
from services.querier.dashboard.viewer import Viewer
from services.querier.snapshot import SnapshotFollower

Facts = dict[str, str | int | float | bool | None]
SHORT = 20
MOST_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Puts the overview together. ``top_k`` is how many miners a user's prompt asks by default."""

    peers: Peers
    follower: HistoryFollower
    snapshot: SnapshotFollower
    recorder: Recorder
    health: Health
    own_hotkey: str
    netuid: int
    top_k: int

    async def at_a_glance(self, viewer: Viewer) -> OverviewResponse:
        """For one viewer. Never raises for a part that is away."""
        peers = self.peers
        probes, scores, submissions, head, stack, training = await asyncio.gather(
            peers.health(),
            peers.scores.get(),
            peers.submissions.get(),
            peers.head.get(),
            peers.stack.get(),
            peers.training.get(),
        )
        metagraph = self.snapshot.current
        facts: dict[str, Facts] = {name: {} for name in probes}
        folded: dict[str, StreamId] = {}
        if training.value:
            facts["trainer"] = {"leading": training.value.leading, "steps": training.value.steps}
        if head.value:
            facts["gating"] = {
                "head": head.value.version,
                "rule": head.value.rule,
                "steps": head.value.steps,
                "leading": head.value.leading,
            }
            folded["gating"] = StreamId(head.value.last_id)
        if stack.value:
            facts["reward"] = {
                "stack": stack.value.version[:SHORT],
                "functions": ", ".join(stack.value.functions)[:120],
                "safety": stack.value.safety,
            }
        if scores.value:
            facts["weights"] = {"rule": scores.value.rule, "events": scores.value.events}
            folded["weights"] = StreamId(scores.value.last_id)
        return OverviewResponse(
            time_ms=time.time_ns() // 1_000_000,
            version=__version__,
            netuid=self.netuid,
            block=self.snapshot.block,
            metagraph_age_s=self.snapshot.age_s if math.isfinite(self.snapshot.age_s) else None,
            size=metagraph.size if metagraph else 0,
            available=len(self.snapshot.available),
            hotkey=self.own_hotkey,
            commit_reveal=bool(metagraph and metagraph.hyperparameters.commit_reveal),
            viewer=ViewerState(key=viewer.key, numbers=viewer.numbers, texts=viewer.texts, asks=viewer.asks),
            services=(
                await self._querier(),
                *(self._state(name, probe, facts[name], folded.get(name)) for name, probe in probes.items()),
                self._history(),
            ),
            events=len(self.follower),
            last_id=self.follower.last_id,
            per_minute=self.follower.per_minute(),
            waiting=self.recorder.waiting,
            scored_events=scores.value.events if scores.value else None,
            held=_held(submissions) if submissions.problem is None else None,
            top_k=self.top_k,
        )

    async def _querier(self) -> ServiceState:
        # Not /readyz: it asks the others on the connections that serve users.
        problem = await self.snapshot.problem()
        problems = [f"metagraph: {problem}"] if problem else []
        if self.health.draining:
            problems.append("service: draining")
        return ServiceState(
            name="querier",
            state="degraded" if problems else "up",
            version=__version__,
            problems=tuple(problems),
            facts={"available": len(self.snapshot.available)},
        )

    def _history(self) -> ServiceState:
        problem = self.follower.problem
        return ServiceState(
            name="history",
            state="up" if problem is None else "away",
            version="",
            problems=(problem,) if problem else (),
            facts={"waiting": self.recorder.waiting},
        )

    def _state(self, name: str, probe: Probe | None, facts: Facts, folded: StreamId | None) -> ServiceState:
        if probe is None:
            return ServiceState(
                name=name, state="away", version="", problems=(f"{name} does not answer",), facts={}
            )
        lag_events, lag_s = self._lag(folded) if folded is not None else (None, None)
        return ServiceState(
            name=name,
            state="degraded" if probe.problems else "up",
            version=probe.version,
            problems=probe.problems,
            facts=facts,
            lag_events=lag_events,
            lag_s=lag_s,
        )

    def _lag(self, folded: StreamId) -> tuple[int | None, float | None]:
        try:
            place = stream_key(folded)
        except ValueError:
            return None, None
        behind = self.follower.behind(folded)
        if not behind:
            return 0, 0.0
        newest = stream_key(self.follower.last_id)[0]
        return behind, max(0.0, (newest - place[0]) / 1000)


def _held(seen: Seen[SubmissionRecords]) -> str | None:
    """Why weights that were due were not sent. What would hold them while none are due is no news: right after a
    submission nothing new is scored yet."""
    newest = seen.value.submissions[0] if seen.value and seen.value.submissions else None
    return newest.reason[:MOST_CHARS] if newest is not None and newest.result == "held" else None
