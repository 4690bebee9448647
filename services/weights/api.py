"""Requests and answers that only this service has; the others are in coremesh.contracts."""

from __future__ import annotations

from pydantic import Field

from coremesh.contracts import Contract
from coremesh.history import SubmissionEntry

MOST_UIDS = 65536


class SubmissionRow(Contract):
    """One record of an attempt to set weights, aligned with ``uids``."""

    stream_id: str
    id: str = Field(description="records with the same id are about the same attempt, the newest first")
    time_ms: int
    block: int = Field(description="when it was proposed")
    landed_block: int = Field(description="when the chain took it; 0: not")
    result: str = Field(description="held, dry_run, sent, landed, committed, revealed, superseded or failed")
    reason: str
    uids: tuple[int, ...]
    weights: tuple[float, ...]
    values: tuple[int, ...] = Field(description="u16, as the chain stores them")
    commit_reveal: bool
    rule: str
    version_key: int
    last_id: str = Field(description="the last event in the scores behind it")


class SubmissionsResponse(Contract):
    """Records, newest first."""

    submissions: tuple[SubmissionRow, ...]


class PreviewRequest(Contract):
    """What would be set if? Everything left out is as it is now."""

    scores: dict[int, float] | None = Field(
        None, max_length=MOST_UIDS, description="uid to score in place of the moving scores; others are 0"
    )
    min_weights: int | None = Field(
        None, ge=1, le=65535, description="the subnet's minimum number of weights"
    )
    max_weight: int | None = Field(None, ge=1, le=65535, description="the subnet's maximum weight, u16")


class OverrideResponse(Contract):
    """The next submission passes the gate, whatever an operator may answer for."""

    overridden: tuple[str, ...] = Field(description="codes of the reasons that hold it now")


def row(entry: SubmissionEntry) -> SubmissionRow:
    """A record as the API shows it."""
    s = entry.submission
    return SubmissionRow(
        stream_id=entry.stream_id,
        id=s.id,
        time_ms=s.time_ms,
        block=s.block,
        landed_block=s.landed_block,
        result=s.result,
        reason=s.reason,
        uids=s.uids,
        weights=s.weights,
        values=s.values,
        commit_reveal=s.commit_reveal,
        rule=s.rule,
        version_key=s.version_key,
        last_id=s.last_id,
    )
