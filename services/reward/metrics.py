"""What the reward service tells Prometheus beside what every service does."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from coremesh.service.metrics import BUCKETS_S

STEP_TOKENS = Histogram(
    "coremesh_reward_step_tokens",
    "About how many tokens one step of the compute thread had",
    ["op"],
    buckets=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768),
)
STEP_SECONDS = Histogram(
    "coremesh_reward_step_seconds", "Time of one step of the compute thread", ["op"], buckets=BUCKETS_S
)
PART_SECONDS = Histogram(
    "coremesh_reward_part_seconds",
    "Time that a function or mask took for a request",
    ["part"],
    buckets=BUCKETS_S,
)
WAIT_SECONDS = Histogram(
    "coremesh_reward_wait_seconds", "Time from queueing work to its first step", ["lane"], buckets=BUCKETS_S
)
QUEUE_DEPTH = Gauge("coremesh_reward_queue_requests", "Requests admitted and not yet answered", ["lane"])
QUEUE_BYTES = Gauge("coremesh_reward_queue_bytes", "Bytes of text in admitted requests")
REFUSED = Counter("coremesh_reward_refused_total", "Requests refused because the queue was full", ["lane"])
DROPPED = Counter("coremesh_reward_dropped_total", "Work dropped because nobody waits for it", ["reason"])
STEP_FAILURES = Counter("coremesh_reward_step_failures_total", "Steps that raised", ["op"])
OOM_HALVINGS = Gauge(
    "coremesh_reward_oom_halvings", "Times memory ran out and a model's token budget was halved", ["model"]
)
COMPLETIONS = Counter("coremesh_reward_completions_total", "Completions scored", ["kind"])
SHADOW = Counter("coremesh_reward_shadow_total", "Requests given to the shadow stack too", ["outcome"])
