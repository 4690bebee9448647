"""Who is asked first."""

from __future__ import annotations

import math

from coremesh.contracts import ChatMessage
from coremesh.metagraph import Neuron
from coremesh.settings import QuerierSettings, load
from coremesh.wire.adapters import BtauthAdapter
from coremesh.wire.btauth import HEADER_NONCE
from coremesh.wire.status import Status
from services.querier.book import Book
from services.querier.fanout import MinerFanout
from tests.integration.miners.conftest import SIGNER
from tests.integration.miners.stage import Stage, answer, saying

ASK = (ChatMessage(role="user", content="Why is the sky blue?"),)


async def test_the_slowest_are_asked_first(stage: Stage) -> None:
    miners = [await stage.miner(saying(answer())) for _ in range(4)]
    neurons = [
        Neuron(uid=m.target.uid, hotkey=m.target.hotkey, coldkey="5C", ip=m.target.host, port=m.target.port)
        for m in miners
    ]
    settings = load([QuerierSettings], ["--querier.allow-loopback=true"])[QuerierSettings]
    async with MinerFanout(BtauthAdapter(SIGNER), settings, own_hotkey=SIGNER.hotkey) as fanout:
        for expected_s in ((), (0.1, math.inf, 0.5, math.inf)):
            # The second time connections are kept, and each is sent to as soon as it is signed for.
            replies = [reply async for reply in fanout.ask(neurons, ASK, 5.0, expected_s=expected_s)]
            assert sorted(reply.index for reply in replies) == [0, 1, 2, 3]
            assert all(reply.completion for reply in replies)
    nonces = [int(miner.asked[1].headers[HEADER_NONCE.lower()]) for miner in miners]
    assert sorted(range(4), key=nonces.__getitem__) == [1, 3, 2, 0]


def test_who_has_never_answered_may_take_all_the_time_there_is() -> None:
    book = Book()
    book.note("quick", Status.OK, 0.2)
    book.note("dead", Status.TIMEOUT, 10.0)
    assert [book.expected_s(name) for name in ("quick", "dead", "new")] == [0.2, math.inf, math.inf]
