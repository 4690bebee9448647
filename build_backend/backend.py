"""How coremesh is built: by setuptools, with a C compiler for its compiled parts wherever it is built.

A machine that has no compiler of its own, such as the stage of the Dockerfile that builds our code, gets one for the
time of the build: ``ziglang``, which is a wheel. (PEP 517's hooks for an in-tree backend.)
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403

ZIG = "ziglang==0.17.1"


def _has_compiler() -> bool:
    return shutil.which(shlex.split(os.environ.get("CC") or "cc")[0]) is not None


def _with_compiler(build: Any, *args: Any) -> str:
    if not _has_compiler():
        import ziglang

        # For any processor of this kind, and not for this very one.
        os.environ["CC"] = f"{shlex.quote(str(Path(ziglang.__file__).parent / 'zig'))} cc -mcpu=baseline"
    return build(*args)


def _needed() -> list[str]:
    return [] if _has_compiler() else [ZIG]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What a build needs besides setuptools."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_needed()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """What a build needs besides setuptools."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_needed()]


def build_wheel(directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """See PEP 517."""
    return _with_compiler(build_meta.build_wheel, directory, config_settings, metadata_directory)


def build_editable(directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """See PEP 660."""
    return _with_compiler(build_meta.build_editable, directory, config_settings, metadata_directory)
