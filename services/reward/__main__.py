"""``python -m services.reward``."""

from __future__ import annotations

import sys

from coremesh.service.run import run_service
from coremesh.settings import ChainSettings, MeshSettings, RedisSettings, RewardSettings
from services.reward.app import create_app

DEFAULT_PORT = 8082
SECTIONS = (RewardSettings, MeshSettings, RedisSettings, ChainSettings)

if __name__ == "__main__":
    sys.exit(run_service("reward", create_app, SECTIONS, port=DEFAULT_PORT))
