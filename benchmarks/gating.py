"""How well and how fast the gating rules learn: ours, the original's and others on one simulated subnet.

``python -m benchmarks.gating [--seeds 0 1 2]`` (3 minutes on 2 cores). ``gating.quality.*`` is the mean expected
quality of the ten chosen over that of the ten best, on 64 prompts, for the worst of the seeds; 50 random uids are
asked a step. The baseline is the original's rule in its best form (unit-norm embeddings, gradients never zeroed),
the mean of the seeds, because its untaught rows make one seed a matter of luck; ``gating.vs_original.*`` compares
mean with mean. Times are CPU time of one thread. Metrics are JSON lines on standard output, the tables behind them
go to standard error.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.gating_sim import REWARD_SCALE, Subnet
from services.gating.bayes import BayesHead
from services.gating.choose import choose, sample
from services.gating.head import Head, make_head
from services.gating.rls import RlsHead, RlsOptions

STEPS = (200, 1000, 5000)
ASKED = 50
CHOSEN = 10
PROMPTS = 64
DIM = 384
RECOVERY_STEPS = 200


def report(
    metric: str, value: float, unit: str, baseline: float | None = None, ratio: float | None = None
) -> None:
    numbers = {"value": value, "baseline": baseline, "ratio": ratio}
    rounded = {name: None if number is None else round(number, 4) for name, number in numbers.items()}
    line = {"metric": f"gating.{metric}", "value": 0, "unit": unit, "baseline": 0, "ratio": 0} | rounded
    print(json.dumps(line), flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x)).astype(np.float32)


def raw(x: np.ndarray) -> np.ndarray:
    return x


def learn(
    head: Head,
    net: Subnet,
    steps: int,
    shape: Callable[[np.ndarray], np.ndarray] = unit,
    thompson: np.random.Generator | None = None,
) -> None:
    """Ask and observe ``steps`` times: uids at random, or half of them by Thompson sampling."""
    everyone = np.arange(net.miners)
    for _ in range(steps):
        topic, x = net.prompt()
        x = shape(x)
        if thompson is None:
            uids = net.rng.choice(net.miners, ASKED, replace=False)
        else:
            mean, std = head.scores(x[None], net.hotkeys)
            uids = sample(mean[0], std[0], everyone, ASKED, rng=thompson).indices
        step = net.ask(topic, x, uids)
        head.observe(x, step.hotkeys, step.rewards, step.ok, step.latency_s)
        net.tick()


def quality(
    head: Head | None, net: Subnet, shape: Callable[[np.ndarray], np.ndarray] = unit, prompts: int = PROMPTS
) -> float:
    """Expected quality of the ten chosen over the ten best, on prompts that nothing is learnt from."""
    state = net.rng.bit_generator.state
    chosen = best = 0.0
    for _ in range(prompts):
        topic, x = net.prompt()
        expected = net.expected(topic)
        if head is None:
            ranked = net.rng.permutation(net.miners)
        else:
            ranked = np.argsort(-head.scores(shape(x)[None], net.hotkeys)[0][0], kind="stable")
        chosen += float(expected[ranked[:CHOSEN]].mean())
        best += float(np.sort(expected)[-CHOSEN:].mean())
    net.rng.bit_generator.state = state
    return chosen / best


def curve(
    make: Callable[[], Head | None],
    noise: int,
    seed: int,
    shape: Callable[[np.ndarray], np.ndarray] = unit,
    thompson: bool = False,
) -> list[float]:
    """Quality at STEPS."""
    net, head = Subnet(seed, noise, dim=DIM), make()
    drawing = np.random.default_rng(seed + 1000) if thompson else None
    found: list[float] = []
    for steps in STEPS:
        if head is not None:
            learn(head, net, steps - net.steps, shape, drawing)
        found.append(quality(head, net, shape))
    return found


def qualities(seeds: list[int]) -> None:
    rules: list[tuple[str, Callable[[], Head | None], Callable[[np.ndarray], np.ndarray], bool]] = [
        ("random", lambda: None, unit, False),
        ("original", lambda: make_head("original", DIM), unit, False),
        ("original, raw", lambda: make_head("original", DIM), raw, False),
        ("original, zeroed", lambda: make_head("original_zeroed", DIM), unit, False),
        ("rls", lambda: RlsHead(DIM, "", RlsOptions()), unit, False),
        ("bayes", lambda: make_head("bayes", DIM), unit, False),
        ("bayes, Thompson", lambda: make_head("bayes", DIM), unit, True),
    ]
    for noise in (1, 2):
        found: dict[str, np.ndarray] = {}
        for name, make, shape, thompson in rules:
            found[name] = np.array([curve(make, noise, seed, shape, thompson) for seed in seeds])
            means = " / ".join(f"{value:.3f}" for value in found[name].mean(axis=0))
            worst = " / ".join(f"{value:.3f}" for value in found[name].min(axis=0))
            note(f"noise {noise}  {name:18} mean {means}   worst {worst}")
        original = found["original"].mean(axis=0)
        for at, steps in enumerate(STEPS):
            worst = float(found["bayes"][:, at].min())
            report(f"quality.noise{noise}.t{steps}", worst, "of oracle", original[at], worst / original[at])
        for at, steps in enumerate(STEPS):
            times = float(found["bayes"][:, at].mean() / original[at])
            report(f"vs_original.noise{noise}.t{steps}", times, "x", 1.0, times)
        for at, steps in enumerate(STEPS):
            worst = float(found["bayes, Thompson"][:, at].min())
            report(
                f"quality_thompson.noise{noise}.t{steps}",
                worst,
                "of oracle",
                original[at],
                worst / original[at],
            )


def recovery(seeds: list[int]) -> None:
    """Hotkeys are replaced by miners of the very same skill: how much of their standing is back 200 steps later, and
    once each of them has been asked about 200 times?"""
    shares, levels, at_once = [], [], []
    for seed in seeds:
        net, head = Subnet(seed, 1, dim=DIM, replace_every=0), make_head("bayes", DIM)
        learn(head, net, 2000)
        replaced = np.random.default_rng(seed).choice(net.miners, 26, replace=False)
        prompts = np.stack([unit(net.offset + centre) for centre in net.centres])
        before = head.scores(prompts, net.hotkeys[replaced])[0]
        skill = net.quality[replaced].copy(), net.failing[replaced].copy()
        for uid in replaced:
            net.replace_hotkey(int(uid))
        net.quality[replaced], net.failing[replaced] = skill
        fresh = head.scores(prompts, net.hotkeys[replaced])[0]
        stranger = head.scores(prompts, np.array([1], dtype=np.uint64))[0]
        at_once.append(float(np.abs(fresh - stranger).max()))
        missing = np.square(fresh - before).sum()
        learn(head, net, RECOVERY_STEPS)
        after = head.scores(prompts, net.hotkeys[replaced])[0]
        shares.append(1 - float(np.square(after - before).sum() / missing))
        learn(head, net, RECOVERY_STEPS * net.miners // ASKED - RECOVERY_STEPS)
        after = head.scores(prompts, net.hotkeys[replaced])[0]
        levels.append(1 - float(np.square(after - before).sum() / missing))
    note(
        f"standing of a replaced hotkey differs from a stranger's by {max(at_once)}; regained {shares}, then {levels}"
    )
    report("old_standing_kept", max(at_once), "z")
    report(f"recovered.t{RECOVERY_STEPS}", min(shares), "of variance")
    report(f"recovered.asked{RECOVERY_STEPS}", min(levels), "of variance")


def auto_of(head: Head, net: Subnet, prompts: int, rng: np.random.Generator) -> tuple[float, float]:
    """50 uids can be asked: the best reward of those that ``auto`` asks over that of all, and how many it asks."""
    got = whole = 0.0
    counts = []
    for _ in range(prompts):
        topic, x = net.prompt()
        uids = rng.choice(net.miners, ASKED, replace=False)
        step = net.ask(topic, unit(x), uids)
        mean, std = head.scores(step.embedding[None], step.hotkeys)
        pick = choose(
            mean[0], std[0], np.arange(ASKED), "auto", rng=rng, k_max=ASKED, noise=head.noise
        ).indices
        answered = np.nan_to_num(step.rewards, nan=0.0) / REWARD_SCALE
        got += float(answered[pick].max())
        whole += float(answered.max())
        counts.append(pick.size)
    return got / whole, float(np.mean(counts))


def auto(seeds: list[int]) -> None:
    """See auto_of, after 1,000 steps."""
    kept, asked = [], []
    for noise in (1, 2):
        for seed in seeds:
            net, head = Subnet(seed, noise, dim=DIM), make_head("bayes", DIM)
            learn(head, net, 1000)
            share, count = auto_of(head, net, 300, np.random.default_rng(seed + 2000))
            kept.append(share)
            asked.append(count)
            note(f"auto: noise {noise} seed {seed} keeps {kept[-1]:.4f} asking {asked[-1]:.1f}")
    report("auto_kept", min(kept), "of best-of-50", 1.0, min(kept))
    report("auto_asked", max(asked), "miners", float(ASKED), ASKED / max(asked))


def times(report: Callable[[str, float, str], None] = report) -> None:
    """CPU milliseconds at 4,096 hotkeys, with the simulator's 7 components and with the most, 32."""
    for topics, suffix in ((8, ""), (33, ".m32")):
        rng = np.random.default_rng(0)
        net = Subnet(0, 1.0, miners=4096, topics=topics, dim=DIM, replace_every=0)
        head = BayesHead(DIM)
        learn(head, net, 1100)
        updates, scores, sweeps = [], [], []
        for _ in range(200):
            topic, x = net.prompt()
            x = unit(x)
            step = net.ask(topic, x, rng.choice(4096, ASKED, replace=False))
            swept = (head.observations + 1) % head.options.sweep_every == 0
            start = time.process_time()
            head.observe(x, step.hotkeys, step.rewards, step.ok)
            if not swept:
                updates.append(time.process_time() - start)
            start = time.process_time()
            head.scores(x[None], net.hotkeys)
            scores.append(time.process_time() - start)
        for _ in range(20):
            start = time.process_time()
            head.sweep()
            sweeps.append(time.process_time() - start)
        note(f"{len(head)} hotkeys, {head.features - 1} components, {len(head.to_bytes()) / 1e6:.1f} MB")
        report(f"update_ms.n4096{suffix}", statistics.median(updates) * 1e3, "ms")
        report(f"em_ms.n4096{suffix}", statistics.median(sweeps) * 1e3, "ms")
        report(f"score_ms.n4096{suffix}", statistics.median(scores) * 1e3, "ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=["quality", "recovery", "auto", "times"], nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = {
        "quality": lambda: qualities(arguments.seeds),
        "recovery": lambda: recovery(arguments.seeds),
        "auto": lambda: auto(arguments.seeds),
        "times": times,
    }
    for name, part in parts.items():
        if not arguments.only or name in arguments.only:
            part()


if __name__ == "__main__":
    main()
