from __future__ import annotations

import pytest

from coremesh.metagraph import Hyperparameters
from services.weights.schedule import Due, due, retry_wait

SUBNET = Hyperparameters(tempo=360, rate_limit=100, activity_cutoff=5000)


@pytest.mark.parametrize(
    ("block", "epoch_start", "last_update", "override", "wanted"),
    [
        (1000, 990, 0, -1, Due.NOW),  # never set
        (1000, 990, 700, -1, Due.NOW),  # not in this epoch
        (1000, 990, 901, -1, Due.WAIT),  # 99 blocks since: the rate limit
        (1000, 990, 900, -1, Due.NOW),
        (1200, 990, 995, -1, Due.WAIT),  # set in this epoch
        (1200, 990, 990, -1, Due.WAIT),  # in its first block
        (1200, 990, 1000, 200, Due.NOW),
        (1199, 990, 1000, 200, Due.WAIT),
        (1050, 990, 1000, 20, Due.WAIT),  # an override never beats the rate limit
        (5000, 4000, 1000, 4500, Due.URGENT),  # nor the activity cutoff
        (5000, 4999, 1001, 4500, Due.WAIT),
        (9000, 8990, 1000, -1, Due.URGENT),
    ],
)
def test_when_weights_are_due(
    block: int, epoch_start: int, last_update: int, override: int, wanted: Due
) -> None:
    assert due(block, epoch_start, last_update, SUBNET, override) is wanted


def test_retries_wait_longer_and_stay_within_the_epoch() -> None:
    assert [retry_wait(n, 360) for n in (1, 2, 3, 4, 5, 6, 50)] == [2, 4, 8, 16, 32, 36, 36]
    assert retry_wait(3, 5) == 1
