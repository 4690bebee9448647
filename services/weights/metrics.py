"""What Prometheus learns about weights. Names carry their unit."""

from __future__ import annotations

import math

from prometheus_client import Counter, Gauge

CHAIN_BLOCK = Gauge("coremesh_chain_block", "Newest block seen")
CHAIN_FAILURES = Counter(
    "coremesh_chain_failures_total", "Chain calls that failed or timed out, and nodes left for standing still"
)
AGE_BLOCKS = Gauge(
    "coremesh_weights_age_blocks", "Blocks since the chain last saw weights of ours; NaN until that is known"
)
AGE_BLOCKS.set(math.nan)  # a standby's 0 would hide the leader's age from whoever takes the least of all
DUE = Gauge("coremesh_weights_due", "1 while weights are due and not yet on the chain")
HELD = Gauge("coremesh_weights_held", "1 while the gate holds a submission, by reason", ["reason"])
SUBMISSIONS = Counter("coremesh_weights_submissions_total", "Records of submissions", ["result"])
EPOCHS_MISSED = Counter("coremesh_weights_epochs_missed_total", "Epochs that ended without weights of ours")
EVENTS = Gauge("coremesh_scores_events", "Scored events in the scores")
TRIMMED = Counter("coremesh_history_trimmed_total", "Events trimmed from the history")
EXCESS = Gauge(
    "coremesh_history_excess_events", "Events kept beyond the wanted number, for a fold that is behind"
)
HELD_BACK = Gauge(
    "coremesh_history_trim_held_back",
    "1 while events pile up for a fold that never ran; on the leader",
    ["fold"],
)
