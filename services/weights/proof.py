"""Signing an explanation, and verifying one without any history.

What is signed is the canonical JSON of the explanation behind a line that nothing else is signed with: keys sorted,
no spaces, UTF-8, numbers in the shortest form that reads back as the same bits.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field

import msgspec
import numpy as np

from coremesh.contracts import ExplainedEvent, ExplainedReset, Explanation, ScoreStanding, SignedExplanation
from coremesh.events import Flag, ForwardEvent, forward_event, pack
from coremesh.types import EventId
from coremesh.wire.keys import KeyPair, verifies
from services.weights import scores
from services.weights.explain import share, standing
from services.weights.rules import Rule, rule_of_format
from services.weights.scores import ScoreState

UIDS = 1 << 16
"""A chain has no more of them."""
MOST_COUNTED = 1 << 62
DOMAIN = b"coremesh explanation/1\n"


def canonical(explanation: Explanation) -> bytes:
    """The bytes that are signed."""
    plain = explanation.model_dump(mode="json")
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return DOMAIN + text.encode()


def sign(explanation: Explanation, keypair: KeyPair) -> SignedExplanation:
    """``explanation`` with the hotkey's signature."""
    signature = keypair.sign(canonical(explanation))
    return SignedExplanation(
        explanation=explanation, signer=keypair.ss58_address, signature=bytes(signature).hex()
    )


@dataclass(slots=True)
class Verdict:
    """What a verification found. ``problems`` is empty when all is well."""

    signed: bool
    signer: str
    steps: int
    problems: list[str] = field(default_factory=list[str])

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with it. It may still be unsigned."""
        return not self.problems


def verify(found: SignedExplanation, *, signer: str | None = None) -> Verdict:
    """Check the signature, who signed, and every number that follows from others in the explanation.

    ``signer``: the ss58 address that must have signed. Never raises.
    """
    verdict = Verdict(signed=bool(found.signature), signer=found.signer, steps=len(found.explanation.steps))
    verdict.problems += _signature(found, signer)
    try:
        rule = rule_of_format(found.explanation.rule)
    except ValueError as error:
        verdict.problems.append(str(error))
        return verdict
    if not 0 <= found.explanation.uid < UIDS:
        verdict.problems.append(f"there is no uid {found.explanation.uid}")
        return verdict
    verdict.problems += _chain(found.explanation)
    for step in found.explanation.steps:
        wrong = (
            _event(step, rule, found.explanation.uid) if isinstance(step, ExplainedEvent) else _reset(step)
        )
        verdict.problems += [f"{step.what} {step.event_id}: {text}" for text in wrong]
    return verdict


def _signature(found: SignedExplanation, signer: str | None) -> list[str]:
    problems: list[str] = []
    if signer is not None and found.signer != signer:
        problems.append(f"signed by {found.signer or 'nobody'}, not by {signer}")
    if not found.signature:
        return problems
    if found.signer != found.explanation.validator:
        problems.append(f"the validator is {found.explanation.validator}, the signer {found.signer}")
    try:
        good = verifies(canonical(found.explanation), bytes.fromhex(found.signature), found.signer)
    except ValueError as error:
        problems.append(f"the signature cannot be read: {error}")
    else:
        if not good:
            problems.append("the signature is not the signer's over this explanation")
    return problems


def _chain(explanation: Explanation) -> list[str]:
    """Each step begins where the one before it ended, and the last one ends at the score that is explained."""
    problems: list[str] = []
    steps = explanation.steps
    for one, two in itertools.pairwise(steps):
        if one.after != two.before:
            problems.append(f"{two.event_id} does not begin where {one.event_id} ended")
    if steps and steps[-1].after is not None and steps[-1].after != explanation.standing:
        problems.append("the last step does not end at the score that is explained")
    return problems


def _event(step: ExplainedEvent, rule: Rule, uid: int) -> list[str]:
    if step.asked != len(step.rewards) or max(step.places) >= step.asked:
        return ["the number asked is not the number of rewards"]
    if len(step.hotkeys) != len(step.places):
        return ["the hotkeys are not one for each place"]
    problems: list[str] = []
    if step.reward != step.rewards[step.places[0]]:
        problems.append("the reward is not the one in its place")
    event = _event_again(step, uid)
    if not scores.counts(event):
        return [*problems, "nobody has a reward, so it cannot have been scored"]
    if share(rule, event, step.places[0]) != step.share:
        problems.append("the share does not follow from the rewards")
    if step.before is None or step.after is None:
        return problems
    if not all(0 <= n < MOST_COUNTED for n in (step.before.successes, step.before.failures)):
        return [*problems, "nobody can have so many successes or failures"]
    state = _state(step.before, uid)
    if standing(state, uid, rule) != step.before:
        problems.append("the score before does not follow from its moving value")
    after = standing(scores.fold(state, [event], rule), uid, rule)
    if after != step.after:
        problems.append(f"the score after it is {after.score!r}, not {step.after.score!r}")
    if step.counted != (step.before != step.after):
        problems.append("it says wrongly whether it counted")
    if step.restarted != (step.before.hotkey != step.after.hotkey):
        problems.append("it says wrongly whether the uid started again")
    return problems


def _event_again(step: ExplainedEvent, uid: int) -> ForwardEvent:
    """The event with nobody but the miner known: the rewards of the others only enter the shares."""
    other = 65535 if uid != 65535 else 65534
    uids, digests = np.full(step.asked, other), np.zeros(step.asked, np.uint64)
    for place, digest in zip(step.places, step.hotkeys, strict=True):
        uids[place], digests[place] = uid, number(digest)
    event = forward_event(
        id=EventId(step.event_id),
        time_ms=step.time_ms,
        block=0,
        kind=step.kind,
        flags=Flag.SCORED,
        messages=(),
        uids=uids,
        hotkeys=[""] * step.asked,
        status=[0] * step.asked,
        latency_s=[0.0] * step.asked,
        rewards=[float("nan") if reward is None else reward for reward in step.rewards],
    )
    return msgspec.structs.replace(event, hotkeys_=pack(digests, "<u8"))


def _state(before: ScoreStanding, uid: int) -> ScoreState:
    state = ScoreState()
    state.resize(uid + 1)
    state.moving[uid] = before.moving
    state.successes[uid], state.failures[uid] = before.successes, before.failures
    state.digests[uid] = number(before.hotkey)
    state.excluded[uid] = before.excluded
    if before.former:
        state.retired[uid] = tuple(number(digest) for digest in before.former)
    return state


def number(digest: str) -> int:
    """A digest of 16 hex digits; 0 for what is none."""
    return int(digest, 16) if re.fullmatch(r"[0-9a-f]{16}", digest) else 0


def _reset(step: ExplainedReset) -> list[str]:
    after = step.after
    stands = (after.moving, after.score, after.successes, after.failures)
    before = (step.before.moving, step.before.score, step.before.successes, step.before.failures)
    if stands in ((0.0, 0.0, 0, 0), before):
        return []
    return ["a reset did not end at 0"]
