"""From a conversation to the text that a reward model reads, so that no completion can step out of its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from coremesh.errors import BadModel
from services.reward.config import TextForm
from services.reward.engine import Group
from services.reward.engine.turns import give_way

Conversation = Sequence[tuple[str, str]]

_PARAGRAPH = "\n\n"
# Plain words, so that no tokenizer, template filter or cleaning changes them.
_MARKS = ("coremeshfirstmark", "coremeshsecondmark", "coremeshthirdmark")


class Form:
    """Renders cleaned texts. ``chat``: the tokenizer's own template; ``pair``: prompt, separator token,
    completion; ``plain``: the non-system messages, then the completion (REFERENCE.md), between prefix and suffix.

    Special tokens are gone from the texts already. What remains of a template are its words ("Assistant:"): a
    text in which such a scaffold stands gets it broken up.

    What is too long for the model is cut here and not by the tokenizer, which would cut off the end of the
    template or all of the completion: the prompt keeps its newest half of the room, the completion the rest.
    """

    def __init__(self, tokenizer: Any, form: TextForm, model: str, max_tokens: int) -> None:
        if not tokenizer.is_fast:
            raise BadModel(
                f"the tokenizer of {model} does not say where its tokens stand, so that long texts cannot be cut",
                remedy="Choose a model with a tokenizer.json.",
            )
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._form = form
        self.kind = form.template
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if self.kind == "auto":
            self.kind = "chat" if has_template else "plain"
        if self.kind == "chat" and not has_template:
            raise BadModel(
                f"{model} has no chat template", remedy='Set template = "plain" or "pair" for this function.'
            )
        self._joint = self._find_joint(model) if self.kind == "pair" else ""
        self._scaffold = self._find_scaffold(model) if self.kind == "chat" else None
        self._frame: dict[tuple[str, ...], int] = {}

    def group(self, turns: Conversation, completions: Sequence[str]) -> Group:
        """The engine's group: what all completions share, and the rest."""
        turns = [(role, self._tame(text)) for role, text in turns]
        completions = [self._tame(text) for text in completions]
        turns, completions = self._fit(turns, completions)
        before, after = self._around(turns)
        if self.kind == "chat":
            completions = [text.strip() for text in completions]
        return Group(before, tuple(text + after for text in completions))

    def _around(self, turns: Conversation) -> tuple[str, str]:
        """What stands before and after a completion."""
        if self.kind == "chat":
            return self._chat(turns)
        spoken = [text for role, text in turns if role != "system"] or [text for _, text in turns]
        if self.kind == "pair":
            return self._form.separator.join(spoken) + self._joint, ""
        return self._form.prefix + "".join(text + self._form.separator for text in spoken), self._form.suffix

    def _fit(
        self, turns: Conversation, completions: Sequence[str]
    ) -> tuple[list[tuple[str, str]], list[str]]:
        sizes = [len(text.encode("utf-8", "surrogatepass")) for text in completions]
        asked = sum(len(text.encode("utf-8", "surrogatepass")) for _, text in turns)
        room = self._max_tokens - self._overhead(turns)
        # A token is a byte at least.
        if asked + max(sizes, default=0) <= room:
            return list(turns), list(completions)
        room = max(2, room)
        left = room // 2
        kept: list[tuple[str, str]] = []
        for role, text in reversed(turns):
            text, used = self._cut(text, left, newest=True)
            left -= used
            kept.append((role, text))
        rest = room - (room // 2 - left)
        return kept[::-1], [self._cut(text, rest, newest=False)[0] for text in completions]

    def _overhead(self, turns: Conversation) -> int:
        """Tokens of the frame alone, with one to spare for each place where texts may join differently."""
        roles = tuple(role for role, _ in turns)
        if roles not in self._frame:
            if len(self._frame) > 256:
                self._frame.clear()
            before, after = self._around([(role, "") for role in roles])
            ids = self._tokenizer(before + after, add_special_tokens=True)["input_ids"]
            self._frame[roles] = len(ids) + len(roles) + 1
        return self._frame[roles]

    def _cut(self, text: str, most: int, *, newest: bool) -> tuple[str, int]:
        """The text's first (or newest) ``most`` tokens, and how many there are."""
        give_way()
        spans = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        if len(spans) <= most:
            return text, len(spans)
        if most < 1:
            return "", 0
        return (text[spans[-most][0] :] if newest else text[: spans[most - 1][1]]), most

    def _chat(self, turns: Conversation) -> tuple[str, str]:
        text = self._rendered(turns, _MARKS[2])
        before, found, after = text.rpartition(_MARKS[2])
        assert found, "a template that drops the answer is refused at start"
        return before, after

    def _rendered(self, turns: Conversation, answer: str) -> str:
        """The conversation and an answer to it. Some templates refuse system messages, or two turns of one role in a
        row (Gemma's, Mistral's): then it is told without the ones and with the others in one; else as one message."""
        spoken = [(role, text) for role, text in turns if role != "system"] or [("user", t) for _, t in turns]
        for told in ([*turns, ("assistant", answer)], _joined([*spoken, ("assistant", answer)])):
            try:
                return self._render(told)
            except Exception:  # a template is a program of the model's author
                continue
        return self._render([("user", _PARAGRAPH.join(text for _, text in spoken)), ("assistant", answer)])

    def _render(self, turns: Conversation) -> str:
        text = self._tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns], tokenize=False
        )
        # The tokenizer puts its own in front.
        bos = self._tokenizer.bos_token
        if (
            bos
            and text.startswith(bos)
            and self._tokenizer("a")["input_ids"][0] == self._tokenizer.bos_token_id
        ):
            text = text.removeprefix(bos)
        return text

    def _find_scaffold(self, model: str) -> re.Pattern[str] | None:
        try:
            text = self._render([("user", _MARKS[0]), ("assistant", _MARKS[1]), ("user", _MARKS[0])])
            _, after = self._chat([("user", _MARKS[0])])
        except (Exception, AssertionError) as error:  # a template is a program of the model's author
            raise BadModel(
                f"the chat template of {model} cannot take a user's message and an answer: {error}",
                remedy='Set template = "plain" or "pair" for this function.',
            ) from None
        pieces = re.split("|".join(_MARKS), text + after)
        lines = {line.strip() for piece in pieces for line in piece.splitlines()}
        words = {line for line in lines if len(line) > 2 and re.search(r"\w", line)}
        words = {self._without_specials(word) for word in words} - {""}
        if not words:
            return None
        spelt = sorted(map(re.escape, words), key=len, reverse=True)
        return re.compile("|".join(spelt), re.IGNORECASE)

    def _without_specials(self, line: str) -> str:
        for token in self._tokenizer.all_special_tokens:
            line = line.replace(token, "")
        line = line.strip()
        # A bare role name ("user") is a word like any other; only one that is marked up opens a turn.
        return line if re.search(r"\w", line) and re.search(r"[^\w\s]", line) else ""

    def _tame(self, text: str) -> str:
        if self._scaffold is None:
            return text
        return self._scaffold.sub(lambda found: re.sub(r"[^\w\s]", " ", found.group()), text)

    def _find_joint(self, model: str) -> str:
        """How to write the separator so that the text gives the ids of the tokenizer's own pair."""
        sep = self._tokenizer.sep_token or self._tokenizer.eos_token
        wanted = self._tokenizer("first text", "second text")["input_ids"]
        for joint in (sep, f"{sep} ", f" {sep} ", f"{sep}{sep}", f" {sep}"):
            if joint and self._tokenizer(f"first text{joint}second text")["input_ids"] == wanted:
                return joint
        raise BadModel(
            f"{model} takes no pairs that can be written as one text",
            remedy='Set template = "plain" or "chat" for this function.',
        )


def _joined(turns: Conversation) -> Conversation:
    """With neighbours of one role in one."""
    return [
        (role, _PARAGRAPH.join(text for _, text in same))
        for role, same in groupby(turns, lambda turn: turn[0])
    ]
