"""The page says how much of a stranger's text it shows, in the characters that the querier counts."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from services.querier.dashboard.board import SHOWN_CHARS
from services.querier.dashboard.pages import STATIC

CODE = """
import { readFileSync } from "node:fs";
const source = readFileSync(process.argv[1], "utf8");
const { tame } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
const given = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(given.map(([text, limit, chars]) => tame(text, limit ?? undefined, chars))));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_characters_are_counted_as_the_querier_counts_them() -> None:
    emoji = "\N{GRINNING FACE}"
    whole = emoji * 3000
    long = "a" + emoji * 5000
    given = [
        (whole, None, len(whole)),
        (long[:SHOWN_CHARS], None, len(long)),
        (whole, 10, None),
        ("abc", 2, None),
        ("abc", None, None),
    ]
    done = subprocess.run(
        ["node", "--input-type=module", "-e", CODE, str(STATIC / "js" / "text.js")],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(one["shown"], one["chars"], one["cut"]) for one in found] == [
        (3000, 3000, False),
        (SHOWN_CHARS, len(long), True),
        (10, 3000, True),
        (2, 3, True),
        (3, 3, False),
    ]
    assert [one["text"] for one in found] == [whole, long[:SHOWN_CHARS], emoji * 10, "ab", "abc"]
