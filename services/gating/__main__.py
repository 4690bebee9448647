"""``python -m services.gating``."""

from __future__ import annotations

import sys

import torch
from fastapi import FastAPI
from transformers.utils import logging as transformers_logging

from coremesh.errors import BadSetting
from coremesh.modelfiles import resolve_model
from coremesh.service import Health, Loops, run_service
from coremesh.settings import ChainSettings, GatingSettings, MeshSettings, RedisSettings, Settings
from services.gating.app import create_gating_app
from services.gating.encoder import SentenceEncoder

PORT = 8081


def factory(settings: Settings, loops: Loops, health: Health) -> FastAPI:
    """Load the encoder and wire the service. Raises BadModel, BadSetting."""
    gating = settings[GatingSettings]
    torch.set_num_threads(gating.threads)
    transformers_logging.disable_progress_bar()
    encoder = SentenceEncoder(resolve_model(gating.encoder), device=_device(gating.device))
    return create_gating_app(settings, encoder, loops, health)


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise BadSetting(f"gating.device: got {wanted!r}; takes auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadSetting(f"gating.device: got {wanted!r}; this machine has no CUDA device")
    return wanted


if __name__ == "__main__":
    sections = [GatingSettings, RedisSettings, ChainSettings, MeshSettings]
    sys.exit(run_service("gating", factory, sections, port=PORT))
