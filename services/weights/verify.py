"""``coremesh verify FILE``: is a saved explanation what a validator said, and does its arithmetic hold?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from coremesh.command import Parser, say
from coremesh.contracts import SignedExplanation
from coremesh.errors import BadSetting
from services.weights.proof import Verdict, verify

GOOD, BAD, UNREADABLE, UNSIGNED = 0, 1, 2, 3
MOST_BYTES = 256 * 1024 * 1024
EPILOG = "exit code: 0 signed and right, 1 something is wrong, 2 no explanation, 3 right and not signed"


def main(argv: Sequence[str]) -> int:
    """The command. Gives the exit code."""
    given = _parser().parse_args(list(argv))
    try:
        verdict = verify(read(given.file), signer=given.hotkey)
    except BadSetting as error:
        say(error, "verify")
        return UNREADABLE
    if given.json:
        print(json.dumps(asdict(verdict)))
    else:
        _show(verdict)
    if not verdict.good:
        return BAD
    return GOOD if verdict.signed else UNSIGNED


def read(file: Path) -> SignedExplanation:
    """The explanation in a file. Raises BadSetting when there is none."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise BadSetting(f"{file} is over {MOST_BYTES} bytes", remedy="No explanation is that long.")
        return SignedExplanation.model_validate_json(file.read_bytes())
    except OSError as error:
        raise BadSetting(f"cannot read {file}: {error.strerror}", remedy="Name the file.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadSetting(
            f"{file} holds no explanation: {where} {first['msg']}",
            remedy="Save one with `coremesh explain UID --sign --json > FILE`.",
        ) from None


def _parser() -> Parser:
    parser = Parser(
        prog="coremesh verify",
        description="Checks the signature of an explanation, who signed it, and every share and score in it. No "
        "history, no chain and no wallet is needed.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, help="JSON of `coremesh explain UID --sign --json`")
    parser.add_argument("--hotkey", metavar="SS58", help="the validator that must have signed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _show(verdict: Verdict) -> None:
    for problem in verdict.problems:
        print(_plain(problem))
    by = f"signed by {_plain(verdict.signer)}" if verdict.signed else "not signed"
    print(f"{'right' if verdict.good else 'WRONG'}: {verdict.steps} steps, {by}")


def _plain(text: str) -> str:
    """A text of the file's, in which nothing can move the cursor: it must not overwrite the verdict on a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
