"""TLS by the public key that an axon's owner has published on the chain."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bittensor as bt
import msgspec
import pytest

from coremesh.contracts import ChatMessage
from coremesh.settings import ChainSettings, QuerierSettings, load
from coremesh.wire.adapters import BtauthAdapter
from coremesh.wire.status import Status
from coremesh.wire.wallets import load_keypair
from devnet.chain.testing import running_chain
from services.querier.fanout import MinerFanout
from services.querier.miners import Tls
from services.querier.miners.certificates import is_key, public_key
from services.weights.chain.sdk import BittensorChain
from tests.integration.miners.conftest import SIGNER
from tests.integration.miners.stage import TEXT, Stage, answer, saying
from tests.integration.miners.test_miners_connections import REQUEST

KINDS = {
    "ed25519": ("-newkey", "ed25519"),
    "p256": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
    "rsa": ("-newkey", "rsa:2048"),
}


@dataclass(frozen=True)
class Identity:
    """A server's key and certificate. ``key`` as openssl tells it, ``der`` the whole certificate."""

    context: ssl.SSLContext
    key: bytes
    der: bytes


Make = Callable[[str], Identity]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    def made(kind: str) -> Identity:
        folder: Path = tmp_path_factory.mktemp("tls")
        key, cert = folder / "key.pem", folder / "cert.pem"
        command = ["openssl", "req", "-x509", *KINDS[kind], "-nodes", "-days", "2", "-subj", "/CN=miner"]
        subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=30)
        shown = subprocess.run(
            ["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER"],
            check=True,
            capture_output=True,
            timeout=30,
        ).stdout
        # Both kinds of curve end with the bits of the key.
        bits = {"ed25519": 32, "p256": 65, "rsa": 270}[kind]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        return Identity(context, shown[-bits:], ssl.PEM_cert_to_DER_cert(cert.read_text()))

    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_in_a_certificate(make: Make, kind: str) -> None:
    identity = make(kind)
    assert public_key(identity.der) == identity.key
    assert is_key(identity.der, identity.key)
    assert not is_key(identity.der, identity.key[:-1])
    assert not is_key(identity.der, b"")
    for cut in range(0, len(identity.der) - 300, 7):
        assert not is_key(identity.der[:cut], identity.key)
    if kind == "p256":
        x, y = identity.key[1:33], identity.key[33:]
        assert is_key(identity.der, x + y)
        assert is_key(identity.der, bytes([2 + (y[-1] & 1)]) + x)
        assert not is_key(identity.der, bytes([3 - (y[-1] & 1)]) + x)


@pytest.mark.parametrize(
    "der", [b"", b"0", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x30\x85" + b"\1" * 9]
)
def test_what_is_no_certificate_has_no_key(der: bytes) -> None:
    with pytest.raises(ValueError, match="not a certificate"):
        public_key(der)


async def test_only_the_owner_of_the_key_is_asked(stage: Stage, open_client, make: Make) -> None:
    owner, other = make("ed25519"), make("ed25519")
    pin = Tls(public_key=owner.key.hex())
    good = await stage.miner(saying(answer()), context=owner.context, tls=pin)
    impostor = await stage.miner(saying(answer()), context=other.context, tls=pin)
    client = await open_client()
    got = await client.query([good.target, impostor.target], REQUEST)
    assert [one.status for one in got] == [Status.OK, Status.REFUSED]
    assert got[1].detail == "the certificate is not the pinned one"
    assert [len(miner.asked) for miner in (good, impostor)] == [1, 0]


async def test_the_key_comes_from_the_chain(stage: Stage, make: Make, tmp_path: Path) -> None:
    owner, other = make("ed25519"), make("ed25519")
    good = await stage.miner(saying(answer()), host="127.7.9.1", context=owner.context)
    impostor = await stage.miner(saying(answer()), host="127.7.9.2", context=other.context)
    with running_chain(tmp_path) as node:
        hotkey = load_keypair(node.wallets_dir, "generalist-1", "default")
        async with bt.Client(node.url, fallback_endpoints=[], archive_endpoints=[]) as client:
            intent = bt.ServeAxonTls(
                netuid=1, ip="127.7.9.1", port=good.target.port, certificate="0x01" + owner.key.hex()
            )
            (await client.execute(intent, hotkey)).raise_for_failure()
        validator = load_keypair(node.wallets_dir, "validator", "default")
        chain = BittensorChain(load([ChainSettings], ["--chain.network", node.url])[ChainSettings], validator)
        try:
            metagraph = await chain.metagraph()
        finally:
            await chain.close()
    assert {n.certificate for n in metagraph.neurons if n.hotkey != hotkey.ss58_address} == {""}
    published = next(n for n in metagraph.neurons if n.hotkey == hotkey.ss58_address)
    assert published.certificate == "01" + owner.key.hex()

    # Somebody else at the address that the chain names does not get the question.
    moved = msgspec.structs.replace(
        published, uid=published.uid + 1, ip="127.7.9.2", port=impostor.target.port
    )
    settings = load([QuerierSettings], ["--querier.allow-loopback=true"])[QuerierSettings]
    async with MinerFanout(BtauthAdapter(SIGNER), settings, own_hotkey=SIGNER.hotkey) as fanout:
        replies = [
            reply
            async for reply in fanout.ask(
                [published, moved], (ChatMessage(role="user", content="Why is the sky blue?"),), 5.0
            )
        ]
    said = {reply.index: (reply.status, reply.completion) for reply in replies}
    assert said == {0: (Status.OK, TEXT), 1: (Status.REFUSED, "")}
    assert impostor.asked == []
