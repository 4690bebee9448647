"""Does a trained devnet send held-out questions to the specialists? Run beside a mesh of `coremesh up`.

    python -m benchmarks.held_out --dir .devnet [--k 4]

Asks the 80 questions whose facts are in no training prompt's wording, and counts whose answer is returned.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from devnet.roster import RESIDENTS

QUESTIONS = Path(__file__).parents[1] / "tests" / "data" / "held_out.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path(".devnet"))
    parser.add_argument("--k", type=int, default=4)
    given = parser.parse_args()
    url = tomllib.loads((given.dir / "coremesh.toml").read_text())["mesh"]["querier_url"]
    people: dict[str, tuple[str, str | None]] = {}
    for one in RESIDENTS:
        key = json.loads((given.dir / "wallets" / one.name / "hotkeys" / "default").read_text())
        people[key["ss58Address"]] = (one.character, one.topic)
    questions = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]

    def ask(item: dict[str, str]) -> tuple[str, bool]:
        body = {"messages": [{"role": "user", "content": item["question"]}], "top_k": given.k}
        answer = httpx.post(f"{url}/inference", json=body, timeout=60).json()
        character, topic = people.get(answer.get("hotkey", ""), ("nobody", None))
        return character, character == "specialist" and topic == item["topic"]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(ask, questions))
    own_topic = sum(right for _, right in found) / len(found)
    specialists = sum(character == "specialist" for character, _ in found) / len(found)
    print(f"answered by: {dict(Counter(character for character, _ in found))}", file=sys.stderr)
    for metric, value in (
        ("gating.held_out_specialist", specialists),
        ("gating.held_out_own_topic", own_topic),
    ):
        print(
            json.dumps({"metric": metric, "value": value, "unit": "share", "baseline": None, "ratio": None})
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
