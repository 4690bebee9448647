"""The compose files, as far as they can be judged without an engine; tests/compose/mesh.sh brings them up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from coremesh.settings import ALL_SECTIONS

ROOT = Path(__file__).parents[3]
BASE = "docker-compose.yml"
DEVNET = "docker-compose.override.yml"
VALIDATOR = "docker-compose.validator.yml"
GPU = "docker-compose.gpu.yml"
FILES = (BASE, DEVNET, VALIDATOR, GPU)
SERVICES = {"gating", "reward", "weights", "querier", "trainer"}
SIGNING = {"weights", "querier", "trainer"}
# Set in .env for compose itself, and handed to no container.
OWN = {
    "COREMESH_USER",
    "COREMESH_LISTEN",
    "COREMESH_PORT",
    "COREMESH_CONFIG",
    "COREMESH_CONFIG_DIR",
    "COREMESH_IMAGE",
    "COREMESH_TAG",
}


def compose(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


def variables(text: str) -> set[str]:
    return set(re.findall(r"\$\{(\w+)", text))


def settings() -> set[str]:
    return {
        f"COREMESH_{section.section.upper()}_{name.upper()}"
        for section in ALL_SECTIONS
        for name in section.model_fields
    }


@pytest.mark.parametrize("name", FILES)
def test_every_variable_is_a_setting(name: str) -> None:
    given = {
        variable
        for service in compose(name)["services"].values()
        for variable in (service.get("environment") or {})
        if variable.startswith("COREMESH_")
    }
    asked = {v for v in variables((ROOT / name).read_text()) if v.startswith("COREMESH_")}
    assert given <= settings() | OWN
    assert asked <= settings() | OWN


def test_the_example_sets_what_a_validator_must_set() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    required = set(re.findall(r"\$\{(\w+):\?", (ROOT / VALIDATOR).read_text()))
    used = set().union(*(variables((ROOT / name).read_text()) for name in FILES))
    assert required <= example
    assert example <= used | {"COMPOSE_FILE", "COMPOSE_PROFILES"}
    assert f"COMPOSE_FILE={BASE}:{VALIDATOR}" in lines


def test_only_the_querier_is_published_and_on_loopback() -> None:
    published = {
        (name, port)
        for file in FILES
        for name, service in compose(file)["services"].items()
        for port in service.get("ports", ())
        if "observability" not in service.get("profiles", ())
    }
    assert published == {("querier", "${COREMESH_LISTEN:-127.0.0.1}:${COREMESH_PORT:-8080}:8080")}
    assert compose(BASE)["services"]["grafana"]["ports"] == ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"]


def test_models_have_no_way_out() -> None:
    base = compose(BASE)
    assert base["networks"]["mesh"] == {"internal": True}
    networks = {name: service["networks"] for name, service in base["services"].items()}
    outside = {name for name, joined in networks.items() if joined != ["mesh"]}
    assert outside == {*SIGNING, "grafana"}


@pytest.mark.parametrize("file", [BASE, DEVNET])
def test_containers_are_confined(file: str) -> None:
    for name, service in compose(file)["services"].items():
        if "image" in service:
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
    users = {name: compose(BASE)["services"][name]["user"] for name in SERVICES}
    assert set(users.values()) == {"${COREMESH_USER:-10001:10001}"}


def test_a_validator_mounts_one_hotkey_read_only_where_it_signs() -> None:
    services = compose(VALIDATOR)["services"]
    mounts = {name: service.get("volumes", []) for name, service in services.items()}
    assert {name for name, found in mounts.items() if found} == SIGNING
    for name in SIGNING:
        ((mount),) = mounts[name]
        assert mount["source"].count("}/") == 2
        assert "/hotkeys/${COREMESH_WALLET_HOTKEY" in mount["source"]
        assert mount["target"] == "/run/wallets/validator/hotkeys/default"
        assert mount["read_only"] is True
        assert mount["bind"] == {"create_host_path": False}


def test_nothing_of_the_devnet_reaches_a_validator() -> None:
    text = "".join((ROOT / name).read_text() for name in (BASE, VALIDATOR, GPU))
    for word in ("ALLOW_NETWORKS", "ALLOW_OPEN", "ALLOW_LOOPBACK", "devnet\n", "chain:9944"):
        assert word not in text.replace("a devnet", ""), word
