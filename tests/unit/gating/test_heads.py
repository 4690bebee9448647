"""The three rules: they learn, refold to the same bits, and keep hotkeys apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gating.bayes import BayesHead, BayesOptions
from services.gating.head import RULES, Head, HeadMismatch, load_head, make_head, restore_head
from services.gating.original import OriginalHead, OriginalOptions
from services.gating.pack import HeadFormat

DIM = 24
SMALL = BayesOptions(capacity=64, basis_prompts=64, max_components=8, sweep_every=10)


def made(rule: str) -> Head:
    return BayesHead(DIM, "e", SMALL) if rule == "bayes" else make_head(rule, DIM, "e")


def history(seed: int, steps: int, miners: int = 20, asked: int = 8):
    """Miners good at one of three topics; embeddings around the topics' centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, DIM)) * 2
    hotkeys = rng.integers(1, 2**63, miners, dtype=np.uint64)
    for _ in range(steps):
        topic = int(rng.integers(3))
        x = (centres[topic] + rng.normal(size=DIM)).astype(np.float32)
        at = rng.choice(miners, asked, replace=False)
        ok = rng.random(asked) > 0.1
        good = (at % 3 == topic) * 1.0 + rng.normal(0, 0.2, asked)
        yield x, hotkeys[at], np.where(ok, good, np.nan), ok


def fold(head: Head, steps) -> Head:
    for x, hotkeys, rewards, ok in steps:
        head.observe(x, hotkeys, rewards, ok)
    return head


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=4, deadline=None)
@given(cut=st.integers(0, 150), seed=st.integers(0, 2**31))
def test_a_fold_cut_anywhere_goes_on_bit_for_bit(rule: str, cut: int, seed: int) -> None:
    steps = list(history(seed, 150))
    whole = fold(made(rule), steps)
    first = fold(made(rule), steps[:cut])
    resumed = fold(load_head(first.to_bytes(), made(rule)), steps[cut:])
    assert resumed.to_bytes() == whole.to_bytes()
    x = np.stack([step[0] for step in steps[:5]])
    for ours, theirs in zip(resumed.scores(x, steps[0][1]), whole.scores(x, steps[0][1]), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(("rule", "steps"), [("bayes", 200), ("rls", 400)])
def test_a_rule_learns_who_knows_what(rule: str, steps: int) -> None:
    head = fold(made(rule), history(1, steps))
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, DIM)) * 2
    hotkeys = rng.integers(1, 2**63, 20, dtype=np.uint64)
    mean, std = head.scores(centres.astype(np.float32), hotkeys)
    for topic in range(3):
        experts = set(np.flatnonzero(np.arange(20) % 3 == topic))
        assert set(np.argsort(-mean[topic])[: len(experts)]) == experts
    assert (std > 0).all()
    assert (std < 1).all()


@pytest.mark.parametrize("rule", RULES)
def test_a_new_hotkey_gets_the_prior_and_others_keep_what_they_have(rule: str) -> None:
    steps = list(history(2, 120))
    head = fold(made(rule), steps)
    x = steps[0][0][None]
    everyone = np.unique(np.concatenate([step[1] for step in steps]))
    fresh = np.array([77], dtype=np.uint64)
    before = head.scores(x, everyone)
    prior = head.scores(x, fresh)
    head.retire(everyone[:1])
    after = head.scores(x, everyone)
    assert head.known(everyone).tolist() == [False] + [True] * (everyone.size - 1)
    assert (
        np.abs(before[0][0, 1:] - after[0][0, 1:]).max() < 1e-12
    )  # a product of fewer rows may round otherwise
    assert np.array_equal(before[1][0, 1:], after[1][0, 1:])
    assert len(head) == everyone.size - 1
    if not rule.startswith("original"):  # there the prior is each hotkey's own random row
        assert after[0][0, 0] == prior[0][0, 0]
        assert after[1][0, 0] == prior[1][0, 0]
    assert restore_head(head.to_bytes()).scores(x, everyone)[0].tolist() == after[0].tolist()


@pytest.mark.parametrize("rule", RULES)
def test_growth_keeps_what_was_learnt(rule: str) -> None:
    steps = list(history(3, 90))
    head = fold(made(rule), steps)
    x, hotkeys = steps[0][0][None], steps[0][1]
    before = head.scores(x, hotkeys)
    crowd = np.arange(1000, 1040, dtype=np.uint64)
    head.observe(x[0], crowd, np.linspace(-1, 1, 40), np.ones(40, dtype=bool))
    assert head.known(crowd).all()
    assert head.known(hotkeys).all()
    mean, std = head.scores(x, hotkeys)
    assert np.abs(mean - before[0]).max() < 0.05 * max(1.0, np.abs(before[0]).max())
    assert (std <= before[1] + 1e-12).all()


@settings(max_examples=15, deadline=None)
@given(
    rule=st.sampled_from(RULES),
    rewards=st.lists(
        st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30, 1e300, 0.0, 1.0]), min_size=8, max_size=8
    ),
    ok=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_hostile_rewards_leave_finite_scores(rule: str, rewards: list[float], ok: list[bool]) -> None:
    steps = list(history(4, 40))
    head = fold(made(rule), steps)
    for x, hotkeys, _, _ in steps[:20]:
        head.observe(x, hotkeys, np.array(rewards), np.array(ok))
    mean, std = head.scores(steps[0][0][None], steps[0][1])
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()


@pytest.mark.parametrize("rule", ["bayes", "rls"])
def test_failing_costs_more_than_answering_badly(rule: str) -> None:
    head = made(rule)
    hotkeys = np.arange(1, 7, dtype=np.uint64)
    rng = np.random.default_rng(0)
    for _ in range(30):
        rewards = np.array([0.7, 1.0, 1.1, 0.9, 1.0, np.nan]) + rng.normal(0, 0.3, 6)
        head.observe(rng.normal(size=DIM).astype(np.float32), hotkeys, rewards, np.arange(6) < 5)
    mean = head.scores(np.zeros((1, DIM), dtype=np.float32), hotkeys)[0][0]
    assert np.argsort(mean)[:2].tolist() == [5, 0]


@pytest.mark.parametrize("rule", RULES)
def test_a_step_in_which_all_fail_is_our_fault(rule: str) -> None:
    steps = list(history(5, 60))
    head = fold(made(rule), steps)
    x, hotkeys = steps[0][0], steps[0][1]
    before = head.scores(x[None], hotkeys)[0]
    head.observe(x, hotkeys, np.full(8, np.nan), np.zeros(8, dtype=bool))
    after = head.scores(x[None], hotkeys)[0]
    if rule == "original":  # momentum and old gradients go on only when there is a step
        assert np.array_equal(before, after)
    assert np.abs(before - after).max() < 0.1


@pytest.mark.parametrize("rule", RULES)
def test_a_lone_miner_has_nobody_to_be_compared_with(rule: str) -> None:
    head = made(rule)
    key, x = np.array([5], dtype=np.uint64), np.ones(DIM, dtype=np.float32)
    for reward in (1.0, 2.0, np.nan):
        head.observe(x, key, np.array([reward]), np.isfinite([reward]))
    head.observe(x, key[:0], np.zeros(0), np.zeros(0, dtype=bool))
    assert all(np.isfinite(part).all() for part in head.scores(x[None], key))
    assert head.observations == 4


@pytest.mark.parametrize("zeroed", [False, True])
def test_original_is_torchs_sgd(zeroed: bool) -> None:
    """The rule as torch runs it: a linear layer, MSE of softmaxes, SGD 0.01 with momentum 0.9."""
    steps = list(history(6, 60, miners=10, asked=6))
    hotkeys = np.unique(np.concatenate([step[1] for step in steps]))
    head = OriginalHead(DIM, "", OriginalOptions(zeroed=zeroed))
    layer = torch.nn.Linear(DIM, hotkeys.size)
    with torch.no_grad():
        start = torch.from_numpy(np.stack([head.initial(int(key)) for key in hotkeys]))
        layer.weight[:] = start[:, :-1]
        layer.bias[:] = start[:, -1]
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9)
    # All hotkeys exist in the layer from the start; let the head know them too.
    head.observe(np.zeros(DIM, dtype=np.float32), hotkeys, np.full(hotkeys.size, np.nan), hotkeys < 0)
    for x, keys, rewards, ok in steps:
        head.observe(x, keys, rewards, ok)
        told = np.flatnonzero(ok)
        if told.size == 0:
            continue
        rows = torch.from_numpy(np.searchsorted(hotkeys, keys[told]))
        wanted = torch.softmax(torch.from_numpy(rewards[told].astype(np.float32)), 0)
        loss = torch.nn.functional.mse_loss(torch.softmax(layer(torch.from_numpy(x))[rows], 0), wanted)
        if zeroed:
            optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
    x = np.stack([step[0] for step in steps])
    theirs = layer(torch.from_numpy(x)).detach().numpy()
    assert np.abs(head.scores(x, hotkeys)[0] - theirs).max() < 1e-4


def test_a_head_of_another_generation_is_not_loaded() -> None:
    packed = fold(made("bayes"), history(7, 40)).to_bytes()
    others = [make_head("rls", DIM, "e"), BayesHead(DIM + 1, "e", SMALL), BayesHead(DIM, "other", SMALL)]
    for wanted in [*others, BayesHead(DIM, "e")]:
        with pytest.raises(HeadMismatch, match="this service uses"):
            load_head(packed, wanted)
    zeroed = make_head("original_zeroed", DIM, "e").to_bytes()
    with pytest.raises(HeadMismatch, match="zeroed=True"):
        load_head(zeroed, make_head("original", DIM, "e"))


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damaged_bytes_are_refused(at: float, bit: int, cut: bool) -> None:
    packed = bytearray(made("rls").to_bytes())
    place = int(at * len(packed))
    if cut:
        packed = packed[:place]
    else:
        packed[place] ^= 1 << bit
    with pytest.raises(HeadFormat):
        restore_head(bytes(packed))


def test_capacity_bounds_memory_and_the_longest_unasked_makes_room() -> None:
    head = BayesHead(DIM, "e", SMALL)
    x = np.zeros(DIM, dtype=np.float32)
    for start in range(1, 401, 8):
        keys = np.arange(start, start + 8, dtype=np.uint64)
        head.observe(x, keys, np.linspace(0, 1, 8), np.ones(8, dtype=bool))
    assert len(head) == 64
    assert head.known(np.arange(1, 401, dtype=np.uint64)).nonzero()[0].tolist() == list(range(336, 400))


def test_the_basis_is_fixed_by_distinct_prompts_only() -> None:
    """Half of all events are the same question prompt; it counts once."""
    head = BayesHead(DIM, "e", SMALL)
    rng = np.random.default_rng(0)
    keys = np.arange(1, 9, dtype=np.uint64)
    same = rng.normal(size=DIM).astype(np.float32)
    for step in range(126):
        x = same if step % 2 else rng.normal(size=DIM).astype(np.float32)
        head.observe(x, keys, rng.normal(size=8), np.ones(8, dtype=bool))
        assert head.settled is (step >= 124)
    assert head.basis.size > 1


def test_what_was_learnt_before_the_basis_was_fixed_is_not_lost() -> None:
    """A head that settles knows as much as one that had that basis from the start, whatever the order."""
    steps = list(history(8, 64))
    head = fold(BayesHead(DIM, "e", SMALL), steps)
    assert head.settled
    known = BayesHead(DIM, "e", SMALL)
    known.basis, known._early = head.basis, None
    known._reset_prior()
    fold(known, steps)
    x = np.stack([step[0] for step in steps])
    keys = np.unique(np.concatenate([step[1] for step in steps]))
    ours, theirs = head.scores(x, keys)[0], known.scores(x, keys)[0]
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95
