"""SCALE encoding and decoding against the served metadata, and names to numbers for errors and types."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from devnet.chain import metadata
from devnet.chain.core import core

SS58_FORMAT = 42
NOBODY = "0x" + "00" * 32
_KEY_CACHE = 1 << 16


class Codec:
    """One runtime. ``spec_version`` is signed into every extrinsic, so clients and chain must agree on it."""

    def __init__(self, metadata_bytes: bytes, spec_version: int) -> None:
        self.metadata_bytes = metadata_bytes
        self.spec_version = spec_version
        self.runtime = core.Runtime(metadata_bytes, spec_version, metadata.TRANSACTION_VERSION, SS58_FORMAT)
        self._types: dict[int, dict[str, Any]] = {
            entry["id"]: entry["type"] for entry in json.loads(self.runtime.registry_json())["types"]
        }
        self._errors = {
            (pallet["name"], error["name"]): (pallet["index"], error["index"])
            for pallet in self.runtime.metadata_ir()["pallets"]
            for error in pallet["errors"]
        }
        self.apis: dict[str, dict[str, Any]] = {
            f"{api}_{method}": shape
            for api, methods in self.runtime.runtime_api_map().items()
            for method, shape in methods.items()
        }
        self._entry = lru_cache(_KEY_CACHE)(self.runtime.storage_entry)
        self._key = lru_cache(_KEY_CACHE)(self._hash_key)

    def _hash_key(self, pallet: str, item: str, params: tuple[Any, ...]) -> bytes:
        return bytes(self.runtime.storage_key(pallet, item, list(params)))

    def key(self, pallet: str, item: str, *params: Any) -> bytes:
        """The storage key of one item; fewer parameters than the map has give a prefix."""
        return self._key(pallet, item, params)

    def encode_item(self, pallet: str, item: str, value: Any) -> bytes:
        """SCALE bytes of a storage value."""
        return bytes(self.runtime.encode(self._entry(pallet, item).value_type, value))

    def decode_item(self, pallet: str, item: str, raw: bytes | None) -> Any:
        """The storage value; a missing one is None or the metadata's default, as the item says."""
        entry = self._entry(pallet, item)
        if raw is None:
            if entry.modifier == "Optional":
                return None
            raw = bytes(entry.default_bytes)
        return self.runtime.decode(entry.value_type, raw)

    def encode(self, type_name: str, value: Any) -> bytes:
        """SCALE bytes of ``value`` as ``scale_info::N`` or a named type."""
        return b"\x00" if value is None else bytes(self.runtime.encode(type_name, value))

    def decode(self, type_name: str, raw: bytes) -> Any:
        """The plain value of ``raw``; ValueError when it is malformed."""
        return self.runtime.decode(type_name, raw)

    def decode_params(self, api: str, raw: bytes) -> tuple[Any, ...]:
        """The arguments of a runtime API call."""
        types = [type_name for _, type_name in self.apis[api]["inputs"]]
        if not types:
            return ()
        if len(types) == 1:
            return (self.decode(types[0], raw),)
        return tuple(self.decode(f"({', '.join(types)})", raw))

    def error(self, pallet: str, name: str) -> dict[str, Any]:
        """The ``DispatchError::Module`` of a pallet's error."""
        pallet_index, error_index = self._errors[pallet, name]
        return {"Module": {"index": pallet_index, "error": f"0x{error_index:02x}000000"}}

    def blank(self, type_name: str | int) -> Any:
        """A value of the type with every number 0, every vector empty, every option absent."""
        number = type_name if isinstance(type_name, int) else int(type_name.removeprefix("scale_info::"))
        kind, body = next(iter(self._types[number]["def"].items()))
        match kind:
            case "primitive":
                return {"bool": False, "str": ""}.get(body, 0)
            case "compact":
                return self.blank(body["type"])
            case "sequence":
                return []
            case "array":
                return "0x" + "00" * body["len"]
            case "tuple":
                return tuple(self.blank(part) for part in body)
            case "composite":
                fields = body.get("fields", [])
                if len(fields) == 1 and fields[0].get("name") is None:
                    return self.blank(fields[0]["type"])
                return {field["name"]: self.blank(field["type"]) for field in fields}
            case _:
                first = body["variants"][0]
                return None if first["name"] == "None" else first["name"]

    def fields(self, type_name: str) -> dict[str, Any]:
        """A blank struct, for types given as ``Option<Struct>`` too."""
        number = int(type_name.removeprefix("scale_info::"))
        kind, body = next(iter(self._types[number]["def"].items()))
        if kind == "variant":
            number = body["variants"][1]["fields"][0]["type"]
        elif kind == "sequence":
            number = body["type"]
        return self.blank(number)


@lru_cache(4)
def runtime_codec(slot_duration_ms: int, spec_version: int) -> Codec:
    """The codec of a served runtime; the metadata is parsed once a process."""
    return Codec(metadata.build(slot_duration_ms), spec_version)


def octets(value: Any) -> bytes:
    """The bytes of a decoded ``Vec<u8>``, which decodes to text when it happens to be UTF-8, else to 0x-hex."""
    if isinstance(value, str):
        return bytes.fromhex(value[2:]) if value.startswith("0x") else value.encode()
    return bytes(value)
