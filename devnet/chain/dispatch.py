"""Calls by name: each handler checks what the pallet checks, in its order, and writes or fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from devnet.chain.extrinsics import Extrinsic
from devnet.chain.state import PALLET, State

_WEIGHT = {"weight": {"ref_time": 1_000_000, "proof_size": 1_000}, "class": "Normal", "pays_fee": "No"}


log = logging.getLogger(__name__)


class Fail(Exception):
    """A dispatch error: a pallet's by name, or with pallet None a bare one as the metadata spells it."""

    def __init__(self, name: str | dict[str, str], pallet: str | None = PALLET) -> None:
        super().__init__(str(name))
        self.name = name
        self.pallet = pallet


@dataclass(slots=True)
class Context:
    """What a handler works with. ``netuid`` is the one subnet that exists besides the root."""

    state: State
    signer: str
    netuid: int
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def block(self) -> int:
        """The block being made."""
        return self.state.number

    def emit(self, name: str, value: Any, pallet: str = PALLET) -> None:
        """Record an event; a struct variant takes a dict, a tuple variant a tuple."""
        self.events.append({pallet: {name: value}})

    def require_subnet(self, netuid: int, error: str = "SubnetNotExists") -> None:
        """Fail unless ``netuid`` is the devnet's subnet."""
        if netuid != self.netuid:
            raise Fail(error)


Handler = Callable[..., None]
_HANDLERS: dict[tuple[str, str], Handler] = {}


def handles(module: str, function: str) -> Callable[[Handler], Handler]:
    """Register a handler: ``handler(context, **arguments of the call)``."""

    def register(handler: Handler) -> Handler:
        _HANDLERS[module, function] = handler
        return handler

    return register


def handler_of(module: str, function: str) -> Handler | None:
    """The handler of a call, None when the devnet does not have it."""
    return _HANDLERS.get((module, function))


def apply(extrinsic: Extrinsic, state: State, netuid: int) -> list[dict[str, Any]]:
    """Dispatch a verified extrinsic: its events, the outcome last. A failed call leaves only its nonce."""
    context = Context(state, extrinsic.signer, netuid)
    handler = handler_of(extrinsic.module, extrinsic.function)
    state.store.begin()
    try:
        if handler is None:
            raise Fail("CallFiltered", "System")
        handler(context, **extrinsic.args)
    except Fail as problem:
        state.store.rollback()
        error = _encoded(problem, state)
        failure = {"dispatch_error": error, "dispatch_info": _WEIGHT}
        return [{"System": {"ExtrinsicFailed": failure}}]
    except Exception:
        # Arguments decode in more shapes than handlers expect; none of them may stop the chain.
        log.exception("%s.%s broke", extrinsic.module, extrinsic.function)
        state.store.rollback()
        return [{"System": {"ExtrinsicFailed": {"dispatch_error": "Corruption", "dispatch_info": _WEIGHT}}}]
    state.store.commit()
    return [*context.events, {"System": {"ExtrinsicSuccess": {"dispatch_info": _WEIGHT}}}]


def _encoded(problem: Fail, state: State) -> Any:
    return problem.name if problem.pallet is None else state.codec.error(problem.pallet, str(problem.name))
