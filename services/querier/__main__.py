"""``python -m services.querier [--role trainer]``: the querier, or the training loop."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from coremesh.errors import BadSetting
from coremesh.service import run_service
from coremesh.settings import ALL_SECTIONS, QuerierSettings, load
from services.querier.app import SECTIONS, create_app

PORTS = {"api": 8080, "trainer": 8084}
NAMES = {"api": "querier", "trainer": "trainer"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the role in the settings. Gives the exit code; see ``run_service``."""
    words = [_spelt_out(word) for word in (sys.argv[1:] if argv is None else argv)]
    try:
        role = load([QuerierSettings], words, known=ALL_SECTIONS)[QuerierSettings].role
    except BadSetting:
        role = "api"  # run_service says what is wrong
    return run_service(NAMES[role], create_app, SECTIONS, port=PORTS[role], argv=words)


def _spelt_out(word: str) -> str:
    """``--role`` is short for ``--querier.role``."""
    if word == "--role" or word.startswith("--role="):
        return "--querier." + word[2:]
    return word


if __name__ == "__main__":
    sys.exit(main())
