"""An embedded chain: a websocket JSON-RPC node double for the unmodified bittensor SDK.

It verifies signed extrinsics, enforces the subnet pallet's rules for weights, axons and registrations, and
runs epochs, without being a blockchain: one process, one subnet, no peers, instant finality.
"""
