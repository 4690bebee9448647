"""Attention and rotations on the CPU in AVX-512: attention.c, from the engine's packed sequences."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch

from services.reward.engine import native
from services.reward.engine.decoder import KeyValue, Shape
from services.reward.engine.native import FLOAT, NUMBER, POINTER
from services.reward.engine.plan import Chunk

Row = tuple[int, int, int, int, int, int, int, int]
"""A span as attention.c reads it."""


class _Attention(ctypes.Structure):
    _fields_ = (
        ("q", POINTER),
        ("k", POINTER),
        ("v", POINTER),
        ("q_stride", NUMBER),
        ("k_stride", NUMBER),
        ("v_stride", NUMBER),
        ("carried_k", POINTER),
        ("carried_v", POINTER),
        ("carried_k_stride", NUMBER),
        ("carried_v_stride", NUMBER),
        ("out", POINTER),
        ("heads", NUMBER),
        ("kv_heads", NUMBER),
        ("width", NUMBER),
        ("spans", POINTER),
        ("count", NUMBER),
        ("scratch", POINTER),
        ("longest_prefix", NUMBER),
        ("longest_own", NUMBER),
        *native.THREADS,
    )


class _Turn(ctypes.Structure):
    _fields_ = (
        ("x", POINTER),
        ("rows", NUMBER),
        ("stride", NUMBER),
        ("heads", NUMBER),
        ("width", NUMBER),
        ("weight", POINTER),
        ("eps", FLOAT),
        ("rotation", POINTER),
        ("pairs", NUMBER),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    return native.library("attention", 1, ("scratch",))


def check(width: int) -> None:
    """Raises `NotHere` where heads of that width cannot be attended to here."""
    _library()
    native.threads()
    if width % 16:
        raise native.NotHere(f"heads are {width} wide, which is no multiple of 16")


class Spans:
    """Which queries see which keys: one row for each run of queries with the same prefix and their own keys."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 8)
        self.longest_prefix = max((row[3] for row in rows), default=0)
        self.longest_own = max((row[6] for row in rows), default=0)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spans: Spans, carried: KeyValue | None = None
) -> torch.Tensor:
    """`[queries, heads*width]` for q `[queries, heads, width]`, k and v `[n, kv_heads, width]`, carried ones alike.

    fp32 on the CPU, scaled already, each row's heads side by side. Queries that are in no span get no answer.
    """
    out = torch.empty(len(q), q.shape[1] * q.shape[2])
    task = _Attention(
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        q_stride=q.stride(0),
        k_stride=k.stride(0),
        v_stride=v.stride(0),
        out=out.data_ptr(),
        heads=q.shape[1],
        kv_heads=k.shape[1],
        width=q.shape[2],
        spans=spans.table.data_ptr(),
        count=len(spans.table),
        longest_prefix=spans.longest_prefix,
        longest_own=spans.longest_own,
        **native.threads(),
    )
    if carried is not None:
        task.carried_k, task.carried_v = (x.data_ptr() for x in carried)
        task.carried_k_stride, task.carried_v_stride = (x.stride(0) for x in carried)
    library = _library()
    scratch = torch.empty(library.coremesh_attention_scratch(ctypes.byref(task)))
    task.scratch = scratch.data_ptr()
    library.coremesh_attention(ctypes.byref(task))
    return out


def norm_rotate_(x: torch.Tensor, weight: torch.Tensor | None, eps: float, rotation: torch.Tensor) -> None:
    """What the GPU's kernel of that name does (kernels.py), for fp32 on the CPU; raises `NotHere`."""
    turn = _Turn(
        x=x.data_ptr(),
        rows=len(x),
        stride=x.stride(0),
        heads=x.shape[1],
        width=x.shape[2],
        weight=None if weight is None else weight.data_ptr(),
        eps=eps,
        rotation=rotation.data_ptr(),
        pairs=rotation.shape[1],
    )
    _library().coremesh_norm_rotate(ctypes.byref(turn))


class VectorAttention:
    """Causal attention of packed chunks. The scale is in the queries already. Raises `NotHere`."""

    def __init__(self, shape: Shape) -> None:
        check(shape.width)

    def begin(self, chunk: Chunk, carried: list[KeyValue] | None) -> None:
        """See `Attention`."""
        self.chunk = chunk
        self.carried = carried
        self.kept: list[KeyValue] = []
        self.all, self.read = Spans(spans_of(chunk, read=False)), Spans(spans_of(chunk, read=True))

    def end(self) -> list[KeyValue] | None:
        """See `Attention`."""
        return self.kept if self.chunk.keeps else None

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, read: bool
    ) -> torch.Tensor:
        """See `Attention`."""
        carried = self.carried[layer] if self.carried and self.chunk.branches[0].carried else None
        out = attend(q, k, v, self.read if read else self.all, carried)
        if self.chunk.keeps:
            last = self.chunk.branches[-1]
            rows = slice(last.start, last.stop)
            self.kept.append(carried if last.carried and carried else (k[rows].clone(), v[rows].clone()))
        return out


def spans_of(chunk: Chunk, *, read: bool) -> list[Row]:
    """The spans of a chunk; `read`: of one query a sequence, its last, numbered through."""
    found: list[Row] = []
    done = 0
    for branch in chunk.branches:
        if branch.prefix and not branch.carried and not read:
            found.append((branch.start, branch.prefix, 0, 0, 0, branch.start, branch.prefix, 1))
        shared = (branch.start, branch.prefix, int(branch.carried))
        for segment in branch.segments:
            length = segment.stop - segment.start
            query, queries = (done, 1) if read else (segment.start, length)
            found.append((query, queries, *shared, segment.start, length, 1))
            done += 1
    return found


class VectorFullAttention:
    """Attention of each token to its whole text. Raises `NotHere`."""

    def __init__(self, width: int) -> None:
        check(width)

    def begin(self, ends: Sequence[int]) -> None:
        """See `FullAttention`."""
        texts = list(zip([0, *ends[:-1]], ends, strict=True))
        self.all = Spans([(a, b - a, 0, 0, 0, a, b - a, 0) for a, b in texts])
        self.first = Spans([(i, 1, 0, 0, 0, a, b - a, 0) for i, (a, b) in enumerate(texts)])

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, first: bool
    ) -> torch.Tensor:
        """See `FullAttention`."""
        return attend(q, k, v, self.first if first else self.all)
