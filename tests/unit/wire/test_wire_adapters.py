"""Each protocol as its receivers check it, written down here from WIRE.md and not from the adapters."""

from __future__ import annotations

import json
from hashlib import sha3_256, sha256

import pytest

from coremesh.errors import BadSetting
from coremesh.settings import QuerierSettings, load
from coremesh.wire.adapters import (
    BadAnswer,
    BtauthAdapter,
    EpistulaAdapter,
    MinerRequest,
    RewardNotice,
    SynapseAdapter,
    make_adapter,
)
from coremesh.wire.btauth import Signer, verify
from coremesh.wire.keys import keypair_from_uri, verifies
from coremesh.wire.nonces import InMemoryNonceStore
from coremesh.wire.status import Status

ALICE, BOB = keypair_from_uri("//Alice"), keypair_from_uri("//Bob")
SIGNER = Signer(ALICE)
REQUEST = MinerRequest(("system", "user"), ("Be brief.", "Why is the sky blue?"), 4.0)
NOTICE = RewardNotice(REQUEST, "Rayleigh scattering.", (0.75, 1.5))


def parsed(block: bytes) -> dict[str, str]:
    lines = block.decode().split("\r\n")
    assert lines.pop() == ""
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    return {name.lower(): value for name, value in headers.items()}


def signed_hex(message: str, signature: str) -> bool:
    return verifies(message.encode(), bytes.fromhex(signature.removeprefix("0x")), ALICE.ss58_address)


class TestBtauth:
    adapter = BtauthAdapter(SIGNER)

    @pytest.mark.parametrize(
        ("call", "path", "body"),
        [
            (
                adapter.forward(REQUEST),
                "/forward",
                {"roles": list(REQUEST.roles), "messages": list(REQUEST.messages), "timeout": 4.0},
            ),
            (
                adapter.backward(NOTICE),
                "/backward",
                {
                    "roles": list(REQUEST.roles),
                    "messages": list(REQUEST.messages),
                    "completion": "Rayleigh scattering.",
                    "rewards": [0.75, 1.5],
                },
            ),
        ],
    )
    def test_requests_verify_and_say_what_they_should(self, call, path: str, body: dict) -> None:
        assert call.path == path
        assert json.loads(call.body) == body
        store = InMemoryNonceStore()
        for _ in range(2):  # a second header block is a fresh request
            headers = parsed(call.headers(BOB.ss58_address))
            assert headers["content-type"] == headers["accept"] == "application/json"
            sender = verify(headers, call.body, "POST", path, BOB.ss58_address, store)
            assert sender == ALICE.ss58_address

    def test_answers(self) -> None:
        call = self.adapter.forward(REQUEST)
        assert call.completion("application/json", b'{"completion": "text"}') == "text"
        assert call.completion("application/json", b'{"completion": null}') == ""
        for content_type in ("", "text/html", "text/plain"):
            with pytest.raises(BadAnswer):
                call.completion(content_type, b'{"completion": "text"}')

    def test_streams(self) -> None:
        call = self.adapter.forward(REQUEST, stream=True)
        assert parsed(call.headers(BOB.ss58_address))["accept"] == "text/event-stream, application/json"
        whole = (
            b'data: {"delta": "two "}\n\ndata: {"delta": "words"}\n\ndata: [DONE]\n\ndata: {"delta": "!"}\n\n'
        )
        assert call.completion("text/event-stream", whole) == "two words"
        reader = call.deltas("text/event-stream")
        assert reader is not None
        assert [reader.feed(bytes([byte])) for byte in whole if byte].count("two ") == 1
        assert reader.finish() == ""
        assert call.deltas("application/json") is None
        for cut in (whole[:40], b"data: {\n\n", b"data: [1]\n\n", b"data: " + b"x" * 70_000):
            with pytest.raises(BadAnswer):
                call.completion("text/event-stream", cut)


class TestEpistula:
    def call(self, **options):
        return EpistulaAdapter(SIGNER, clock_ms=lambda: 1_700_000_012_345, **options).forward(REQUEST)

    def test_the_request_as_a_miner_checks_it(self) -> None:
        call = self.call(model="m", extra={"max_tokens": 5})
        assert call.path == "/v1/chat/completions"
        assert json.loads(call.body) == {
            "max_tokens": 5,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Why is the sky blue?"},
            ],
            "stream": True,
            "model": "m",
        }
        headers = parsed(call.headers(BOB.ss58_address))
        digest = sha256(call.body).hexdigest()
        message = f"{digest}.{headers['epistula-uuid']}.1700000012345.{BOB.ss58_address}"
        assert signed_hex(message, headers.pop("epistula-request-signature"))
        for i, t in enumerate(("1700000019999.0", "1700000020000.0", "1700000020001.0")):
            assert signed_hex(f"{t}.{BOB.ss58_address}", headers.pop(f"epistula-secret-signature-{i}"))
        assert len(headers.pop("epistula-uuid")) == 36
        assert headers == {
            "content-type": "application/json",
            "accept": "text/event-stream, application/json",
            "x-client-timeout": "4",
            "epistula-version": "2",
            "epistula-signed-by": ALICE.ss58_address,
            "epistula-timestamp": "1700000012345",
            "epistula-signed-for": BOB.ss58_address,
        }

    def test_without_secrets(self) -> None:
        headers = parsed(self.call(secrets=False).headers(BOB.ss58_address))
        assert not [name for name in headers if "secret" in name]

    def test_answers_whole_and_in_chunks(self) -> None:
        call = self.call()
        whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "text"}}]}
        assert call.completion("application/json", json.dumps(whole).encode()) == "text"
        assert call.completion("application/json", b'{"choices": []}') == ""
        deltas = [{"role": "assistant"}, {"content": "te"}, {"content": "xt"}, {"content": None}, {}]
        chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        chunks += [{"choices": [{"index": 1, "delta": {"content": "other"}}]}, {"choices": [], "usage": {}}]
        stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        assert call.completion("text/event-stream", stream.encode()) == "text"
        with pytest.raises(BadAnswer):
            call.completion("text/event-stream", stream.removesuffix("data: [DONE]\n\n").encode())
        with pytest.raises(BadAnswer):
            call.completion("application/json", b'{"choices": [{"message": "text"}]}')
        assert EpistulaAdapter(SIGNER).backward(NOTICE) is None


class TestSynapse:
    def test_the_request_as_an_axon_checks_it(self) -> None:
        adapter = SynapseAdapter(
            SIGNER, hash_fields=("messages",), clock_ns=lambda: 1_700_000_000_000_000_001
        )
        call = adapter.forward(REQUEST)
        assert call.path == "/Prompting"
        assert json.loads(call.body) == {
            "roles": ["system", "user"],
            "messages": ["Be brief.", "Why is the sky blue?"],
            "completion": "",
            "timeout": 4.0,
        }
        one = sha3_256(str(["Be brief.", "Why is the sky blue?"]).encode()).hexdigest()
        digest = sha3_256(one.encode()).hexdigest()
        headers = parsed(call.headers(BOB.ss58_address))
        uuid = headers.pop("bt_header_dendrite_uuid")
        message = f"1700000000000000001.{ALICE.ss58_address}.{BOB.ss58_address}.{uuid}.{digest}"
        assert signed_hex(message, headers.pop("bt_header_dendrite_signature"))
        assert headers == {
            "content-type": "application/json",
            "accept": "application/json",
            "bt_header_input_obj_roles": "W10=",
            "bt_header_input_obj_messages": "W10=",
            "timeout": "4",
            "computed_body_hash": digest,
            "bt_header_dendrite_version": "10002001",
            "bt_header_dendrite_hotkey": ALICE.ss58_address,
            "bt_header_axon_hotkey": BOB.ss58_address,
            "bt_header_dendrite_nonce": "1700000000000000001",
        }
        assert parsed(call.headers(BOB.ss58_address))["bt_header_dendrite_uuid"] != uuid

    def test_nothing_hashed_is_the_digest_of_nothing(self) -> None:
        headers = parsed(SynapseAdapter(SIGNER).forward(REQUEST).headers(BOB.ss58_address))
        assert headers["computed_body_hash"] == sha3_256(b"").hexdigest()

    def test_other_names(self) -> None:
        adapter = SynapseAdapter(
            SIGNER,
            class_name="Chat",
            backward_class_name="Learn",
            required={"prompts": "list", "seed": "int"},
            fields={"messages": "prompts", "completion": "response"},
        )
        call = adapter.forward(REQUEST)
        assert call.path == "/Chat"
        assert json.loads(call.body)["prompts"] == list(REQUEST.messages)
        assert parsed(call.headers(BOB.ss58_address))["bt_header_input_obj_seed"] == "MA=="
        assert call.completion("application/json", b'{"response": "yes", "completion": "no"}') == "yes"
        backward = adapter.backward(NOTICE)
        assert backward is not None
        assert backward.path == "/Learn"
        assert json.loads(backward.body)["rewards"] == [0.75, 1.5]
        assert SynapseAdapter(SIGNER).backward(NOTICE) is None
        with pytest.raises(ValueError, match="tensor"):
            SynapseAdapter(SIGNER, required={"x": "tensor"})


def test_adapters_by_name() -> None:
    names = ("btauth", "synapse", "epistula")
    assert tuple(make_adapter(name, SIGNER).name for name in names) == names
    with pytest.raises(BadSetting):
        make_adapter("smoke signals", SIGNER)


def named(*flags: str) -> QuerierSettings:
    return load([QuerierSettings], flags)[QuerierSettings]


def test_a_subnets_own_names_are_settings() -> None:
    synapse = make_adapter(
        "synapse",
        SIGNER,
        named(
            "--querier.synapse-class=Chat",
            "--querier.synapse-backward-class=Learn",
            "--querier.synapse-roles=speakers",
            "--querier.synapse-messages=prompts",
            "--querier.synapse-completion=response",
            '--querier.synapse-required=["prompts:list", "seed:int"]',
            '--querier.synapse-hash-fields=["speakers", "prompts"]',
        ),
    )
    call = synapse.forward(REQUEST)
    assert call.path == "/Chat"
    assert json.loads(call.body) == {
        "speakers": ["system", "user"],
        "prompts": ["Be brief.", "Why is the sky blue?"],
        "response": "",
        "timeout": 4.0,
    }
    headers = parsed(call.headers(BOB.ss58_address))
    hashed = "".join(
        sha3_256(str(field).encode()).hexdigest() for field in (list(REQUEST.roles), list(REQUEST.messages))
    )
    assert headers["computed_body_hash"] == sha3_256(hashed.encode()).hexdigest()
    inputs = {name: value for name, value in headers.items() if name.startswith("bt_header_input_obj_")}
    assert inputs == {"bt_header_input_obj_prompts": "W10=", "bt_header_input_obj_seed": "MA=="}
    assert call.completion("application/json", b'{"response": "yes", "completion": "no"}') == "yes"
    backward = synapse.backward(NOTICE)
    assert backward is not None
    assert backward.path == "/Learn"

    epistula = make_adapter("epistula", SIGNER, named("--querier.epistula-model=big"))
    assert json.loads(epistula.forward(REQUEST).body)["model"] == "big"
    assert "model" not in json.loads(make_adapter("epistula", SIGNER).forward(REQUEST).body)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--querier.synapse-class=../up", "--querier.synapse_class"),
        ("--querier.synapse-messages=a b", "--querier.synapse_messages"),
        ('--querier.synapse-required=["prompts:tensor"]', "no name:type"),
        ('--querier.synapse-required=["prompts"]', "no name:type"),
        ('--querier.synapse-hash-fields=["seed"]', "not among what is sent"),
        ("--querier.synapse-messages=roles", "several fields of one name"),
    ],
)
def test_names_that_cannot_be_are_refused_at_start(flag: str, said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        named(flag)


def test_roles_and_messages_go_together() -> None:
    with pytest.raises(ValueError, match="2 roles for 1 messages"):
        MinerRequest(("user", "user"), ("x",), 1.0)


def test_statuses_keep_their_numbers() -> None:
    assert [(s.name, s.value) for s in Status] == [
        ("OK", 0),
        ("TIMEOUT", 1),
        ("REFUSED", 2),
        ("BAD_STATUS", 3),
        ("TOO_BIG", 4),
        ("MALFORMED", 5),
        ("BLOCKED_ADDRESS", 6),
        ("EMPTY", 7),
        ("SHORT", 8),
        ("UNSAFE", 9),
        ("BREAKER_OPEN", 10),
        ("NOT_SENT", 11),
    ]
    assert [s for s in Status if not s.charged] == [Status.NOT_SENT]
