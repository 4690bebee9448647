"""Triton kernels for what stands between a GPU's matrix products, each reading and writing its rows once.

Plain torch takes three to eight passes over device memory for each of these steps, which on a small model is as
long as the products themselves. Imported by ``fused`` alone, and only where Triton is; ``fused`` also proves each
of them on the device it is to run on. All arithmetic is fp32 whatever the type of the tensors.
"""

# A kernel's launch takes plain values for its compile-time constants, which Triton's own annotations do not say.
# pyright: reportArgumentType=false

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
AT_ONCE = 1024
KEYS = 64


@triton.jit
def _norm_rotate(
    x,
    stride,
    weight,
    rotation,
    pairs,
    heads,
    eps,
    WIDTH: tl.constexpr,
    NORM: tl.constexpr,
    HEADS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, SLOTS)[None, :]
    inside = (head < heads) & (column < WIDTH)
    at = head * WIDTH + column
    values = tl.load(x + row * stride + at, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        mean = tl.sum(values * values, 1) / WIDTH
        values = values * (1.0 / tl.sqrt(mean + eps))[:, None]
        values = values * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    real, imaginary = tl.split(tl.reshape(values, (HEADS, SLOTS // 2, 2)))
    pair = tl.arange(0, SLOTS // 2)
    turn = rotation + (row * pairs + pair) * 2
    cos = tl.load(turn, mask=pair < pairs, other=1.0)[None, :]
    sin = tl.load(turn + 1, mask=pair < pairs, other=0.0)[None, :]
    turned = tl.join(real * cos - imaginary * sin, real * sin + imaginary * cos)
    turned = tl.reshape(turned, (HEADS, SLOTS))
    tl.store(x + row * stride + at, turned.to(x.dtype.element_ty), mask=inside)


def norm_rotate_(x: torch.Tensor, weight: torch.Tensor | None, eps: float, rotation: torch.Tensor) -> None:
    """Normalise (with a weight `[heads, width]`) and rotate x `[n, heads, width]` by `[n, pairs]` complex64, in place.

    The heads of a row must be contiguous.
    """
    n, heads, width = x.shape
    turns = torch.view_as_real(rotation)
    _norm_rotate[(n,)](
        x,
        x.stride(0),
        x if weight is None else weight,
        turns,
        turns.shape[1],
        heads,
        eps,
        WIDTH=width,
        NORM=weight is not None,
        HEADS=triton.next_power_of_2(heads),
        SLOTS=triton.next_power_of_2(width),
    )


@triton.jit
def _gated(gate, up, n, KIND: tl.constexpr, AT_ONCE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * AT_ONCE + tl.arange(0, AT_ONCE)
    x = tl.load(gate + at, mask=at < n, other=0.0).to(tl.float32)
    other = tl.load(up + at, mask=at < n, other=0.0).to(tl.float32)
    if KIND == 0:
        x = x / (1.0 + tl.exp(-x))
    elif KIND == 1:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == 2:
        # (1 + tanh(z)) / 2 is the logistic function of 2z.
        x = x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    else:
        x = tl.maximum(x, 0.0)
    tl.store(gate + at, (x * other).to(gate.dtype.element_ty), mask=at < n)


def gated_(gate: torch.Tensor, up: torch.Tensor, activation: str) -> None:
    """`activation(gate) * up`, contiguous and of one shape, into `gate`."""
    n = gate.numel()
    _gated[(triton.cdiv(n, AT_ONCE),)](gate, up, n, KIND=ACTIVATIONS[activation], AT_ONCE=AT_ONCE)


@triton.jit
def _add_norm(y, x, weight, bias, eps, WIDTH: tl.constexpr, BIASED: tl.constexpr, SLOTS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, SLOTS)
    inside = column < WIDTH
    at = row * WIDTH + column
    values = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    values += tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    values = tl.where(inside, values - tl.sum(values, 0) / WIDTH, 0.0)
    values = values / tl.sqrt(tl.sum(values * values, 0) / WIDTH + eps)
    values = values * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if BIASED:
        values += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, values.to(y.dtype.element_ty), mask=inside)


def add_norm_(
    y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> None:
    """The layer norm of `y + x`, contiguous `[n, width]`, into `y`."""
    n, width = y.shape
    _add_norm[(n,)](
        y,
        x,
        weight,
        weight if bias is None else bias,
        eps,
        WIDTH=width,
        BIASED=bias is not None,
        SLOTS=triton.next_power_of_2(width),
    )


@triton.jit
def _disentangled(
    out,
    q,
    k,
    v,
    by_query,
    by_key,
    blocks,
    q_row,
    k_row,
    v_row,
    out_row,
    per_head,
    wide,
    query_middle,
    key_middle,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    BY_QUERY: tl.constexpr,
    BY_KEY: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start = tl.load(blocks + block * 3).to(tl.int64)
    length = tl.load(blocks + block * 3 + 1)
    first = tl.load(blocks + block * 3 + 2)
    column = tl.arange(0, SLOTS)
    i = first + tl.arange(0, QUERIES)
    asked = i < length
    wanted = asked[:, None] & (column < WIDTH)[None, :]
    mine = tl.load(q + (start + i)[:, None] * q_row + head * WIDTH + column[None, :], mask=wanted, other=0.0)
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    found = tl.zeros((QUERIES, SLOTS), tl.float32)
    for at in range(0, length, KEYS):
        j = at + tl.arange(0, KEYS)
        there = j < length
        read = there[:, None] & (column < WIDTH)[None, :]
        keys = tl.load(
            k + (start + j)[:, None] * k_row + head * WIDTH + column[None, :], mask=read, other=0.0
        )
        values = tl.load(
            v + (start + j)[:, None] * v_row + head * WIDTH + column[None, :], mask=read, other=0.0
        )
        scores = tl.dot(mine, tl.trans(keys), input_precision="ieee")
        pairs = asked[:, None] & there[None, :]
        if BY_QUERY:
            place = head * per_head + (start + i)[:, None] * wide + query_middle + j[None, :] - i[:, None]
            scores += tl.load(by_query + place, mask=pairs, other=0.0).to(tl.float32)
        if BY_KEY:
            place = head * per_head + (start + j)[None, :] * wide + key_middle + i[:, None] - j[None, :]
            scores += tl.load(by_key + place, mask=pairs, other=0.0).to(tl.float32)
        scores = tl.where(there[None, :], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        shares = tl.exp(scores - higher[:, None])
        kept = tl.exp(best - higher)
        total = total * kept + tl.sum(shares, 1)
        found = found * kept[:, None] + tl.dot(shares.to(values.dtype), values, input_precision="ieee")
        best = higher
    found = found / total[:, None]
    tl.store(
        out + (start + i)[:, None] * out_row + head * WIDTH + column[None, :],
        found.to(out.dtype.element_ty),
        mask=wanted,
    )


def disentangled(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    by_query: torch.Tensor | None,
    by_key: torch.Tensor | None,
    blocks: torch.Tensor,
    queries: int,
    query_middle: int,
    key_middle: int,
) -> torch.Tensor:
    """DeBERTa's attention within each text of a packed batch: `[rows, heads, width]`, the scale in q already.

    `by_query` and `by_key` `[heads, rows, wide]` hold what a query (a key) adds for each distance: entry (i, j) is
    `by_query[i, query_middle + j - i]` and `by_key[j, key_middle + i - j]`. `blocks` `[n, 3]` int32: the first row of a
    text, its length, and the first of the `queries` (a power of two) positions in it that one program takes.
    """
    _, heads, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    positions = by_query if by_query is not None else by_key
    per_head, wide = (0, 0) if positions is None else positions.stride()[:2]
    _disentangled[(len(blocks), heads)](
        out,
        q,
        k,
        v,
        q if by_query is None else by_query,
        q if by_key is None else by_key,
        blocks,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        out.stride(0),
        per_head,
        wide,
        query_middle,
        key_middle,
        WIDTH=width,
        SLOTS=max(16, triton.next_power_of_2(width)),
        BY_QUERY=by_query is not None,
        BY_KEY=by_key is not None,
        QUERIES=queries,
        KEYS=KEYS,
    )
    return out


def _where_it_lies(launch: Callable[..., Any]) -> Callable[..., Any]:
    """On the device of the first tensor. Triton launches on the thread's current device, which is the first GPU unless
    told otherwise, and there on a queue that does not wait for what another GPU has still to do."""

    @functools.wraps(launch)
    def launched(x: torch.Tensor, *more: Any) -> Any:
        with torch.cuda.device_of(x):
            return launch(x, *more)

    return launched


KERNELS: dict[str, Callable[..., Any]] = {
    "norm_rotate": _where_it_lies(norm_rotate_),
    "gated": _where_it_lies(gated_),
    "add_norm": _where_it_lies(add_norm_),
    "disentangled": _where_it_lies(disentangled),
}
