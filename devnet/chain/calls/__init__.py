"""The extrinsics the devnet knows; importing this package registers them all."""

from __future__ import annotations

from devnet.chain.calls import balances, owner, registration, serving, shield, staking, weights

__all__ = ["balances", "owner", "registration", "serving", "shield", "staking", "weights"]
