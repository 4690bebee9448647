"""What came back from one miner."""

from __future__ import annotations

import re

import msgspec

from coremesh.wire.status import Status
from services.querier.cleaning import SPECIAL

# Control characters but line feed and tab; surrogates; marks that turn the direction of text or hide in it: Unicode's
# Default_Ignorable_Code_Point without joiners and variation selectors, which scripts and emoji need; tags.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
_JOINING = re.compile("[\u200c\u200d\ufe00-\ufe0f]")
_MAX_DETAIL = 120
_ROUNDS = 4
_SPACES = re.compile(r"\s+")


class MinerAnswer(msgspec.Struct, frozen=True, gc=False):
    """Outcome of asking one miner. ``completion`` is set for OK and SHORT; ``latency_s`` runs from the request's own
    send to the answer's last byte (nan when nothing was sent); ``detail`` says in a few words what went wrong."""

    uid: int
    hotkey: str
    status: Status
    completion: str
    latency_s: float
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is a completion that counts."""
        return self.status is Status.OK


def tidy(text: str) -> str:
    """``text`` without control, surrogate, direction-turning and invisible characters; CRLF becomes LF."""
    # Nothing of that is printable, and nearly all text is: this looks ten times as fast as the pattern.
    return text if text.isprintable() and text.isascii() else _UNPRINTABLE.sub("", text)


def spoken(text: str) -> int:
    """Characters of ``text`` beside white space at its ends, joiners and spellings of special tokens.

    The models that judge it never see those: a miner that says nothing else has said nothing. What remains of
    spellings within spellings after a few rounds counts as text.
    """
    if not text.isascii():
        text = _JOINING.sub("", text)
    if "<" not in text and "[" not in text:
        return len(text.strip())
    for _ in range(_ROUNDS):
        fewer = SPECIAL.sub(" ", text)
        if len(fewer) == len(text):
            break
        text = _SPACES.sub(" ", fewer)
    return len(text.strip())


def brief(detail: str) -> str:
    """``detail`` fit for a log: printable and short."""
    return tidy(detail)[:_MAX_DETAIL]
