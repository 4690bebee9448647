"""From text to tokens: cleaning, truncation, bounds."""

from __future__ import annotations

import copy
import functools
import re
import unicodedata
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from services.reward.engine.ahead import ahead
from services.reward.engine.turns import give_way

AT_ONCE = 32
"""Texts in one call of a tokenizer."""
CHARS_AT_ONCE = 32_768
"""Characters in one call that looks for special tokens, but for a text that is longer by itself."""

# C0 and C1 controls but tab and line feed; separators of lines and paragraphs; non-characters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")
# What is not seen: Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt) and interlinear annotations.
_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_SPELLINGS = re.compile(
    r"<\|[^<>|]{0,64}\|>|</?s>|\[/?(?:INST|SEP|CLS|PAD|MASK|UNK|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"
    r"|<(?:pad|unk|bos|eos|mask|start_of_turn|end_of_turn|tool_call|/tool_call|think|/think)>"
    r"|<｜[^<>｜]{0,64}｜>",
    re.IGNORECASE,
)
_ROUNDS = 4
_BLANKS = re.compile(r" {2,}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKUP = re.compile(r"^[<\[|{].*[>\]|}]$", re.DOTALL)


def well_formed(text: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD; tokenizers refuse to encode them."""
    return _SURROGATE.sub("\ufffd", text)


def visible(text: str) -> str:
    """The text without characters that nobody sees: some tokenizers drop them, so that two texts which look alike, and
    are read alike, would count as different; others read them, so that two which look alike would be read
    differently. Joiners of emoji and of scripts go too: no model's opinion hangs on them."""
    return text if text.isascii() else _HIDDEN.sub("", text)


def without_spellings(text: str) -> str:
    """The text without spellings of the special tokens of common tokenizers, a blank for each: for readers whose
    tokenizer is not known here. What remains of spellings within spellings after a few rounds stays."""
    if "<" not in text and "[" not in text:
        return text
    for _ in range(_ROUNDS):
        fewer = _SPELLINGS.sub(" ", text)
        if len(fewer) == len(text):
            break
        text = _BLANKS.sub(" ", fewer)
    return text


def special_tokens(tokenizer: Any) -> set[str]:
    """The strings that this tokenizer turns into one token that plain text must not forge.

    Its special tokens, and every other added token that looks like markup (`<tool_call>`). Runs of blanks,
    which GPT-NeoX adds as tokens, are plain text.
    """
    tokens = set(tokenizer.all_special_tokens)
    for added in getattr(tokenizer, "added_tokens_decoder", {}).values():
        if added.special or _MARKUP.match(added.content):
            tokens.add(added.content)
    return {token for token in tokens if token.strip()}


def clean(text: str, tokenizer: Any) -> str:
    """The text without hidden and control characters and without anything `tokenizer` would take for a special token.

    Hidden characters go first, so that they cannot split a special token's spelling. Of the rest each is replaced by
    one blank, never by nothing, so that what is left cannot close up into a new one. Carriage returns become line
    feeds. The result is checked with the tokenizer itself: if a special id still appears (a tokenizer that normalises
    before it looks for them), the characters that spell markup go.
    """
    return clean_all([text], tokenizer)[0]


def clean_all(texts: Sequence[str], tokenizer: Any) -> list[str]:
    """`clean` of each, checked together: a tokenizer's call takes longer than most texts in it."""
    found = [_CONTROL.sub(" ", visible(_line_feeds(well_formed(text)))) for text in texts]
    guard = _guard(tokenizer)
    if guard is None:
        return found
    found = [guard.pattern.sub(guard.filler, text) for text in found]
    forging = guard.forging(found)
    for i in forging:
        found[i] = guard.pattern.sub(guard.filler, unicodedata.normalize("NFKC", found[i]))
    for i in guard.forging([found[i] for i in forging]):
        if guard.markup is not None:
            found[forging[i]] = guard.markup.sub(guard.filler, found[forging[i]])
    return found


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


class _Guard:
    """What is not to be in a text for a tokenizer with these special tokens."""

    def __init__(self, tokenizer: Any, specials: set[str]) -> None:
        self._tokenizer = weakref.proxy(tokenizer)
        # A blank can itself be part of a special token's spelling; then something that never is must stand in.
        self.filler = " " if not any(" " in token for token in specials) else "\ufffd"
        ordered = sorted(specials, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, ordered)))
        spelled = "".join(
            sorted({c for token in specials for c in token if not c.isalnum() and not c.isspace()})
        )
        self.markup = re.compile(f"[{re.escape(spelled)}]") if spelled else None
        known = set(tokenizer.convert_tokens_to_ids(sorted(specials)))
        self._forbidden = known - {tokenizer.unk_token_id, None}

    def forging(self, texts: Sequence[str]) -> list[int]:
        """The places of those texts in which the tokenizer itself finds a special token."""
        found: list[int] = []
        for step in _calls(texts):
            give_way()
            read = self._tokenizer(
                [texts[i] for i in step],
                add_special_tokens=False,
                truncation=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            found += [i for i, ids in zip(step, read, strict=True) if not self._forbidden.isdisjoint(ids)]
        return found


_guards: weakref.WeakKeyDictionary[Any, tuple[int, _Guard | None]] = weakref.WeakKeyDictionary()


def _guard(tokenizer: Any) -> _Guard | None:
    """The guard of a tokenizer, made once: some have hundreds of special tokens. None for one that has none."""
    size, guard = _guards.get(tokenizer, (-1, None))
    if size != len(tokenizer):
        specials = special_tokens(tokenizer)
        guard = _Guard(tokenizer, specials) if specials else None
        _guards[tokenizer] = len(tokenizer), guard
    return guard


class Tokens:
    """A tokenizer with a bound: at most `max_tokens` ids a text, special tokens included.

    `of` never returns an empty sequence: a text of no tokens becomes one beginning-of-text (else end-of-text,
    else padding, else 0) token, because a model has nothing to read a score from otherwise.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        vocabulary = tokenizer.get_vocab()
        # No text of more characters than this can have its first max_tokens tokens depend on the rest of it,
        # but for a pre-tokenizer's last word; it bounds the work on megabytes of text.
        self.max_chars = max_tokens * max(8, min(64, max(map(len, vocabulary), default=8)))
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
        self._empty = next(i for i in ids if i is not None)

    def of(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of 1..max_tokens ids for each text."""
        if not texts:
            return []
        return self._of(texts, self.tokenizer)

    def _of(self, texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
        left = getattr(tokenizer, "truncation_side", "right") == "left"
        cut = [t[-self.max_chars :] if left else t[: self.max_chars] for t in map(well_formed, texts)]
        found: list[list[int]] = []
        for start in range(0, len(cut), AT_ONCE):
            give_way()
            found += tokenizer(
                cut[start : start + AT_ONCE],
                truncation=True,
                max_length=self.max_tokens,
                add_special_tokens=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
        return [ids or [self._empty] for ids in found]

    def groups(self, texts: Sequence[Sequence[str]], *, early: bool) -> Iterable[list[list[int]]]:
        """`of` for each group of texts; `early`: as it is asked for, some groups ahead, on a thread of its own."""
        if not early:
            return self._group(texts, self.tokenizer)
        other = self._other
        steps = ahead(lambda step: self._group(step, other), _steps(texts))
        return (group for step in steps for group in step)

    @functools.cached_property
    def _other(self) -> Any:
        """The tokenizer of threads beside. Whether texts are cut is a tokenizer's state and no argument of its call: of
        two threads with one, either may get what the other asked for, and a model more tokens than it takes."""
        return copy.deepcopy(self.tokenizer)

    def _group(self, texts: Sequence[Sequence[str]], tokenizer: Any) -> list[list[list[int]]]:
        flat = iter(self._of([text for group in texts for text in group], tokenizer))
        return [[next(flat) for _ in group] for group in texts]

    def windows(self, text: str, size: int, overlap: int = 0) -> list[list[int]]:
        """All of the text as windows of at most `size` ids, special tokens included in each.

        Each begins with the last `overlap` of the text's ids in the one before (with half of what a window holds,
        where that is less), so that nothing so long is seen in two halves only.
        """
        plain = self.tokenizer(well_formed(text), add_special_tokens=False, verbose=False)["input_ids"]
        head, tail = self._frame()
        room = max(1, min(size, self.max_tokens) - len(head) - len(tail))
        shared = min(overlap, room // 2)
        pieces = [plain[i : i + room] for i in range(0, max(1, len(plain) - shared), room - shared)]
        return [[*head, *piece, *tail] or [self._empty] for piece in pieces]

    def _frame(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after a text."""
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        for at in range(len(whole) - len(plain) + 1):
            if whole[at : at + len(plain)] == plain:
                return whole[:at], whole[at + len(plain) :]
        return [], []


def _calls(texts: Sequence[str]) -> Iterator[list[int]]:
    """The places of texts, as many together as one call of a tokenizer takes without holding others up."""
    call: list[int] = []
    chars = 0
    for i, text in enumerate(texts):
        if call and (len(call) == AT_ONCE or chars + len(text) > CHARS_AT_ONCE):
            yield call
            call, chars = [], 0
        call.append(i)
        chars += len(text)
    if call:
        yield call


def _steps(texts: Sequence[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    """Groups, some of them together: enough texts for one call of a tokenizer."""
    step: list[Sequence[str]] = []
    for group in texts:
        step.append(group)
        if sum(map(len, step)) >= AT_ONCE:
            yield step
            step = []
    if step:
        yield step
