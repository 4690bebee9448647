"""The tree of errors.

CoremeshError                 anything we raise on purpose
├── BadRequest                400  the caller's fault
│   ├── BadMessages           400  messages missing, empty, unknown role, not text
│   ├── BadUid                400  a uid the subnet does not have
│   └── TooLong               413  over a documented bound
├── Unauthorized              401  missing or wrong token, key or signature
├── Forbidden                 403  known, but not allowed
├── NotFound                  404
├── UnsafeMessage             422  refused by the safety filter
├── Busy                      429  a bounded queue is full; carries retry_after_s
├── NoMinerAvailable          503  nobody to ask
├── NoCompletion              502  everybody asked, nobody answered well
├── Unavailable               503  something we depend on is down
│   ├── HistoryUnavailable         Redis
│   ├── ChainUnavailable           subtensor
│   └── ServiceUnavailable         another of our services
├── DeadlineExceeded          504
├── LeaseLost                 fenced off: another leader has taken over
├── BadSetting                exit code 2
├── BadModel                  exit code 2: missing or incompatible model
└── BadWallet                 exit code 2: missing, encrypted or unreadable hotkey

Every error has a ``code`` (stable, for programs), a message (one sentence) and a ``remedy`` (what to do).
"""

from __future__ import annotations

from typing import ClassVar


class CoremeshError(Exception):
    """An error with a stable code, one sentence, and a remedy."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    default_remedy: ClassVar[str] = "Look at the service's log for the cause."

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.default_remedy

    def as_dict(self) -> dict[str, str]:
        """The REST form: ``{code, message, remedy}``."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}

    def __str__(self) -> str:
        return self.message


class BadRequest(CoremeshError):
    """The request cannot be understood or asks for the impossible."""

    code = "bad_request"
    status = 400
    default_remedy = "Correct the request; /docs shows what it takes."


class BadMessages(BadRequest):
    """Messages are missing, empty, of an unknown role, or not text."""

    code = "bad_messages"
    default_remedy = 'Send "messages": [{"role": "user", "content": "your question"}].'


class BadUid(BadRequest):
    """A uid that the subnet does not have."""

    code = "bad_uid"
    default_remedy = "GET /metagraph lists the uids."


class TooLong(BadRequest):
    """Something is over a documented bound."""

    code = "too_long"
    status = 413
    default_remedy = "Shorten the request."


class Unauthorized(CoremeshError):
    """No credentials, or wrong ones."""

    code = "unauthorized"
    status = 401
    default_remedy = "Send the header 'Authorization: Bearer <token>'."


class Forbidden(CoremeshError):
    """The caller is known, and not allowed."""

    code = "forbidden"
    status = 403
    default_remedy = "Ask the operator of this validator for access."


class NotFound(CoremeshError):
    """There is no such thing."""

    code = "not_found"
    status = 404
    default_remedy = "GET /docs lists what there is."


class UnsafeMessage(CoremeshError):
    """The safety filter refuses the text."""

    code = "unsafe_message"
    status = 422
    default_remedy = "Rephrase the message."


class Busy(CoremeshError):
    """A bounded queue is full."""

    code = "busy"
    status = 429
    default_remedy = "Wait for the seconds given in Retry-After, then ask again."

    def __init__(self, message: str, *, remedy: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_s = retry_after_s


class NoMinerAvailable(CoremeshError):
    """No miner can be asked at all."""

    code = "no_miner_available"
    status = 503
    default_remedy = "Check GET /metagraph: are any axons serving? Is the weights service syncing?"


class NoCompletion(CoremeshError):
    """Miners were asked and none gave a usable completion."""

    code = "no_completion"
    status = 502
    default_remedy = "Ask again, with a longer timeout or a larger top_k."


class DeadlineExceeded(CoremeshError):
    """The caller's deadline passed first."""

    code = "deadline_exceeded"
    status = 504
    default_remedy = "Ask again with a longer timeout."


class Unavailable(CoremeshError):
    """Something that we depend on is down. ``retry_after_s`` over 0 is told to the caller."""

    code = "unavailable"
    status = 503
    retry_after_s: ClassVar[float] = 0.0


class HistoryUnavailable(Unavailable):
    """Redis does not answer."""

    code = "history_unavailable"
    default_remedy = "Check that Redis runs and that COREMESH_REDIS_URL names it."


class ChainUnavailable(Unavailable):
    """Subtensor does not answer."""

    code = "chain_unavailable"
    default_remedy = "Check COREMESH_CHAIN_NETWORK, and that the node answers."


class ServiceUnavailable(Unavailable):
    """Another service of the mesh does not answer."""

    code = "service_unavailable"
    default_remedy = "Check the service's /readyz and its log."


class LeaseLost(CoremeshError):
    """The store refuses a write: another leader has taken over."""

    code = "lease_lost"
    status = 409
    default_remedy = "Nothing to do: this instance stands by until the lease is free again."


class BadSetting(CoremeshError):
    """A setting is wrong; the process says so and exits with code 2."""

    code = "bad_setting"
    default_remedy = "`coremesh config` lists every setting."


class BadModel(CoremeshError):
    """A model is missing or incompatible."""

    code = "bad_model"
    default_remedy = "Give a local path with config.json, tokenizer.json and model.safetensors."


class BadWallet(CoremeshError):
    """A hotkey is missing, encrypted or unreadable."""

    code = "bad_wallet"
    default_remedy = "Check COREMESH_WALLET_PATH, _NAME and _HOTKEY."


def plainly(complaint: str) -> str:
    """What pydantic complains of, for people who do not write Python: its tuples are the lists of their JSON."""
    said = complaint.replace("Tuple should", "The list should").replace(" after validation", "")
    return said[:1].lower() + said[1:]
