"""The page of what was measured beside what it must reach, from benchmarks/RESULTS.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent.parent / "benchmarks/RESULTS.md"
ROW = re.compile(
    r"\| (?P<metric>\S+) \| (?P<value>[^|]*) \| (?P<unit>[^|]*) \| (?P<baseline>[^|]*) \| (?P<ratio>[^|]*)\|"
)


class Row(NamedTuple):
    """A row of RESULTS.md."""

    value: float
    unit: str
    ratio: float | None


class Floor(NamedTuple):
    """What a metric must reach: `ratio` or `value`, at least or at most so much."""

    metric: str
    says: str
    of: str
    sense: str
    bound: float

    def measured(self, rows: dict[str, Row]) -> float | None:
        """The figure of the recorded run, None where it has none."""
        row = rows.get(self.metric)
        return None if row is None else getattr(row, self.of)

    def met(self, rows: dict[str, Row]) -> bool:
        """Whether the recorded run reached it."""
        found = self.measured(rows)
        return found is not None and (found >= self.bound if self.sense == "≥" else found <= self.bound)


FLOORS = {
    "Fan-out": (
        Floor(
            "fanout.cpu_vs_aiohttp.k64", "CPU a signed request over aiohttp's, 64 miners", "value", "≤", 0.5
        ),
        Floor("fanout.cpu_vs_aiohttp.k256", "the same, 256 miners", "value", "≤", 0.4),
        Floor("fanout.tail_p50_ms.k64", "ms after the slowest of 64 miners", "value", "≤", 10),
    ),
    "Reward": (
        Floor(
            "reward.decoder_diff_vs_original.k10",
            "decoder, difference mode, over the original, K=10",
            "ratio",
            "≥",
            12,
        ),
        Floor("reward.decoder_diff_vs_original.k50", "the same, K=50", "ratio", "≥", 14),
        Floor("reward.decoder_diff_vs_naive.k10", "over one text at a time, K=10", "ratio", "≥", 1.8),
        Floor("reward.decoder_diff_vs_naive.k50", "the same, K=50", "ratio", "≥", 1.8),
        Floor(
            "reward.decoder_diff_of_ideal.k50",
            "of what libraries' fastest products would allow",
            "ratio",
            "≥",
            0.75,
        ),
        Floor("reward.bert_vs_original", "BERT over the original", "ratio", "≥", 5.5),
        Floor("reward.bert_vs_infinity", "BERT over infinity-emb at its default batch size", "ratio", "≥", 2),
        Floor("reward.deberta_vs_original", "DeBERTa over the original", "ratio", "≥", 3.5),
        Floor(
            "reward.http_of_engine",
            "through HTTP, of the engine's own rate (above 1 is noise)",
            "ratio",
            "≥",
            0.85,
        ),
        Floor(
            "reward.interactive_p99_vs_idle",
            "a user's p99 beside training, over its idle latency",
            "value",
            "≤",
            3,
        ),
        Floor(
            "reward.max_abs_error",
            "largest difference from plain transformers, in logits",
            "value",
            "≤",
            1e-5,
        ),
    ),
    "Gating": (
        Floor(
            "gating.quality.noise1.t200",
            "quality of ten chosen over the best ten's, noise 1, 200 steps",
            "value",
            "≥",
            0.93,
        ),
        Floor("gating.quality.noise1.t1000", "1,000 steps", "value", "≥", 0.98),
        Floor("gating.quality.noise1.t5000", "5,000 steps", "value", "≥", 0.985),
        Floor("gating.quality.noise2.t200", "noise 2, 200 steps", "value", "≥", 0.92),
        Floor("gating.quality.noise2.t1000", "1,000 steps", "value", "≥", 0.97),
        Floor("gating.quality.noise2.t5000", "5,000 steps", "value", "≥", 0.98),
        Floor("gating.update_ms.n4096", "ms of an update, 4,096 hotkeys", "value", "≤", 0.5),
        Floor("gating.em_ms.n4096", "ms of an EM sweep, 4,096 hotkeys", "value", "≤", 20),
    ),
    "Weights": (
        Floor(
            "weights.fold_vs_original",
            "folding events from Redis, over the original in memory",
            "ratio",
            "≥",
            30,
        ),
        Floor("weights.redis_mb_100k", "MB of Redis for 100,000 events of 50 uids", "value", "≤", 250),
    ),
    "The mesh": (
        Floor("mesh.overhead_p50_ms.c10", "ms that `/inference` adds, p50, 10 users", "value", "≤", 8),
        Floor("mesh.overhead_p99_ms.c10", "the same, p99", "value", "≤", 40),
        Floor("mesh.loop_lag_p99_ms", "ms of event-loop lag, p99 of the worst service", "value", "≤", 20),
        Floor("mesh.first_answer_s", "seconds from a fresh clone to the first answer", "value", "≤", 180),
    ),
}

INTRO = """
What must be reached, and what the last recorded run reached, each baseline beside it in the same run. `make bench` runs
all of it; `python -m benchmarks.record` writes every row, with more than stands here, into `benchmarks/RESULTS.md`.
Machines are shared and noisy: another run gives other figures.
"""


def rows_of(text: str) -> dict[str, Row]:
    """The rows of RESULTS.md by metric, but for those that say that there was nothing to measure."""
    found: dict[str, Row] = {}
    for match in ROW.finditer(text):
        if match["metric"] != "metric" and match["value"].strip():
            ratio = match["ratio"].strip()
            found[match["metric"]] = Row(
                float(match["value"]), match["unit"].strip(), float(ratio) if ratio else None
            )
    return found


def lines(text: str) -> Iterator[str]:
    """The page's lines, but for its title, from the text of RESULTS.md."""
    rows = rows_of(text)
    yield from (INTRO.strip(), "")
    for title, floors in FLOORS.items():
        yield from (f"## {title}", "", "| metric | what | must | measured | met |", "|---|---|---|---|---|")
        for floor in floors:
            found = floor.measured(rows)
            figure = "not recorded" if found is None else f"{found:.3g}"
            met = "yes" if floor.met(rows) else "**no**"
            yield f"| `{floor.metric}` | {floor.says} | {floor.sense} {floor.bound:g} | {figure} | {met} |"
        yield ""
    yield from ("## When, and where", "")
    # RESULTS.md says of each module when it ran, on what.
    yield from (f"- {line}" for line in text.splitlines() if line.startswith("`benchmarks."))
