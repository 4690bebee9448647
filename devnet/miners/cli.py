"""``python -m devnet miners``: run the residents until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from coremesh.errors import BadSetting, CoremeshError
from coremesh.wire.wallets import load_keypair
from devnet.miners.app import Street, behaviours
from devnet.miners.axons import Axon, publish
from devnet.miners.serve import listeners, make_server
from devnet.roster import HOTKEY, RESIDENTS, Resident

EXIT_BAD_START = 2


@dataclass(frozen=True, slots=True)
class Options:
    """One process of residents."""

    wallets: Path
    network: str
    netuid: int
    residents: tuple[Resident, ...]
    serve: bool
    seed: int
    chain_deadline_s: float


def main(argv: Sequence[str]) -> int:
    """Run the residents; the exit code: 0 after a signal, 2 when they cannot start."""
    try:
        return uvloop.run(run(_options(argv)))
    except CoremeshError as error:
        print(f"miners: {error.message}. {error.remedy}", file=sys.stderr)
        return EXIT_BAD_START


async def run(options: Options) -> int:
    """Listen, publish the axons, say ``miners ready``, and serve until a signal comes."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    keypairs = {one.name: load_keypair(options.wallets, one.name, HOTKEY) for one in options.residents}
    hotkeys = {name: keypair.ss58_address for name, keypair in keypairs.items()}
    server = make_server(Street(behaviours(options.residents, hotkeys, options.seed)))
    with listeners(options.residents) as sockets:
        serving = asyncio.create_task(server.serve(sockets=sockets))
        stopping = asyncio.create_task(stopped.wait())
        axons = [Axon(keypairs[one.name], one.host, one.port) for one in options.residents]
        publishing = asyncio.create_task(_publish(options, axons, len(sockets)))
        try:
            await asyncio.wait([serving, stopping, publishing], return_when=asyncio.FIRST_COMPLETED)
            if publishing.done():
                publishing.result()
                await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            server.should_exit = True
            publishing.cancel()
            stopping.cancel()
            await asyncio.wait([serving, publishing])
        serving.result()
    return 0


async def _publish(options: Options, axons: list[Axon], listening: int) -> None:
    if options.serve:
        await publish(
            options.network, options.netuid, axons, deadline_s=options.chain_deadline_s, on_gone=_left_out
        )
    print(f"miners ready: {listening} serving", flush=True)


def _left_out(axon: Axon) -> None:
    said = f"miners: {axon.keypair.ss58_address} has no uid any more (`devnet replace`): nobody asks it"
    print(said, file=sys.stderr, flush=True)


def _options(argv: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m devnet miners", description=__doc__)
    parser.add_argument("--wallets", type=Path, default=Path(".devnet/wallets"), metavar="DIR")
    parser.add_argument("--network", default="ws://127.0.0.1:9944", help="address of the chain")
    parser.add_argument("--netuid", type=int, default=1)
    parser.add_argument(
        "--street",
        type=int,
        default=1,
        metavar="N",
        help="hosts are 127.N.x.10: a second devnet takes another N",
    )
    parser.add_argument(
        "--host",
        default="",
        help="one address for all, told apart by port, instead of a street: an IPv4 address or a name that has one",
    )
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="run only these residents")
    parser.add_argument("--no-serve", action="store_true", help="publish no axons on the chain")
    parser.add_argument("--seed", type=int, default=0, help="of latencies, failures and choices of words")
    parser.add_argument(
        "--chain-deadline", type=float, default=60.0, metavar="SECONDS", help="to reach the chain and publish"
    )
    given = parser.parse_args(argv)
    return Options(
        wallets=given.wallets,
        network=given.network,
        netuid=given.netuid,
        residents=_placed(_chosen(given.only), given.street, given.host),
        serve=not given.no_serve,
        seed=given.seed,
        chain_deadline_s=given.chain_deadline,
    )


def _placed(residents: tuple[Resident, ...], street: int, host: str) -> tuple[Resident, ...]:
    """The residents where they listen. Raises BadSetting for a street or a host that there is not."""
    if not host:
        return tuple(_moved(one, street) for one in residents)
    try:
        address = socket.gethostbyname(host)
    except OSError:
        raise BadSetting(
            f"--host {host}: neither an IPv4 address nor a name that has one",
            remedy="Leave it out for a street of addresses on 127.0.0.0/8.",
        ) from None
    return tuple(replace(one, host=address) for one in residents)


def _moved(resident: Resident, street: int) -> Resident:
    """The same resident on 127.``street``.x.10. Raises BadSetting unless 1 <= street <= 255."""
    if not 1 <= street <= 255:
        raise BadSetting(f"--street {street}: takes 1 to 255", remedy="Leave it out for 127.1.x.10.")
    _, _, house, last = resident.host.split(".")
    return replace(resident, host=f"127.{street}.{house}.{last}")


def _chosen(only: str) -> tuple[Resident, ...]:
    if not only:
        return RESIDENTS
    by_name = {one.name: one for one in RESIDENTS}
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise BadSetting(
            f"--only: there is no resident {', '.join(unknown) or only}",
            remedy=f"Choose from {', '.join(by_name)}.",
        )
    return tuple(by_name[name] for name in dict.fromkeys(names))
