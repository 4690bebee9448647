"""One breaker per hotkey: a miner that fails on and on is left alone for a while, and trusted again slowly."""

from __future__ import annotations

from collections import OrderedDict


class _State:
    __slots__ = ("level", "open_until", "opened", "probing")

    def __init__(self) -> None:
        self.level = 0
        self.opened = 0
        self.open_until = 0.0
        self.probing = False


class Breakers:
    """Decides who is asked. Times are seconds on any monotonic clock.

    Each failure raises a miner's level by one and each success lowers it by one. At ``failures`` the breaker opens, for
    ``base_s`` doubled with every further opening up to ``max_s``. Then one probe is let through: its failure opens
    the breaker again; its success closes it one level below the limit, so that recovery takes as many successes
    as the fall took failures, and the doubling is undone one success at a time. Miners in good standing take
    no memory; of the others the ``capacity`` latest are remembered.
    """

    def __init__(
        self, *, failures: int = 5, base_s: float = 5.0, max_s: float = 300.0, capacity: int = 8192
    ) -> None:
        self._failures = failures
        self._base_s = base_s
        self._max_s = max_s
        self._capacity = capacity
        self._states: OrderedDict[str, _State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def allows(self, hotkey: str, now: float) -> bool:
        """Whether to ask; a True for an open breaker whose time is up is that miner's one probe."""
        state = self._states.get(hotkey)
        if state is None or state.level < self._failures:
            return True
        if now < state.open_until or state.probing:
            return False
        state.probing = True
        return True

    def succeeded(self, hotkey: str) -> None:
        """The miner answered."""
        state = self._states.get(hotkey)
        if state is None:
            return
        state.probing = False
        state.level -= 1
        state.opened = max(0, state.opened - 1)
        if state.level <= 0:
            del self._states[hotkey]

    def failed(self, hotkey: str, now: float) -> None:
        """The miner failed."""
        state = self._states.get(hotkey)
        if state is None:
            state = self._states[hotkey] = _State()
            if len(self._states) > self._capacity:
                self._states.popitem(last=False)
        else:
            self._states.move_to_end(hotkey)
        if state.level >= self._failures and not state.probing:
            return  # a straggler sent before the breaker opened
        state.probing = False
        state.level = min(state.level + 1, self._failures)
        if state.level >= self._failures:
            state.open_until = now + min(self._max_s, self._base_s * 2.0 ** min(state.opened, 30))
            state.opened += 1

    def abandoned(self, hotkey: str) -> None:
        """The request ended for a reason of ours: a probe may be tried again."""
        state = self._states.get(hotkey)
        if state is not None:
            state.probing = False
