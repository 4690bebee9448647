"""The steps of a layer that stand between its matrix products: in plain torch, or fused where a GPU has the kernel."""

from __future__ import annotations

import torch

from services.reward.engine import fused
from services.reward.engine.fused import Kernel
from services.reward.engine.linear import LayerNorm, RMSNorm


def norm_rotate(x: torch.Tensor, norm: RMSNorm | None, rotation: torch.Tensor, rotary: int) -> torch.Tensor:
    """x `[n, heads, width]`, normed head by head where there is a norm, its first `rotary` columns rotated.

    `rotation` `[n, rotary/2]` complex64. x may be changed, and be what is returned.
    """
    return _norm_rotate(fused.kernel("norm_rotate", x), x, norm, rotation, rotary)


def _norm_rotate(
    kernel: Kernel | None, x: torch.Tensor, norm: RMSNorm | None, rotation: torch.Tensor, rotary: int
) -> torch.Tensor:
    if kernel is None:
        return rotate(x if norm is None else norm(x), rotation.unsqueeze(1), rotary)
    weight = None if norm is None else norm.weight.expand(x.shape[1:]).contiguous()
    kernel(x, weight, 0.0 if norm is None else norm.eps, rotation)
    return x


@fused.trial("norm_rotate")
def _try_norm_rotate(device: torch.device, dtype: torch.dtype) -> fused.Step:
    n = 4096 if device.type == "cuda" else 256
    x = torch.randn(n, 32 * 128, device=device, dtype=dtype)
    norm = RMSNorm(torch.rand(24, 128, device=device, dtype=dtype) + 0.5, 1e-6)
    angles = torch.randn(n, 64, device=device)
    rotation = torch.complex(angles.cos(), angles.sin())
    return lambda kernel: _norm_rotate(
        kernel, x.clone()[:, : 24 * 128].view(-1, 24, 128), norm, rotation, 128
    )


def rotate(x: torch.Tensor, rotation: torch.Tensor, width: int) -> torch.Tensor:
    """Rotary positions, in place where the type allows: the first `width` of `x [n, heads, …]` as complex pairs."""
    if x.dtype == torch.float32:
        torch.view_as_complex(x[..., :width].unflatten(-1, (-1, 2))).mul_(rotation)
        return x
    turned = torch.view_as_complex(x[..., :width].float().unflatten(-1, (-1, 2))) * rotation
    flat = torch.view_as_real(turned).flatten(-2).to(x.dtype)
    return flat if width == x.shape[-1] else torch.cat((flat, x[..., width:]), -1)


def add_norm(y: torch.Tensor, x: torch.Tensor, norm: LayerNorm) -> torch.Tensor:
    """The norm of `y + x`, two contiguous tensors `[n, width]`, of which the first may be changed."""
    return _add_norm(fused.kernel("add_norm", y), y, x, norm)


def _add_norm(kernel: Kernel | None, y: torch.Tensor, x: torch.Tensor, norm: LayerNorm) -> torch.Tensor:
    if kernel is None:
        return norm(y.add_(x))
    kernel(y, x, norm.weight, norm.bias, norm.eps)
    return y


@fused.trial("add_norm")
def _try_add_norm(device: torch.device, dtype: torch.dtype) -> fused.Step:
    y, x = (torch.randn(4096, 1024, device=device, dtype=dtype) for _ in range(2))
    weight, bias = (torch.rand(1024, device=device, dtype=dtype) + 0.5 for _ in range(2))
    return lambda kernel: _add_norm(kernel, y.clone(), x, LayerNorm(weight, bias, 1e-5))
