"""Getting weights onto the chain: propose, gate, send, read back, try again within the epoch.

A submission is recorded as ``sent`` before it is handed to the chain, and its outcome after the chain was read
back. So whoever takes over finds what was under way, and a leader that lost its lease is refused the record and
sends nothing.

What was recorded and is neither on the chain nor on its way there is sent again, the same vector under the same
record: of two extrinsics of one nonce the chain takes one, and whichever it is, the record is right. Only when no
extrinsic of a record can land any more (each lives for ERA_BLOCKS) is it called failed.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from coremesh.history import Lease, Submission
from coremesh.metagraph import Metagraph
from coremesh.service import traces
from coremesh.settings import WeightsSettings
from coremesh.types import new_event_id
from services.weights.book import Book, Proposal
from services.weights.chain import ERA_BLOCKS, Chain, Sent, Standing, Tick
from services.weights.gate import Reason
from services.weights.ledger import Ledger
from services.weights.metrics import DUE, HELD
from services.weights.repeat import repeatable
from services.weights.schedule import Due, due, retry_wait

log = structlog.get_logger(__name__)

RESEND_BLOCKS = 32
"""How long a record is worth sending again, longer than a lease lasts. After that another vector is due."""
HARD = ("empty", "not_finite", "not_registered")
"""Reasons that not even an operator can override."""


class Submitter:
    """One leader's submissions. ``step`` is called on every new block; between calls all state is in the ledger."""

    def __init__(self, ledger: Ledger, chain: Chain, book: Book, settings: WeightsSettings) -> None:
        self._ledger = ledger
        self._chain = chain
        self._book = book
        self._settings = settings
        self._failures = 0
        self._retry_at = 0
        self._tempo = 360
        self._said: tuple[object, ...] = ()
        self._override = False
        self._answer: Sent | None = None
        self._sent_once = False
        """Of the open attempt there is one extrinsic and no other, ours."""
        self._lands_until: int | None = None
        """The last block that may hold an extrinsic of the open attempt; None until the chain was read back."""
        self.reasons: tuple[Reason, ...] = ()
        """Why the next submission is held."""

    def override_once(self) -> None:
        """Let the next submission pass whatever an operator may answer for."""
        self._override = True

    async def take_over(self) -> None:
        """Begin to lead. Raises HistoryUnavailable."""
        page = self._book.page
        await self._ledger.take_over(page.last_id, page.state.events)
        self._failures, self._retry_at, self._said = 0, 0, ()
        self._forget()

    def stand_down(self) -> None:
        """Lead no longer: what is due and held is for another to say."""
        self.reasons = ()
        self._show(())
        DUE.set(0)
        self._override = False

    async def step(self, lease: Lease, tick: Tick, metagraph: Metagraph, leads: Callable[[], bool]) -> None:
        """Do what is due at ``tick``. ``leads`` tells whether the lease is still held.

        Raises ChainUnavailable, HistoryUnavailable, LeaseLost; call again.
        """
        self._tempo = metagraph.hyperparameters.tempo
        if self._ledger.attempt is not None:
            await self._settle(lease, tick, metagraph, leads)
        if self._ledger.sealed:
            await self._look_for_reveals(lease)
        uid = metagraph.uid_of(metagraph.hotkey)
        last_update = tick.last_update[uid] if uid is not None and uid < len(tick.last_update) else 0
        when = self._when(tick.block, tick, last_update, metagraph)
        DUE.set(when is not Due.WAIT)
        if when is Due.WAIT or self._ledger.attempt is not None or tick.block < self._retry_at:
            return
        standing = await self._chain.standing()
        if self._when(standing.block, tick, standing.last_update, metagraph) is Due.WAIT:
            return  # the tick is older than our last weights
        proposal = self.propose(metagraph, standing.block)
        self.reasons = self._holding(proposal, standing, when)
        self._show(self.reasons)
        submission = self._submission(proposal, metagraph, standing)
        if self.reasons:
            await self._say(lease, submission, "held", tick, tuple(r.code for r in self.reasons))
            again = self._again(proposal, metagraph, standing) if when is Due.URGENT else None
            if again is not None and not self._settings.dry_run and leads():
                log.error(
                    "the last weights are set again",
                    block=again.block,
                    reason="; ".join(r.text for r in self.reasons),
                )
                self._begin(events=self._ledger.events)
                await self._send(lease, again, proposal.limits.fewest, leads)
                await self._settle(lease, tick, metagraph, leads)
        elif self._settings.dry_run:
            await self._say(lease, submission, "dry_run", tick, ())
        elif leads():
            self._begin(events=proposal.page.state.events)
            self._override = False
            await self._send(lease, submission, proposal.limits.fewest, leads)
            await self._settle(lease, tick, metagraph, leads)

    def _when(self, block: int, tick: Tick, last_update: int, metagraph: Metagraph) -> Due:
        override = self._settings.epoch_length_override
        return due(block, tick.epoch_start, last_update, metagraph.hyperparameters, override)

    def propose(self, metagraph: Metagraph, block: int) -> Proposal:
        """What would be set now."""
        return self._book.propose(
            metagraph, block, since_events=self._ledger.events, previous=self._ledger.previous
        )

    def _holding(self, proposal: Proposal, standing: Standing, when: Due) -> tuple[Reason, ...]:
        reasons = list(proposal.reasons)
        if standing.uid is None:
            reasons.append(Reason("not_registered", "our hotkey is not registered on the subnet"))
        elif not (standing.permit or standing.owner or proposal.vector.uids == (standing.uid,)):
            # A sealed commit without a permit fails in silence when it is revealed.
            reasons.append(Reason("no_permit", "our hotkey has no validator permit"))
        key, wanted = self._version_key(standing), standing.version_key
        if wanted and key < wanted:
            reasons.append(Reason("version_key", f"our version key is {key}, the subnet asks for {wanted}"))
        if when is Due.URGENT:
            reasons = [reason for reason in reasons if not reason.soft]
        if self._override:
            reasons = [reason for reason in reasons if reason.code in HARD]
        return tuple(reasons)

    def _again(self, proposal: Proposal, metagraph: Metagraph, standing: Standing) -> Submission | None:
        """The last weights that the chain took as a new submission, or None where they cannot be set again."""
        last = self._ledger.newest
        if last is None or not repeatable(last, self.reasons, proposal, metagraph.size):
            return None
        return msgspec.structs.replace(
            last,
            id=new_event_id(),
            block=standing.block,
            result="sent",
            reason="",
            landed_block=0,
            commit_reveal=standing.commit_reveal,
            version_key=self._version_key(standing),
        )

    def _begin(self, *, events: int) -> None:
        """An attempt of this process's own is about to be sent; ``events`` are folded into its scores."""
        self._ledger.attempt_events = events
        self._forget()
        self._sent_once = True

    def _forget(self) -> None:
        """Of the open attempt nothing is known but its record."""
        self._answer, self._sent_once, self._lands_until = None, False, None

    async def _send(
        self, lease: Lease, submission: Submission, fewest: int, leads: Callable[[], bool]
    ) -> None:
        # First of all: a record whose answer is lost may have been written, and is followed to its end as well.
        self._ledger.attempt = submission
        self._ledger.attempt = await self._ledger.record(submission, lease)
        if not leads():
            return  # stopped for longer than the lease: who leads now finds the record, and settles it
        with traces.span(
            "submit weights", submission=submission.id, block=submission.block, uids=len(submission.uids)
        ) as span:
            self._answer = await self._chain.set_weights(
                submission.uids, submission.values, submission.version_key, fewest, leads
            )
            span.set(accepted=self._answer.accepted, certain=self._answer.certain)
        log.info(
            "weights sent",
            block=submission.block,
            uids=len(submission.uids),
            accepted=self._answer.accepted,
            certain=self._answer.certain,
            reason=self._answer.message,
        )

    async def _settle(
        self, lease: Lease, tick: Tick, metagraph: Metagraph, leads: Callable[[], bool]
    ) -> None:
        """Find out what became of the attempt, and send it again when it came to nothing."""
        attempt, answer = self._ledger.attempt, self._answer
        assert attempt is not None
        standing = await self._chain.standing()
        if self._lands_until is None:
            # Whatever was signed, was signed before now: by us, or by who led before.
            self._lands_until = max(standing.block, tick.block) + ERA_BLOCKS
        commit = next((c.block for c in standing.commits if c.block > attempt.block), None)
        if commit is not None:
            attempt = msgspec.structs.replace(attempt, commit_reveal=True, landed_block=commit)
            await self._outcome(lease, attempt, "committed", "")
        elif standing.last_update > attempt.block and dict(standing.weights) == _row(attempt):
            result = "revealed" if standing.commit_reveal else "landed"
            await self._outcome(
                lease, msgspec.structs.replace(attempt, landed_block=standing.last_update), result, ""
            )
        elif self._sent_once and answer is not None and not answer.accepted and answer.certain:
            await self._outcome(lease, attempt, "failed", f"{answer.code}: {answer.message}"[:500])
        elif max(standing.block, tick.block) > self._lands_until:
            said = f" ({answer.message})"[:400] if answer and answer.message else ""
            await self._outcome(lease, attempt, "failed", f"{_absent(attempt, standing)}{said}")
        elif self._came_to_nothing(attempt, standing) and leads():
            fewest = min(metagraph.size, metagraph.hyperparameters.min_weights)
            log.warning("weights sent again", block=attempt.block, reason=answer.message if answer else "")
            self._forget()
            await self._send(lease, attempt, fewest, leads)

    def _came_to_nothing(self, attempt: Submission, standing: Standing) -> bool:
        """Whether the attempt is neither on the chain nor on its way, as far as our node knows."""
        if (
            standing.pending
            or standing.last_update > attempt.block
            or (self._answer and self._answer.accepted)
        ):
            return False
        return attempt.block <= standing.block <= attempt.block + RESEND_BLOCKS

    async def _outcome(self, lease: Lease, attempt: Submission, result: str, reason: str) -> None:
        recorded = await self._ledger.record(
            msgspec.structs.replace(attempt, result=result, reason=reason), lease
        )
        self._ledger.attempt = None
        self._forget()
        if result == "failed":
            self._failures += 1
            self._retry_at = attempt.block + retry_wait(self._failures, self._tempo)
            log.error("weights failed", reason=reason, failures=self._failures)
            return
        self._failures, self._retry_at = 0, 0
        self._ledger.newest = recorded
        self._ledger.events = self._ledger.attempt_events
        if result == "committed":
            self._ledger.sealed.append(recorded)
        log.info("weights " + result, block=recorded.landed_block)

    async def _look_for_reveals(self, lease: Lease) -> None:
        """Commits that are gone were revealed, or came to nothing: only the weights tell."""
        standing = await self._chain.standing()
        waiting = {commit.block for commit in standing.commits}
        gone = [sealed for sealed in self._ledger.sealed if sealed.landed_block not in waiting]
        for sealed in gone:
            result, reason = self._revealed(sealed, newest=sealed is gone[-1], standing=standing)
            if result == "failed":
                log.error("weights not revealed", block=sealed.landed_block, reason=reason)
            await self._ledger.record(msgspec.structs.replace(sealed, result=result, reason=reason), lease)
            self._ledger.sealed.remove(sealed)

    def _revealed(self, sealed: Submission, *, newest: bool, standing: Standing) -> tuple[str, str]:
        """The end of a commit that no longer waits, and the reason."""
        if dict(standing.weights) == _row(sealed):
            return "revealed", ""
        if not newest:
            return "superseded", "a later commit was due before anyone looked whether this one was revealed"
        last = self._ledger.newest
        if last and last.landed_block > sealed.landed_block and dict(standing.weights) == _row(last):
            return "superseded", f"later weights landed at block {last.landed_block} before anyone looked"
        return "failed", "the reveal came to nothing: permit, version key or length was refused"

    async def _say(
        self, lease: Lease, submission: Submission, result: str, tick: Tick, codes: tuple[str, ...]
    ) -> None:
        """Record what is not sent, once an epoch and whenever the reasons change."""
        said = (result, tick.epoch_start, codes)
        if said == self._said:
            return
        reason = "; ".join(r.text for r in self.reasons)
        if result == "held":
            log.error("weights held", reason=reason)
        await self._ledger.record(msgspec.structs.replace(submission, result=result, reason=reason), lease)
        self._said = said

    def _submission(self, proposal: Proposal, metagraph: Metagraph, standing: Standing) -> Submission:
        return Submission(
            id=new_event_id(),
            time_ms=0,
            block=standing.block,
            netuid=metagraph.netuid,
            hotkey=metagraph.hotkey,
            uids=proposal.vector.uids,
            weights=proposal.vector.weights,
            values=proposal.vector.values,
            last_id=proposal.page.last_id,
            result="sent",
            commit_reveal=standing.commit_reveal,
            rule=proposal.recipe.text,
            version_key=self._version_key(standing),
        )

    def _version_key(self, standing: Standing) -> int:
        # Of the block just read: a snapshot may be 100 blocks old, and a commit with an old key fails in silence.
        own = self._settings.version_key
        return standing.version_key if own < 0 else own

    def _show(self, reasons: tuple[Reason, ...]) -> None:
        HELD.clear()
        for reason in reasons:
            HELD.labels(reason.code).set(1)


def _row(submission: Submission) -> dict[int, int]:
    """uid to u16, as the chain would store it."""
    return dict(zip(submission.uids, submission.values, strict=True))


def _absent(attempt: Submission, standing: Standing) -> str:
    if standing.last_update <= attempt.block:
        return "it did not show up on the chain"
    if standing.commit_reveal:
        return f"what was committed at block {standing.last_update} was not revealed as these weights"
    return f"other weights were set at block {standing.last_update}"
