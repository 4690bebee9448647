"""What the chain holds of a validator, against what it says it submitted."""

from __future__ import annotations

from dataclasses import dataclass

from coremesh.history import Submission, SubmissionEntry
from coremesh.settings import ChainSettings
from services.weights.chain import Standing
from services.weights.ledger import ON_CHAIN
from services.weights.recorded import Recorded

MOST_SUBMISSIONS = 20_000


@dataclass(slots=True)
class OnChain:
    """The chain's weights of the validator against the newest submission that it took."""

    block: int
    equal: bool
    note: str


async def compare_with_chain(history: Recorded, chain: ChainSettings) -> OnChain:
    """Read the chain and compare it with the newest submission that it took. Raises HistoryUnavailable,
    ChainUnavailable."""
    from services.weights.chain.sdk import BittensorChain  # the SDK takes a second to import

    newest = next((e.submission for e in await history.submissions(MOST_SUBMISSIONS) if _taken(e)), None)
    if newest is None:
        return OnChain(0, True, "no submission has landed yet")
    client = BittensorChain(chain, _Onlooker(newest.hotkey))
    try:
        standing = await client.standing()
    finally:
        await client.close()
    return judge(newest, standing)


def judge(newest: Submission, standing: Standing) -> OnChain:
    """Whether the chain holds what the newest submission says."""
    held, sent = dict(standing.weights), dict(zip(newest.uids, newest.values, strict=True))
    if held == sent:
        return OnChain(standing.block, True, f"the chain holds the weights of block {newest.landed_block}")
    if any(commit.block == newest.landed_block for commit in standing.commits):
        return OnChain(
            standing.block, True, f"the weights of block {newest.landed_block} wait for their reveal"
        )
    if standing.uid is None:
        return OnChain(standing.block, False, f"{newest.hotkey} is not registered")
    uids = sorted(uid for uid in held.keys() | sent.keys() if held.get(uid) != sent.get(uid))
    return OnChain(standing.block, False, f"the chain holds other weights for uids {uids[:20]}")


def _taken(entry: SubmissionEntry) -> bool:
    return entry.submission.result in ON_CHAIN


class _Onlooker:
    """Somebody's hotkey, to read the chain with."""

    crypto_type = 1

    def __init__(self, ss58_address: str) -> None:
        self.ss58_address = ss58_address

    def sign(self, message: bytes, /) -> bytes:
        """Cannot."""
        raise NotImplementedError("a replay signs nothing")
