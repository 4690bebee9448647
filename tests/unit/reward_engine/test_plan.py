"""How work is cut into calls."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.reward.engine.plan import batches_by_length, chunks, common_prefix, families

_ids = st.lists(st.integers(0, 2), min_size=1, max_size=30)


@given(st.lists(st.lists(st.integers(0, 1), max_size=8), max_size=6))
def test_common_prefix(sequences: list[list[int]]) -> None:
    n = common_prefix(sequences)
    assert all(s[:n] == sequences[0][:n] for s in sequences)
    if sequences and n < min(map(len, sequences)):
        assert len({s[n] for s in sequences}) > 1


def test_prefixes_are_shared_where_it_pays() -> None:
    prompt = list(range(10))
    assert list(families([[(0, [*prompt, 1]), (1, [*prompt, 2, 2])]])) == [(prompt, [(1, [2, 2]), (0, [1])])]
    assert list(families([[(0, [*prompt, 1])]])) == [([], [(0, [*prompt, 1])])]
    assert list(families([[(0, [7, 1]), (1, [7, 2])]])) == [([], [(0, [7, 1]), (1, [7, 2])])]
    # The prompt alone keeps its last token, which is the one that is read.
    assert list(families([[(0, prompt), (1, [*prompt, 2])]])) == [(prompt[:9], [(1, [9, 2]), (0, [9])])]


@settings(deadline=None)
@given(st.lists(st.tuples(_ids, st.lists(_ids, min_size=1, max_size=6)), max_size=5), st.integers(16, 120))
def test_chunks_hold_every_sequence_once(drawn: list[tuple[list[int], list[list[int]]]], tokens: int) -> None:
    groups, number = [], 0
    for prefix, owns in drawn:
        groups.append([(number + i, prefix + own) for i, own in enumerate(owns)])
        number += len(owns)
    wanted = {n: ids for group in groups for n, ids in group}
    found: dict[int, list[int]] = {}
    kept: list[int] = []
    for chunk in chunks(groups, lambda: tokens):
        assert len(chunk.ids) == len(chunk.positions)
        longest = max(len(ids) for ids in wanted.values())
        assert len(chunk.ids) <= max(tokens, longest)
        order = iter(zip(chunk.which, chunk.read, strict=True))
        prefix: list[int] = []
        for place, branch in enumerate(chunk.branches):
            assert not branch.carried or place == 0
            prefix = kept if branch.carried else chunk.ids[branch.start : branch.stop]
            assert branch.prefix == len(prefix)
            for segment in branch.segments:
                which, read = next(order)
                own = chunk.ids[segment.start : segment.stop]
                assert read == segment.stop - 1
                assert chunk.positions[segment.start : segment.stop] == list(
                    range(len(prefix), len(prefix) + len(own))
                )
                found[which] = prefix + own
        kept = prefix if chunk.keeps else []
    assert found == wanted


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(16, 200))
def test_batches_by_length(lengths: list[int], tokens: int) -> None:
    batches = list(batches_by_length(lengths, tokens))
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= tokens for b in batches)
