"""Offline evaluation: recorded events replayed through several rules side by side (``coremesh gating evaluate``)."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from transformers.utils import logging as transformers_logging

from coremesh import tables
from coremesh.command import Parser, exit_code, positive, say, writing
from coremesh.errors import BadSetting, CoremeshError
from coremesh.history.protocol import Entry, History
from coremesh.history.redis import RedisHistory
from coremesh.modelfiles import resolve_model
from coremesh.progress import progress
from coremesh.settings import ALL_SECTIONS, ChainSettings, GatingSettings, RedisSettings, load
from coremesh.types import ORIGIN, stream_key
from services.gating.batching import BatchingEncoder
from services.gating.contest import CONTESTANTS, Contest, contestant, standard_error, windows
from services.gating.encoder import SentenceEncoder, TextEncoder, choose_device
from services.gating.learning import prompt_text, told

DONE, NOTHING = 0, 3
PAGE = 256
HELP = """Replay recorded events through several rules side by side. Each rule chooses before it learns; the reward of
its choice is estimated by inverse propensity from the events whose miners were drawn at random."""


@dataclass(slots=True)
class Standing:
    """How one rule did. ``lead`` is over the average available miner; ``of_best`` its share of the best lead;
    ``behind`` is what the best of the rules is ahead, event by event.

    Standard errors are those of the estimates' means, with all events of one prompt as one.
    """

    rule: str
    reward: float
    reward_stderr: float
    lead: float
    lead_stderr: float
    of_best: float | None
    behind: float
    behind_stderr: float
    cpu_s: float


@dataclass(slots=True)
class Curve:
    """Mean rewards in windows of judged events; ``events`` are the windows' ends."""

    events: list[int]
    observed: list[float]
    best: list[float]
    rules: dict[str, list[float]]


@dataclass(slots=True)
class Evaluation:
    """What an evaluation found. ``observed`` is the average available miner, ``best`` the best ``k`` in hindsight."""

    k: int
    seed: int
    encoder: str
    entries: int
    learnt: int
    judged: int
    last_id: str
    trimmed: str
    observed: float | None = None
    best: float | None = None
    rules: list[Standing] = field(default_factory=list[Standing])
    curve: Curve | None = None


async def evaluate(
    history: History,
    encoder: TextEncoder,
    *,
    rules: Sequence[str] = CONTESTANTS,
    k: int = 4,
    last: int | None = None,
    seed: int = 0,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    new_prompts: bool = False,
) -> Evaluation:
    """Replay the events there are now, or the ``last`` ones of them. Raises HistoryUnavailable.

    ``new_prompts``: judge only by those that come for the first time; a rule can remember the others' answers.
    """
    made = {
        name: contestant(name, encoder.dim, learning_rate=learning_rate, momentum=momentum) for name in rules
    }
    contest = Contest(made, k, seed, new_prompts=new_prompts)
    end = await history.last_id()
    skip = max(0, await history.length() - last) if last is not None else 0
    at, entries = ORIGIN, 0
    bar = progress("evaluating", await history.length())
    async with BatchingEncoder(encoder, max_queued=PAGE) as batching:
        with bar as advance:
            while stream_key(at) < stream_key(end):
                page = await history.read(at, min(PAGE, skip) if skip else PAGE)
                if not page:
                    break
                advance(len(page))
                at = page[-1].stream_id
                if skip:
                    skip -= len(page)
                    continue
                page = [entry for entry in page if stream_key(entry.stream_id) <= stream_key(end)]
                entries += len(page)
                await _take(contest, page, batching)
    return _evaluation(
        contest,
        list(rules),
        Evaluation(
            k=k,
            seed=seed,
            encoder=encoder.identity,
            entries=entries,
            learnt=contest.learnt,
            judged=len(contest.values),
            last_id=end,
            trimmed=await history.trimmed(),
        ),
    )


async def _take(contest: Contest, page: list[Entry], encoder: BatchingEncoder) -> None:
    texts = [prompt_text(messages) for entry in page if (messages := told(entry.event))]
    vectors = iter(await encoder.encode(texts) if texts else [])

    def take() -> None:
        for entry in page:
            contest.take(entry.event, next(vectors) if told(entry.event) else None)

    await asyncio.to_thread(take)


def _evaluation(contest: Contest, rules: list[str], found: Evaluation) -> Evaluation:
    values = contest.values
    if not len(values):
        return found
    observed, best = values[:, 0], values[:, 1]
    found.observed, found.best = float(observed.mean()), float(best.mean())
    room = found.best - found.observed
    prompts = contest.prompts
    first = values[:, 2 + int(np.argmax(values[:, 2:].mean(axis=0)))]
    for at, name in enumerate(rules, start=2):
        lead, behind = values[:, at] - observed, first - values[:, at]
        found.rules.append(
            Standing(
                rule=name,
                reward=float(values[:, at].mean()),
                reward_stderr=standard_error(values[:, at], prompts),
                lead=float(lead.mean()),
                lead_stderr=standard_error(lead, prompts),
                of_best=float(lead.mean()) / room if room > 1e-12 else None,
                behind=float(behind.mean()),
                behind_stderr=standard_error(behind, prompts),
                cpu_s=contest.seconds[name],
            )
        )
    found.rules.sort(key=lambda standing: -standing.reward)
    ends, means = windows(values)
    columns = means.T.tolist()
    found.curve = Curve(ends, columns[0], columns[1], dict(zip(rules, columns[2:], strict=True)))
    return found


def show(found: Evaluation, console: Console) -> None:
    """Print an evaluation for people."""
    console.print(
        f"{found.entries} entries up to {found.last_id}, {found.learnt} learnt from, {found.judged} judged; "
        f"the best {found.k} asked",
        highlight=False,
    )
    if not found.judged:
        console.print("No event's miners were drawn at random with a known chance.", highlight=False)
        return
    console.print(
        f"the average available miner earns {found.observed:.4f}, the best in hindsight {found.best:.4f}",
        highlight=False,
    )
    table = tables.table("", "rule", *EVALUATED, numbers=EVALUATED)
    for one in found.rules:
        table.add_row(
            one.rule,
            _with_error(one.reward, one.reward_stderr),
            _with_error(one.lead, one.lead_stderr),
            "" if one.of_best is None else f"{one.of_best:.1%}",
            _with_error(one.behind, one.behind_stderr) if one.behind else "",
            f"{one.cpu_s:.1f}",
        )
    console.print(table)


def _with_error(mean: float, error: float) -> str:
    return f"{mean:.3f} ±{error:.3f}"


def plot(found: Evaluation, file: Path) -> None:
    """Write the learning curve as PNG. Raises BadSetting without matplotlib, or where it cannot be written."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BadSetting(
            "--plot needs matplotlib", remedy="Install it (pip install matplotlib), or leave --plot out."
        ) from None
    assert found.curve is not None
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, means in found.curve.rules.items():
        axes.plot(found.curve.events, means, marker=".", label=name)
    axes.plot(found.curve.events, found.curve.best, color="black", linestyle=":", label="best in hindsight")
    axes.plot(found.curve.events, found.curve.observed, color="grey", linestyle="--", label="average miner")
    axes.set_xlabel("judged events")
    axes.set_ylabel(f"reward of the chosen {found.k}")
    figure.legend(fontsize="small", loc="outside right upper")
    axes.grid(alpha=0.3)
    with writing(file, "--plot"):
        figure.savefig(file, format="png")


EVALUATED = ("reward", "lead", "of best", "behind", "CPU s")


def main(argv: Sequence[str]) -> int:
    """The command. Gives the exit code: 0; 2 for a bad setting; 3 when nothing was judged; 4 when Redis is away."""
    arguments, words = _parser().parse_known_args(list(argv))
    if arguments.history:
        words.append(f"--redis.url={arguments.history}")
    try:
        settings = load([RedisSettings, ChainSettings, GatingSettings], words, known=ALL_SECTIONS)
        rules = _rules(arguments.rules)
        gating = settings[GatingSettings]
        torch.set_num_threads(gating.threads)
        transformers_logging.disable_progress_bar()
        found = asyncio.run(
            _run(settings[RedisSettings], settings[ChainSettings].netuid, gating, arguments, rules)
        )
        if arguments.plot and found.judged:
            plot(found, arguments.plot)
    except CoremeshError as error:
        say(error, "evaluate")
        return exit_code(error)
    if arguments.json:
        print(json.dumps(asdict(found)))
    else:
        show(found, tables.console())
    return DONE if found.judged else NOTHING


def _parser() -> Parser:
    parser = Parser(
        prog="coremesh gating evaluate",
        description=HELP,
        epilog="Settings are taken too: --redis.url, --chain.netuid, --gating.encoder, --config FILE, ...",
        allow_abbrev=False,
    )
    parser.add_argument("--history", metavar="URL", help="the Redis that holds the history (--redis.url)")
    parser.add_argument("--last", type=positive, metavar="N", help="the newest N events only")
    parser.add_argument(
        "--k", type=positive, default=4, help="how many of the available to ask (%(default)s)"
    )
    parser.add_argument("--rules", default=",".join(CONTESTANTS), help="which rules (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    parser.add_argument(
        "--new-prompts", action="store_true", help="judge only by prompts that come for the first time"
    )
    parser.add_argument("--json", action="store_true", help="print the table and the learning curve as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the learning curve as PNG")
    return parser


def _rules(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if name not in CONTESTANTS]
    if wrong or not names:
        raise BadSetting(
            f"--rules: got {', '.join(wrong) or 'none'}", remedy=f"It takes {', '.join(CONTESTANTS)}."
        )
    return list(dict.fromkeys(names))


async def _run(
    redis: RedisSettings,
    netuid: int,
    gating: GatingSettings,
    arguments: argparse.Namespace,
    rules: Sequence[str],
) -> Evaluation:
    history = RedisHistory(redis.address, netuid, timeout=timedelta(seconds=redis.timeout_s))
    try:
        await history.ping()
        encoder = SentenceEncoder(
            resolve_model(gating.encoder), device=choose_device(gating.device, auto="cpu")
        )
        return await evaluate(
            history,
            encoder,
            rules=rules,
            k=arguments.k,
            last=arguments.last,
            seed=arguments.seed,
            learning_rate=gating.learning_rate,
            momentum=gating.momentum,
            new_prompts=arguments.new_prompts,
        )
    finally:
        await history.close()
