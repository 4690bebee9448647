"""The SDK's compiled core, which comes without type information."""

from __future__ import annotations

from importlib import import_module
from typing import Any

core: Any = import_module("bittensor_core")
