"""Matrix products as fast as the device allows.

On the CPU in fp32, torch multiplies through MKL, which on AMD processors uses half of their vector width
(105 GFLOP/s a core against 240 through oneDNN, measured on a Zen 5 core). oneDNN is reached through the
operator that torch's own compiler uses: weights packed once, and the activation fused into the product. Where it
does not exist or does not agree with plain torch, plain torch it is.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from services.reward.engine import fused
from services.reward.engine.fused import Kernel

if TYPE_CHECKING:
    from services.reward.engine.products import Product

_FUSED = {
    "silu": ("swish", None),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", None),
}

# Names of transformers' ACT2FN that mean the same function.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


def activate(x: torch.Tensor, name: str) -> torch.Tensor:
    """The activation of that name (a value of `ACTIVATIONS`)."""
    if name == "silu":
        return functional.silu(x)
    if name == "relu":
        return functional.relu(x)
    return functional.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


@functools.cache
def onednn_works() -> bool:
    """Whether torch's oneDNN linear operators exist here and agree with plain torch."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        x, w = torch.linspace(-1, 1, 6 * 32).view(6, 32), torch.linspace(1, -1, 8 * 32).view(8, 32)
        packed = torch.ops.mkldnn._reorder_linear_weight(w, 6)
        plain = x @ w.t()
        return all(
            torch.allclose(found, wanted, atol=1e-4)
            for found, wanted in (
                (product(x, w), plain),
                (
                    torch.ops.mkldnn._linear_pointwise(x, packed, None, "gelu", [], "none"),
                    functional.gelu(plain),
                ),
            )
        )
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """`x @ w.T` through oneDNN for two fp32 CPU matrices; `w` (or its transpose) must be contiguous.

    A weight with gaps between its rows sends oneDNN to its reference kernel, a thousand times slower.
    """
    return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")


class Linear:
    """`x [n, in] -> x @ weight.T + bias [n, out]`, alone or together with what stands before and behind it.

    On the CPU in fp32 by the engine's own kernel where that is faster, else by oneDNN, else by plain torch.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
        kernel = fused.kernel("products", weight) if on_cpu else None
        self.own: Product | None = None if kernel is None else kernel(weight, bias)
        if self.own is not None:
            return
        self.bias = None if bias is None else bias.detach().contiguous()
        self.packed = on_cpu and onednn_works()
        weight = weight.detach().contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, 512) if self.packed else weight

    def __call__(
        self, x: torch.Tensor, activation: str | None = None, norm: Norm | None = None
    ) -> torch.Tensor:
        """The product of x (or its norm), then the activation if one is named."""
        if self.own is not None:
            return self.own(x, norm=norm, activation=activation)
        x = x if norm is None else norm(x)
        if self.packed:
            attr, algorithm = _FUSED[activation] if activation else ("none", None)
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, attr, [], algorithm or "")
        y = functional.linear(x, self.weight, self.bias)
        return activate(y, activation) if activation else y

    def plus(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The product plus `other [n, out]`, which may be changed, and be what is returned."""
        if self.own is not None:
            return self.own(x, plus=other)
        if x.is_cuda and self.bias is None:
            return other.addmm_(x, self.weight.t())
        # Not fused: oneDNN's products that read another matrix are 4 to 14% slower than the two steps.
        return self(x).add_(other)

    def gated(self, x: torch.Tensor, gate: Linear, activation: str, norm: Norm | None = None) -> torch.Tensor:
        """The product times the activation of `gate`'s, of x or its norm."""
        if self.own is not None:
            return self.own(x, norm=norm, gate=gate.own, activation=activation)
        x = x if norm is None else norm(x)
        if self.packed:
            return self(x).mul_(gate(x, activation))
        return gated(gate(x), self(x), activation)


def gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    """`activation(gate) * up` of two contiguous tensors of one shape, of which the first may be changed."""
    return _gated(fused.kernel("gated", gate), gate, up, activation)


def _gated(kernel: Kernel | None, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    if kernel is None:
        return activate(gate, activation).mul_(up)
    kernel(gate, up, activation)
    return gate


@fused.trial("gated")
def _try_gated(device: torch.device, dtype: torch.dtype) -> fused.Step:
    gate, up = (torch.randn(4096, 3072, device=device, dtype=dtype) for _ in range(2))
    return lambda kernel: _gated(kernel, gate.clone(), up, "silu")


@fused.trial("products")
def _try_products(device: torch.device, dtype: torch.dtype) -> fused.Step:
    """The gated MLP of a layer: what is saved beside the products counts."""
    x, gate, up, down = (torch.randn(n, 512, device=device, dtype=dtype) for n in (384, 1024, 1024, 1024))
    norm = RMSNorm(torch.rand(512, device=device, dtype=dtype) + 0.5, 1e-6)

    @functools.cache
    def layer(kernel: Kernel | None) -> tuple[Linear, Linear, Linear]:
        with fused.fixed({} if kernel is None else {"products": kernel}):
            return Linear(gate), Linear(up), Linear(down.t() / 32)

    def step(kernel: Kernel | None) -> torch.Tensor:
        first, second, third = layer(kernel)
        return third.plus(second.gated(x, first, "silu", norm), x.clone())

    return step


class LayerNorm:
    """Layer normalisation of the last dimension."""

    centred = True

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, eps: float) -> None:
        self.weight, self.bias, self.eps = weight.detach(), None if bias is None else bias.detach(), eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm:
    """Root-mean-square normalisation of the last dimension; `weight` may be `[heads, width]`."""

    centred, bias = False, None

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self.weight, self.eps = weight.detach(), eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape. Squares are summed in fp32 whatever the type of `x`, as transformers does."""
        if x.device.type == "cpu" and x.dtype == torch.float32:
            # Torch's own CPU kernel is not fused; the norm in one pass takes half its time.
            scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            scale.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
            return (x * scale).mul_(self.weight)
        if self.weight.dim() == 1:
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return functional.rms_norm(x, self.weight.shape[-1:], None, self.eps) * self.weight


Norm = LayerNorm | RMSNorm
