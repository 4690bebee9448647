"""Parts of coremesh that are written in C, each beside the Python that does the same and says what is right.

They are compiled when coremesh is installed (pyproject.toml, build_backend/backend.py). Where one is missing, its
Python runs: results are the same, and only take longer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def load(directory: Path, name: str, *, version: int, functions: Sequence[str]) -> ctypes.CDLL | None:
    """The compiled ``name`` in ``directory``; None when there is none, or one of another version of its source.

    ``<function>_version`` of the first of ``functions`` tells the version; the GIL is released while they run.
    """
    for suffix in EXTENSION_SUFFIXES:
        path = directory / f"{name}{suffix}"
        if not path.exists():
            continue
        try:
            library = ctypes.CDLL(str(path), use_errno=True)
            told = getattr(library, f"{functions[0]}_version")
            told.restype = ctypes.c_int64
            if told() != version:
                continue
            for function in functions:
                getattr(library, function).restype = ctypes.c_int64
        except (OSError, AttributeError):  # of another processor, or of another library
            continue
        return library
    return None
