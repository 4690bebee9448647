"""What of the engine is written in C for the CPU: where it is, and how it is given torch's threads.

Compiled with the package (pyproject.toml). The engine also runs where it is not: plain torch gives the same numbers.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch

POINTER, NUMBER, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
THREADS = (("threads", NUMBER), ("parallel", POINTER), ("thread", POINTER), ("team", POINTER))
"""The last fields of a task that is shared out among threads."""


class NotHere(RuntimeError):
    """A part in C cannot be used on this machine; the message says why."""


def library(name: str, version: int, results: Sequence[str]) -> ctypes.CDLL:
    """The compiled `_<name>`; raises `NotHere`.

    `coremesh_<name>_version` tells its version, `_able` whether the processor can run it; `results` name those of its
    functions that return a number.
    """
    directory = Path(__file__).parent
    path = next((p for s in EXTENSION_SUFFIXES if (p := directory / f"_{name}{s}").exists()), None)
    if path is None:
        raise NotHere(f"{name}.c is not compiled here")
    try:
        found = ctypes.CDLL(str(path))
        if getattr(found, f"coremesh_{name}_version")() != version:
            raise NotHere(f"{name}.c was compiled from another version")
        if not getattr(found, f"coremesh_{name}_able")():
            raise NotHere("this processor or system does not have what it needs")
        for function in results:
            getattr(found, f"coremesh_{name}_{function}").restype = NUMBER
    except (OSError, AttributeError) as error:  # of another processor, or of another library
        raise NotHere(str(error)) from error
    return found


@functools.cache
def _openmp() -> tuple[int, int, int] | None:
    # Torch's own OpenMP, whichever library that is: they all have GNU's names.
    found = ctypes.CDLL(None)
    try:
        calls = (found.GOMP_parallel, found.omp_get_thread_num, found.omp_get_num_threads)
    except AttributeError:
        return None
    first, second, third = (ctypes.cast(call, POINTER).value or 0 for call in calls)
    return first, second, third


def threads() -> dict[str, Any]:
    """Values for `THREADS`: as many threads as torch uses, and torch's own; raises `NotHere`."""
    count = torch.get_num_threads()
    if count == 1:
        return {"threads": 1}
    calls = _openmp()
    if calls is None:
        raise NotHere("torch's threads cannot be reached")
    return {"threads": count, "parallel": calls[0], "thread": calls[1], "team": calls[2]}
