"""Loading a real hotkey file, and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from bittensor.keyfiles import Keypair
from bittensor.wallet import Wallet

from coremesh.errors import BadWallet
from coremesh.wire.wallets import load_keypair


@pytest.fixture
def wallet(tmp_path: Path) -> Wallet:
    wallet = Wallet("validator", "main", str(tmp_path))
    wallet.hotkey_file.set_keypair(Keypair.create_from_uri("//Charlie"), encrypt=False)
    return wallet


def test_loads_the_hotkey_alone(wallet: Wallet) -> None:
    assert not wallet.coldkey_file.exists_on_device()
    keypair = load_keypair(wallet.path, "validator", "main")
    assert keypair.ss58_address == Keypair.create_from_uri("//Charlie").ss58_address
    assert len(keypair.sign(b"x")) == 64


def test_missing(wallet: Wallet) -> None:
    with pytest.raises(BadWallet, match="no hotkey file") as caught:
        load_keypair(wallet.path, "validator", "other")
    assert "new-hotkey" in caught.value.remedy


def test_encrypted(wallet: Wallet) -> None:
    keypair = Keypair.create_from_uri("//Charlie")
    wallet.hotkey_file.set_keypair(keypair, encrypt=True, overwrite=True, password="secret")
    with pytest.raises(BadWallet, match="encrypted") as caught:
        load_keypair(wallet.path, "validator", "main")
    assert "--no-use-password" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe", b'{"secretSeed": 7}'])
def test_damaged(wallet: Wallet, content: bytes) -> None:
    Path(wallet.hotkey_file.path).write_bytes(content)
    with pytest.raises(BadWallet):
        load_keypair(wallet.path, "validator", "main")


def test_a_folder_in_its_place(wallet: Wallet) -> None:
    Path(wallet.hotkey_file.path).unlink()
    Path(wallet.hotkey_file.path).mkdir()
    with pytest.raises(BadWallet, match="cannot be read"):
        load_keypair(wallet.path, "validator", "main")


def test_another_scheme(wallet: Wallet) -> None:
    ed = Keypair.create_from_seed(bytes.fromhex("22" * 32), 0)
    wallet.hotkey_file.set_keypair(ed, encrypt=False, overwrite=True)
    with pytest.raises(BadWallet, match="sr25519"):
        load_keypair(wallet.path, "validator", "main")


def test_a_contradictory_name(wallet: Wallet) -> None:
    with pytest.raises(BadWallet, match="do not fit"):
        load_keypair(wallet.path, "validator/main", "other")
