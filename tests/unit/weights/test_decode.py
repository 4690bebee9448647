from __future__ import annotations

import pytest

from coremesh.metagraph import Nominator
from services.weights.chain.decode import address, certificate, nominators


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


@pytest.mark.parametrize(
    ("shown", "key"),
    [
        ("0x80fe", b"\x80\xfe"),
        ("plain text, and no key", b"plain text, and no key"),
        ("0xzz", b"0xzz"),
        ("0x12", b"0x12"),  # the SDK shows the byte 0x12 as text
        ("\x00\x01", b"\x00\x01"),
        ("\ud800", b"\xed\xa0\x80"),
        ([1, 2, 3], b"\x01\x02\x03"),
        ("", b""),
    ],
)
def test_no_certificate_that_a_miner_can_publish_is_in_the_way_of_the_others(
    shown: object, key: bytes
) -> None:
    assert certificate({"public_key": shown, "algorithm": 255}) == (("ff" + key.hex()) if key else "")
