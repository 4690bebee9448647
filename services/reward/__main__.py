"""``python -m services.reward``: the service; ``python -m services.reward compare``: a shadow stack's verdicts."""

from __future__ import annotations

import sys

from coremesh.service.run import run_service
from coremesh.settings import ChainSettings, MeshSettings, RedisSettings, RewardSettings
from services.reward.compare import main as compare

DEFAULT_PORT = 8082
SECTIONS = (RewardSettings, MeshSettings, RedisSettings, ChainSettings)

if __name__ == "__main__":
    if sys.argv[1:2] == ["compare"]:
        sys.exit(compare(sys.argv[2:]))
    # Torch takes seconds to import, and comparing needs none of it.
    from services.reward.app import create_app

    sys.exit(run_service("reward", create_app, SECTIONS, port=DEFAULT_PORT))
