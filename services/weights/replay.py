"""Proving scores and submissions: fold the history again from its start, and compare bit for bit."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from rich.console import Console

from coremesh import tables
from coremesh.command import COULD_NOT_LOOK, Parser, say
from coremesh.errors import BadSetting, CoremeshError
from coremesh.events import Event
from coremesh.history import Checkpoint, Submission
from coremesh.progress import progress
from coremesh.settings import ALL_SECTIONS, ChainSettings, Settings, load
from coremesh.types import ORIGIN, StreamId, stream_key
from services.weights import scores
from services.weights.fold import NAME
from services.weights.onchain import OnChain, compare_with_chain
from services.weights.recipe import recipe_of_text
from services.weights.recorded import Recorded
from services.weights.rules import Rule, rule_of_format
from services.weights.scores import ScoreState
from services.weights.sources import SECTIONS, open_source

EQUAL, DIFFERENT, BAD_SETTING, NOT_PROVABLE = 0, 1, 2, 3
AWAY = COULD_NOT_LOOK
PAGE = 1000
MOST_SUBMISSIONS = 20_000
HELP = """usage: coremesh replay [--json] [--from-parquet DIR|s3://BUCKET/PREFIX] [--chain] [--redis.url URL]
                       [--chain.netuid N] [--config FILE]

Folds the event history from its start, and compares the scores with the checkpoint that the weights service
holds, and the weights with every recorded submission, bit for bit.

--from-parquet folds an archive, and after its end what Redis has; without Redis the archive alone, with its own
submissions. --chain reads what the chain holds of the validator and compares it with the newest submission that landed.

exit code: 0 all equal, 1 something differs, 2 a bad setting, 3 the start of the history is not there,
4 could not look: Redis, the archive or the chain does not answer"""


@dataclass(slots=True)
class Difference:
    """One uid whose replayed score is not the one held."""

    uid: int
    held: float | None
    replayed: float | None


@dataclass(slots=True)
class Compared:
    """One submission against its replay."""

    id: str
    block: int
    result: str
    last_id: str
    equal: bool
    note: str = ""


@dataclass(slots=True)
class Report:
    """What a replay found."""

    provable: bool
    equal: bool
    note: str
    events: int = 0
    entries: int = 0
    last_id: str = ORIGIN
    format: str = ""
    differences: list[Difference] = field(default_factory=list[Difference])
    submissions: list[Compared] = field(default_factory=list[Compared])
    source: str = "redis"
    """Where the events came from."""
    chain: OnChain | None = None

    @property
    def exit_code(self) -> int:
        """For the shell."""
        return NOT_PROVABLE if not self.provable else EQUAL if self.equal else DIFFERENT


async def replay(history: Recorded, *, alone: bool = False) -> Report:
    """Replay ``history``; ``alone``: an archive without its store, so that submissions alone can be compared.

    Raises HistoryUnavailable.
    """
    # Submissions first: of those there are then, none is of scores newer than the checkpoint that is read after them.
    records: dict[str, Submission] = {}
    for entry in await history.submissions(MOST_SUBMISSIONS):
        records.setdefault(entry.submission.id, entry.submission)
    checkpoint = None if alone else await history.load(NAME)
    if (trimmed := await history.trimmed()) != ORIGIN:
        return _trimmed(trimmed)
    if checkpoint is None and not alone:
        length = await history.length()
        note = "nothing was folded yet" if length else "the history is empty"
        return Report(provable=True, equal=length == 0, note=note)
    tracks: dict[str, _Track] = {}
    rule: Rule | None = None
    if checkpoint is not None:
        try:
            rule = rule_of_format(checkpoint.format.partition(f"{scores.LAYOUT}:")[2])
        except ValueError as error:
            return Report(provable=False, equal=False, note=f"the checkpoint was made another way: {error}")
        tracks[rule.format] = _Track(rule)
    until = await history.last_id() if checkpoint is None else checkpoint.last_id
    if alone:
        # Archived together with its events, a submission may be a few events ahead of them.
        records = {i: s for i, s in records.items() if stream_key(s.last_id) <= stream_key(until)}
    open_, compared = _plan(list(records.values()), tracks, until)
    at, entries = ORIGIN, 0
    with progress("replaying", await history.length()) as advance:
        while stream_key(at) < stream_key(until):
            page = await history.read(at, PAGE)
            page = [entry for entry in page if stream_key(entry.stream_id) <= stream_key(until)]
            if not page:
                break
            for entry in page:
                for track in tracks.values():
                    track.take(entry.event)
                for submission in open_.pop(entry.stream_id, ()):
                    compared.append(_compare(submission, tracks))
            for track in tracks.values():
                track.fold()
            entries += len(page)
            advance(len(page))
            at = page[-1].stream_id
    if (trimmed := await history.trimmed()) != ORIGIN:
        return _trimmed(trimmed)  # while it was read
    for left in open_.values():
        compared += [_compared(s, False, "its place is not in the history") for s in left]
    compared.sort(key=lambda c: (stream_key(c.last_id), c.block))
    return _report(checkpoint, rule, tracks, compared, entries, until)


def _trimmed(until: StreamId) -> Report:
    note = f"events up to {until} were trimmed away: scores cannot be proven from the start"
    return Report(provable=False, equal=False, note=note)


def _report(
    checkpoint: Checkpoint | None,
    rule: Rule | None,
    tracks: dict[str, _Track],
    compared: list[Compared],
    entries: int,
    until: StreamId,
) -> Report:
    differences: list[Difference] = []
    same, format_ = True, ""
    if checkpoint is not None and rule is not None:
        state = tracks[rule.format].state
        same, format_ = scores.dump(state) == checkpoint.state, checkpoint.format
        differences = [] if same else _differences(scores.load(checkpoint.state), state)
    all_equal = same and all(c.equal for c in compared)
    note = "every bit is equal" if all_equal else "the replay differs from what is held"
    if checkpoint is None:
        note = (
            f"every bit of {len(compared)} submissions is equal; there are no held scores to compare with"
            if all_equal
            else "the replay differs from what was submitted"
        )
    return Report(
        provable=True,
        equal=all_equal,
        note=note,
        events=next((track.state.events for track in tracks.values()), 0),
        entries=entries,
        last_id=until,
        format=format_,
        differences=differences,
        submissions=compared,
    )


class _Track:
    """One rule's fold, some events behind."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.state = ScoreState()
        self._waiting: list[Event] = []

    def take(self, event: Event) -> None:
        self._waiting.append(event)

    def fold(self) -> ScoreState:
        self.state = scores.fold(self.state, self._waiting, self.rule)
        self._waiting = []
        return self.state


def _plan(
    submissions: list[Submission], tracks: dict[str, _Track], last_id: StreamId
) -> tuple[dict[str, list[Submission]], list[Compared]]:
    """Where to look at which submission; adds the tracks of other rules that they need."""
    open_: dict[str, list[Submission]] = {}
    compared: list[Compared] = []
    for submission in submissions:
        try:
            rule = recipe_of_text(submission.rule).rule
        except ValueError as error:
            compared.append(_compared(submission, False, str(error)))
            continue
        tracks.setdefault(rule.format, _Track(rule))
        if stream_key(submission.last_id) > stream_key(last_id):
            compared.append(_compared(submission, False, "its place is behind the checkpoint"))
        else:
            open_.setdefault(submission.last_id, []).append(submission)
    for submission in open_.pop(ORIGIN, ()):
        compared.append(_compare(submission, tracks))
    return open_, compared


def _compare(submission: Submission, tracks: dict[str, _Track]) -> Compared:
    how = recipe_of_text(submission.rule)
    vector = how.vector(tracks[how.rule.format].fold(), submission.hotkey)
    equal = (vector.uids, vector.weights, vector.values) == (
        submission.uids,
        submission.weights,
        submission.values,
    )
    return _compared(submission, equal, "" if equal else "the replayed weights are others")


def _compared(submission: Submission, equal: bool, note: str) -> Compared:
    return Compared(submission.id, submission.block, submission.result, submission.last_id, equal, note)


def _differences(held: ScoreState, replayed: ScoreState) -> list[Difference]:
    found: list[Difference] = []
    for uid in range(max(held.size, replayed.size)):
        a = float(held.moving[uid]) if uid < held.size else None
        b = float(replayed.moving[uid]) if uid < replayed.size else None
        if a != b:
            found.append(Difference(uid, a, b))
    return found


def show(report: Report, console: Console) -> None:
    """Print a report for people."""
    console.print(f"{report.note}.", highlight=False)
    console.print(
        f"{report.events} scored events in {report.entries} entries up to {report.last_id} ({report.format})",
        highlight=False,
    )
    console.print(f"read from {report.source}", highlight=False)
    if report.chain is not None:
        verdict = "equal" if report.chain.equal else "NOT EQUAL"
        console.print(f"chain at block {report.chain.block}: {verdict}, {report.chain.note}", highlight=False)
    if report.differences:
        table = tables.table("scores that differ", "uid", "held", "replayed", numbers=("uid",))
        for d in report.differences:
            table.add_row(str(d.uid), repr(d.held), repr(d.replayed))
        console.print(table)
    if report.submissions:
        equal = sum(s.equal for s in report.submissions)
        title = f"submissions: {equal:,} of {len(report.submissions):,} equal"
        table = tables.table(title, "block", "result", "up to event", "equal", "note", numbers=("block",))
        for s in report.submissions:
            table.add_row(str(s.block), s.result, s.last_id, "yes" if s.equal else "NO", s.note)
        console.print(table)


def main(argv: Sequence[str]) -> int:
    """The command. Gives the exit code."""
    if "--help" in argv:
        print(HELP)
        return EQUAL
    try:
        given, words = _parser().parse_known_args(list(argv))
        settings = load(SECTIONS, words, known=ALL_SECTIONS)
        report = asyncio.run(_run(settings, given.from_parquet, chain=given.chain))
    except CoremeshError as error:
        say(error, "replay")
        return BAD_SETTING if isinstance(error, BadSetting) else AWAY
    except Exception:
        # Python would end with 1, which says that something differs.
        traceback.print_exc()
        return AWAY
    if given.json:
        print(json.dumps(asdict(report)))
    else:
        show(report, tables.console())
    return report.exit_code


def _parser() -> Parser:
    parser = Parser(prog="coremesh replay", add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--from-parquet")
    parser.add_argument("--chain", action="store_true")
    return parser


async def _run(settings: Settings, parquet: str | None, *, chain: bool) -> Report:
    async with open_source(settings, parquet) as source:
        report = await replay(source.history, alone=source.store is None)
        report.source = source.text
        if chain:
            report.chain = await compare_with_chain(source.history, settings[ChainSettings])
            report.equal = report.equal and report.chain.equal
        return report
