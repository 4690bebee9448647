"""The original's options, taken for what they are now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coremesh.errors import BadSetting
from coremesh.settings import ALL_SECTIONS, examine, legacy, load, unknown_variables

SETTINGS = {f"{cls.section}.{name}": cls for cls in ALL_SECTIONS for name in cls.model_fields}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("COREMESH_"):
            monkeypatch.delenv(name)


def given(*words: str) -> dict[str, object]:
    """Every setting that came from a flag, with its value."""
    return {one.flag: one.value for one in load(ALL_SECTIONS, words).loaded if one.source == "flag"}


SAMPLES = {
    "neuron.device": "cuda:1",
    "axon.ip": "127.0.0.1",
    "axon.external_ip": "198.51.100.7",
    "subtensor.network": "finney",
    "subtensor.chain_endpoint": "ws://127.0.0.1:9944",
    "neuron.moving_average_alpha": "0.25",
    "gating.momentum": "0.5",
    "neuron.events_retention_size": "3 GB",
    "gating.model_name": "org/model",
    **dict.fromkeys(("neuron.base_prompt", "neuron.follow_up_prompt", "neuron.question_prompt"), "Ask."),
}


@pytest.mark.parametrize("option", [o for o in legacy.OPTIONS if o.to], ids=lambda o: o.name)
def test_an_option_that_has_a_place_is_taken_there(option: legacy.Option) -> None:
    value = SAMPLES.get(option.name, "7")
    words = [f"--{option.name}", value] if option.takes else [f"--{option.name}"]
    wanted = {f"--{setting}": given for setting, given in option.values(value)}
    found = given(*words)
    assert found.keys() == wanted.keys()
    for flag, text in wanted.items():
        shown = found[flag]
        assert (
            str(shown) == text
            or (isinstance(shown, float) and shown == float(text))
            or (isinstance(shown, bool) and str(shown).lower() == text)
        )
    examined = examine(ALL_SECTIONS, words)
    same = option.to == ((option.name, "{}"),)
    assert len(examined.notices) == (0 if same else 1)
    assert all(f"--{setting}" in examined.notices[0] for setting, _ in option.to if not same)


@pytest.mark.parametrize("option", [o for o in legacy.OPTIONS if not o.to], ids=lambda o: o.name)
def test_an_option_that_is_no_more_is_refused_with_what_to_do(option: legacy.Option) -> None:
    words = [f"--{option.name}", "7"] if option.takes else [f"--{option.name}"]
    examined = examine(ALL_SECTIONS, words)
    assert [(p.code, p.setting) for p in examined.problems] == [("retired_option", f"--{option.name}")]
    assert examined.problems[0].remedy == f"Instead: {option.why}."
    assert len(option.why) > 10
    with pytest.raises(BadSetting, match="original validator"):
        load(ALL_SECTIONS, words)


def test_every_place_is_a_setting_and_no_option_hides_one() -> None:
    assert [s for o in legacy.OPTIONS for s, _ in o.to if s not in SETTINGS] == []
    assert [o.name for o in legacy.OPTIONS if o.name in SETTINGS and o.to != ((o.name, "{}"),)] == []
    assert len(legacy.BY_NAME) == len(legacy.OPTIONS)


def test_a_share_of_the_new_becomes_a_share_of_the_old() -> None:
    assert given("--neuron.moving_average_alpha", "0.05") == {"--weights.alpha": 0.95}
    assert [p.message for p in examine(ALL_SECTIONS, ["--neuron.moving_average_alpha=x"]).problems] == [
        "--neuron.moving_average_alpha: got 'x'; takes a number"
    ]


def test_a_size_becomes_bytes() -> None:
    assert given("--neuron.events_retention_size", "1.5 MB") == {"--archive.event_log_bytes": 1_500_000}
    assert [p.message for p in examine(ALL_SECTIONS, ["--neuron.events_retention_size=much"]).problems] == [
        "--neuron.events_retention_size: got 'much'; takes a size like 2 GB"
    ]


def test_a_switch_takes_no_value_and_can_be_off() -> None:
    assert given("--neuron.axon_off", "--netuid", "3") == {
        "--querier.axon_off": True,
        "--chain.netuid": 3,
    }
    assert given("--neuron.axon_off=false") == {}
    assert given("--neuron.no-reward-model") == {"--querier.use_reward_model": False}


def test_the_last_of_an_old_and_a_new_name_wins() -> None:
    assert given("--netuid", "3", "--chain.netuid", "4") == {"--chain.netuid": 4}
    assert given("--chain.netuid", "4", "--netuid", "3") == {"--chain.netuid": 3}


def test_the_notice_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    legacy_words = ["--neuron.max_history", "12345"]
    from coremesh.settings import loader

    loader._say.cache_clear()
    load(ALL_SECTIONS, legacy_words)
    load(ALL_SECTIONS, legacy_words)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "coremesh: --neuron.max_history of the original validator is now --weights.keep_events\n"
    )


def test_a_table_of_the_original_in_a_file_says_the_new_names(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[neuron]\ninference_topk = 4\nmock_dataset = true\n[gating]\nnum_uids = 3\n")
    problems = examine(ALL_SECTIONS, ["--config", str(file)]).problems
    assert [(p.code, p.setting) for p in problems] == [
        ("unknown_group", "table neuron"),
        ("unknown_setting", "table gating.num_uids"),
    ]
    assert problems[0].remedy.startswith(
        "neuron.inference_topk of the original is now --querier.inference_topk. neuron.mock_dataset: "
    )


def test_every_problem_is_found_at_once_with_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(
        'redis = 3\n[wheights]\nalpha = 1\n[querier]\ninference_topc = 3\n[chain]\nnetuid = "x"\n'
    )
    monkeypatch.setenv("COREMESH_QUERIER_API_KEYS", "hunter2")
    monkeypatch.setenv("COREMESH_WEIGHTS_ALPA", "0.9")
    words = ["--config", str(file), "--weights.alpha=2", "stray", "--trainer.topk"]
    found = examine(ALL_SECTIONS, words)
    assert {(p.code, p.setting) for p in found.problems} == {
        ("bad_value", "table redis"),
        ("unknown_group", "table wheights"),
        ("unknown_setting", "table querier.inference_topc"),
        ("bad_value", "[chain] netuid"),
        ("bad_list", "COREMESH_QUERIER_API_KEYS"),
        ("bad_value", "--weights.alpha"),
        ("no_setting", "stray"),
        ("no_value", "--trainer.topk"),
    }
    assert "hunter2" not in str(found.problems)
    remedies = {p.setting: p.remedy for p in found.problems}
    assert remedies["table wheights"].startswith("Did you mean weights?")
    assert remedies["table querier.inference_topc"].startswith("Did you mean querier.inference_topk?")
    (unknown,) = unknown_variables(ALL_SECTIONS)
    assert (unknown.code, unknown.setting) == ("unknown_variable", "COREMESH_WEIGHTS_ALPA")
    assert unknown.remedy.startswith("Did you mean COREMESH_WEIGHTS_ALPHA?")
    with pytest.raises(BadSetting) as caught:
        load(ALL_SECTIONS, words)
    assert "lists 7 more" in caught.value.remedy
