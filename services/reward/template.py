"""From a conversation to the text that a reward model reads, so that no completion can step out of its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from coremesh.errors import BadModel
from services.reward.config import TextForm
from services.reward.engine import Group

Conversation = Sequence[tuple[str, str]]

# Plain words, so that no tokenizer, template filter or cleaning changes them.
_MARKS = ("coremeshfirstmark", "coremeshsecondmark", "coremeshthirdmark")


class Form:
    """Renders cleaned texts. ``chat``: the tokenizer's own template; ``pair``: prompt, separator token,
    completion; ``plain``: the non-system messages, then the completion (REFERENCE.md), between prefix and suffix.

    Special tokens are gone from the texts already. What remains of a template are its words ("Assistant:"): a
    text in which such a scaffold stands gets it broken up.
    """

    def __init__(self, tokenizer: Any, form: TextForm, model: str) -> None:
        self._tokenizer = tokenizer
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

    def group(self, turns: Conversation, completions: Sequence[str]) -> Group:
        """The engine's group: what all completions share, and the rest."""
        turns = [(role, self._tame(text)) for role, text in turns]
        completions = [self._tame(text) for text in completions]
        if self.kind == "chat":
            before, after = self._chat(turns)
            return Group(before, tuple(text.strip() + after for text in completions))
        spoken = [text for role, text in turns if role != "system"] or [text for _, text in turns]
        if self.kind == "pair":
            return Group(self._form.separator.join(spoken) + self._joint, tuple(completions))
        prompt = self._form.prefix + "".join(text + self._form.separator for text in spoken)
        return Group(prompt, tuple(text + self._form.suffix for text in completions))

    def _chat(self, turns: Conversation) -> tuple[str, str]:
        text = self._render([*turns, ("assistant", _MARKS[2])])
        before, found, after = text.rpartition(_MARKS[2])
        assert found, "a template that drops the answer is refused at start"
        return before, after

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
