"""Which kernels of the engine's own a device gets: those that give what plain torch gives there, and give it sooner.

On a GPU they are steps between matrix products (kernels.py), on the CPU products, attention and rotations (products.py,
vectors.py). Each step that has one also has a trial: the step on random input, with a kernel or without. The first use
of a step on a device tries them all. A kernel that cannot be had (no Triton, no compiler, another processor), differs,
or is slower is left out, and `report` says why; nothing else changes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Kernel = Callable[..., Any]
Step = Callable[[Kernel | None], torch.Tensor]
"""A step on one random input, with a kernel or (None) in plain torch."""
Trial = Callable[[torch.device, torch.dtype], Step]

# How far a kernel may be from plain torch, relative to the largest number: plain torch rounds between its passes.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
RUNS = 9
ON_CPU = frozenset({"products", "attention", "norm_rotate"})
"""The steps for which there is a kernel in C, for fp32 on the CPU."""


@dataclass(frozen=True)
class Verdict:
    """Of one step on one device: the kernel, or None and why not; `speedup` is plain torch's time over its own."""

    kernel: Kernel | None
    why: str
    speedup: float | None = None


_trials: dict[str, Trial] = {}
_verdicts: dict[tuple[str, torch.device, torch.dtype], Verdict] = {}
_fixed: list[Mapping[str, Kernel]] = []


def trial(step: str) -> Callable[[Trial], Trial]:
    """Registers the trial of a step; `step` is its name in `kernels.KERNELS`."""

    def register(make: Trial) -> Trial:
        _trials[step] = make
        return make

    return register


def kernel(step: str, like: torch.Tensor) -> Kernel | None:
    """The kernel of a step for tensors such as `like`, None where plain torch is to be used."""
    if _fixed:
        return _fixed[-1].get(step)
    on_cpu = like.device.type == "cpu" and like.dtype == torch.float32 and step in ON_CPU
    return verdict(step, like.device, like.dtype).kernel if on_cpu or like.is_cuda else None


@contextmanager
def fixed(kernels: Mapping[str, Kernel]) -> Iterator[None]:
    """Within it exactly these kernels are used, untried and wherever tensors are; with none, plain torch."""
    _fixed.append(kernels)
    try:
        yield
    finally:
        _fixed.pop()


def steps(device: torch.device) -> list[str]:
    """The steps for which there is a kernel on such a device."""
    return sorted(ON_CPU if device.type == "cpu" else _trials.keys() - {"products", "attention"})


def switch_off() -> None:
    """Plain torch from now on, in this process."""
    _fixed.append({})


def verdict(step: str, device: torch.device, dtype: torch.dtype) -> Verdict:
    """The verdict on a step; tried at the first call for a device and a type."""
    key = (step, device, dtype)
    if key not in _verdicts:
        tried = [judged(load, _trials[step], device, dtype) for load in _candidates(step, device)]
        _verdicts[key] = max(tried, key=lambda v: (v.kernel is not None, v.speedup or 0.0))
    return _verdicts[key]


def report() -> dict[str, str]:
    """What was tried in this process and what came of it, by step, device and type."""
    return {
        f"{step} {device} {str(dtype).removeprefix('torch.')}": found.why
        for (step, device, dtype), found in _verdicts.items()
    }


@torch.inference_mode()
def judged(
    load: Callable[[], Kernel],
    make: Trial,
    device: torch.device,
    dtype: torch.dtype,
    seconds: Callable[[Callable[[], object]], float] | None = None,
) -> Verdict:
    """What becomes of the kernel that `load` gives in the trial that `make` makes; `seconds` times a call."""
    if dtype not in TOLERANCES:
        return Verdict(None, "plain: not for this type")
    try:
        found, run = load(), make(device, dtype)
        wanted = run(None).float()
        error = float((run(found).float() - wanted).abs().max() / wanted.abs().max())
        if not error <= TOLERANCES[dtype]:
            return Verdict(None, f"plain: the kernel differs by {error:.2g}")
        clock = seconds or (_seconds if device.type == "cuda" else _cpu_seconds)
        # What is recorded of time belongs to the thread's current device too.
        with torch.cuda.device(-1 if device.type != "cuda" or device.index is None else device.index):
            speedup = clock(lambda: run(None)) / clock(lambda: run(found))
    # Whatever a compiler, a driver or a kernel may raise: the plain step works.
    except Exception as error:
        return Verdict(None, f"plain: {type(error).__name__}: {str(error).partition(chr(10))[0][:120]}")
    if speedup < 1:
        return Verdict(None, f"plain: the kernel takes {1 / speedup:.2f} times as long", speedup)
    return Verdict(found, f"fused: {speedup:.2f} times as fast", speedup)


def _candidates(step: str, device: torch.device) -> list[Callable[[], Kernel]]:
    """Whoever imports them may fail, which says that they are not to be had here."""
    if device.type == "cpu":
        from services.reward.engine import products, vectors

        return {
            "products": [lambda: products.VectorProduct, lambda: products.TileProduct],
            "attention": [lambda: vectors.VectorAttention],
            "norm_rotate": [lambda: vectors.norm_rotate_],
        }[step]

    def load() -> Kernel:
        from services.reward.engine.kernels import KERNELS

        return KERNELS[step]

    return [load]


def _cpu_seconds(call: Callable[[], object]) -> float:
    """The shortest time of a call on the CPU, which others use too."""
    call()
    taken: list[float] = []
    for _ in range(RUNS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _seconds(call: Callable[[], object]) -> float:
    """The median time of a call on the GPU, by the GPU's clock."""
    call()
    taken: list[float] = []
    for _ in range(RUNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1000)
    return statistics.median(taken)
