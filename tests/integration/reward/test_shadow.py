"""A second stack beside the first: recorded, never counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from coremesh.errors import BadSetting
from services.reward.batch import Turn
from services.reward.service import sampled
from tests.integration.reward.serving import MINILM, ask, serving, settings
from tests.integration.reward.test_learning import record
from tests.unit.reward.models import CHATML, save_classifier
from tests.wait import wait_until

QUESTION = "Why is the sky blue?"
COMPLETIONS = ["The air scatters blue light more than red light.", "Stir the risotto slowly."]
SHADOW = f"""
[[function]]
type = "relevance"
model = "{MINILM}"
weight = 2.0
echo_margin = 2.0

[[mask]]
type = "length"
min_chars = 30
"""


OWN = "normalised:relevance"


def shadow_file(folder: Path, text: str = SHADOW) -> str:
    file = folder / "shadow.toml"
    file.write_text(text)
    return f"--reward.shadow={file}"


async def test_it_is_recorded_and_does_not_count(tmp_path: Path):
    flags = [shadow_file(tmp_path), "--reward.shadow_share=1"]
    async with serving(settings(*flags)) as client:
        beside = (await client.post("/reward", json=ask(QUESTION, COMPLETIONS))).json()
        user = (await client.post("/reward", json=ask(QUESTION, COMPLETIONS, kind="inference"))).json()
    async with serving(settings()) as client:
        alone = (await client.post("/reward", json=ask(QUESTION, COMPLETIONS))).json()
    prefixes = {key.rsplit(":", 1)[0] for key in beside["extra"] if key.endswith(":reward")}
    (prefix,) = prefixes
    raw = beside["extra"][f"{prefix}:relevance"]
    masks = beside["extra"][f"{prefix}:mask:length"]
    said = {f"{prefix}:{name}" for name in ("reward", "relevance", "mask:length")}
    assert set(beside["extra"]) == {*said, OWN}
    assert masks == [1.0, 24 / 30]
    assert beside["extra"][f"{prefix}:reward"] == pytest.approx(
        [2 * max(r, 0) * m for r, m in zip(raw, masks, strict=True)]
    )
    assert prefix.removeprefix("shadow:") not in ("", alone["stack_version"])
    # One completion is further than at a right angle from the prompt; for the other normalising changes nothing.
    assert alone["extra"] == user["extra"] == {OWN: alone["normalised"]["relevance"]}
    assert {**beside, "extra": alone["extra"]} == alone


async def test_its_failure_is_its_own(tmp_path: Path):
    text = '[[function]]\ntype = "judge"\nbase_url = "http://127.0.0.1:9"\nmodel = "m"'
    async with serving(settings(shadow_file(tmp_path, text), "--reward.shadow_share=1")) as client:
        answer = await client.post("/reward", json=ask(QUESTION, COMPLETIONS))
    assert (answer.status_code, set(answer.json()["extra"])) == (200, {OWN})


async def test_a_failure_of_its_model_is_its_own_too(tmp_path: Path):
    template = "{% if 'sky' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}" + CHATML
    model = save_classifier(tmp_path / "model", template=template)
    text = f'[[function]]\ntype = "sequence_classifier"\nmodel = "{model}"'
    async with serving(settings(shadow_file(tmp_path, text), "--reward.shadow_share=1")) as client:
        answer = await client.post("/reward", json=ask(QUESTION, COMPLETIONS))
        other = await client.post("/reward", json=ask("What is rain?", COMPLETIONS))
    assert (answer.status_code, set(answer.json()["extra"])) == (200, {OWN})
    assert len(other.json()["extra"]) > 1


async def test_a_shadow_that_learns_keeps_statistics_of_its_own(
    tmp_path: Path, redis_url: str, redis_history
):
    text = f'[[function]]\ntype = "relevance"\nmodel = "{MINILM}"\nnormalise = {{ by = "running" }}'
    flags = [shadow_file(tmp_path, text), "--reward.shadow_share=1", f"--redis.url={redis_url}"]
    async with serving(settings(*flags)) as client:
        answer = (await client.post("/reward", json=ask(QUESTION, COMPLETIONS))).json()
        await record(redis_history, answer)
        (key,) = (key for key in answer["extra"] if key.endswith(":reward"))

        async def moved() -> bool:
            again = (await client.post("/reward", json=ask(QUESTION, COMPLETIONS))).json()
            assert again["rewards"] == answer["rewards"]
            return again["extra"][key] != answer["extra"][key]

        await wait_until(moved, every=0.2)


async def test_a_bad_shadow_is_named(tmp_path: Path):
    with pytest.raises(BadSetting, match="COREMESH_REWARD_SHADOW"):
        async with serving(settings(shadow_file(tmp_path, "x = 1"))):
            pass


def test_a_share_of_prompts_is_sampled_alike_everywhere():
    prompts = [(Turn("user", f"Question {i}?"),) for i in range(2000)]
    taken = [sampled(prompt, 0.25) for prompt in prompts]
    assert taken == [sampled(prompt, 0.25) for prompt in prompts]
    assert 400 < sum(taken) < 600
    assert not any(sampled(prompt, 0.0) for prompt in prompts)
    assert all(sampled(prompt, 1.0) for prompt in prompts)
