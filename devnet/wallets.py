"""The devnet's wallets: real bittensor wallets, unencrypted, created once and reused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bittensor.wallet import Wallet

from devnet.roster import HOTKEY, OWNER, RESIDENTS, RIVAL, VALIDATOR

NOMINATORS = ("nominator-1", "nominator-2")
NAMES: tuple[str, ...] = (OWNER, VALIDATOR, RIVAL, *NOMINATORS, *(resident.name for resident in RESIDENTS))


@dataclass(frozen=True, slots=True)
class WalletKeys:
    """The two addresses of one wallet."""

    name: str
    coldkey: str
    hotkey: str


def ensure_wallets(directory: Path, names: tuple[str, ...] = NAMES) -> dict[str, WalletKeys]:
    """Create the wallets missing under ``directory`` and return the addresses of all, by name.

    Coldkey ``name``, hotkey ``default``; existing keyfiles are never touched, and only public parts are read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return {name: _ensure(directory, name) for name in names}


def _ensure(directory: Path, name: str) -> WalletKeys:
    wallet = Wallet(name, hotkey=HOTKEY, path=str(directory))
    if not wallet.coldkeypub_file.exists_on_device():
        wallet.create_new_coldkey(use_password=False, overwrite=False, suppress=True)
    if not wallet.hotkey_file.exists_on_device():
        wallet.create_new_hotkey(use_password=False, overwrite=False, suppress=True)
    return WalletKeys(name, wallet.coldkeypub.ss58_address, wallet.hotkeypub.ss58_address)


def load_hotkey_keypair(directory: Path, name: str, hotkey: str = HOTKEY) -> Any:
    """The signing hotkey of a devnet wallet, the SDK's ``Keypair``; its KeyFileError when there is none."""
    return Wallet(name, hotkey=hotkey, path=str(directory)).hotkey
