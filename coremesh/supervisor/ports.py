"""Whether the ports that a mesh needs can be had."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from coremesh.errors import BadSetting
from coremesh.supervisor.process import Plan


def check_ports(plans: Sequence[Plan]) -> None:
    """Raise BadSetting when a port cannot be had: which, who needs it, and the flags that name others."""
    needing = [plan for plan in plans if plan.port]
    for at, plan in enumerate(needing):
        twice = next((one for one in needing[:at] if one.port == plan.port), None)
        if twice is not None:
            raise BadSetting(
                f"port {plan.port} is meant for both {twice.name} and {plan.name}",
                remedy=f"Choose another: coremesh up {_flags([twice, plan])}.",
            )
    found = [(plan, error) for plan in needing if (error := refusal("127.0.0.1", plan.port)) is not None]
    if not found:
        return
    refused = [plan for plan, _ in found]
    _, error = found[0]
    why = "taken" if error.errno == errno.EADDRINUSE else f"not to be had ({error.strerror})"
    if len(refused) == 1:
        message = f"port {refused[0].port}, which {refused[0].name} needs, is {why}"
    else:
        ports = ", ".join(f"{plan.port} ({plan.name})" for plan in refused)
        message = f"ports {ports} are {why}"
    raise BadSetting(
        message,
        remedy=f"Stop what listens there (another `coremesh up`?), or choose others: coremesh up {_flags(refused)}.",
    )


def answers(port: int) -> bool:
    """Whether somebody listens on this port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def refusal(host: str, port: int) -> OSError | None:
    """Why nobody could listen there now, or None."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            # As servers bind it: connections that have just closed are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None


def _flags(plans: Sequence[Plan]) -> str:
    names = dict.fromkeys(plan.port_flag for plan in plans if plan.port_flag)
    said = " ".join(f"{name} N" for name in names) or "--help"
    return said + ("; the services take N and the next four" if "--port" in names else "")
