"""A small container for a head's state: a header of plain values, then named arrays, then a checksum.

The same state always gives the same bytes (no time stamps, no compression, sorted names), so that equal folds can
be compared by their bytes. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import struct
from hashlib import blake2b
from typing import Any

import numpy as np

MAGIC = b"CMGH"
FORMAT = 1
_PREFIX = struct.Struct("<4sHHI")
_DIGEST_BYTES = 16
_DTYPES = frozenset({"<f8", "<f4", "<i8", "<u8", "<u4", "<u2", "|u1"})


class HeadFormat(ValueError):
    """The bytes are not a head's state, are damaged, or are of another kind or format."""


def pack(kind: str, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """``meta`` (JSON values, finite floats) and ``arrays`` (numeric) as bytes."""
    specs = []
    chunks = []
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        dtype = array.dtype.newbyteorder("<").str
        if dtype not in _DTYPES:
            raise HeadFormat(f"array {name} has the type {dtype}, which a head's state does not use")
        specs.append([name, dtype, list(array.shape)])
        chunks.append(array.astype(dtype, copy=False).tobytes())
    header = json.dumps(
        {"kind": kind, "meta": meta, "arrays": specs}, sort_keys=True, allow_nan=False, separators=(",", ":")
    ).encode()
    body = b"".join([_PREFIX.pack(MAGIC, FORMAT, 0, len(header)), header, *chunks])
    return body + blake2b(body, digest_size=_DIGEST_BYTES).digest()


def unpack(data: bytes, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The meta and arrays (writable copies) in ``data``. Raises HeadFormat when they are not a ``kind``."""
    found, meta, arrays = unpack_any(data)
    if found != kind:
        raise HeadFormat(f"the state is of the kind {found!r}, not {kind!r}")
    return meta, arrays


def unpack_any(data: bytes) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """The kind, meta and arrays (writable copies) in ``data``. Raises HeadFormat when it is damaged."""
    if len(data) < _PREFIX.size + _DIGEST_BYTES or data[:4] != MAGIC:
        raise HeadFormat("the bytes are not a gating state")
    _, version, _, header_bytes = _PREFIX.unpack_from(data)
    if version != FORMAT:
        raise HeadFormat(f"the gating state has format {version}; this version reads {FORMAT}")
    body = data[:-_DIGEST_BYTES]
    if blake2b(body, digest_size=_DIGEST_BYTES).digest() != data[-_DIGEST_BYTES:]:
        raise HeadFormat("the gating state is damaged: its checksum does not match")
    offset = _PREFIX.size + header_bytes
    try:
        header = json.loads(body[_PREFIX.size : offset])
        arrays: dict[str, np.ndarray] = {}
        for name, dtype, shape in header["arrays"]:
            if dtype not in _DTYPES:
                raise HeadFormat(f"array {name} has the unexpected type {dtype}")
            count = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(body, dtype, count, offset).reshape(shape).copy()
            offset += arrays[name].nbytes
        kind, meta = header["kind"], header["meta"]
    except (ValueError, KeyError, TypeError) as error:
        raise HeadFormat(f"the gating state cannot be read: {error}") from error
    if offset != len(body):
        raise HeadFormat("the gating state has bytes left over")
    return kind, meta, arrays
