"""Every Redis key of coremesh: what it holds, who writes it, when it goes away.

The netuid stands in braces, so that all keys of a subnet share a hash slot and one script may touch several of
them on Redis Cluster too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

SEEN_RETENTION = timedelta(days=3)
"""How long an event id is remembered. Older ones that waited on disk are looked for among all events: see Recorder."""

HOTKEY_MARGIN = timedelta(days=7)
"""How much longer than the oldest event a hotkey is remembered: far longer than appenders rely on having sent it."""

NONCE_RETENTION = timedelta(seconds=30)
"""How long a nonce is remembered: longer than a signature is fresh, back and ahead together, with clocks apart."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one subnet.

    | key | type | holds | written by | goes away |
    |---|---|---|---|---|
    | events | stream | the history | querier, weights leader | trimmed behind the slowest fold |
    | events:trimmed | string | the newest place trimmed away | weights leader | never |
    | transcripts | stream | texts of events, compressed | querier | trimmed by length |
    | seen:<hour> | hash | event id -> place | whoever appends | SEEN_RETENTION |
    | hotkeys | hash | digest -> ss58 | whoever appends | HOTKEY_MARGIN before the oldest event |
    | hotkeys:announced | sorted set | digests, by when they were last sent | whoever appends | with the hotkey |
    | metagraph | string | the newest snapshot | weights leader | never |
    | checkpoint:<fold> | hash | state, last event id, version | the fold's leader | never |
    | lease:<role> | string | the leader | leaders | its time to live |
    | fence:<role> | string | the newest fencing token | leaders | never |
    | submissions | stream | attempts to set weights | weights leader | trimmed by length |
    | callers | hash | id -> an API key's record, with the key's digest | `coremesh keys` | never (one field a key) |
    | caller:<id>:asked | sorted set | requests of the last minute, by time | queriers | a minute after the last |
    | caller:<id>:held | sorted set | requests being served, by when they lapse | queriers | when the last lapses |
    | nonce:<hotkey>:<nonce> | string | a signed request that was accepted | queriers | NONCE_RETENTION |
    """

    netuid: int

    def _key(self, name: str) -> str:
        return f"coremesh:{{{self.netuid}}}:{name}"

    @property
    def events(self) -> str:
        """The history."""
        return self._key("events")

    @property
    def trimmed(self) -> str:
        """The newest place trimmed away."""
        return self._key("events:trimmed")

    @property
    def transcripts(self) -> str:
        """Texts of events."""
        return self._key("transcripts")

    @property
    def hotkeys(self) -> str:
        """The way back from digests."""
        return self._key("hotkeys")

    @property
    def announced(self) -> str:
        """When each digest was last sent."""
        return self._key("hotkeys:announced")

    @property
    def metagraph(self) -> str:
        """The newest snapshot."""
        return self._key("metagraph")

    @property
    def submissions(self) -> str:
        """Attempts to set weights."""
        return self._key("submissions")

    def seen(self, event_ms: int) -> str:
        """Event ids of one hour, by the time in the id."""
        return self._key(f"seen:{event_ms // 3_600_000}")

    def checkpoint(self, fold: str) -> str:
        """A fold's checkpoint."""
        return self._key(f"checkpoint:{fold}")

    def lease(self, role: str) -> str:
        """Who leads a role."""
        return self._key(f"lease:{role}")

    def fence(self, role: str) -> str:
        """The newest fencing token of a role."""
        return self._key(f"fence:{role}")

    @property
    def callers(self) -> str:
        """The API keys."""
        return self._key("callers")

    def asked(self, caller: str) -> str:
        """A caller's requests of the last minute."""
        return self._key(f"caller:{caller}:asked")

    def held(self, caller: str) -> str:
        """A caller's requests being served."""
        return self._key(f"caller:{caller}:held")

    def nonce(self, hotkey: str, nonce_ns: int) -> str:
        """One accepted nonce."""
        return self._key(f"nonce:{hotkey}:{nonce_ns}")
