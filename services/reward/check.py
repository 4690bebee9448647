"""``python -m services.reward.check [STACK]``: is a stack's file right, and which models does it name? As JSON.

Nothing is loaded: torch is not imported. The command line asks this, as it imports no service.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from coremesh.errors import BadSetting
from services.reward.config import read_config

GOOD, BAD = 0, 2


def main(argv: list[str]) -> int:
    """Print ``{"name", "models"}``, or the error as ``{"code", "message", "remedy"}``. Gives the exit code."""
    try:
        config = read_config(Path(argv[0]) if argv else None)
    except BadSetting as error:
        print(json.dumps(error.as_dict()))
        return BAD
    parts = [*config.function, *config.mask, *([config.safety] if config.safety else [])]
    models = [
        model
        for part in parts
        if getattr(part, "type", "") != "judge"
        for field in ("model", "reference")
        if (model := getattr(part, field, None))
    ]
    print(json.dumps({"name": config.name, "models": list(dict.fromkeys(models))}))
    return GOOD


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
