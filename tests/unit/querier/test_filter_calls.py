"""How often the safety filter is asked."""

from __future__ import annotations

from datetime import timedelta

import httpx
from fastapi import FastAPI

from coremesh.contracts import ChatMessage, FilterRequest, FilterResponse
from coremesh.mesh import RewardPeer
from services.querier.judge import Judge, Safety
from tests.wait import wait_until


class Filter:
    def __init__(self, active: bool) -> None:
        self.active = active
        self.asked: list[tuple[str, ...]] = []

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/filter")
        async def filter(request: FilterRequest) -> FilterResponse:
            self.asked.append(request.texts)
            safe = tuple("bomb" not in text or not self.active for text in request.texts)
            return FilterResponse(safe=safe, scores=tuple(0.0 for _ in safe), active=self.active)

        return app


async def test_each_text_is_filtered_while_there_is_a_filter() -> None:
    there = Filter(active=True)
    async with httpx.ASGITransport(there.app()) as transport:
        judge = Judge(RewardPeer("reward", "http://reward", transport), filter_timeout=timedelta(seconds=5))
        assert await judge.safe(["a poem", "a bomb"]) == Safety((True, False), active=True)
        assert await judge.safe(["a bomb"]) == Safety((False,), active=True)
    assert there.asked == [("a poem", "a bomb"), ("a bomb",)]


async def test_all_of_a_completion_is_filtered_however_long() -> None:
    there = Filter(active=True)
    texts = [f"{'word ' * 13_000} bomb", *["word " * 13_000] * 40, "a bomb"]
    async with httpx.ASGITransport(there.app()) as transport:
        judge = Judge(RewardPeer("reward", "http://reward", transport), filter_timeout=timedelta(seconds=20))
        verdict = await judge.judge(
            (ChatMessage(role="user", content="Well?"),),
            texts,
            kind="inference",
            difference=False,
            score=False,
            filter_texts=True,
            timeout_s=5.0,
        )
    assert verdict.safe == (False, *[True] * 40, False)
    assert [text for part in there.asked for text in part] == texts
    assert max(sum(map(len, part)) for part in there.asked) <= 1_000_000


async def test_where_there_is_none_it_is_not_asked_by_every_request_and_noticed_once_it_is_there() -> None:
    there = Filter(active=False)
    async with httpx.ASGITransport(there.app()) as transport:
        judge = Judge(RewardPeer("reward", "http://reward", transport), filter_timeout=timedelta(seconds=5))
        for _ in range(200):
            assert await judge.safe(["a bomb"]) == Safety((True,))
        assert len(there.asked) < 20
        there.active = True

        async def filtered() -> bool:
            return await judge.safe(["a bomb"]) == Safety((False,), active=True)

        await wait_until(filtered)
