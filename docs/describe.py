"""One service's OpenAPI and metrics as JSON on stdout: ``python docs/describe.py querier``.

A process of its own for each service, as in the mesh: two services may have a metric of the same name. The real app is
built, with a throw-away wallet, and never started.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from coremesh.service import Health, Loops
from coremesh.settings import ALL_SECTIONS, Settings, load


def _settings(directory: Path, *flags: str) -> Settings:
    from devnet.wallets import ensure_wallets

    ensure_wallets(directory / "wallets", ("default",))
    wallet = ("--wallet.path", str(directory / "wallets"))
    return load(ALL_SECTIONS, [*wallet, "--querier.spool", str(directory / "spool"), *flags])


def _loops() -> Loops:
    return Loops(lambda name, error: None)


def _querier(directory: Path) -> FastAPI:
    from services.querier.app import create_app

    return create_app(_settings(directory), _loops(), Health())


def _trainer(directory: Path) -> FastAPI:
    from services.querier.app import create_app

    return create_app(_settings(directory, "--querier.role", "trainer"), _loops(), Health())


def _gating(directory: Path) -> FastAPI:
    from services.gating.__main__ import factory

    return factory(_settings(directory), _loops(), Health())


def _reward(directory: Path) -> FastAPI:
    from services.reward.app import create_app

    # A stack without a model: what is described does not depend on it, and nothing needs to be loaded.
    stack = directory / "stack.toml"
    stack.write_text('[[function]]\ntype = "judge"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "none"\n')
    return create_app(_settings(directory, "--reward.stack", str(stack)), _loops(), Health())


def _weights(directory: Path) -> FastAPI:
    from services.weights.__main__ import factory

    return factory(_settings(directory), _loops(), Health())


def _miner(directory: Path) -> FastAPI:
    from coremesh.types import Hotkey
    from miner.app import create_app
    from miner.backends.openai import OpenAIBackend
    from miner.gate import Gate, Stakes

    backend = OpenAIBackend(
        "http://127.0.0.1:9/v1", "none", api_key="", max_tokens=1, temperature=0.0, concurrency=1
    )
    return create_app(backend, Gate(Hotkey("none"), Stakes()), Health(), max_timeout_s=60.0)


SERVICES: dict[str, Callable[[Path], FastAPI]] = {
    "querier": _querier,
    "trainer": _trainer,
    "gating": _gating,
    "reward": _reward,
    "weights": _weights,
    "miner": _miner,
}


def _metrics() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    # The registry lists what was measured so far; a metric with labels is silent until then.
    for collector in set(REGISTRY._names_to_collectors.values()):
        if isinstance(collector, MetricWrapperBase):
            (family,) = collector.describe()
            suffix = "_total" if family.type == "counter" else ""
            found.append(
                {
                    "name": family.name + suffix,
                    "type": family.type,
                    "labels": list(collector._labelnames),
                    "meaning": family.documentation,
                }
            )
    return sorted(found, key=lambda metric: metric["name"])


def main() -> None:
    """Print the description of the service that the command line names."""
    with tempfile.TemporaryDirectory() as directory:
        app = SERVICES[sys.argv[1]](Path(directory))
        print(json.dumps({"openapi": app.openapi(), "metrics": _metrics()}))
    sys.stdout.flush()
    # Nothing was started; what a constructor may have begun (a chain client's thread) is not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
