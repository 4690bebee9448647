"""Alerts, dashboards and scaling ask for metrics; each of them is one that a service has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "deploy/grafana"
PROMETHEUS = ROOT / "deploy/prometheus"
KEDA = ROOT / "deploy/k8s/components/keda/scaledobjects.yaml"
METRIC_MODULES = (
    "coremesh.service.metrics",
    "services.querier.metrics",
    "services.weights.metrics",
    "services.reward.metrics",
    "services.weights.newest",
    "services.weights.archive.metrics",
    "services.weights.board.metrics",
    "services.gating.service",
    "services.gating.batching",
    "services.gating.encoder",
    "coremesh.service.gpu",
)
# Of Prometheus itself, and of prometheus-client's process collector.
GIVEN = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Every sample name with its labels, from registries of processes of their own, as services have them."""
    code = (
        "import importlib, json, sys\n"
        "importlib.import_module(sys.argv[1])\n"
        "from prometheus_client import REGISTRY\n"
        "found = {}\n"
        "for collector in set(REGISTRY._collector_to_names):\n"
        "    for name in REGISTRY._collector_to_names[collector]:\n"
        "        found[name] = list(getattr(collector, '_labelnames', ()))\n"
        "print(json.dumps(found))\n"
    )
    names: dict[str, set[str]] = {name: {"job", "instance"} for name in GIVEN}
    for module in METRIC_MODULES:
        done = subprocess.run(
            [sys.executable, "-c", code, module], capture_output=True, text=True, timeout=100, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        for name, labels in json.loads(done.stdout.splitlines()[-1]).items():
            names.setdefault(name, set()).update(labels, {"job", "instance", "namespace"})
            if name.endswith("_bucket"):
                names[name].add("le")
    return names


def dashboard_queries() -> list[str]:
    board = json.loads((GRAFANA / "dashboards/mesh.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def alert_rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def keda_queries() -> list[str]:
    documents = yaml.safe_load_all(KEDA.read_text())
    return [trigger["metadata"]["query"] for one in documents for trigger in one["spec"]["triggers"]]


QUERIES = dashboard_queries() + [rule["expr"] for rule in alert_rules()] + keda_queries()


def selectors(query: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    """The series that a query, or a part of one, asks for."""
    found: list[promql_parser.VectorSelector] = []
    promql_parser.walk(
        query, lambda e: found.append(e) if isinstance(e, promql_parser.VectorSelector) else None
    )
    return found


def groupings(query: promql_parser.Expr) -> list[tuple[promql_parser.Expr, list[str]]]:
    """What a query aggregates, with the labels that it keeps."""
    found: list[tuple[promql_parser.Expr, list[str]]] = []

    def keep(expr: promql_parser.Expr) -> None:
        if isinstance(expr, promql_parser.AggregateExpr) and expr.modifier is not None:
            found.append((expr.expr, expr.modifier.labels))

    promql_parser.walk(query, keep)
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_queries_ask_for_what_there_is(query: str, exported: dict[str, set[str]]) -> None:
    # Raises what is wrong with its words or types.
    parsed = promql_parser.parse(query)
    asked = selectors(parsed)
    assert asked
    assert {one.name for one in asked} <= {*exported}
    for one in asked:
        assert {matcher.name for matcher in one.matchers.matchers} <= exported[str(one.name)]
    for part, labels in groupings(parsed):
        assert {*labels} <= set[str]().union(*(exported[str(one.name)] for one in selectors(part)))


def test_the_dashboard_is_what_its_source_says() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import dashboard; print(dashboard.text(), end='')"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=GRAFANA,
    )
    assert done.stdout == (GRAFANA / "dashboards/mesh.json").read_text(), (
        "run: python deploy/grafana/dashboard.py"
    )
    panels = json.loads(done.stdout)["panels"]
    places = [tuple(panel["gridPos"].values()) for panel in panels]
    assert len(set(places)) == len(places) == 37
    # What is 0 or 1 is told in words: beside thousands of events the line lay on the axis.
    (held,) = [panel for panel in panels if "held_back" in json.dumps(panel.get("targets", ""))]
    assert (held["type"], len(held["targets"])) == ("state-timeline", 1)
    assert held["fieldConfig"]["defaults"]["mappings"][0]["options"]["1"]["text"] == "held back"


def test_every_alert_says_what_and_what_to_do() -> None:
    for rule in alert_rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    shutil.copy(PROMETHEUS / "alerts.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    rules = {
        "groups": [
            {
                "name": "queries",
                "rules": [{"record": f"query:{i}", "expr": query} for i, query in enumerate(QUERIES)],
            }
        ]
    }
    (tmp_path / "queries.yml").write_text(yaml.safe_dump(rules))
    for words in (
        ["check", "config", str(PROMETHEUS / "prometheus.yml")],
        ["check", "rules", "queries.yml"],
        ["test", "rules", "alerts_test.yml"],
    ):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
