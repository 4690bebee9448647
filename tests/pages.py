"""Pages as Redis would fill them."""

from __future__ import annotations

from collections.abc import Iterable

from coremesh.history.page import Page


def reply(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """XRANGE's answer."""
    rows = [
        b"*2\r\n$%d\r\n%b\r\n*2\r\n$1\r\ne\r\n$%d\r\n%b\r\n"
        % (len(place), place.encode(), len(packed), packed)
        for place, packed in entries
    ]
    return b"*%d\r\n" % len(rows) + b"".join(rows)


def feed(page: Page, pieces: Iterable[bytes]) -> bool:
    """Whether the reply was complete after the last piece. Raises OddReply."""
    page.clear()
    done = False
    for piece in pieces:
        assert not done
        while piece:
            space = page.space()
            part, piece = piece[: len(space)], piece[len(space) :]
            space[: len(part)] = part
            done = page.take(len(part))
    return done


def fill(page: Page, entries: Iterable[tuple[str, bytes]]) -> None:
    assert feed(page, [reply(entries)])
