"""``coremesh backtest``: the command, its tables and its picture."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from coremesh import tables
from coremesh.command import Parser, exit_code, positive, say, writing
from coremesh.errors import BadSetting, CoremeshError
from coremesh.settings import ALL_SECTIONS, WeightsSettings, load
from services.weights.backtest import Backtest, backtest
from services.weights.compute import Limits
from services.weights.rules import RULES, Rule, rule_named
from services.weights.sources import SECTIONS, open_source

DONE, NOTHING = 0, 3
MOST_RULES = 16
SHOWN = 20


def rule_of_text(text: str, *, alpha: float, temperature: float) -> Rule:
    """The rule of ``name[:alpha=A][:temperature=T]``. Raises BadSetting."""
    name, *pairs = text.split(":")
    given: dict[str, float] = {"alpha": alpha, "temperature": temperature}
    try:
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key not in given:
                raise ValueError(f"{key!r} is no parameter of a rule")
            given[key] = float(value)
        if not 0 <= given["alpha"] < 1:
            raise ValueError("alpha is from 0 to under 1")
        if not 0.001 <= given["temperature"] <= 100:
            raise ValueError("temperature is from 0.001 to 100")
        return rule_named(name, alpha=given["alpha"], temperature=given["temperature"])
    except ValueError as error:
        raise BadSetting(
            f"--rule {text}: {error}",
            remedy=f"It takes NAME[:alpha=A][:temperature=T], with NAME one of {', '.join(RULES)}.",
        ) from None


RULE_NUMBERS = ("miners", "with mean reward", "churn an epoch")
PAIR_NUMBERS = ("spearman", "best ten in common")


def main(argv: Sequence[str]) -> int:
    """The command. Gives the exit code."""
    given, words = _parser().parse_known_args(list(argv))
    try:
        found = asyncio.run(_run(given, words))
        if given.json and str(given.json) != "-":
            with writing(given.json, "--json"):
                given.json.write_text(json.dumps(asdict(found), indent=2) + "\n")
        if given.png and found.events:
            plot(found, given.png)
    except CoremeshError as error:
        say(error, "backtest")
        return exit_code(error)
    if str(given.json) == "-":
        print(json.dumps(asdict(found)))
    else:
        show(found, tables.console())
    return DONE if found.events else NOTHING


async def _run(given: argparse.Namespace, words: list[str]) -> Backtest:
    settings = load([*SECTIONS, WeightsSettings], words, known=ALL_SECTIONS)
    weights = settings[WeightsSettings]
    alpha = weights.alpha if given.alpha is None else given.alpha
    temperature = weights.temperature if given.temperature is None else given.temperature
    texts: list[str] = given.rule or list(RULES)
    if len(texts) > MOST_RULES:
        raise BadSetting(f"{len(texts)} rules are too many", remedy=f"Compare at most {MOST_RULES}.")
    rules = {text: rule_of_text(text, alpha=alpha, temperature=temperature) for text in texts}
    if given.png:
        need_matplotlib()
    async with open_source(settings, given.from_parquet) as source:
        metagraph = await source.store.metagraph() if source.store else None
        limits, epoch = None, given.epoch_blocks
        if metagraph is not None:
            h = metagraph.hyperparameters
            limits = Limits(metagraph.size, h.min_weights, max(1, h.max_weight))
            epoch = epoch or h.tempo
        return await backtest(source.history, rules, epoch_blocks=epoch or 360, limits=limits)


def _parser() -> Parser:
    parser = Parser(
        prog="coremesh backtest",
        description="Folds the recorded history through several rules: final weights, rank correlations, churn and "
        "overlap of the best ten. The rule in force must give the scores that are held, bit for bit.",
        epilog="Settings are taken too: --redis.url, --chain.netuid, --config FILE, ... Exit code: 0 done, 1 failed, "
        "2 a bad setting, 3 there is no scored event, 4 could not look: Redis or the archive does not answer.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rule",
        action="append",
        metavar="NAME[:alpha=A][:temperature=T]",
        help=f"once for each rule (default: {', '.join(RULES)})",
    )
    parser.add_argument("--alpha", type=float, help="of rules that name none (weights.alpha)")
    parser.add_argument("--temperature", type=float, help="of rules that name none (weights.temperature)")
    parser.add_argument(
        "--epoch-blocks", type=positive, help="blocks an epoch (the subnet's tempo, else 360)"
    )
    parser.add_argument("--from-parquet", metavar="DIR|s3://BUCKET/PREFIX", help="fold this archive first")
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=Path("-"),
        metavar="FILE",
        help="print all of it as JSON, or write it to this file",
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw weights and churn (needs matplotlib)")
    return parser


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def show(found: Backtest, console: Console) -> None:
    """Print a backtest for people."""
    console.print(
        f"{found.events} scored events in {found.entries} entries up to {found.last_id}, "
        f"{len(found.epochs)} epochs of {found.epoch_blocks} blocks",
        highlight=False,
    )
    if found.trimmed != "0-0":
        console.print(
            f"The history up to {found.trimmed} is not there: scores begin at 0 behind it.", highlight=False
        )
    table = tables.table("rules", "rule", *RULE_NUMBERS, "as held", numbers=RULE_NUMBERS)
    for one in found.rules:
        held = "" if one.live is None else "every bit" if one.live else "DIFFERENT"
        table.add_row(one.rule, str(len(one.weights)), _number(one.spearman_reward), _number(one.churn), held)
    console.print(table)
    if found.pairs:
        pairs = tables.table("pairs", "one", "two", *PAIR_NUMBERS, numbers=PAIR_NUMBERS)
        for pair in found.pairs:
            pairs.add_row(pair.one, pair.two, _number(pair.spearman), f"{pair.top_overlap:.0%}")
        console.print(pairs)
    weights = tables.table(
        "final weights",
        "uid",
        "mean reward",
        *(one.rule for one in found.rules),
        numbers=("uid", "mean reward"),
    )
    best = sorted(
        {uid for one in found.rules for uid in one.weights},
        key=lambda uid: (-found.rules[0].weights.get(uid, 0.0), uid),
    )
    for uid in best[:SHOWN]:
        shares = (_number(one.weights.get(uid, 0.0)) for one in found.rules)
        weights.add_row(str(uid), _number(found.mean_reward.get(uid)), *shares)
    console.print(weights)


def need_matplotlib() -> None:
    """Raises BadSetting when matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BadSetting(
            "--png needs matplotlib, which is not installed",
            remedy="Install it (pip install 'coremesh[plots]'), or leave --png out.",
        ) from None


def plot(found: Backtest, file: Path) -> None:
    """Draw a backtest as PNG. Raises BadSetting without matplotlib, or where it cannot be written."""
    need_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    first = found.rules[0].weights
    uids = sorted({u for one in found.rules for u in one.weights}, key=lambda u: (-first.get(u, 0.0), u))
    for one in found.rules:
        left.plot([one.weights.get(uid, 0.0) for uid in uids], marker=".", label=one.rule)
        if one.churn_by_epoch:
            moves = [math.nan if change is None else change for change in one.churn_by_epoch]
            right.plot(range(1, len(moves) + 1), moves, label=one.rule)
    left.set_xticks(range(len(uids)), [str(uid) for uid in uids], fontsize="x-small", rotation=90)
    left.set_xlabel("uid, the best of the first rule first")
    left.set_ylabel("weight")
    right.set_xlabel("epoch with events")
    right.set_ylabel("sum of |change of weight|")
    left.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with writing(file, "--png"):
        figure.savefig(file, format="png")
