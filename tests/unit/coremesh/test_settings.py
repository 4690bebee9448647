from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from coremesh.errors import BadSetting
from coremesh.settings import (
    ALL_SECTIONS,
    MeshSettings,
    QuerierSettings,
    RedisSettings,
    TrainerSettings,
    WeightsSettings,
    load,
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("COREMESH_"):
            monkeypatch.delenv(name)


def test_flags_win_over_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "coremesh.toml"
    config.write_text(
        '[weights]\nalpha = 0.5\nmin_events = 7\nmin_miners = 3\nrule = "shrunk_z"\n[mesh]\ntoken = "t"\n'
    )
    monkeypatch.setenv("COREMESH_WEIGHTS_MIN_EVENTS", "8")
    monkeypatch.setenv("COREMESH_WEIGHTS_MIN_MINERS", "4")
    settings = load(
        [WeightsSettings], [f"--config={config}", "--weights.min-miners", "5"], known=ALL_SECTIONS
    )
    weights = settings[WeightsSettings]
    assert (weights.alpha, weights.min_events, weights.min_miners, weights.rule) == (0.5, 8, 5, "shrunk_z")
    sources = {loaded.flag: loaded.source for loaded in settings.loaded}
    assert sources["--weights.alpha"] == "file"
    assert sources["--weights.min_events"] == "environment"
    assert sources["--weights.min_miners"] == "flag"
    assert sources["--weights.dry_run"] == "default"


def test_the_config_file_may_be_named_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[trainer]\ntopk = 12\n")
    monkeypatch.setenv("COREMESH_CONFIG", str(config))
    assert load([TrainerSettings], [])[TrainerSettings].topk == 12


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--weights.alpha=2"], "--weights.alpha: got '2'; input should be less than 1"),
        (["--weights.alpha=x"], "--weights.alpha: got 'x'; input should be a valid number"),
        (["--weights.alhpa=1"], "flag --weights.alhpa: there is no such setting"),
        (["--wheights.alpha=1"], "flag --wheights: there is no such group of settings"),
        (["--alpha=1"], "--alpha is no setting"),
        (["alpha"], "'alpha' is no setting"),
        (["--weights.alpha"], "--weights.alpha needs a value"),
        (["--redis.url=http://x"], "must start with redis://"),
        (["--config=/does/not/exist.toml"], "No such file or directory"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_got_and_takes(argv: list[str], says: str) -> None:
    with pytest.raises(BadSetting) as caught:
        load([WeightsSettings, RedisSettings], argv)
    assert says in caught.value.message
    assert caught.value.remedy


def test_a_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREMESH_WEIGHTS_ALPHA", "much")
    with pytest.raises(BadSetting, match="COREMESH_WEIGHTS_ALPHA: got 'much'"):
        load([WeightsSettings])


def test_a_file_with_an_unknown_table_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[wheights]\nalpha = 1\n")
    with pytest.raises(BadSetting, match="table wheights"):
        load([WeightsSettings], ["--config", str(config)])


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load([MeshSettings], ["--mesh.token=hunter2"])
    assert "hunter2" not in repr(settings[MeshSettings])
    assert "hunter2" not in str([loaded.value for loaded in settings.loaded])
    with pytest.raises(BadSetting) as caught:
        load([RedisSettings], ["--redis.url=http://user:hunter2@host"])
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("name", ["gating", "reward", "weights", "querier", "trainer"])
@pytest.mark.parametrize(
    "url", ["reward:8082", "reward", "", "http:/reward:8082", "http://reward:80x", "ftp://reward"]
)
def test_an_address_of_a_service_without_a_scheme_is_refused_at_once(name: str, url: str) -> None:
    with pytest.raises(BadSetting) as caught:
        load([MeshSettings], [f"--mesh.{name}_url={url}"])
    assert f"--mesh.{name}_url" in caught.value.message
    assert "http://reward:8082" in caught.value.message + caught.value.remedy
    for fine in ("http://reward:8082/", "https://mesh.example/reward", "http://[::1]:8082"):
        load([MeshSettings], [f"--mesh.{name}_url={fine}"])


def test_settings_are_frozen() -> None:
    weights = load([WeightsSettings])[WeightsSettings]
    with pytest.raises(ValidationError):
        weights.alpha = 0.1  # type: ignore[misc]


def test_every_setting_says_what_it_means() -> None:
    for loaded in load(ALL_SECTIONS).loaded:
        assert loaded.help, loaded.flag


def test_a_list_is_json_in_a_flag_too() -> None:
    assert load([QuerierSettings], ['--querier.allow_networks=["10.0.0.0/8"]'])[
        QuerierSettings
    ].allow_networks == ("10.0.0.0/8",)
    with pytest.raises(BadSetting, match="takes a JSON list"):
        load([QuerierSettings], ["--querier.allow_networks=10.0.0.0/8"])


@pytest.mark.parametrize(
    "text",
    [
        'redis = "redis://:s3cret@127.0.0.1/0"',
        '[redis]\nurl = ["redis://:s3cret@127.0.0.1/0"]',
        '[redis.url]\nurl = "redis://:s3cret@127.0.0.1/0"',
        '[[mesh]]\ntoken = "s3cret"',
        'mesh = "s3cret"',
    ],
)
def test_a_secret_in_a_wrong_place_of_the_file_is_not_said(text: str, tmp_path: Path) -> None:
    config = tmp_path / "coremesh.toml"
    config.write_text(text)
    with pytest.raises(BadSetting) as told:
        load(ALL_SECTIONS, ["--config", str(config)])
    assert "s3cret" not in str(told.value.as_dict())
