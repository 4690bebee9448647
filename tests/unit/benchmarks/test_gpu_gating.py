"""The ways of embedding that gating's benchmark on a GPU compares."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from benchmarks import gpu_gating
from services.gating.forward import Forward

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def body() -> torch.nn.Module:
    return next(iter(gpu_gating.bodies(True)))[1]


class Broken(Forward):
    def __call__(self, texts: object) -> np.ndarray:
        raise RuntimeError("no such kernel")


def test_batches_in_arrival_order_keep_it_and_the_budget() -> None:
    texts = gpu_gating.prompts(200)
    batches = list(gpu_gating.arrivals(texts, 600))
    assert [at for batch in batches for at in batch] == list(range(200))
    assert all(len(batch) * max(len(texts[at]) for at in batch) <= 600 for batch in batches)
    # None could have taken the next one's first.
    for one, two in itertools.pairwise(batches):
        assert (len(one) + 1) * max(len(texts[at]) for at in [*one, two[0]]) > 600
    assert list(gpu_gating.arrivals([[1] * 700, [2]], 600)) == [[0], [1]]


def test_every_way_gives_the_same_vectors(body: torch.nn.Module) -> None:
    texts = gpu_gating.prompts(40)
    wanted = Forward(body, "mean", packed=False)(texts)
    found = gpu_gating.InArrivalOrder(body)(texts)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(Forward(body, "mean", attention="similar")(texts), wanted, atol=1e-6)


def test_the_baseline_is_the_first_way_and_only_offsets_may_be_missing(
    body: torch.nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = gpu_gating.prompts(8)
    plain, broken = gpu_gating.InArrivalOrder(body), Broken(body, "mean")
    wanted = plain(texts)
    ways = {"in_arrival_order": plain, "packed": plain, gpu_gating.OFFSETS: broken}
    gpu_gating.compare("x", ways, texts, wanted, CPU, 1)
    captured = capsys.readouterr()
    rows = {row["metric"]: row for row in map(json.loads, captured.out.splitlines())}
    first = rows["gpu_gating.x.in_arrival_order"]
    assert first["baseline"] is None
    assert rows["gpu_gating.x.packed"]["baseline"] == first["value"]
    assert f"gpu_gating.x.{gpu_gating.OFFSETS}" not in rows
    assert "no such kernel" in captured.err
    with pytest.raises(RuntimeError, match="no such kernel"):
        gpu_gating.compare("x", {"in_arrival_order": broken}, texts, wanted, CPU, 1)
