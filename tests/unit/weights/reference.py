"""The score rules straight from their formulas: Python floats, dicts, one entry at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from coremesh.events import Event, MetagraphEvent
from coremesh.types import hotkey_digest
from services.weights import exact


def exact_exp(x: float) -> float:
    """The same operations as services.weights.exact.exp, in Python floats."""
    if x < exact.SMALLEST:
        return 0.0
    k = float(round(x * exact.LOG2_E))
    r = (x - k * exact.LN2_HIGH) - k * exact.LN2_LOW
    p = exact.TAYLOR[0]
    for coefficient in exact.TAYLOR[1:]:
        p = p * r + coefficient
    return p * 2.0 ** int(k)


@dataclass
class Standing:
    moving: float = 0.0
    digest: int = 0
    successes: int = 0
    failures: int = 0
    excluded: bool = False
    reset_block: int = 0
    seen: int = 0


@dataclass
class Reference:
    rule: str
    alpha: float = 0.99
    temperature: float = 1.0
    uids: list[Standing] = field(default_factory=list)
    retired: dict[int, list[int]] = field(default_factory=dict)
    events: int = 0

    def fold(self, event: Event) -> None:
        if isinstance(event, MetagraphEvent):
            self._metagraph(event)
            return
        rewards = [float(r) for r in event.rewards]
        shares = self._contributions(rewards)
        if not event.scored or shares is None:
            return
        self.events += 1
        for uid, digest, reward, share in zip(
            event.uids.tolist(), event.hotkeys.tolist(), rewards, shares, strict=True
        ):
            holds = uid < len(self.uids) and self.uids[uid].digest == digest
            if not digest or (digest in self.retired.get(uid, ()) and not holds):
                continue
            while len(self.uids) <= uid:
                self.uids.append(Standing())
            at = self.uids[uid]
            if at.excluded:
                continue
            if at.digest != digest:
                at = self.uids[uid] = Standing(digest=digest, reset_block=event.block)
            at.moving = self._keep() * at.moving + share
            if math.isfinite(reward):
                at.successes += 1
            else:
                at.failures += 1
            at.seen = self.events

    def _keep(self) -> float:
        return 1.0 if self.rule == "shrunk_z" else self.alpha

    def _contributions(self, rewards: list[float]) -> list[float] | None:
        good = [r for r in rewards if math.isfinite(r)]
        if not good:
            return None
        if self.rule == "shrunk_z":
            mean = left_to_right(good) / len(good)
            deviation = math.sqrt(left_to_right([(r - mean) * (r - mean) for r in good]) / len(good))
            return [
                (-1.5 if not math.isfinite(r) else (r - mean) / deviation if deviation > 0 else 0.0)
                for r in rewards
            ]
        largest = max(r / self.temperature for r in good)
        total = left_to_right([exact_exp(r / self.temperature - largest) for r in good])
        return [
            (1.0 - self.alpha) * (exact_exp(r / self.temperature - largest) / total)
            if math.isfinite(r)
            else 0.0
            for r in rewards
        ]

    def _metagraph(self, event: MetagraphEvent) -> None:
        while len(self.uids) < event.size:
            self.uids.append(Standing())
        for change in event.changes:
            old = hotkey_digest(change.old) if change.old else 0
            new = hotkey_digest(change.new) if change.new else 0
            gone = self.retired.setdefault(change.uid, [])
            held = self.uids[change.uid].digest
            for digest in (old, held if held != new else 0):
                if digest:
                    gone[:] = [d for d in gone if d != digest] + [digest]
                    del gone[:-4]
            if held != new:
                self.uids[change.uid] = Standing(
                    digest=new, reset_block=event.block, excluded=self.uids[change.uid].excluded
                )
            gone[:] = [d for d in gone if d != new]
        del self.uids[event.size :]
        excluded = set(event.excluded.tolist())
        for uid, at in enumerate(self.uids):
            if uid in excluded and not at.excluded:
                self.uids[uid] = at = Standing(digest=at.digest, reset_block=event.block)
            at.excluded = uid in excluded

    def scores(self) -> list[float]:
        result: list[float] = []
        for at in self.uids:
            n = at.successes + at.failures
            if self.rule == "softmax_ema":
                result.append(at.moving)
            elif self.rule == "softmax_ema_corrected":
                result.append(at.moving / (1 - self.alpha**n) if n else 0.0)
            else:
                result.append(max(0.0, at.moving / (n + 3) + 1.5) if at.successes else 0.0)
        return result


def left_to_right(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total
