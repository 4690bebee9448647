"""What the sink for wandb tells Prometheus."""

from __future__ import annotations

from prometheus_client import Counter

EVENTS = Counter("coremesh_wandb_events_total", "Forwards handed to wandb")
FAILURES = Counter("coremesh_wandb_failures_total", "Times that wandb's process failed, hung or ended")
GAPS = Counter("coremesh_wandb_gaps_total", "Times events were trimmed before wandb was told of them")
