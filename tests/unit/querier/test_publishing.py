"""When the querier's axon has to be written on the chain."""

from __future__ import annotations

import pytest

from coremesh.metagraph import Metagraph, Neuron
from coremesh.wire.axon import Endpoint
from services.querier.publishing import Axon
from services.querier.snapshot import SnapshotFollower

OWN = "5Own"


class Published:
    """A history with one snapshot in it."""

    def __init__(self, ip: str, port: int) -> None:
        neuron = Neuron(uid=0, hotkey=OWN, coldkey="5Cold", ip=ip, port=port, stake=5000.0, permit=True)
        self._snapshot = Metagraph(netuid=1, block=1, time_ms=1, neurons=(neuron,))

    async def metagraph(self) -> Metagraph:
        return self._snapshot


async def never(_: Endpoint) -> bool:
    raise AssertionError("nothing is to be published")


@pytest.mark.parametrize(
    ("wanted", "shown", "due"),
    [
        (Endpoint("203.0.113.5", 80), ("203.0.113.5", 80), False),
        (Endpoint("203.0.113.5", 80), ("203.0.113.5", 81), True),
        (Endpoint("203.0.113.5", 80), ("203.0.113.6", 80), True),
        (Endpoint("203.0.113.5", 80), ("0.0.0.0", 0), True),
        (Endpoint("2001:DB8:0:0::7", 80), ("2001:db8::7", 80), False),
        (Endpoint("2001:DB8:0:0::7", 80), ("2001:db8::8", 80), True),
    ],
)
async def test_an_axon_is_due_where_the_chain_shows_another(
    wanted: Endpoint, shown: tuple[str, int], due: bool
) -> None:
    snapshot = SnapshotFollower(Published(*shown), own_hotkey=OWN)
    axon = Axon(wanted, snapshot, OWN, never)
    assert not axon.due()  # while nothing is known
    await snapshot.look()
    assert axon.due() is due
