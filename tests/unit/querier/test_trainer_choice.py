"""What a training event says about how its miners were drawn, and who may be drawn."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from fastapi import FastAPI

from coremesh.contracts import ChatMessage, ScoreRequest, ScoreResponse
from coremesh.mesh import GatingPeer, Peer
from coremesh.metagraph import Neuron
from services.querier.choose import Chooser
from services.querier.standing import Standing

NEURONS = tuple(Neuron(uid=u, hotkey=f"hot{u}", coldkey="cold", ip="127.3.0.1", port=1) for u in range(4))
MESSAGES = (ChatMessage(role="user", content="Why is the sky blue?"),)


@pytest.mark.parametrize(
    ("sample", "propensities", "uniform"),
    [
        (True, (0.5, 0.5), True),
        (True, (0.5, 0.9), False),
        (True, (0.7, 0.7), False),
        (True, (), False),
        (False, (0.5, 0.5), False),
    ],
)
async def test_only_a_uniform_sample_is_called_random(
    sample: bool, propensities: tuple[float, ...], uniform: bool
) -> None:
    gating = FastAPI()

    @gating.post("/score")
    async def score(request: ScoreRequest) -> ScoreResponse:
        return ScoreResponse(
            uids=request.uids or (),
            scores=tuple(0.0 for _ in request.uids or ()),
            chosen=(1, 2),
            propensities=propensities,
            head_version=1,
            block=1,
        )

    async with httpx.ASGITransport(gating) as transport:
        chooser = Chooser(
            GatingPeer("gating", "http://gating", transport),
            Standing(Peer("weights", "http://weights", transport)),
            timeout=timedelta(seconds=5),
            auto_k=2,
        )
        choice = await chooser.choose(NEURONS, MESSAGES, topk=2, sample=sample)
    assert [neuron.uid for neuron in choice.neurons] == [1, 2]
    assert choice.random is uniform
