"""Matrix products on the CPU in fp32, with what stands before and behind them in the same pass: products.c, tiles.c.

Two ways to the same numbers. A processor's tile unit (AMX) multiplies bfloat16, sixteen times as fast as its others do
floats; three bfloat16 hold a float, and six of their nine products what fp32 holds of a product.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from services.reward.engine import native
from services.reward.engine.native import FLOAT, NUMBER, POINTER

if TYPE_CHECKING:
    from services.reward.engine.linear import Norm

_ACTIVATIONS = {None: 0, "silu": 1, "gelu": 2, "gelu_tanh": 3, "relu": 4}
_NONE, _RMS, _LAYER = range(3)


class _Task(ctypes.Structure):
    _fields_ = (
        ("x", POINTER),
        ("rows", NUMBER),
        ("depth", NUMBER),
        ("x_stride", NUMBER),
        ("norm", NUMBER),
        ("norm_weight", POINTER),
        ("norm_bias", POINTER),
        ("eps", FLOAT),
        ("weight", POINTER),
        ("gate", POINTER),
        ("bias", POINTER),
        ("gate_bias", POINTER),
        ("columns", NUMBER),
        ("activation", NUMBER),
        ("out", POINTER),
        ("out_stride", NUMBER),
        ("add", NUMBER),
        ("scratch", POINTER),
        *native.THREADS,
    )


class Product:
    """`x [n, in] -> x @ weight.T + bias [n, out]` for fp32 tensors on the CPU; raises `NotHere`."""

    name: ClassVar[str]

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        native.threads()
        weight = weight.detach().contiguous()
        self.columns, self.depth = weight.shape
        self.packed = torch.empty(self._call("size", self.columns, self.depth), dtype=torch.uint8)
        self._call("pack", weight.data_ptr(), self.columns, self.depth, self.packed.data_ptr())
        self.bias = None if bias is None else bias.detach().contiguous()

    def _call(self, function: str, *args: Any) -> int:
        return getattr(_library(self.name), f"coremesh_{self.name}_{function}")(*args)

    def __call__(
        self,
        x: torch.Tensor,
        *,
        norm: Norm | None = None,
        activation: str | None = None,
        gate: Product | None = None,
        plus: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The product of x or its norm, then its activation.

        With `gate`, `activation(gate(x))` times the product. With `plus` `[n, out]`, that matrix is changed, and is
        what is returned.
        """
        if x.stride(1) != 1:
            x = x.contiguous()
        threads = native.threads()
        out = x.new_empty(len(x), self.columns) if plus is None else plus
        scratch = torch.empty(self._call("scratch", self.depth, threads["threads"]), dtype=torch.uint8)
        task = _Task(
            x=x.data_ptr(),
            rows=len(x),
            depth=self.depth,
            x_stride=x.stride(0),
            weight=self.packed.data_ptr(),
            bias=_pointer(self.bias),
            columns=self.columns,
            activation=_ACTIVATIONS[activation],
            out=out.data_ptr(),
            out_stride=out.stride(0),
            add=plus is not None,
            scratch=scratch.data_ptr(),
            **threads,
        )
        if norm is not None:
            task.norm, task.eps = _LAYER if norm.centred else _RMS, norm.eps
            task.norm_weight, task.norm_bias = norm.weight.data_ptr(), _pointer(norm.bias)
        if gate is not None:
            task.gate, task.gate_bias = gate.packed.data_ptr(), _pointer(gate.bias)
        self._call("multiply", ctypes.byref(task))
        return out


def _pointer(x: torch.Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


class VectorProduct(Product):
    """With AVX-512."""

    name = "products"


class TileProduct(Product):
    """On tiles. The weights are kept as their pieces, in one and a half times their size."""

    name = "tiles"


@functools.cache
def _library(name: str) -> ctypes.CDLL:
    found = native.library(name, 2, ("size", "scratch"))
    for function in ("size", "scratch"):
        getattr(found, f"coremesh_{name}_{function}").argtypes = (NUMBER, NUMBER)
    getattr(found, f"coremesh_{name}_pack").argtypes = (POINTER, NUMBER, NUMBER, POINTER)
    return found
