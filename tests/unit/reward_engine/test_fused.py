"""The GPU's fused kernels, interpreted on the CPU, against plain torch; and who decides whether they are used."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton")

from services.reward.engine import Classifier, fused, linear, steps
from services.reward.engine.backend import DecoderBackend, EncoderBackend
from services.reward.engine.budget import TokenBudget
from services.reward.engine.deberta_gpu import blocks
from services.reward.engine.kernels import KERNELS
from services.reward.engine.linear import LayerNorm, RMSNorm
from tests.unit.reward_engine import models
from tests.unit.reward_engine.test_gpu_attention import as_on_a_gpu

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    tolerance = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[found.dtype]
    torch.testing.assert_close(found.float(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "rotary", "normed"), [(16, 16, True), (20, 20, False), (24, 8, True)])
def test_norm_and_rotation(dtype: torch.dtype, width: int, rotary: int, normed: bool) -> None:
    torch.manual_seed(0)
    n, heads, others = 5, 3, 2
    whole = torch.randn(n, (heads + others) * width).to(dtype)
    before = whole.clone()
    x = whole[:, : heads * width].view(n, heads, width)
    norm = RMSNorm((torch.rand(heads, width) + 0.5).to(dtype), 1e-6) if normed else None
    angles = torch.randn(n, rotary // 2)
    rotation = torch.complex(angles.cos(), angles.sin())
    wanted = x.float()
    if norm is not None:
        wanted = functional.rms_norm(wanted, (width,), None, norm.eps) * norm.weight.float()
    wanted = steps.rotate(wanted.clone(), rotation.unsqueeze(1), rotary)
    with fused.fixed(KERNELS):
        found = steps.norm_rotate(x, norm, rotation, rotary)
    near(found, wanted)
    torch.testing.assert_close(whole[:, heads * width :], before[:, heads * width :], atol=0, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_gated(dtype: torch.dtype, activation: str) -> None:
    torch.manual_seed(1)
    gate, up = (torch.randn(3, 701).to(dtype) for _ in range(2))
    wanted = linear.gated(gate.float(), up.float(), activation)
    with fused.fixed(KERNELS):
        near(linear.gated(gate, up, activation), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [True, False])
def test_sum_and_norm(dtype: torch.dtype, biased: bool) -> None:
    torch.manual_seed(2)
    y, x = (torch.randn(4, 100).to(dtype) for _ in range(2))
    weight, bias = ((torch.rand(100) + 0.5).to(dtype) for _ in range(2))
    sides = (weight.float(), bias.float() if biased else None)
    wanted = functional.layer_norm(y.float() + x.float(), (100,), *sides, 1e-5)
    with fused.fixed(KERNELS):
        near(steps.add_norm(y, x, LayerNorm(weight, bias if biased else None, 1e-5)), wanted)


@pytest.mark.parametrize("name", ["qwen3", "gptj", "bert", "deberta-v3", "deberta-v2-unshared"])
def test_same_scores_of_whole_models(name: str, classifier: Callable[[str], Classifier]) -> None:
    engine = classifier(name)
    draw = np.random.default_rng(3)
    # Few: the interpreter takes a millisecond a row. Longer than a block, shared and alone, and a single token.
    prefix, own = (draw.integers(4, models.VOCABULARY, n).tolist() for n in (9, 70))
    groups = [[prefix + own[:3], prefix + own[3:8]], [own], [own[:1]]]
    backend = engine.backend
    assert isinstance(backend, DecoderBackend | EncoderBackend)
    wanted = backend.rows(groups, TokenBudget(2048))
    calls: list[str] = []

    def counted(step: str) -> fused.Kernel:
        def call(*args: object) -> object:
            calls.append(step)
            return KERNELS[step](*args)

        return call

    with fused.fixed({step: counted(step) for step in KERNELS}):
        found = as_on_a_gpu(backend).rows(groups, TokenBudget(700))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert ("norm_rotate" in calls) == (name in models.DECODERS)
    assert ("add_norm" in calls) == (name in models.ENCODERS)
    assert ("disentangled" in calls) == name.startswith("deberta")


def test_kernels_run_on_the_device_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton asks torch for the current device, which may be another than the tensors'."""
    entered: list[torch.Tensor] = []

    class Entered:
        def __init__(self, x: torch.Tensor) -> None:
            self.x = x

        def __enter__(self) -> None:
            entered.append(self.x)

        def __exit__(self, *_: object) -> None:
            entered.append(self.x)

    monkeypatch.setattr(torch.cuda, "device_of", Entered)
    x, other = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    KERNELS["norm_rotate"](x, None, 0.0, torch.ones(2, 8, dtype=torch.complex64))
    KERNELS["gated"](x, other, "relu")
    KERNELS["add_norm"](x.view(2, 48), other.view(2, 48), torch.ones(48), None, 1e-5)
    KERNELS["disentangled"](x, x, x, None, None, torch.tensor([[0, 2, 0]], dtype=torch.int32), 64, 0, 0)
    assert len(entered) == 2 * len(KERNELS)
    assert {one.data_ptr() for one in entered} == {x.data_ptr()}


def test_blocks_of_texts() -> None:
    assert blocks([3, 3 + 130]).tolist() == [[0, 3, 0], [3, 130, 0], [3, 130, 64], [3, 130, 128]]


def doubling(device: torch.device, dtype: torch.dtype) -> fused.Step:
    x = torch.linspace(-1, 1, 9, device=device, dtype=dtype)
    return lambda kernel: x * 2 if kernel is None else kernel(x)


class Clock:
    """So many seconds for the plain step, then for the kernel."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = iter(seconds)

    def __call__(self, call: Callable[[], object]) -> float:
        call()
        return next(self.seconds)


def judge(kernel: fused.Kernel, clock: Clock) -> fused.Verdict:
    return fused.judged(lambda: kernel, doubling, CPU, torch.float32, clock)


def test_a_right_and_faster_kernel_is_used() -> None:
    kernel = lambda x: x + x  # noqa: E731
    assert judge(kernel, Clock(3.0, 2.0)) == fused.Verdict(kernel, "fused: 1.50 times as fast", 1.5)


def test_a_slower_kernel_is_left_out() -> None:
    found = judge(lambda x: x + x, Clock(1.0, 2.0))
    assert found == fused.Verdict(None, "plain: the kernel takes 2.00 times as long", 0.5)


@pytest.mark.parametrize("wrong", [lambda x: x * 2.1, lambda x: x * float("nan")])
def test_a_wrong_kernel_is_left_out(wrong: fused.Kernel) -> None:
    found = judge(wrong, Clock(2.0, 1.0))
    assert found.kernel is None
    assert "differs" in found.why


def test_a_kernel_that_cannot_be_built_is_left_out() -> None:
    def load() -> fused.Kernel:
        raise ImportError("no module named triton\nat all")

    found = fused.judged(load, doubling, CPU, torch.float32)
    assert found == fused.Verdict(None, "plain: ImportError: no module named triton")


def test_none_is_used_on_a_cpu() -> None:
    assert fused.kernel("gated", torch.zeros(1)) is None


@pytest.mark.parametrize("step", sorted(KERNELS))
def test_every_kernel_has_a_trial(step: str) -> None:
    # Plain alone: the trial's input is sized for a GPU, and the interpreter takes minutes for it.
    assert torch.isfinite(fused._trials[step](CPU, torch.float32)(None)).all()
