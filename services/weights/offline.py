"""``coremesh explain --offline``: the explanation and its signature from the history and the wallet, no service."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from coremesh.cli import show
from coremesh.cli.explain import explanation
from coremesh.command import Parser, exit_code, say
from coremesh.contracts import Explanation, SignedExplanation
from coremesh.errors import CoremeshError, HistoryUnavailable, Unavailable
from coremesh.history import History
from coremesh.progress import waiting
from coremesh.settings import (
    ALL_SECTIONS,
    ChainSettings,
    WalletSettings,
    WeightsSettings,
    load,
)
from coremesh.types import ORIGIN
from coremesh.wire.wallets import load_keypair
from services.weights import scores
from services.weights.anchors import base
from services.weights.book import Page
from services.weights.explain import MOST_EVENTS, Base, Speaker, explain
from services.weights.fold import NAME
from services.weights.proof import sign
from services.weights.recipe import recipe
from services.weights.recorded import Recorded
from services.weights.rules import rule_of_format
from services.weights.scores import ScoreState
from services.weights.sources import SECTIONS, open_source

DONE = 0


async def explain_checkpoint(
    history: Recorded, store: History, uid: int, events: int, *, netuid: int, no_history: str, validator: str
) -> Explanation:
    """Explain a score of the newest checkpoint in ``store`` by the events of ``history``.

    Raises UnknownMiner, HistoryUnavailable, and Unavailable while nothing was folded.
    """
    checkpoint, metagraph = await store.load(NAME), await store.metagraph()
    if checkpoint is None:
        raise Unavailable("nothing was folded yet", remedy="Wait for the weights service.")
    try:
        rule = rule_of_format(checkpoint.format.removeprefix(f"{scores.LAYOUT}:"))
    except ValueError as error:
        raise Unavailable(f"the checkpoint was made another way: {error}") from None
    page = Page(scores.load(checkpoint.state), checkpoint.last_id, checkpoint.version)
    vector = None
    if metagraph is not None:
        how = recipe(rule, metagraph.hyperparameters, "skip" if no_history == "skip" else "uniform")
        vector = how.vector(page.state, metagraph.hotkey)
    whole = await history.trimmed() == ORIGIN
    start = Base(ScoreState(), ORIGIN) if whole else await base(store, rule)
    speaker = Speaker(netuid, validator, vector)
    return await explain(history, page, rule, uid, events=events, base=start, speaker=speaker)


def main(argv: Sequence[str]) -> int:
    """The command. Gives the exit code."""
    given, words = _parser().parse_known_args(list(argv))
    try:
        found = asyncio.run(_run(given, words))
    except CoremeshError as error:
        say(error, "explain")
        return exit_code(error)
    if given.json:
        show.as_json(found.model_dump(mode="json"))
    else:
        explanation(found.model_dump(mode="json"))
    return DONE


async def _run(given: argparse.Namespace, words: list[str]) -> SignedExplanation:
    settings = load([*SECTIONS, WalletSettings, WeightsSettings], words, known=ALL_SECTIONS)
    wallet = settings[WalletSettings]
    keypair = load_keypair(wallet.path.expanduser(), wallet.name, wallet.hotkey) if given.sign else None
    async with open_source(settings, given.from_parquet) as source:
        if source.store is None:
            raise HistoryUnavailable(
                "the scores to explain are in Redis, which knows nothing of this archive"
            )
        with waiting("folding the history"):
            found = await explain_checkpoint(
                source.history,
                source.store,
                given.uid,
                given.events,
                netuid=settings[ChainSettings].netuid,
                no_history=settings[WeightsSettings].no_history,
                validator=keypair.ss58_address if keypair else "",
            )
    return sign(found, keypair) if keypair else SignedExplanation(explanation=found)


def _parser() -> Parser:
    parser = Parser(prog="coremesh explain --offline", allow_abbrev=False)
    parser.add_argument("uid", type=int)
    parser.add_argument("--events", type=_bounded, default=50)
    parser.add_argument("--sign", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--from-parquet")
    return parser


def _bounded(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= MOST_EVENTS:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1 to {MOST_EVENTS}")
    return int(word)
