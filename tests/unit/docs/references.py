from __future__ import annotations

import re
from pathlib import Path

from coremesh.settings import ALL_SECTIONS

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
GENERATED = ("settings.md", "cli.md", "metrics.md", "api.md")
WRITTEN = sorted(page.name for page in DOCS.glob("*.md") if page.name not in GENERATED)

SECTIONS = {cls.section: set(cls.model_fields) for cls in ALL_SECTIONS}
_CODE = re.compile(r"`([^`\n]+)`")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|toml|jsonl|md)")


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def spans(content: str) -> set[str]:
    """What stands between backticks in the running text."""
    return set(_CODE.findall(_FENCED.sub("", content)))


def blocks(content: str) -> str:
    """The fenced blocks."""
    return "\n".join(_FENCED.findall(content))


def endpoints() -> set[str]:
    """``METHOD /path`` of every endpoint, from the page that is generated from OpenAPI."""
    rows = re.findall(r"^\| (GET|POST) \| `([^`]+)` \|", text("api.md"), re.MULTILINE)
    health = ("/healthz", "/readyz", "/metrics", "/docs")
    return {f"{method} {path}" for method, path in rows} | {f"GET {path}" for path in health}


def metrics() -> set[str]:
    return set(re.findall(r"^\| `([a-z_]+)` \|", text("metrics.md"), re.MULTILINE))


def flags() -> set[str]:
    known = set(re.findall(r"--[a-z][a-z-]*", text("cli.md")))
    return (
        known
        | {f"--{section}.{name}" for section, names in SECTIONS.items() for name in names}
        | {"--config"}
    )


def variables() -> set[str]:
    named = {f"COREMESH_{s.upper()}_{name.upper()}" for s, names in SECTIONS.items() for name in names}
    return named | {"COREMESH_CONFIG"}


def commands() -> set[str]:
    return set(re.findall(r"^## coremesh (\w+)$", text("cli.md"), re.MULTILINE))


def anchors(content: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", _FENCED.sub("", content), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


def wrong(content: str) -> list[str]:
    """What a page names and the code does not have."""
    found: list[str] = []
    for span in spans(content):
        section, dot, name = span.partition(".")
        if dot and section in SECTIONS and re.fullmatch(r"[a-z_]+", name) and name not in SECTIONS[section]:
            found.append(f"no setting {span}")
        if re.fullmatch(r"(GET|POST) /[\w/{}]*", span) and span not in endpoints():
            found.append(f"no endpoint {span}")
        if _FILE.fullmatch(span) and "/" in span and not (ROOT / span).is_file():
            found.append(f"no file {span}")
    for metric in re.findall(r"\bcoremesh_[a-z_]+[a-z]\b", content):
        if metric not in metrics():
            found.append(f"no metric {metric}")
    for variable in re.findall(r"\bCOREMESH_[A-Z_]+[A-Z]\b", content):
        if variable not in variables():
            found.append(f"no variable {variable}")
    for command in re.findall(r"(?:`|bin/)coremesh (\w+)", content):
        if command not in commands():
            found.append(f"no command {command}")
    for line in (*spans(content), *blocks(content).splitlines()):
        if re.search(r"(?:coremesh|-m services|-m devnet)\b.* --", line):
            found += [f"no flag {f}" for f in re.findall(r"(?<= )--[a-z][\w.-]*", line) if f not in flags()]
    for link in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", content):
        target, anchor = link
        if target.startswith("http"):
            continue
        if target and not (DOCS / target).exists():
            found.append(f"no page {target}")
        elif anchor and anchor not in anchors(text(target) if target else content):
            found.append(f"no heading {anchor}")
    return sorted(set(found))
