"""``python -m services.gating``: the service; ``python -m services.gating evaluate``: offline evaluation."""

from __future__ import annotations

import os
import sys

# Before numpy is imported: the small matrices of the head are slower with more threads, and many times so under
# load; the same state on every machine asks for the same number.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import torch  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from coremesh.modelfiles import resolve_model  # noqa: E402
from coremesh.service import Health, Loops, run_service  # noqa: E402
from coremesh.settings import ChainSettings, GatingSettings, MeshSettings, RedisSettings, Settings  # noqa: E402
from services.gating.app import create_gating_app  # noqa: E402
from services.gating.encoder import SentenceEncoder, choose_device  # noqa: E402
from services.gating.evaluate import main as evaluate  # noqa: E402

PORT = 8081


def factory(settings: Settings, loops: Loops, health: Health) -> FastAPI:
    """Load the encoder and wire the service. Raises BadModel, BadSetting."""
    gating = settings[GatingSettings]
    torch.set_num_threads(gating.threads)
    transformers_logging.disable_progress_bar()
    encoder = SentenceEncoder(resolve_model(gating.encoder), device=choose_device(gating.device))
    return create_gating_app(settings, encoder, loops, health)


if __name__ == "__main__":
    if sys.argv[1:2] == ["evaluate"]:
        sys.exit(evaluate(sys.argv[2:]))
    sections = [GatingSettings, RedisSettings, ChainSettings, MeshSettings]
    sys.exit(run_service("gating", factory, sections, port=PORT))
