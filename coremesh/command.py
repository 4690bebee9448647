"""``python -m coremesh.command MODULE …``: a module's command in this process, ended as the shell expects it.

The command line imports no service, it becomes one. Ctrl-C ends with 130 and a reader that went away (`… | head`) with
141, both without a word.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from coremesh.errors import BadModel, BadSetting, BadWallet, CoremeshError

FAILED = 1
USAGE = 2
COULD_NOT_LOOK = 4
"""What a command asks does not answer: nothing is known to be wrong, and nothing to be right."""
INTERRUPTED = 130
BROKEN_PIPE = 141
AWAY = (503, 504)


def quietly(work: Callable[[], object]) -> int:
    """Do ``work`` and flush what it printed. Gives the exit code: its own, 130 or 141. Other errors are raised."""
    code: int = 0
    try:
        try:
            work()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # What is still in the buffer would be tried again at the very end, and fail with a message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    return code


def say(error: CoremeshError, name: str = "coremesh") -> None:
    """An error on standard error: a sentence, a remedy, a code; as JSON on standard output too, where asked for."""
    if "--json" in sys.argv:
        print(json.dumps(error.as_dict()))
    message = error.message.rstrip(".")
    print(f"{name}: {message}. {error.remedy} [{error.code}]", file=sys.stderr)


class Usage(CoremeshError):
    """The command line cannot be understood."""

    code = "usage"
    default_remedy = "`coremesh --help` lists the commands, `coremesh COMMAND --help` what each takes."


def exit_code(error: CoremeshError) -> int:
    """Of a command that ends with ``error``: see the constants of this module."""
    if isinstance(error, BadSetting | BadWallet | BadModel | Usage):
        return USAGE
    return COULD_NOT_LOOK if error.status in AWAY else FAILED


class Parser(argparse.ArgumentParser):
    """An argparse parser that says what is wrong as every command does: a sentence, a remedy, exit code 2."""

    def error(self, message: str) -> NoReturn:
        say(Usage(message, remedy=f"`{self.prog} --help` says what it takes."))
        raise SystemExit(USAGE)


def positive(word: str) -> int:
    """A flag's count, 1 or more, for argparse."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1 on")
    return int(word)


@contextmanager
def writing(file: Path, flag: str) -> Generator[None]:
    """Raise BadSetting where the file that ``flag`` names cannot be written."""
    try:
        yield
    except OSError as error:
        raise BadSetting(
            f"{flag}: cannot write {file}: {error.strerror}", remedy="Name a file in a directory that exists."
        ) from None


def main() -> int:
    """Run the module that the words name. Gives the exit code."""
    module, *words = sys.argv[1:]
    sys.argv = [module, *words]
    return quietly(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))


if __name__ == "__main__":
    sys.exit(main())
