"""The event history: one append-only truth in Redis, its checkpoints, and the leases of those who write them."""

from coremesh.history.protocol import (
    Checkpoint,
    Entry,
    History,
    Lease,
    Submission,
    SubmissionEntry,
)

__all__ = ["Checkpoint", "Entry", "History", "Lease", "Submission", "SubmissionEntry"]
