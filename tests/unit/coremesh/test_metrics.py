"""No two modules register a metric of the same name: the services' metrics live together in dashboards and tests."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY


def modules() -> Iterator[str]:
    yield "coremesh.service.metrics"
    for service in ("querier", "reward", "weights"):
        yield f"services.{service}.metrics"
    yield "services.weights.newest"
    yield "services.gating.service"
    yield "coremesh.service.gpu"


def test_the_metrics_of_all_services_fit_into_one_registry() -> None:
    for name in modules():
        importlib.import_module(name)
    found = {family.name: family for family in REGISTRY.collect() if family.name.startswith("coremesh_")}
    assert len(found) > 30
    for family in found.values():
        assert family.documentation


@pytest.mark.parametrize("suffix", ["_ms", "_milliseconds", "_kb", "_mb", "_minutes"])
def test_metrics_are_in_base_units(suffix: str) -> None:
    for name in modules():
        importlib.import_module(name)
    assert [
        f.name for f in REGISTRY.collect() if f.name.startswith("coremesh_") and f.name.endswith(suffix)
    ] == []
