"""Record the examples of api.md on a running devnet: ``python docs/record.py [--config FILE] [WORDS of a key …]``.

Asks what examples.json has as requests, and writes what is answered, cut to what a page can show. Without words all are
recorded but what changes the validator, which has to be named: it says something only while weights are held.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from coremesh.cli.client import Client

FILE = Path(__file__).with_name("examples.json")
FEW = 4
MOST_ITEMS = 2
MOST_CHARS = 100
DIGITS = 4
CHANGES = ("/weights/override",)


def cut(value: Any) -> Any:
    """An answer as the page shows it: short lists and texts, four digits of a fraction."""
    if isinstance(value, dict):
        # A map from uids is a list in disguise.
        kept = list(value.items())
        if all(name.isdecimal() for name in value):
            kept = kept[: MOST_ITEMS + 1]
        return {name: cut(one) for name, one in kept}
    if isinstance(value, list):
        # Lists beside each other stay aligned: all of a few, or the first of many.
        return [cut(one) for one in (value if len(value) <= FEW else value[:MOST_ITEMS])]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, str) and " " in value and len(value) > MOST_CHARS and not re.search(r"[=|]", value):
        return value[:MOST_CHARS].rpartition(" ")[0] + " …"
    return value


def main() -> None:
    """Record them."""
    parser = argparse.ArgumentParser(description="Record the examples of the API on a running devnet.")
    parser.add_argument("--config", type=Path, default=Path(".devnet/coremesh.toml"))
    parser.add_argument(
        "words", nargs="*", help="only examples whose key has one of these words, such as /inference"
    )
    given = parser.parse_args()
    examples: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    with Client(given.config) as client:
        for key, example in examples.items():
            service, method, path = key.split(" ")
            if not any(word in key for word in given.words) if given.words else path in CHANGES:
                continue
            if method == "GET":
                answer = client.get(service, path)
            else:
                answer = client.post(service, path, example["request"], timeout_s=60.0)
            example["answer"] = cut(answer)
            print(key)
    FILE.write_text(json.dumps(examples, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
