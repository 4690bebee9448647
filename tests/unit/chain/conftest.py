"""A chain in this process whose blocks are made by hand, and extrinsics signed the way the SDK signs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from bittensor.wallet import Wallet

from devnet.chain.chain import Chain
from devnet.chain.options import ChainOptions, Drand
from devnet.wallets import ensure_wallets


@dataclass
class Bench:
    chain: Chain
    wallets_dir: Path

    def key(self, name: str, kind: str = "hotkey") -> Any:
        return getattr(Wallet(name, path=str(self.wallets_dir)), kind)

    def signed(
        self,
        keypair: Any,
        module: str,
        function: str,
        *,
        nonce: int | None = None,
        era: Any = "00",
        genesis_hash: str | None = None,
        spec_version: int | None = None,
        **params: Any,
    ) -> bytes:
        codec, blocks = self.chain.codec, self.chain.blocks
        runtime = codec.runtime
        call = bytes(runtime.compose_call(module, function, params))
        genesis = bytes.fromhex((genesis_hash or blocks.genesis_hash)[2:])
        born = genesis if era == "00" else bytes.fromhex(str(blocks.hash_of(era["current"]))[2:])
        if nonce is None:
            nonce = self.chain.next_nonce(keypair.ss58_address)
        common = {"era": era, "nonce": nonce, "tip": 0, "tip_asset_id": None}
        extra, implied = runtime.signature_payload_parts(
            **common, genesis_hash=genesis, era_block_hash=born, metadata_hash=None
        )
        if spec_version is not None:
            implied = spec_version.to_bytes(4, "little") + bytes(implied)[4:]
        payload = call + bytes(extra) + bytes(implied)
        if len(payload) > 256:
            payload = blake2b(payload, digest_size=32).digest()
        data, _ = runtime.encode_signed_extrinsic(
            call,
            public_key=bytes(keypair.public_key),
            signature=bytes(keypair.sign(payload)),
            signature_version=keypair.crypto_type,
            **common,
        )
        return bytes(data)

    def run(self, keypair: Any, module: str, function: str, **params: Any) -> str:
        """Submit one call, make a block, and return the outcome: ``Success`` or the error's name."""
        self.chain.submit(self.signed(keypair, module, function, **params))
        self.chain.produce()
        return self.outcomes()[-1]

    def outcomes(self) -> list[str]:
        """The outcome of every extrinsic in the newest block."""
        found: list[str] = []
        for record in self.chain.state.read("System.Events"):
            event = record["event"]
            if event["event_id"] == "ExtrinsicSuccess":
                found.append("Success")
            elif event["event_id"] == "ExtrinsicFailed":
                found.append(self._name(event["attributes"]["dispatch_error"]))
        return found

    def _name(self, error: Any) -> str:
        if isinstance(error, dict) and "Module" in error:
            index, code = error["Module"]["index"], int(error["Module"]["error"][2:4], 16)
            return self.chain.codec.runtime.module_error(index, code)[0]
        return str(next(iter(error.values())) if isinstance(error, dict) else error)

    def blocks(self, count: int) -> None:
        for _ in range(count):
            self.chain.produce()


@pytest.fixture(scope="session")
def wallets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wallets")
    ensure_wallets(directory)
    return directory


@pytest.fixture
def make_bench(wallets_dir: Path) -> Callable[..., Bench]:
    def make(*, drand: Drand = Drand.PAST, **overrides: Any) -> Bench:
        return Bench(
            Chain(ChainOptions(wallets_dir=wallets_dir, drand=drand, overrides=overrides)), wallets_dir
        )

    return make
