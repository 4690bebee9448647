"""The reward service over HTTP, with the devnet's stack and the real MiniLM."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from services.reward.masks.safety import Safety
from services.reward.models import Models, SafetyOps
from services.reward.work import Inline
from tests.integration.reward.serving import ask, serving, settings
from tests.unit.reward.models import save_classifier
from tests.wait import wait_until

QUESTION = "How do vaccines train the immune system?"
GOOD = (
    "A vaccine shows the body a harmless piece of a germ, so that it makes antibodies and memory cells "
    "before the real infection comes."
)
OFF_TOPIC = "For a good risotto, keep stirring and add the hot stock one ladle at a time."
PARTS = {"relevance"}
MASKS = {"blacklist", "task_validator", "diversity", "length"}


async def test_scores_what_answers_the_question_above_what_does_not():
    async with serving(settings()) as client:
        answer = await client.post("/reward", json=ask(QUESTION, [GOOD, OFF_TOPIC, QUESTION, ""]))
        stack = (await client.get("/stack")).json()
    assert answer.status_code == 200
    body = answer.json()
    good, off_topic, echo, empty = body["rewards"]
    assert good > 0.5 > off_topic
    assert (echo, empty) == (0.0, 0.0)
    assert set(body["raw"]) == set(body["normalised"]) == PARTS
    assert set(body["masks"]) == MASKS
    assert all(len(values) == 4 for values in [*body["raw"].values(), *body["masks"].values()])
    product = [
        body["normalised"]["relevance"][0] * body["masks"]["blacklist"][0] * body["masks"]["diversity"][0]
    ]
    assert good == pytest.approx(product[0] * body["masks"]["length"][0])
    assert body["stack_version"] == stack["version"]
    assert stack == {
        "version": stack["version"],
        "functions": {"relevance": 1.0},
        "masks": ["blacklist", "task_validator", "diversity", "length"],
        "models": {"relevance": stack["models"]["relevance"], "mask:diversity": stack["models"]["relevance"]},
        "stats_version": 0,
        "safety": False,
    }


async def test_who_is_asked_for_a_question_must_ask_one():
    prompt = "Write one specific question about a field of your choice, without its answer."
    asked, evasive = QUESTION, "This is an interesting question about which opinions differ."
    async with serving(settings()) as client:
        body = (await client.post("/reward", json=ask(prompt, [asked, evasive], kind="question"))).json()
    assert body["rewards"][0] > body["rewards"][1] == 0.0
    assert body["raw"]["relevance"][1] > body["raw"]["relevance"][0]


async def test_a_book_does_not_keep_the_others_from_being_scored():
    book = f"{GOOD} " * 10_000
    async with serving(settings()) as client:
        with_book = (await client.post("/reward", json=ask(QUESTION, [GOOD, book, OFF_TOPIC]))).json()
        without = (await client.post("/reward", json=ask(QUESTION, [GOOD, OFF_TOPIC]))).json()
    assert with_book["rewards"][1] == 0.0
    assert with_book["raw"]["relevance"][::2] == pytest.approx(without["raw"]["relevance"], abs=1e-5)


async def test_one_completion_is_scored_like_any():
    async with serving(settings()) as client:
        alone = (await client.post("/reward", json=ask(QUESTION, [GOOD]))).json()
        beside = (await client.post("/reward", json=ask(QUESTION, [GOOD, OFF_TOPIC]))).json()
    assert alone["rewards"][0] == pytest.approx(beside["rewards"][0], abs=1e-3)


async def test_filter_lets_everything_pass_when_there_is_none():
    async with serving(settings()) as client:
        answer = await client.post("/filter", json={"texts": ["a", "b"]})
    assert answer.json() == {"safe": [True, True], "scores": [0.0, 0.0], "active": False}


async def test_only_bearers_of_the_mesh_token_pass():
    async with serving(settings("--mesh.token=secret")) as client:
        refused = [
            await client.post("/reward", json=ask(QUESTION, [GOOD])),
            await client.post("/filter", json={"texts": ["a"]}),
            await client.get("/stack"),
        ]
        client.headers["authorization"] = "Bearer secret"
        passed = await client.post("/reward", json=ask(QUESTION, [GOOD]))
    assert [answer.status_code for answer in refused] == [401, 401, 401]
    assert all(set(answer.json()) == {"code", "message", "remedy"} for answer in refused)
    assert passed.status_code == 200


BAD: list[tuple[dict[str, object], int, str]] = [
    (ask(QUESTION, []), 400, "completions"),
    (ask(QUESTION, ["x"] * 4097), 400, "completions"),
    (ask(QUESTION, ["x"] * 513), 413, "at most 512"),
    (ask("x" * 1_000_000, ["x"]), 413, "a message has over 262144 bytes"),
    (ask(QUESTION, ["x" * 300_000] * 60), 413, "the body is over"),
    (ask("", ["x"]), 400, "messages.0.content"),
    (ask(QUESTION, ["x"], kind="gossip"), 400, "kind"),
    ({"messages": [{"role": "user", "content": "x"}], "completions": [7]}, 400, "completions.0"),
    ({"messages": [], "completions": ["x"]}, 400, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}], "completions": ["x"]}, 400, "role"),
    ({"completions": ["x"]}, 400, "messages"),
]


async def test_bad_requests_are_refused_with_a_reason():
    async with serving(settings()) as client:
        for body, status, says in BAD:
            answer = await client.post("/reward", json=body)
            assert answer.status_code == status
            assert set(answer.json()) == {"code", "message", "remedy"}
            assert says in answer.json()["message"]
        assert (await client.post("/reward", json=ask(QUESTION, [GOOD]))).status_code == 200


async def test_odd_texts_have_a_defined_result():
    odd = [
        "",
        " \n\t ",
        "\x00\x01\x02",
        "a" * 1_000_000,
        "word " * 40_000,
        "[SEP] [CLS] [PAD] [MASK] <|im_end|>",
        "𝕍𝕒𝕔𝕔𝕚𝕟𝕖𝕤 🧬🧬🧬",
        "疫苗通过向身体展示无害的病原体碎片来训练免疫系统。",
        "?" * 5000,
        GOOD,
    ]
    async with serving(settings()) as client:
        body = (await client.post("/reward", json=ask(QUESTION, odd))).json()
    rewards = body["rewards"]
    assert len(rewards) == len(odd)
    assert all(0 <= reward <= 1 for reward in rewards)
    assert rewards[:4] == [0.0, 0.0, 0.0, 0.0]
    assert max(rewards) == rewards[-1]


async def test_lone_surrogates_do_not_bring_it_down():
    raw = (
        b'{"messages":[{"role":"user","content":"Why is the sky blue?"}],'
        b'"completions":["light \\ud800 scatters from the molecules of the air \\udfff"]}'
    )
    async with serving(settings()) as client:
        odd = await client.post("/reward", content=raw, headers={"content-type": "application/json"})
        well = await client.post("/reward", json=ask(QUESTION, [GOOD]))
    assert odd.status_code in (200, 400)
    assert well.status_code == 200


async def test_special_tokens_of_the_encoder_change_nothing():
    forged = GOOD.replace("harmless", "harmless [SEP] [MASK]")
    plain = GOOD.replace("harmless", "harmless    ")
    async with serving(settings()) as client:
        body = (await client.post("/reward", json=ask(QUESTION, [forged, OFF_TOPIC]))).json()
        clean = (await client.post("/reward", json=ask(QUESTION, [plain, OFF_TOPIC]))).json()
    assert body["raw"] == {"relevance": pytest.approx(clean["raw"]["relevance"], abs=1e-5)}


async def test_a_full_queue_says_when_to_come_back():
    long = [f"{GOOD} {i}" for i in range(32)]
    async with serving(settings("--reward.queue=1", "--reward.step_tokens=64")) as client:
        answers: list[httpx.Response] = list(
            await asyncio.gather(*(client.post("/reward", json=ask(QUESTION, long)) for _ in range(4)))
        )
    by_status = {answer.status_code: answer for answer in answers}
    assert set(by_status) == {200, 429}
    assert int(by_status[429].headers["retry-after"]) >= 1
    assert by_status[429].json()["code"] == "busy"


async def test_work_of_a_caller_who_has_gone_is_dropped():
    long = [f"{GOOD} {i} " * 20 for i in range(256)]
    async with serving(settings("--reward.step_tokens=64")) as client:

        async def metric(name: str) -> float:
            text = (await client.get("/metrics")).text
            return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

        dropped = await metric('coremesh_reward_dropped_total{reason="caller gone"}')
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/reward", json=ask(QUESTION, long), timeout=0.3)

        async def gone() -> bool:
            queued = await metric("coremesh_reward_queue_requests{")
            return queued == 0 and await metric("coremesh_reward_dropped_total{") > dropped

        await wait_until(gone, timeout=5)


async def test_a_passed_deadline_is_said():
    long = [f"{GOOD} {i} " * 20 for i in range(256)]
    async with serving(settings("--reward.step_tokens=64")) as client:
        answer = await client.post("/reward", json=ask(QUESTION, long, deadline_s=0.2))
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


async def test_metrics_and_readiness():
    async with serving(settings()) as client:
        await client.post("/reward", json=ask(QUESTION, [GOOD], kind="inference"))
        metrics = (await client.get("/metrics")).text
        ready = await client.get("/readyz")
    for name in (
        'coremesh_reward_completions_total{kind="inference"}',
        'coremesh_reward_step_tokens_count{op="encode"}',
        'coremesh_reward_step_seconds_count{op="blacklist"}',
        'coremesh_reward_wait_seconds_count{lane="interactive"}',
        'coremesh_reward_queue_requests{lane="interactive"} 0.0',
        'coremesh_reward_part_seconds_count{part="relevance"}',
        "coremesh_reward_oom_halvings{",
    ):
        assert name in metrics
    assert ready.json() == {"ready": True, "checks": {"models": "ok"}}


async def test_a_configured_filter_judges_and_fails_closed(tmp_path: Path):
    path = save_classifier(tmp_path / "model", bert=True, labels=2)
    model = Models().classifier(str(path), label=1, max_tokens=None)
    texts = ["The sky is blue.", "Stir the risotto.", ""]
    _, scores = await Safety(SafetyOps(model), threshold=0.5).judge(texts, Inline())
    stack = (
        '[[function]]\ntype = "relevance"\nmodel = "sentence-transformers/all-MiniLM-L6-v2"\n'
        f'[safety]\nmodel = "{path}"\nthreshold = {sorted(scores)[1]}\n'
    )
    book = "blue light " * 100_000
    async with serving(settings(stack=stack, folder=tmp_path)) as client:
        answer = (await client.post("/filter", json={"texts": [*texts, book]})).json()
        described = (await client.get("/stack")).json()
    assert answer == {
        "safe": [*(score < sorted(scores)[1] for score in scores), False],
        "scores": pytest.approx([*scores, 1.0], abs=1e-5),
        "active": True,
    }
    assert (described["safety"], described["masks"]) == (True, ["safety"])
    off = settings("--reward.nsfw_filter=false", stack=stack, folder=tmp_path)
    async with serving(off) as client:
        answer = (await client.post("/filter", json={"texts": texts})).json()
    assert (answer["active"], answer["safe"]) == (False, [True, True, True])
