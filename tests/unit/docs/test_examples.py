"""The examples of requests and answers, against the services' own OpenAPI documents."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.unit.docs.references import DOCS

EXAMPLES: dict[str, Any] = json.loads((DOCS / "examples.json").read_text(encoding="utf-8"))


def closed(schema: Any, strict: bool) -> Any:
    """A schema that takes no field it does not name; with ``strict`` all that are required have to be there."""
    if isinstance(schema, list):
        return [closed(one, strict) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(one, strict) for name, one in schema.items()}
    if isinstance(found.get("properties"), dict) and "additionalProperties" not in found:
        found["additionalProperties"] = False
    if not strict and isinstance(found.get("required"), list):
        # An example may be cut, or older than a field; a field that is gone is what has to be noticed.
        del found["required"]
    return found


def operation_of(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    """The operation of a path; the last part of one may be a name."""
    paths = document["paths"]
    if path not in paths:
        (path,) = [p for p in paths if p.endswith("}") and p.rpartition("/")[0] == path.rpartition("/")[0]]
    return paths[path][method.lower()]


def check(document: dict[str, Any], schema: Any, value: Any, strict: bool) -> None:
    whole = closed(copy.deepcopy({**schema, "components": document.get("components", {})}), strict)
    Draft202012Validator(whole).validate(value)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("key", EXAMPLES)
def test_an_example_is_what_the_service_takes_and_gives(openapi: Path, key: str) -> None:
    service, method, address = key.split(" ")
    document = json.loads((openapi / f"{service}.json").read_text())
    operation = operation_of(document, method, address.partition("?")[0])
    example = EXAMPLES[key]
    body = operation.get("requestBody")
    assert (body is not None) == (example["request"] is not None)
    if body is not None:
        check(document, body["content"]["application/json"]["schema"], example["request"], strict=True)
    schema = operation["responses"]["200"]["content"]["application/json"].get("schema")
    if schema:
        check(document, schema, example["answer"], strict=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", ["querier", "gating", "reward", "weights", "trainer"])
def test_every_service_has_examples_of_its_posts(openapi: Path, service: str) -> None:
    paths = json.loads((openapi / f"{service}.json").read_text())["paths"]
    shown = {key.partition("?")[0] for key in EXAMPLES}
    posts = {f"{service} POST {path}" for path, methods in paths.items() if "post" in methods}
    assert sorted(posts - shown) == []
