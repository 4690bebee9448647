from __future__ import annotations

from coremesh.metagraph import Nominator
from services.weights.chain.decode import address, nominators


def test_addresses_of_both_kinds_and_nonsense() -> None:
    assert [address(2130706433, 4), address(1, 6), address(2**40, 4), address(0, 4)] == [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "0.0.0.0",
    ]


def test_nominators_count_on_this_subnet_and_the_root_largest_first() -> None:
    delegate = {
        "nominators": [
            ("small", [(1, 1_000_000_000)]),
            ("elsewhere", [(2, 9_000_000_000)]),
            ("large", [(0, 2_000_000_000), (1, 500_000_000), (3, 5)]),
        ]
    }
    assert nominators(delegate, 1) == (
        Nominator(coldkey="large", stake=2.5),
        Nominator(coldkey="small", stake=1.0),
    )
    assert nominators(None, 1) == ()
