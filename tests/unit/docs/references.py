from __future__ import annotations

import re
from pathlib import Path

from coremesh.settings import ALL_SECTIONS, legacy

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
GENERATED = ("settings.md", "cli.md", "metrics.md", "api.md", "options.md", "measured.md")
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


def commands() -> dict[str, set[str]]:
    """Every command by its words, ``coremesh keys create``, with the options that its own help lists."""
    parts = re.split(r"^## ((?:coremesh|python -m devnet)[\w -]*)$", text("cli.md"), flags=re.MULTILINE)
    return {
        name: set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w.-]*", part))
        for name, part in zip(parts[1::2], parts[2::2], strict=True)
    }


TAKE_SETTINGS = (
    *("coremesh replay", "coremesh gating evaluate", "coremesh reward compare", "coremesh doctor"),
    *("coremesh config", "coremesh config show", "coremesh config check", "coremesh verify"),
    *("coremesh backtest", "coremesh history tail", "coremesh history export"),
)


def settings_flags() -> set[str]:
    return {f"--{section}.{name}" for section, names in SECTIONS.items() for name in names} | {"--config"}


def _lines(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def wrong_commands(content: str) -> list[str]:
    """Commands and options of ours, in blocks and between backticks, that there are not."""
    found: list[str] = []
    known = commands()
    lines = [
        line
        for block in _FENCED.findall(content)
        if not re.match(r"```(python|json|toml|yaml|sql|ini)", block)
        for line in _lines(block)
    ]
    for line in (*lines, *spans(content)):
        for part in re.split(r"\s(?:\||&&|;|\|\|)\s", re.sub(r"\s#.*$", "", line)):
            words = re.sub(r"^(?:\S*bin/)|\s(?:\S*bin/)(?=coremesh|python)", " ", part).split()
            while words and (re.fullmatch(r"[A-Z_]+=\S*", words[0]) or words[0] in ("$", "exec", "sudo")):
                words.pop(0)
            if words[:2] == ["make", "up"] or not words:
                continue
            if words[:4] == ["docker", "compose", "exec", "querier"]:
                words = words[4:]
            if words[0] == "coremesh":
                found += _wrong_command(words, known)
            elif words[:3] == ["python", "-m", "devnet"] and len(words) > 3:
                found += _wrong_command(["python -m devnet", *words[3:]], known)
            elif words[:2] == ["python", "-m"] and words[2:] and words[2].startswith("services."):
                found += [f"no flag {flag}" for flag in _options(words[3:]) if flag not in settings_flags()]
    return found


def _options(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]


def _wrong_command(words: list[str], known: dict[str, set[str]]) -> list[str]:
    path = words[0]
    rest = words[1:]
    while rest and f"{path} {rest[0]}" in known:
        path = f"{path} {rest.pop(0)}"
    group = any(name.startswith(f"{path} ") for name in known)
    if rest and group and re.fullmatch(r"[a-z]+", rest[0]):
        return [f"no command {' '.join([*path.split()[1:], rest[0]])}"]
    allowed = known.get(path, set()) | (settings_flags() if path in TAKE_SETTINGS else set())
    if path == "coremesh config":
        allowed |= known["coremesh config show"]
    legacy_names = {f"--{option.name}" for option in legacy.OPTIONS} if path in TAKE_SETTINGS else set()
    return [f"no option {flag} of {path}" for flag in _options(rest) if flag not in allowed | legacy_names]


def variables() -> set[str]:
    named = {f"COREMESH_{s.upper()}_{name.upper()}" for s, names in SECTIONS.items() for name in names}
    own = {"COREMESH_CONFIG"}
    for source in [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tests" / "integration").rglob("*.py")]:
        own |= set(re.findall(r'environ\.get\("(COREMESH_[A-Z_]+)"', source.read_text(encoding="utf-8")))
    return named | own


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
    found += wrong_commands(content)
    for link in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", content):
        target, anchor = link
        if target.startswith("http"):
            continue
        if target and not (DOCS / target).exists():
            found.append(f"no page {target}")
        elif anchor and anchor not in anchors(text(target) if target else content):
            found.append(f"no heading {anchor}")
    return sorted(set(found))
