"""Attention on the CPU, sequence by sequence, with what sequences share multiplied at once.

Torch's fused CPU attention multiplies through MKL in small tiles; plain products, head by head through oneDNN
where they are large enough to pay for the call, take half its time at the lengths rewards have.
"""

from __future__ import annotations

import torch

from services.reward.engine import fused
from services.reward.engine.decoder import Attention, KeyValue, Shape
from services.reward.engine.linear import onednn_works, product
from services.reward.engine.plan import Branch, Chunk, Segment, chunks

# Queries of one sequence taken at once: beyond this, half of a causal square is computed for nothing.
ROWS = 128
# Scores held at once (8 MB in fp32): stays in the last-level cache, bounds memory on long texts.
SCORES = 2 << 20
# Multiply-adds of one head from which a oneDNN call beats a slice of a batched MKL one.
LARGE = 1_000_000


def heads_product(a: torch.Tensor, b: torch.Tensor, *, transposed: bool) -> torch.Tensor:
    """`a @ b` (or `a @ b.T` when `transposed`) for each head: a `[heads, m, x]`, b `[heads, x, n]` or `[heads, n, x]`.

    `b` must have contiguous heads.
    """
    found = each_head(a, b, transposed=transposed)
    return found if isinstance(found, torch.Tensor) else torch.stack(found)


def each_head(a: torch.Tensor, b: torch.Tensor, *, transposed: bool) -> torch.Tensor | list[torch.Tensor]:
    """The same product as one tensor or head by head, whichever comes cheaper."""
    n = b.shape[1] if transposed else b.shape[2]
    if a.shape[1] * n * a.shape[2] < LARGE or a.dtype != torch.float32 or not onednn_works():
        return torch.bmm(a, b.transpose(1, 2) if transposed else b)
    return [product(x, y if transposed else y.t()) for x, y in zip(a.unbind(0), b.unbind(0), strict=True)]


def head_major(x: torch.Tensor) -> torch.Tensor:
    """`[heads, n, width]`, contiguous, of `[n, heads, width]`."""
    return x.transpose(0, 1).contiguous()


def grouped(q: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """`[kv_heads, repeats, n, width]` of queries `[n, heads, width]`: each key head beside its queries."""
    return q.unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3)


class CpuAttention:
    """Causal attention of packed chunks. The scale is in the queries already."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.causal = torch.full((ROWS, ROWS), float("-inf")).triu(1)

    def begin(self, chunk: Chunk, carried: list[KeyValue] | None) -> None:
        """See `Attention`."""
        self.chunk = chunk
        self.carried = carried
        self.kept: list[KeyValue] = []

    def end(self) -> list[KeyValue] | None:
        """See `Attention`."""
        return self.kept if self.chunk.keeps else None

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, read: bool
    ) -> torch.Tensor:
        """See `Attention`."""
        out = q.new_empty(q.shape)
        done = 0
        shared = None
        for branch in self.chunk.branches:
            shared = self._prefix(branch, layer, k, v)
            if shared is not None and not branch.carried and not read:
                rows = slice(branch.start, branch.stop)
                self._alone(out[rows], q[rows], *shared)
            first = done if read else branch.segments[0].start
            if shared is None:
                for segment in branch.segments:
                    keys = slice(segment.start, segment.stop)
                    rows = slice(done, done + 1) if read else keys
                    self._alone(out[rows], q[rows], head_major(k[keys]), head_major(v[keys]))
                    done += 1
            else:
                done += len(branch.segments)
                rows = slice(first, done if read else branch.segments[-1].stop)
                self._branch(out[rows], q[rows], k, v, shared, branch.segments, read=read)
        if self.chunk.keeps:
            assert shared is not None
            self.kept.append(shared)
        return out.flatten(1)

    def _prefix(self, branch: Branch, layer: int, k: torch.Tensor, v: torch.Tensor) -> KeyValue | None:
        if branch.prefix == 0:
            return None
        if branch.carried:
            assert self.carried is not None
            return self.carried[layer]
        rows = slice(branch.start, branch.stop)
        return head_major(k[rows]), head_major(v[rows])

    def _alone(self, out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Queries `[m, heads, width]`, the last m of the n positions of k and v `[kv_heads, n, width]`."""
        past = k.shape[1] - len(q)
        for start in range(0, len(q), ROWS):
            rows = q[start : start + ROWS]
            m, n = len(rows), past + start + len(rows)
            mine = grouped(rows, self.shape.kv_heads).flatten(1, 2)
            scores = heads_product(mine, k[:, :n], transposed=True)
            if m > 1:
                scores.unflatten(1, (-1, m))[..., n - m :].add_(self.causal[:m, :m])
            found = heads_product(torch.softmax(scores, -1), v[:, :n], transposed=False)
            grouped(out[start : start + m], self.shape.kv_heads).copy_(found.unflatten(1, (-1, m)))

    def _branch(
        self,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        shared: KeyValue,
        segments: list[Segment],
        *,
        read: bool,
    ) -> None:
        """Segments that go on from one prefix: their queries (in order) meet its keys in one product."""
        wave: list[tuple[int, int, int, int]] = []  # query rows start, stop; key rows start, stop
        at = width = first = 0
        for segment in segments:
            length = segment.stop - segment.start
            for start in range(0, 1 if read else length, ROWS):
                rows = 1 if read else min(ROWS, length - start)
                keys = length if read else start + rows
                wider = max(width, keys)
                if wave and (at + rows - first) * (shared[0].shape[1] + wider) * self.shape.heads > SCORES:
                    self._wave(out[first:at], q[first:at], k, v, shared, wave, width)
                    wave, first, wider = [], at, keys
                wave.append((at - first, at - first + rows, segment.start, segment.start + keys))
                at, width = at + rows, wider
        self._wave(out[first:at], q[first:at], k, v, shared, wave, width)

    def _wave(
        self,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        shared: KeyValue,
        wave: list[tuple[int, int, int, int]],
        width: int,
    ) -> None:
        heads, prefix, n = self.shape.kv_heads, shared[0].shape[1], len(q)
        mine = grouped(q, heads)
        scores = q.new_empty((heads, mine.shape[1], n, prefix + width))
        scores[..., :prefix].copy_(
            heads_product(mine.flatten(1, 2), shared[0], transposed=True).unflatten(1, (-1, n))
        )
        for a, b, start, stop in wave:
            keys = k[start:stop].permute(1, 2, 0)
            own = torch.bmm(mine[:, :, a:b].flatten(1, 2), keys).unflatten(1, (-1, b - a))
            if b - a > 1:
                own[..., stop - start - (b - a) :].add_(self.causal[: b - a, : b - a])
            scores[:, :, a:b, prefix : prefix + stop - start].copy_(own)
            scores[:, :, a:b, prefix + stop - start :].fill_(float("-inf"))
        weights = torch.softmax(scores, -1)
        found = heads_product(weights[..., :prefix].flatten(1, 2), shared[1], transposed=False)
        found = found.unflatten(1, (-1, n))
        for a, b, start, stop in wave:
            own = weights[:, :, a:b, prefix : prefix + stop - start].flatten(1, 2)
            found[:, :, a:b].add_(torch.bmm(own, v[start:stop].transpose(0, 1)).unflatten(1, (-1, b - a)))
        grouped(out, heads).copy_(found)


def attention_of(shape: Shape, like: torch.Tensor) -> Attention:
    """What a decoder with weights such as `like` attends with on the CPU."""
    kernel = fused.kernel("attention", like) if shape.width % 16 == 0 else None
    return (kernel or CpuAttention)(shape)


@fused.trial("attention")
def _try_attention(device: torch.device, dtype: torch.dtype) -> fused.Step:
    shape = Shape(8, 4, 64, 64)
    group = [(number, [*range(100), *range(number, 80 + number)]) for number in range(6)]
    chunk = next(iter(chunks([group], lambda: 1024)))
    q, k, v = (
        torch.randn(len(chunk.ids), heads, shape.width, device=device, dtype=dtype) for heads in (8, 4, 4)
    )

    def step(kernel: fused.Kernel | None) -> torch.Tensor:
        attention: Attention = (kernel or CpuAttention)(shape)
        attention.begin(chunk, None)
        return attention(0, q * 0.2, k, v, read=False)

    return step
