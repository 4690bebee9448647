"""Residents that attack the validator. Each does one thing, to any caller, until the caller goes away."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Awaitable, Callable
from functools import cache

from devnet.miners.exchange import Exchange

Attack = Callable[[Exchange, random.Random], Awaitable[None]]

ELSEWHERE = "http://127.0.0.1:8080/inference"
"""A local address that a miner should never be able to reach through the validator."""
DRIP_S = 0.3
DRIP_BYTES = 2_000
HUGE_BYTES = 2**30
BOMB_MEMBERS = 32
BOMB_MEMBER_BYTES = 8 * 2**20
DEPTH = 100_000

_JSON_HEAD = b'{"completion": "'


async def redirect(exchange: Exchange, rng: random.Random) -> None:
    """Send the validator, its signature along with it, to another address of its own machine."""
    await exchange.reply(307, b"", location=ELSEWHERE)


async def drip(exchange: Exchange, rng: random.Random) -> None:
    """One byte each 0.3 s: never idle, never done."""
    await exchange.start(200, {"content-type": "application/json"})
    text = _JSON_HEAD + b"slowly " * DRIP_BYTES
    for place in range(DRIP_BYTES):
        await exchange.send(text[place : place + 1])
        if not await exchange.still_there_after(DRIP_S):
            return


async def gzip_bomb(exchange: Exchange, rng: random.Random) -> None:
    """A quarter of a megabyte that unpacks to a quarter of a gigabyte, though only identity was accepted."""
    await exchange.reply(200, _bomb(), content_encoding="gzip")


async def huge_body(exchange: Exchange, rng: random.Random) -> None:
    """JSON that does not end, up to a gigabyte."""
    await exchange.start(200, {"content-type": "application/json"})
    await exchange.send(_JSON_HEAD)
    part = b"on and on " * 6_500
    for _ in range(HUGE_BYTES // len(part)):
        # Sending to a caller that has gone does not fail, so look first.
        if not await exchange.still_there_after(0.001):
            return
        await exchange.send(part)


async def deep_json(exchange: Exchange, rng: random.Random) -> None:
    """Lists in lists, deeper than a recursive parser's stack."""
    await exchange.reply(200, b'{"completion": ' + b"[" * DEPTH + b"]" * DEPTH + b"}")


async def not_text(exchange: Exchange, rng: random.Random) -> None:
    """A completion that is no text: NaN, a number, nothing, an object, half of a surrogate pair."""
    completion = rng.choice(
        ["NaN", "-Infinity", "1e999", "null", "42", '{"text": "yes"}', '"\\ud800\\udfff"']
    )
    await exchange.reply(200, b'{"completion": ' + completion.encode() + b"}")


async def special_tokens(exchange: Exchange, rng: random.Random) -> None:
    """Control tokens of common models, taken apart by invisible characters.

    Long enough to look like a success, hardly a letter when cleaned; whoever only removes what cannot be seen puts
    the tokens together again, and they end the completion and speak as the prompt.
    """
    token = rng.choice(["[SEP][CLS]", "<|im_end|>", "[MASK]</s>", "[CLS] yes.", "<s>[INST]"])
    invisible = ["\x00", "\x1b", "\x08", "\u202e", "\u200b", "\ufeff"]
    hidden = "".join(letter + "".join(rng.choices(invisible, k=20)) for letter in token)
    await exchange.reply(200, json.dumps({"completion": hidden}).encode())


ATTACKS: dict[str, Attack] = {
    "redirect": redirect,
    "drip": drip,
    "gzip-bomb": gzip_bomb,
    "huge-body": huge_body,
    "deep-json": deep_json,
    "nan": not_text,
    "special-tokens": special_tokens,
}


class Hostile:
    """A resident with one attack."""

    def __init__(self, attack: Attack, rng: random.Random) -> None:
        self._attack = attack
        self._rng = rng

    async def __call__(self, exchange: Exchange) -> None:
        """Attack whoever asks."""
        await exchange.body()
        await self._attack(exchange, self._rng)


@cache
def _bomb() -> bytes:
    """256 MiB of JSON in as many kilobytes: gzip members that a decoder joins."""
    head = gzip.compress(_JSON_HEAD)
    member = gzip.compress(b"0" * BOMB_MEMBER_BYTES)
    return head + member * BOMB_MEMBERS + gzip.compress(b'"}')
