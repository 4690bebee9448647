"""The CPU's own kernels, each way that this processor has, against exact arithmetic and against plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from services.reward.engine import Group, fused, load_classifier, native
from services.reward.engine.attention_cpu import CpuAttention
from services.reward.engine.bert import CpuFullAttention
from services.reward.engine.decoder import Attention, Shape
from services.reward.engine.linear import LayerNorm, Linear, RMSNorm, activate
from services.reward.engine.plan import chunks
from services.reward.engine.products import Product, TileProduct, VectorProduct
from services.reward.engine.steps import norm_rotate
from services.reward.engine.vectors import VectorAttention, VectorFullAttention, norm_rotate_
from tests.unit.reward_engine.test_equality import SPECIAL, Plain, flat

SHAPES = [(1, 32, 32), (7, 33, 65), (12, 64, 16), (40, 100, 31), (130, 512, 96), (250, 77, 130)]


def needs(kind: Callable[..., object], *args: object) -> None:
    try:
        kind(*args)
    except native.NotHere as error:
        pytest.skip(str(error))


@pytest.fixture(params=[VectorProduct, TileProduct])
def product(request: pytest.FixtureRequest) -> type[Product]:
    needs(request.param, torch.eye(16))
    return request.param


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def vectors() -> None:
    needs(VectorAttention, Shape(2, 1, 16, 16))


def near(found: torch.Tensor, exact: torch.Tensor) -> None:
    """As near to the exact numbers as a few roundings of the largest."""
    assert found.dtype == torch.float32
    assert float((found.double() - exact).abs().max()) <= 1e-6 * float(exact.abs().max())


@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
def test_products(product: type[Product], threads: int, rows: int, depth: int, columns: int) -> None:
    torch.manual_seed(rows)
    x = torch.randn(rows, depth) * 2 + 0.3
    weight, gate_weight = torch.randn(columns, depth) / depth**0.5, torch.randn(columns, depth) / depth**0.5
    bias, gate_bias, other = torch.randn(columns), torch.randn(columns), torch.randn(rows, columns)
    run, gate = product(weight, bias), product(gate_weight, gate_bias)
    exact = x.double() @ weight.double().t() + bias.double()
    gates = x.double() @ gate_weight.double().t() + gate_bias.double()
    near(run(x), exact)
    for name in ("silu", "gelu", "gelu_tanh", "relu"):
        near(run(x, activation=name), activate(exact, name))
        near(run(x, gate=gate, activation=name), exact * activate(gates, name))
    sum_here = other.clone()
    assert run(x, plus=sum_here) is sum_here
    near(sum_here, exact + other.double())
    near(run(torch.cat((x, other), 1)[:, :depth]), exact)  # rows with gaps between them
    near(run(x.t().contiguous().t()), exact)  # columns one by one


def test_norms_before_products(product: type[Product]) -> None:
    torch.manual_seed(0)
    x, weight, scale, shift = (
        torch.randn(50, 72) + 2,
        torch.randn(40, 72),
        torch.rand(72) + 0.5,
        torch.randn(72),
    )
    run = product(weight)
    mean_square = x.double().pow(2).mean(-1, keepdim=True)
    by_rms = x.double() * torch.rsqrt(mean_square + 1e-6) * scale.double()
    near(run(x, norm=RMSNorm(scale, 1e-6)), by_rms @ weight.double().t())
    for bias in (shift, None):
        wide = None if bias is None else bias.double()
        normed = functional.layer_norm(x.double(), (72,), scale.double(), wide, 1e-5)
        near(run(x, norm=LayerNorm(scale, bias, 1e-5)), normed @ weight.double().t())


def test_no_bit_of_a_float_is_lost(product: type[Product]) -> None:
    """What is multiplied with one comes out as it was, whatever its size; small whole numbers add up exactly."""
    draw = torch.Generator().manual_seed(3)
    bits = torch.randint(0, 1 << 23, (64, 48), generator=draw) | (
        torch.randint(30, 225, (64, 48), generator=draw) << 23
    )
    weight = bits.to(torch.int32).view(torch.float32)
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(product(weight)(torch.eye(48)), weight.t(), rtol=0, atol=0)
    x, whole = (torch.randint(-500, 500, (n, 48), generator=draw).float() for n in (9, 33))
    torch.testing.assert_close(product(whole)(x), x @ whole.t(), rtol=0, atol=0)


def test_what_is_not_a_number_stays_so(product: type[Product]) -> None:
    x = torch.ones(3, 32)
    x[1, 5] = float("nan")
    found = product(torch.ones(40, 32))(x, activation="silu")
    assert found.isnan().any(1).tolist() == [False, True, False]


GROUPS = [
    [(0, [*range(40), 7]), (1, [*range(40), *range(200)]), (2, [*range(40), 1, 2, 3])],
    [(3, [9] * 150)],
    [(4, [*range(20), *range(60, 90)]), (5, [*range(20), *range(90, 92)])],
    [(6, [5])],
]


@pytest.mark.parametrize("budget", [60, 256, 4000])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 16), (2, 2, 80), (6, 1, 128)])
def test_attention_of_decoders(
    vectors: None, threads: int, budget: int, heads: int, kv_heads: int, width: int
) -> None:
    shape = Shape(heads, kv_heads, width, width)

    def run(attention: Attention) -> list[torch.Tensor]:
        torch.manual_seed(1)
        carried, found = None, []
        for chunk in chunks(GROUPS, lambda: budget):
            attention.begin(chunk, carried)
            n = len(chunk.ids)
            joint = torch.randn(n, heads + 2 * kv_heads, width)
            joint[:, :heads] *= width**-0.5
            q, k, v = joint.split((heads, kv_heads, kv_heads), 1)
            found.append(attention(0, q, k, v, read=False))
            found.append(attention(1, q[chunk.read], k, v, read=True))
            carried = attention.end()
        return found

    for one, other in zip(run(VectorAttention(shape)), run(CpuAttention(shape)), strict=True):
        torch.testing.assert_close(one, other, atol=3e-6, rtol=3e-6)


@pytest.mark.parametrize("width", [16, 48, 144])
def test_attention_of_encoders(vectors: None, threads: int, width: int) -> None:
    torch.manual_seed(2)
    ends = [1, 8, 40, 200]
    q, k, v = torch.randn(ends[-1], 3, 3, width).unbind(1)
    q = q * width**-0.5
    firsts = q[[0, 1, 8, 40]]
    found: list[list[torch.Tensor]] = []
    for attention in (VectorFullAttention(width), CpuFullAttention()):
        attention.begin(ends)
        found.append([attention(0, q, k, v, first=False), attention(0, firsts, k, v, first=True)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=3e-6, rtol=3e-6)


def test_scores_of_any_size(vectors: None) -> None:
    """Neither scores that would overflow, nor a key that outweighs all others, make a weight that is no number."""
    q, k, v = torch.full((8, 1, 16), 30.0), torch.randn(8, 1, 16) * 30, torch.randn(8, 1, 16)
    found: list[torch.Tensor] = []
    for attention in (VectorFullAttention(16), CpuFullAttention()):
        attention.begin([8])
        found.append(attention(0, q, k, v, first=False))
    torch.testing.assert_close(*found, atol=3e-6, rtol=3e-6)


def test_only_heads_of_whole_vectors(vectors: None) -> None:
    with pytest.raises(native.NotHere, match="24 wide"):
        VectorAttention(Shape(2, 1, 24, 24))


@pytest.mark.parametrize(("width", "rotary", "normed"), [(16, 16, True), (20, 20, False), (80, 24, True)])
def test_norm_and_rotation(vectors: None, width: int, rotary: int, normed: bool) -> None:
    torch.manual_seed(0)
    n, heads, others = 5, 3, 2
    whole = torch.randn(n, (heads + others) * width)
    before = whole.clone()
    x = whole[:, : heads * width].view(n, heads, width)
    norm = RMSNorm(torch.rand(heads, width) + 0.5, 1e-6) if normed else None
    angles = torch.randn(n, rotary // 2)
    rotation = torch.complex(angles.cos(), angles.sin())
    with fused.fixed({}):
        wanted = norm_rotate(x.clone(), norm, rotation, rotary)
    with fused.fixed({"norm_rotate": norm_rotate_}):
        found = norm_rotate(x, norm, rotation, rotary)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(whole[:, heads * width :], before[:, heads * width :], atol=0, rtol=0)


@pytest.mark.parametrize("kind", [None, VectorProduct, TileProduct])
@pytest.mark.parametrize("name", ["qwen3", "llama", "gpt_neox", "gptj", "bert", "deberta-v3"])
def test_scores_are_the_same_each_way(
    kind: type[Product] | None, name: str, model_path: Callable[[str], Path], plain: Plain
) -> None:
    """The first without any kernel: what a machine has that has none of this."""
    kernels: dict[str, fused.Kernel] = {}
    if kind is not None:
        needs(kind, torch.eye(16))
        kernels = {"products": kind, "attention": VectorAttention, "norm_rotate": norm_rotate_}
    with fused.fixed(kernels):
        engine = load_classifier(model_path(name))
        assert engine.why_fallback is None
        scores = np.concatenate(engine.score(SPECIAL))
        alone = engine.score_difference([Group("Why is the sky blue? ", ("Short waves.", "x"))], 3.0)
    np.testing.assert_allclose(scores, plain(name, flat(SPECIAL))[:, 0], atol=1e-5)
    assert np.isfinite(alone).all()


def test_a_linear_has_the_way_that_was_chosen(product: type[Product]) -> None:
    weight = torch.randn(8, 16)
    with fused.fixed({"products": product}):
        assert isinstance(Linear(weight).own, product)
        assert Linear(weight.bfloat16()).own is None
    with fused.fixed({}):
        assert Linear(weight).own is None


def test_every_step_of_the_cpu_has_a_trial() -> None:
    for step in fused.ON_CPU:
        found = fused.verdict(step, torch.device("cpu"), torch.float32)
        assert found.why.startswith(("fused: ", "plain: "))
        assert (found.kernel is None) == found.why.startswith("plain: ")


def test_what_is_not_compiled_is_not_here(tmp_path: Path) -> None:
    """A copy of the engine without its compiled parts, as a machine without a compiler has it."""
    source = Path(native.__file__).parent
    package = tmp_path / "services" / "reward" / "engine"
    package.mkdir(parents=True)
    for directory in (package.parent, package.parent.parent):
        (directory / "__init__.py").touch()
    for file in source.glob("*.py"):
        (package / file.name).write_bytes(file.read_bytes())
    code = (
        "import torch\n"
        "from services.reward.engine import fused\n"
        "from services.reward.engine.linear import Linear\n"
        "print(fused.verdict('products', torch.device('cpu'), torch.float32).why)\n"
        "print(Linear(torch.eye(16))(torch.ones(2, 16)).sum().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert done.stdout.splitlines() == ["plain: NotHere: products.c is not compiled here", "32.0"]
