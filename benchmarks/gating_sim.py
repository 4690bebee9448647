"""The subnet that gating rules are measured on: miners of different skill, prompts of different topics.

256 miners, 8 topics. Three in ten are bad at everything; of the others half are generalists (fair at everything)
and half specialists (very good at one or two topics, poor elsewhere). A miner fails now and then, a bad one often.
Every 500 steps some uids get a new hotkey with a skill of its own. Each step one prompt is drawn and 50 uids are
asked. An embedding is an offset common to all prompts, its topic's centre and noise; all are Gaussian with
standard deviations 1.5, 1 and ``noise`` per dimension.

A reward is 2 * quality plus a prompt's own difficulty plus noise; quality is in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

REWARD_SCALE = 2.0


@dataclass
class Step:
    """One prompt and what the asked miners made of it."""

    topic: int
    embedding: np.ndarray
    uids: np.ndarray
    hotkeys: np.ndarray
    rewards: np.ndarray
    ok: np.ndarray
    latency_s: np.ndarray


@dataclass
class Subnet:
    """The simulator; everything random comes from ``seed``."""

    seed: int
    noise: float = 1.0
    miners: int = 256
    topics: int = 8
    dim: int = 384
    replace_every: int = 500
    replace: int = 8
    reward_noise: float = 0.1
    common: float = 1.5
    difficulty: float = 0.1
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.offset = self.rng.normal(size=self.dim) * self.common
        self.centres = self.rng.normal(size=(self.topics, self.dim))
        self.hotkeys = np.arange(1, self.miners + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self.born = np.zeros(self.miners, dtype=np.int64)
        self.quality = np.empty((self.miners, self.topics))
        self.failing = np.empty(self.miners)
        self._next = self.miners + 1
        self.steps = 0
        for uid in range(self.miners):
            self._birth(uid)

    def _birth(self, uid: int) -> None:
        rng = self.rng
        self.born[uid] = self.steps
        if rng.random() < 0.3:
            self.quality[uid] = rng.uniform(0.0, 0.2, self.topics)
            self.failing[uid] = rng.uniform(0.1, 0.6)
            return
        self.failing[uid] = rng.uniform(0.0, 0.05)
        if rng.random() < 0.5:
            self.quality[uid] = rng.uniform(0.35, 0.6) + rng.normal(0, 0.05, self.topics)
        else:
            self.quality[uid] = rng.uniform(0.25, 0.45, self.topics)
            best = rng.choice(self.topics, rng.integers(1, 3), replace=False)
            self.quality[uid, best] = rng.uniform(0.75, 1.0, best.size)
        self.quality[uid] = self.quality[uid].clip(0.0, 1.0)

    def replace_hotkey(self, uid: int) -> None:
        """Another miner takes the uid."""
        self.hotkeys[uid] = np.uint64(self._next * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
        self._next += 1
        self._birth(uid)

    def prompt(self) -> tuple[int, np.ndarray]:
        """A topic and the embedding of a prompt on it, float32 [dim]."""
        topic = int(self.rng.integers(self.topics))
        x = self.offset + self.centres[topic] + self.rng.normal(size=self.dim) * self.noise
        return topic, x.astype(np.float32)

    def expected(self, topic: int) -> np.ndarray:
        """Expected quality of every uid on a topic: nothing when it fails."""
        return self.quality[:, topic] * (1.0 - self.failing)

    def ask(self, topic: int, embedding: np.ndarray, uids: np.ndarray) -> Step:
        """What ``uids`` answer."""
        rng = self.rng
        ok = rng.random(uids.size) >= self.failing[uids]
        quality = self.quality[uids, topic] + rng.normal(0.0, self.reward_noise, uids.size)
        rewards = REWARD_SCALE * (quality + rng.normal(0.0, self.difficulty))
        latency = rng.lognormal(0.0, 0.3, uids.size)
        return Step(topic, embedding, uids, self.hotkeys[uids], np.where(ok, rewards, np.nan), ok, latency)

    def tick(self) -> None:
        """Time passes; every ``replace_every`` steps some hotkeys are replaced."""
        self.steps += 1
        if self.replace_every and self.steps % self.replace_every == 0:
            for uid in self.rng.choice(self.miners, self.replace, replace=False):
                self.replace_hotkey(int(uid))
