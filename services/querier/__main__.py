"""``python -m services.querier [--role trainer]``: the querier, or the training loop."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fastapi import FastAPI

from coremesh.errors import BadSetting
from coremesh.service import Health, Loops, run_service
from coremesh.settings import ALL_SECTIONS, QuerierSettings, Settings, TrainerSettings, load
from services.querier.app import SECTIONS, create_app
from services.querier.sources import check_sources

PORTS = {"api": 8080, "trainer": 8084}
NAMES = {"api": "querier", "trainer": "trainer"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the role in the settings. Gives the exit code; see ``run_service``."""
    words = [_spelt_out(word) for word in (sys.argv[1:] if argv is None else argv)]
    try:
        role = load([QuerierSettings], words, known=ALL_SECTIONS)[QuerierSettings].role
    except BadSetting:
        role = "api"  # run_service says what is wrong
    return run_service(NAMES[role], _create, SECTIONS, port=PORTS[role], argv=words)


def _create(settings: Settings, loops: Loops, health: Health) -> FastAPI:
    """The app of the role. Raises as ``create_app``, and BadSetting for sources that the trainer cannot read."""
    if settings[QuerierSettings].role == "trainer":
        check_sources(settings[TrainerSettings])
    return create_app(settings, loops, health)


def _spelt_out(word: str) -> str:
    """``--role`` is short for ``--querier.role``."""
    if word == "--role" or word.startswith("--role="):
        return "--querier." + word[2:]
    return word


if __name__ == "__main__":
    sys.exit(main())
