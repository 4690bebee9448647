"""What each process of a running mesh costs."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_WORDS = {"services.gating": "gating", "services.reward": "reward", "services.weights": "weights"}


def processes(root: int) -> dict[int, str]:
    """The processes below ``root`` and itself, by what they do; empty on systems without /proc."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(_fields(stat)[1]), []).append(int(stat.parent.name))
        except OSError:
            continue  # it has ended
    found: dict[int, str] = {}
    waiting = [root] if parents else []
    while waiting:
        pid = waiting.pop()
        found[pid] = "supervisor" if pid == root else _name(pid)
        waiting += parents.get(pid, [])
    return found


def cpu_s(pids: dict[int, str]) -> dict[str, float]:
    """Seconds of CPU since their start, by name."""
    spent: dict[str, float] = {}
    for pid, name in pids.items():
        try:
            fields = _fields(Path(f"/proc/{pid}/stat"))
        except OSError:
            continue
        spent[name] = spent.get(name, 0.0) + (int(fields[11]) + int(fields[12])) * _TICK_S
    return spent


def _fields(stat: Path) -> list[str]:
    """The fields after the name, which may hold spaces: state, parent, …"""
    return stat.read_text().rpartition(")")[2].split()


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "other"
    if "services.querier" in words:
        return "trainer" if "trainer" in words else "querier"
    if "devnet" in words:
        return words[words.index("devnet") + 1]
    if any("redis-server" in word for word in words[:1]):
        return "redis"
    return next((name for word, name in _WORDS.items() if word in words), "other")
