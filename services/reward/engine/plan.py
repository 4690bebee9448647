"""What is to be scored, and how it is cut into calls of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

Ids = Sequence[int]


@dataclass(frozen=True)
class Group:
    """One prompt and its completions. A text to score is `prompt + completion`, joined and cleaned already."""

    prompt: str
    completions: tuple[str, ...]


def common_prefix(sequences: Sequence[Ids]) -> int:
    """Length of the longest common prefix of all the sequences; 0 if there are none."""
    if not sequences:
        return 0
    # The smallest and the largest in dictionary order differ first where any two differ.
    low, high = min(map(tuple, sequences)), max(map(tuple, sequences))
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return i
    return min(len(low), len(high))


def batches_by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, each at most `tokens` when padded (or one alone)."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for i in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@dataclass(frozen=True)
class Segment:
    """Rows `start:stop` of a chunk: what one sequence has of its own, after its prefix."""

    start: int
    stop: int


@dataclass
class Branch:
    """A prefix and the segments of a chunk that go on from it.

    The prefix is rows `start:stop` of this chunk, or, with `carried`, of an earlier one (then these two are
    0 and its length). Without a prefix both are 0.
    """

    start: int
    stop: int
    carried: bool
    segments: list[Segment] = field(default_factory=list)

    @property
    def prefix(self) -> int:
        """Tokens of the prefix."""
        return self.stop - self.start


@dataclass
class Chunk:
    """One call of the model: packed tokens, their positions, and which sequences they belong to.

    `read` are the rows whose score is wanted, one a segment in the order of the branches; `which` says which
    sequence each belongs to. With `keeps`, the last branch's prefix is needed by the next chunk.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    which: list[int] = field(default_factory=list)
    keeps: bool = False

    def _append(self, ids: Ids, position: int) -> tuple[int, int]:
        start = len(self.ids)
        self.ids.extend(ids)
        self.positions.extend(range(position, position + len(ids)))
        return start, len(self.ids)

    def open(self, prefix: Ids, *, carried: bool) -> Branch:
        """A new branch; its prefix is packed here unless it was in an earlier chunk."""
        start, stop = (0, len(prefix)) if carried else self._append(prefix, 0)
        branch = Branch(start, stop, carried)
        self.branches.append(branch)
        return branch

    def add(self, own: Ids, which: int) -> None:
        """A sequence on the branch opened last."""
        branch = self.branches[-1]
        segment = Segment(*self._append(own, branch.prefix))
        branch.segments.append(segment)
        self.read.append(segment.stop - 1)
        self.which.append(which)


# A prefix shorter than this saves less than the second attention call costs.
SHORTEST_PREFIX = 8


Own = Callable[[int, Ids], int]
"""Of a numbered sequence: how many of its first tokens may be shared at most."""


def all_but_the_last(number: int, ids: Ids) -> int:
    """Every sequence keeps the token that is read."""
    return len(ids) - 1


Family = tuple[Ids, list[tuple[int, Ids]]]
"""A common prefix, and what each numbered sequence has of its own."""


def families(groups: Iterable[Sequence[tuple[int, Ids]]], limit: Own = all_but_the_last) -> Iterator[Family]:
    """Each group (of numbered sequences) as its common prefix and what each sequence has of its own.

    Every sequence keeps what lies behind its `limit` for its own, at least one token. Sequences of a group that
    is not worth sharing have an empty prefix.
    """
    for group in groups:
        shared = common_prefix([ids for _, ids in group])
        shared = min(shared, *(limit(number, ids) for number, ids in group)) if len(group) > 1 else 0
        if shared < SHORTEST_PREFIX:
            shared = 0
        own = sorted(((number, ids[shared:]) for number, ids in group), key=lambda item: -len(item[1]))
        yield group[0][1][:shared] if group else [], own


def chunks(
    groups: Iterable[Sequence[tuple[int, Ids]]], most: Callable[[], int], limit: Own = all_but_the_last
) -> Iterator[Chunk]:
    """Chunks of about `most()` packed tokens (more only where one sequence or prefix alone is longer).

    `most` is asked anew for each chunk, when the one before is done, and groups are taken as they are needed.
    A group that does not fit is split between sequences; its prefix is computed in the first chunk and carried
    into the next ones.
    """
    chunk, tokens = Chunk(), most()
    for prefix, own in families(groups, limit):
        opened = False
        for number, ids in own:
            need = len(ids) + (0 if opened else len(prefix))
            if chunk.ids and len(chunk.ids) + need > tokens:
                chunk.keeps = opened and bool(prefix)
                yield chunk
                chunk, tokens = Chunk(), most()
                chunk.open(prefix, carried=opened)
            elif not opened:
                chunk.open(prefix, carried=False)
            opened = True
            chunk.add(ids, number)
    if chunk.ids:
        yield chunk
