"""``python -m devnet``: the chain, the miners, and small interventions on a running devnet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DEFAULT_DIR = Path(".devnet")
DEFAULT_NODE = "ws://127.0.0.1:9944"


def _switch(text: str) -> bool:
    return text == "on"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devnet", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _chain_parser(commands.add_parser("chain", help="run the embedded chain"))
    commands.add_parser("miners", help="run the reference miners", add_help=False)
    faucet = commands.add_parser("faucet", help="give an account TAO")
    faucet.add_argument("account", help="ss58 address")
    faucet.add_argument("tao", type=float)
    replace = commands.add_parser("replace", help="give a uid to another hotkey, as a registration would")
    replace.add_argument("--uid", type=int, required=True)
    replace.add_argument("--netuid", type=int, default=1)
    replace.add_argument("--wallet", help="wallet of the new holder (default: a new one)")
    replace.add_argument("--wallets", type=Path, default=DEFAULT_DIR / "wallets")
    for command in (faucet, replace):
        command.add_argument("--node", default=DEFAULT_NODE, help=f"default {DEFAULT_NODE}")
    return parser


def _chain_parser(chain: argparse.ArgumentParser) -> None:
    chain.add_argument("--host", default="127.0.0.1")
    chain.add_argument("--port", type=int, default=9944)
    chain.add_argument("--block-time", type=float, default=0.25, metavar="SECONDS")
    chain.add_argument("--netuid", type=int, default=1)
    chain.add_argument("--state", type=Path, default=DEFAULT_DIR / "chain.state", metavar="FILE")
    chain.add_argument("--wallets", type=Path, default=DEFAULT_DIR / "wallets", metavar="DIR")
    chain.add_argument(
        "--drand",
        choices=("past", "beacon", "off"),
        help="how timelocked commits open; default: past with --commit-reveal, else off",
    )
    chain.add_argument("--drand-url", default="https://api.drand.sh")
    subnet = chain.add_argument_group(
        "subnet", "what is not given keeps its default, or what the state holds"
    )
    for flag, name, text in (
        ("--tempo", "tempo", "blocks an epoch (60)"),
        ("--rate-limit", "weights_rate_limit", "blocks between weights of one hotkey (20)"),
        ("--min-weights", "min_allowed_weights", "fewest weights in a vector (1)"),
        ("--reveal-period", "commit_reveal_period", "epochs from commit to reveal (1)"),
        ("--activity-cutoff", "activity_cutoff", "blocks after which a validator is inactive (5000)"),
        ("--immunity", "immunity_period", "blocks a new uid is safe (100)"),
        ("--max-uids", "max_allowed_uids", "uids of the subnet (256)"),
        ("--max-validators", "max_validators", "permits (64)"),
        ("--version-key", "weights_version", "least version key of weights, 0 for any (0)"),
    ):
        subnet.add_argument(flag, dest=name, type=int, metavar="N", help=text)
    subnet.add_argument(
        "--commit-reveal",
        dest="commit_reveal_weights_enabled",
        action=argparse.BooleanOptionalAction,
        help="timelocked weights (off)",
    )


_SUBNET_FLAGS = (
    "tempo",
    "weights_rate_limit",
    "min_allowed_weights",
    "commit_reveal_period",
    "activity_cutoff",
    "immunity_period",
    "max_allowed_uids",
    "max_validators",
    "weights_version",
    "commit_reveal_weights_enabled",
)


def _chain(given: argparse.Namespace) -> int:
    if not 0.01 <= given.block_time <= 60:
        print("chain: --block-time takes 0.01 to 60 seconds.", file=sys.stderr)
        return 2
    if not 1 <= given.netuid <= 4095:
        print("chain: --netuid takes 1 to 4095.", file=sys.stderr)
        return 2
    # Late: the SDK takes a while to import, and the other sub-commands do without the chain.
    from devnet.chain.main import run
    from devnet.chain.options import ChainOptions, Drand

    overrides = {name: getattr(given, name) for name in _SUBNET_FLAGS if getattr(given, name) is not None}
    sealed = bool(given.commit_reveal_weights_enabled)
    options = ChainOptions(
        wallets_dir=given.wallets,
        state_file=given.state,
        host=given.host,
        port=given.port,
        block_time_s=given.block_time,
        netuid=given.netuid,
        drand=Drand(given.drand or ("past" if sealed else "off")),
        drand_url=given.drand_url,
        overrides=overrides,
    )
    return run(options)


def _intervene(given: argparse.Namespace) -> int:
    import secrets

    from devnet.chain.admin import AdminError, DevnetAdmin
    from devnet.wallets import ensure_wallets

    try:
        with DevnetAdmin(given.node) as admin:
            if given.command == "faucet":
                print(admin.faucet(given.account, given.tao))
            else:
                name = given.wallet or f"replacement-{secrets.token_hex(4)}"
                keys = ensure_wallets(given.wallets, (name,))[name]
                print(
                    {
                        "wallet": name,
                        **admin.replace_hotkey(given.netuid, given.uid, keys.hotkey, keys.coldkey),
                    }
                )
    except (AdminError, OSError) as problem:
        print(f"{given.command}: {problem}", file=sys.stderr)
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["miners"]:
        from devnet.miners.cli import main as miners  # pyright: ignore[reportMissingImports]

        return miners(arguments[1:]) or 0
    given = _parser().parse_args(arguments)
    return _chain(given) if given.command == "chain" else _intervene(given)


if __name__ == "__main__":
    sys.exit(main())
