"""A miner on a real Axon of bittensor 10; run by the interpreter of ``benchmarks.sdk10``.

``python axon10.py WALLET_FOLDER``: creates the wallet there, prints {hotkey, port}, serves until its input closes.
"""

import json
import logging
import socket
import sys

import bittensor as bt
from bittensor.core.axon import Axon
from bittensor.core.synapse import Synapse
from bittensor_wallet import Wallet


class Prompting(Synapse):
    roles: list[str]
    messages: list[str]
    completion: str = ""
    required_hash_fields: tuple[str, ...] = ("messages",)


def answer(synapse: Prompting) -> Prompting:
    synapse.completion = f"You asked: {' / '.join(synapse.messages)}"
    return synapse


def main() -> None:
    bt.logging.off()
    logging.disable(logging.CRITICAL)
    wallet = Wallet(name="miner", hotkey="default", path=sys.argv[1])
    wallet.create_new_coldkey(use_password=False, suppress=True)
    wallet.create_new_hotkey(use_password=False, suppress=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.9", 0))
        port = probe.getsockname()[1]
    axon = Axon(wallet=wallet, ip="127.0.0.9", port=port, external_ip="127.0.0.9", external_port=port)
    axon.attach(forward_fn=answer)
    axon.start()
    print(json.dumps({"hotkey": wallet.hotkey.ss58_address, "port": port}), flush=True)
    sys.stdin.read()
    axon.stop()


if __name__ == "__main__":
    main()
