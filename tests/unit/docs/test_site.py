"""The pages as a site: it builds without a warning, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from tests.unit.docs.references import DOCS, ROOT, anchors, text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


class Assets(HTMLParser):
    """Addresses that a browser would load by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(given.get("href") or "")


def elsewhere(address: str) -> bool:
    return bool(re.match(r"(?:[a-z]+:)?//", address))


def test_the_site_builds_without_a_warning_and_has_every_page(site: Path) -> None:
    built = {file.stem for file in site.glob("*.html")} - {"404"}
    assert built == {page.stem for page in DOCS.glob("*.md")}
    assert not list(site.glob("*.py"))


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        parser = Assets()
        content = page.read_text(encoding="utf-8")
        parser.feed(content)
        assert len(parser.found) >= 3
        assert [address for address in parser.found if elsewhere(address)] == [], page.name
        assert "fonts.googleapis" not in content
    for style in site.rglob("*.css"):
        content = style.read_text(encoding="utf-8")
        addresses = re.findall(r"url\(['\"]?([^'\")]+)", content) + re.findall(
            r"@import ['\"]([^'\"]+)", content
        )
        assert [address for address in addresses if elsewhere(address)] == [], style.name


def test_every_alert_has_a_section_in_the_runbook() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(alerts) >= 14
    headings = anchors(text("runbook.md"))
    assert [rule["alert"] for rule in alerts if rule["alert"].lower() not in headings] == []
    pointed = [rule["annotations"].get("runbook_url", "") for rule in alerts]
    wrong = [
        url
        for url, rule in zip(pointed, alerts, strict=True)
        if url and not re.search(rf"runbook(?:\.md|\.html|/)?#{rule['alert'].lower()}$", url)
    ]
    assert wrong == []
