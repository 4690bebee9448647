"""Writes dashboards/mesh.json: ``python deploy/grafana/dashboard.py``. Panels are lines here, not pages of JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent / "dashboards" / "mesh.json"
WIDTH, HEIGHT, COLUMNS = 8, 7, 3
P50_P95 = ((0.5, "p50"), (0.95, "p95"))


@dataclass(frozen=True, slots=True)
class Panel:
    """A time series: ``queries`` are (PromQL, legend); ``unit`` is one of Grafana's.

    ``states`` makes it bands of two colours over time: what 0 is called, and what 1 is, which is bad.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    states: tuple[str, str] | None = None


def quantiles(metric: str, *by: str, legend: str = "") -> tuple[tuple[str, str], ...]:
    """Median and 95th percentile of a histogram over five minutes, apart by labels."""
    labels = ", ".join(("le", *by))
    return tuple(
        (
            f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket[5m])))",
            f"{legend} {name}".strip(),
        )
        for q, name in P50_P95
    )


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Answers",
        (
            Panel(
                "Forwards by result",
                "reqps",
                (("sum by (kind, result) (rate(coremesh_forwards_total[5m]))", "{{kind}} {{result}}"),),
            ),
            Panel(
                "Stages of a forward, p95",
                "s",
                quantiles("coremesh_querier_stage_seconds", "stage", legend="{{stage}}")[1:],
            ),
            Panel("Beyond waiting for miners", "s", quantiles("coremesh_querier_overhead_seconds")),
            Panel(
                "Miners' answers by status",
                "reqps",
                (("sum by (status) (rate(coremesh_miner_replies_total[5m]))", "{{status}}"),),
            ),
            Panel(
                "Doing without",
                "reqps",
                (("sum by (part) (rate(coremesh_degraded_total[5m]))", "{{part}}"),),
            ),
            Panel(
                "In progress",
                "short",
                (
                    ("sum(coremesh_querier_callers)", "users' requests"),
                    ("sum(coremesh_forwards_in_flight)", "forwards"),
                ),
            ),
        ),
    ),
    (
        "Models",
        (
            Panel(
                "Reward: wait in the queue",
                "s",
                quantiles("coremesh_reward_wait_seconds", "lane", legend="{{lane}}"),
            ),
            Panel(
                "Reward: requests admitted",
                "short",
                (("sum by (lane) (coremesh_reward_queue_requests)", "{{lane}}"),),
            ),
            Panel("Reward: tokens in a step", "short", quantiles("coremesh_reward_step_tokens")),
            Panel(
                "Reward: step time, p95",
                "s",
                quantiles("coremesh_reward_step_seconds", "op", legend="{{op}}")[1:],
            ),
            Panel(
                "Reward: refused and dropped",
                "reqps",
                (
                    ("sum by (lane) (rate(coremesh_reward_refused_total[5m]))", "refused {{lane}}"),
                    ("sum by (reason) (rate(coremesh_reward_dropped_total[5m]))", "dropped {{reason}}"),
                ),
            ),
            Panel("Gating: embedding a prompt", "s", quantiles("coremesh_gating_encode_seconds")),
            Panel("Gating: wait for the encoder", "s", quantiles("coremesh_gating_wait_seconds")),
            Panel(
                "Gating: prompts waiting",
                "short",
                (("sum by (instance) (coremesh_gating_queue_depth)", "{{instance}}"),),
            ),
            Panel("Gating: tokens in a batch", "short", quantiles("coremesh_gating_batch_tokens")),
            Panel(
                "GPU memory in use",
                "percentunit",
                (
                    (
                        'sum by (job, instance, gpu) (coremesh_gpu_memory_bytes{kind="used"})'
                        ' / sum by (job, instance, gpu) (coremesh_gpu_memory_bytes{kind="total"})',
                        "{{job}} {{instance}} GPU {{gpu}}",
                    ),
                ),
            ),
            Panel(
                "GPU busy",
                "percentunit",
                (
                    (
                        "max by (job, instance, gpu) (coremesh_gpu_utilisation_ratio)",
                        "{{job}} {{instance}} GPU {{gpu}}",
                    ),
                ),
            ),
        ),
    ),
    (
        "History and chain",
        (
            Panel(
                "Events by what became of them",
                "reqps",
                (("sum by (outcome) (rate(coremesh_events_total[5m]))", "{{outcome}}"),),
            ),
            Panel(
                "How far folds are behind",
                "s",
                (
                    (
                        "max(coremesh_history_event_timestamp_seconds) - on () group_right ()"
                        " max by (fold) (coremesh_fold_event_timestamp_seconds)",
                        "{{fold}}",
                    ),
                ),
            ),
            Panel(
                "Age of the newest event",
                "s",
                (("time() - max(coremesh_history_event_timestamp_seconds)", "event"),),
            ),
            Panel(
                "Events kept in Redis",
                "short",
                (("max(coremesh_history_events)", "kept"),),
            ),
            Panel(
                "Trimming held back for a fold that never ran",
                "none",
                (("max by (fold) (coremesh_history_trim_held_back)", "{{fold}}"),),
                states=("trimmed", "held back"),
            ),
            Panel(
                "How far the archive is behind",
                "s",
                (("max by (kind) (coremesh_archive_lag_seconds)", "{{kind}}"),),
            ),
            Panel(
                "Waiting on disk for Redis",
                "short",
                (("sum(coremesh_spool_events)", "events"),),
            ),
            Panel(
                "Age of our weights",
                "short",
                (
                    # As the alert WeightsOld: of an instance that sees no blocks any more the age stands still.
                    (
                        "min(coremesh_weights_age_blocks"
                        " and on (job, instance) changes(coremesh_chain_block[5m]) > 0)"
                        " or min(coremesh_weights_age_blocks)",
                        "blocks",
                    ),
                ),
            ),
            Panel(
                "Submissions by result",
                "short",
                (
                    (
                        "sum by (result) (increase(coremesh_weights_submissions_total[1h]))",
                        "{{result}} in an hour",
                    ),
                ),
            ),
            Panel(
                "Held, missed",
                "short",
                (
                    ("max by (reason) (coremesh_weights_held)", "held: {{reason}}"),
                    ("sum(increase(coremesh_weights_epochs_missed_total[1h]))", "epochs missed in an hour"),
                ),
            ),
        ),
    ),
    (
        "Processes",
        (
            Panel(
                "Requests by status",
                "reqps",
                (("sum by (job, status) (rate(coremesh_http_requests_total[5m]))", "{{job}} {{status}}"),),
            ),
            Panel(
                "Requests by replica",
                "reqps",
                (
                    (
                        "sum by (job, instance) (rate(coremesh_http_requests_total"
                        '{route=~"/score|/reward|/inference|/v1/chat/completions"}[1m]))',
                        "{{job}} {{instance}}",
                    ),
                ),
            ),
            Panel(
                "How late the event loop wakes, p95",
                "s",
                quantiles("coremesh_loop_lag_seconds", "job", legend="{{job}}")[1:],
            ),
            Panel(
                "Memory",
                "bytes",
                (("sum by (job, instance) (process_resident_memory_bytes)", "{{job}} {{instance}}"),),
            ),
            Panel(
                "CPU",
                "percentunit",
                (("sum by (job, instance) (rate(process_cpu_seconds_total[1m]))", "{{job}} {{instance}}"),),
            ),
            Panel(
                "Leaders",
                "short",
                (
                    ("sum by (fold) (coremesh_fold_leading)", "{{fold}}"),
                    ("sum(coremesh_trainer_leading)", "trainer"),
                ),
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(_placed(len(panels), 0, y, 24, 1) | {"type": "row", "title": title, "collapsed": False})
        y += 1
        for index, panel in enumerate(row):
            x = index % COLUMNS * WIDTH
            drawn = _series if panel.states is None else _bands
            panels.append(drawn(panel, _placed(len(panels), x, y, WIDTH, HEIGHT)))
            if index % COLUMNS == COLUMNS - 1 or index == len(row) - 1:
                y += HEIGHT
    return {
        "uid": "coremesh",
        "title": "coremesh",
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": []},
        "panels": panels,
    }


def _placed(number: int, x: int, y: int, w: int, h: int) -> dict[str, Any]:
    return {"id": number + 1, "gridPos": {"x": x, "y": y, "w": w, "h": h}}


def _series(panel: Panel, placed: dict[str, Any]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "prometheus"}
    return placed | {
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": source, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(panel.queries)
        ],
    }


def _bands(panel: Panel, placed: dict[str, Any]) -> dict[str, Any]:
    """Beside numbers of thousands a line of 0 or 1 cannot be seen."""
    good, bad = panel.states or ("0", "1")
    said = {"0": {"text": good, "color": "green"}, "1": {"text": bad, "color": "red"}}
    steps = [{"color": "green", "value": None}, {"color": "red", "value": 1}]
    defaults = {
        "unit": panel.unit,
        "mappings": [{"type": "value", "options": said}],
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": {"fillOpacity": 70},
    }
    return _series(panel, placed) | {
        "type": "state-timeline",
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "showValue": "always",
            "mergeValues": True,
            "legend": {"showLegend": False},
            "tooltip": {"mode": "single"},
        },
    }


def text() -> str:
    """What the file holds."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
