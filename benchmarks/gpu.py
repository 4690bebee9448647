"""What the benchmarks of a GPU share: their rows, and a clock that waits for the device."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch


def emit(metric: str, value: float, unit: str, baseline: float | None = None) -> None:
    """A row on standard output; more is better than the baseline."""
    ratio = None if baseline is None else value / baseline
    row = {"metric": metric, "value": value, "unit": unit, "baseline": baseline, "ratio": ratio}
    print(json.dumps(row), flush=True)


def note(text: str) -> None:
    """For whoever watches."""
    print(text, file=sys.stderr, flush=True)


def device_of(name: str) -> torch.device:
    """The device as tensors there name it (`cuda:0` for `cuda`). Raises what torch raises where there is none."""
    return torch.empty(0, device=name).device


def timed(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls until the device is done with it, after two that are not counted."""
    taken: list[float] = []
    for _ in range(2 + repeats):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return taken[2:]


def seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median of `timed`."""
    return statistics.median(timed(call, device, repeats))
