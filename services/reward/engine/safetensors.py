"""Reading a small safetensors file: eight bytes of length, a JSON header, raw tensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from services.reward.engine.errors import ModelError

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

LARGEST = 1 << 30


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The floating-point tensors of the file by name; `ModelError` if it is not a safetensors file of those."""
    if path.suffix != ".safetensors" or not path.is_file():
        raise ModelError(
            "model_missing", f"There is no safetensors file at {path}.", "Convert the weights to safetensors."
        )
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is larger than a head can be")
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        return {name: _tensor(data, start, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            "model_incompatible",
            f"The file {path} cannot be read as safetensors: {error}.",
            "Convert it again.",
        ) from error


def _tensor(data: bytearray, start: int, entry: dict[str, list[int]]) -> torch.Tensor:
    a, b = entry["data_offsets"]
    piece = torch.frombuffer(data[start + a : start + b], dtype=_TYPES[str(entry["dtype"])])
    return piece.reshape(entry["shape"]).clone()
