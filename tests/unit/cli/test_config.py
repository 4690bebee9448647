"""``coremesh config`` and ``coremesh config check``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from coremesh.cli.findings import Finding
from coremesh.cli.preflight import check_mesh
from coremesh.cli.services import SERVICES, Service
from coremesh.service.run import COMMON
from coremesh.settings import ALL_SECTIONS
from devnet.wallets import ensure_wallets
from tests.unit.cli.conftest import Cli


@pytest.fixture
def wallets(tmp_path: Path) -> list[str]:
    """Flags that name a wallet that is there, and a spool."""
    ensure_wallets(tmp_path / "wallets", ("default",))
    return [f"--wallet.path={tmp_path / 'wallets'}", f"--querier.spool={tmp_path / 'spool'}"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("COREMESH_"):
            monkeypatch.delenv(name)


def named(*names: str) -> list[Service]:
    return [service for service in SERVICES if service.name in names]


def troubles(found: list[Finding]) -> list[tuple[str, str, str]]:
    return sorted((one.level, one.code, one.about) for one in found if one.level != "ok")


def test_every_setting_is_shown_with_its_source_and_no_secret(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[querier]\napi_keys = ["hunter2"]\ninference_topk = 3\n[mesh]\ntoken = "hunter2"\n')
    done = cli(
        *(
            "config",
            "--config",
            str(file),
            "--json",
            "--netuid",
            "7",
            "--redis.url=redis://me:hunter2@host/1",
        ),
        COREMESH_WEIGHTS_ALPHA="0.5",
    )
    assert done.returncode == 0, done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    rows = {row["flag"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert rows.keys() == {f"--{c.section}.{name}" for c in ALL_SECTIONS for name in c.model_fields}
    given = {flag: row for flag, row in rows.items() if row[1] != "default"}
    assert given == {
        "--querier.api_keys": (["***"], "file"),
        "--querier.inference_topk": (3, "file"),
        "--mesh.token": ("***", "file"),
        "--weights.alpha": (0.5, "environment"),
        "--chain.netuid": (7, "flag"),
        "--redis.url": ("redis://***@host/1", "flag"),
    }
    assert done.stderr == "coremesh: --netuid of the original validator is now --chain.netuid\n"
    shown = cli("config", "--config", str(file))
    assert shown.returncode == 0
    assert "hunter2" not in shown.stdout
    assert "querier.inference_topk" in shown.stdout


def test_settings_that_all_services_take(wallets: list[str]) -> None:
    found = check_mesh(SERVICES, wallets)
    assert troubles(found) == []
    assert [one.about for one in found] == ["querier", "gating", "reward", "weights", "trainer"]


def test_all_that_is_wrong_is_said_at_once(
    wallets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = tmp_path / "stack.toml"
    stack.write_text('[[function]]\ntype = "relevence"\nmodel = "x"\n')
    shadow = tmp_path / "shadow.toml"
    shadow.write_text('[[function]]\ntype = "dpo"\nmodel = "/no/model"\nreference = "no/such-model"\n')
    file = tmp_path / "c.toml"
    file.write_text(
        f'[http]\nhost = "0.0.0.0"\nport = 9000\n[reward]\nstack = "{stack}"\nshadow = "{shadow}"\n'
        '[gating]\nencoder = "/no/encoder"\nrull = "bayes"\n[trainer]\nsource = "folder"\ndataset = ""\n'
        f'[querier]\nspool = "{file}/spool"\noperator_token = "t"\n[wallet]\nhotkey = "gone"\n'
    )
    file.chmod(0o644)
    monkeypatch.setenv("COREMESH_WEIGHTS_ALPHA", "2")
    monkeypatch.setenv("COREMESH_REDIS_ULR", "redis://here")
    monkeypatch.setenv("COREMESH_PORT", "8080")
    path = f"--config={file}"
    found = check_mesh(SERVICES, [wallets[0], path])
    assert troubles(found) == [
        ("fail", "bad_directory", "querier.spool"),
        ("fail", "bad_model", "gating.encoder"),
        ("fail", "bad_model", "reward.shadow: model"),
        ("fail", "bad_setting", "reward.stack"),
        ("fail", "bad_value", "COREMESH_WEIGHTS_ALPHA"),
        ("fail", "bad_wallet", "wallet"),
        ("fail", "no_folder", "trainer.folder"),
        ("fail", "open_bind", "http.host of gating"),
        ("fail", "open_bind", "http.host of querier"),
        ("fail", "open_bind", "http.host of reward"),
        ("fail", "open_bind", "http.host of weights"),
        ("fail", "unknown_setting", "table gating.rull"),
        ("fail", "unknown_variable", "COREMESH_REDIS_ULR"),
        ("warn", "model_not_here", "reward.shadow: model"),
        ("warn", "readable_secrets", f"--config {file}"),
        ("warn", "same_port", "http.port"),
    ]
    assert [one for one in found if not one.message or (one.level != "ok" and not one.remedy)] == []
    said = {one.about: one for one in found}
    assert said["table gating.rull"].remedy.startswith("Did you mean gating.rule?")
    assert said["COREMESH_REDIS_ULR"].remedy.startswith("Did you mean COREMESH_REDIS_URL?")


def test_keys_or_a_token_secure_an_open_address(wallets: list[str]) -> None:
    both = ["--http.host=0.0.0.0", *wallets, "--mesh.token=t"]
    assert troubles(check_mesh(named("gating", "weights"), both)) == []
    assert troubles(check_mesh(named("querier"), both)) == [("fail", "open_bind", "http.host of querier")]
    assert troubles(check_mesh(named("querier"), [*both, "--querier.require_key=true"])) == []


def test_other_machines_need_the_mesh_token(wallets: list[str]) -> None:
    words = [*wallets, "--mesh.gating_url=http://10.0.0.3:8081"]
    assert troubles(check_mesh(named("querier"), words)) == [("fail", "no_mesh_token", "mesh.token")]


def test_check_ends_with_1_for_a_problem_and_2_for_no_such_service(cli: Cli, wallets: list[str]) -> None:
    done = cli("config", "check", "--service", "weights", "--json", *wallets, "--weights.alpha=2")
    assert done.returncode == 1, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document == {
        "ok": False,
        "findings": [
            {
                "level": "fail",
                "code": "bad_value",
                "about": "--weights.alpha",
                "message": "--weights.alpha: got '2'; input should be less than 1 "
                "(share of the old score kept by an event)",
                "remedy": "`coremesh config` lists every setting.",
            }
        ],
    }
    fine = cli("config", "check", "--service", "weights", *wallets)
    assert (fine.returncode, "weights would take these settings" in fine.stdout) == (0, True)
    unknown = cli("config", "check", "--service", "wheights", "--json")
    assert (unknown.returncode, json.loads(unknown.stdout)["code"]) == (2, "bad_setting")


def test_the_services_are_known_as_they_are() -> None:
    from services.gating import __main__ as gating
    from services.querier import __main__ as querier
    from services.reward import __main__ as reward
    from services.weights import __main__ as weights

    known = {service.name: (set(service.sections), service.port) for service in SERVICES}
    shared = set(COMMON)
    assert known["querier"] == ({*querier.SECTIONS, *shared}, querier.PORTS["api"])
    assert known["trainer"] == ({*querier.SECTIONS, *shared}, querier.PORTS["trainer"])
    assert known["reward"] == ({*reward.SECTIONS, *shared}, reward.DEFAULT_PORT)
    assert known["weights"] == ({*weights.SECTIONS, *shared}, weights.PORT)
    assert known["gating"][1] == gating.PORT
