"""Write the pages that follow from the code: ``python docs/generate.py``; ``--check`` only says what is stale.

settings.md and options.md from coremesh.settings, cli.md and coremesh/cli/flags.json from the commands' own help,
api.md and metrics.md from the running code of each service (see describe.py), measured.md from benchmarks/RESULTS.md.
The examples in api.md are in examples.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import intros
import measured
import typer.main
from pydantic import SecretStr

from coremesh import errors
from coremesh.cli.completion import FLAGS_FILE, PassesOn
from coremesh.cli.main import app
from coremesh.errors import CoremeshError
from coremesh.settings import ALL_SECTIONS, legacy

HERE = Path(__file__).parent
SERVICES = ("querier", "trainer", "gating", "reward", "weights", "miner")
FLAGS = f"../coremesh/cli/{FLAGS_FILE}"
FLAG = re.compile(r"(?<![\w-])--[a-z](?:[\w.-]*\w)?")
COMMON = ("/healthz", "/readyz", "/metrics")
NOTE = "<!-- Written by docs/generate.py from the code: change the code, not this page. -->"
Json = dict[str, Any]
COMMANDS = typer.main.get_command(app)
EXAMPLES: dict[str, Json] = json.loads((HERE / "examples.json").read_text(encoding="utf-8"))
PORTS = {"querier": 8080, "gating": 8081, "reward": 8082, "weights": 8083, "trainer": 8084}


def cell(text: str) -> str:
    """Text that does not end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table, its cells as they are."""
    head = list(head)
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def kind(schema: Json) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(dict.fromkeys(kind(one) for one in schema.get("anyOf") or schema["oneOf"]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    name = schema.get("type", "anything")
    if name == "array":
        return f"list of {kind(schema.get('items', {}))}" + bounds(schema)
    if name == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {kind(schema['additionalProperties'])}"
    if schema.get("format") == "password":
        name = "secret"
    if schema.get("format") == "path":
        name = "path"
    return {"null": "none", "boolean": "true or false"}.get(name, name) + bounds(schema)


def bounds(schema: Json) -> str:
    """What a schema demands of a value's size."""
    said = [
        text.format(schema[key])
        for key, text in (
            ("minimum", "≥ {}"),
            ("exclusiveMinimum", "> {}"),
            ("maximum", "≤ {}"),
            ("exclusiveMaximum", "< {}"),
            ("minLength", "at least {} characters"),
            ("maxLength", "at most {} characters"),
            ("minItems", "at least {}"),
            ("maxItems", "at most {}"),
        )
        if key in schema
    ]
    return f" ({', '.join(said)})" if said else ""


def settings_page() -> str:
    """Every setting."""
    lines = [
        "# Settings",
        NOTE,
        "",
        intros.SETTINGS.strip(),
        "",
    ]
    for cls in ALL_SECTIONS:
        properties = cls.model_json_schema()["properties"]
        lines += [f"## {cls.section}", (cls.__doc__ or "").strip(), ""]
        rows = [
            (
                f"`--{cls.section}.{name}`",
                f"`COREMESH_{cls.section.upper()}_{name.upper()}`",
                _default(field.default),
                cell(kind(properties[name])),
                cell(field.description or ""),
            )
            for name, field in cls.model_fields.items()
        ]
        lines += [*table(("flag", "environment", "default", "takes", "meaning"), rows), ""]
    return _page(lines)


def _default(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == "":
        return "none" if value is None else "empty"
    if isinstance(value, tuple | bool):
        value = json.dumps(value)
    return f"`{value}`"


def command_helps() -> dict[str, str]:
    """Every command's own help, by its words."""
    plain = json.loads(_plainly([sys.executable, str(HERE / "commands.py")]))
    wanted = [
        (f"coremesh {path}".strip(), [_script(), *path.split(), "--help"]) for path, _ in _commands(COMMANDS)
    ]
    for command in ("chain", "miners", "faucet", "replace"):
        wanted.append((f"python -m devnet {command}", [sys.executable, "-m", "devnet", command, "--help"]))
    with ThreadPoolExecutor(2) as pool:
        texts = pool.map(lambda one: plain.get(one[0]) or _plainly(one[1]), wanted)
        return {title: text for (title, _), text in zip(wanted, texts, strict=True)}


def cli_page(helps: dict[str, str]) -> str:
    """Every command's own help."""
    lines = ["# The command line", NOTE, ""]
    for title, text in helps.items():
        lines += _help(title, text)
    lines.append(intros.SERVICES.strip())
    return _page(lines)


def flags_file(helps: dict[str, str]) -> str:
    """The flags of commands that become another process, for the shell to complete."""
    found = {
        path: list(dict.fromkeys(["--help", *FLAG.findall(helps[f"coremesh {path}"].partition("\n\n")[0])]))
        for path, command in _commands(COMMANDS)
        if isinstance(command, PassesOn) and command.context_settings.get("help_option_names") == []
    }
    return json.dumps(found, indent=1) + "\n"


def _commands(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A command and every command below it with their words, depth first."""
    yield path, command
    for name, one in getattr(command, "commands", {}).items():
        yield from _commands(one, f"{path} {name}".strip())


def _script() -> str:
    return str(Path(sys.executable).with_name("coremesh"))


def _plainly(command: list[str]) -> str:
    # Typer without its boxes, at a fixed width: the same on every machine.
    environment = os.environ | {"TYPER_USE_RICH": "0", "COLUMNS": "100", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    environment.pop("COREMESH_CONFIG", None)
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, check=True, timeout=120
    ).stdout


def _help(title: str, said: str) -> list[str]:
    # argparse breaks its usage line differently in each version of Python; the options below say it all.
    text = re.sub(
        rf"\Ausage: ({re.escape(title)}) \[-h\].*?\n\n", r"usage: \1 [options]\n\n", said, flags=re.S
    )
    return [f"## {title}", "", "```", *(line.rstrip() for line in text.strip("\n").splitlines()), "```", ""]


def describe(services: Iterable[str] = SERVICES) -> dict[str, Json]:
    """OpenAPI and metrics of each service, from a process of its own."""

    def one(service: str) -> Json:
        command = [sys.executable, str(HERE / "describe.py"), service]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COREMESH_")}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=HERE.parent, env=environment, timeout=240
        )
        if done.returncode:
            raise RuntimeError(f"{service}: {done.stderr[-2000:]}")
        # What the service logs while it is built comes first.
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(services, pool.map(one, services), strict=True))


def metrics_page(described: dict[str, Json]) -> str:
    """Every metric of our own."""
    by_service = {name: {m["name"]: m for m in one["metrics"]} for name, one in described.items()}
    common = set.intersection(*(set(metrics) for metrics in by_service.values()))
    lines = [
        "# Metrics",
        NOTE,
        "",
        intros.METRICS.strip(),
        "",
        "## Every service",
        "",
        *_metric_rows(by_service["querier"][name] for name in sorted(common)),
    ]
    for service, metrics in by_service.items():
        own = [metric for name, metric in metrics.items() if name not in common]
        if service == "trainer" or not own:
            continue
        lines += [f"## {'querier and trainer' if service == 'querier' else service}", "", *_metric_rows(own)]
    return _page(lines)


def _metric_rows(metrics: Iterable[Json]) -> list[str]:
    rows = [
        (f"`{m['name']}`", m["type"], ", ".join(f"`{one}`" for one in m["labels"]), cell(m["meaning"]))
        for m in metrics
    ]
    return [*table(("name", "type", "labels", "meaning"), rows), ""]


def api_page(described: dict[str, Json]) -> str:
    """Every endpoint, and every shape that one takes or gives."""
    lines = [
        "# REST API",
        NOTE,
        "",
        intros.API.strip(),
        "",
    ]
    shapes: dict[str, Json] = {}
    for service, one in described.items():
        document = one["openapi"]
        schemas = dict(document.get("components", {}).get("schemas", {}))
        rows: list[tuple[str, ...]] = []
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if path not in COMMON:
                    takes, gives = _takes(operation, schemas, path), _gives(operation)
                    rows.append((method.upper(), f"`{path}`", cell(operation["summary"]), takes, gives))
        shapes |= schemas
        lines += [f"## {service}", "", *table(("method", "path", "summary", "takes", "gives"), rows), ""]
        lines += _examples(service)
    lines += [*_errors(), ""]
    lines += ["## Shapes", "", "A field without a default has to be there.", ""]
    for name in sorted(shapes):
        if not name.endswith("ValidationError"):
            lines += _shape(name, shapes[name])
    return _page(lines)


def _examples(service: str) -> list[str]:
    """What was asked of a devnet's services, and answered; long lists and texts are cut."""
    lines: list[str] = []
    for key, example in EXAMPLES.items():
        name, method, path = key.split(" ")
        if name != service:
            continue
        address = f"localhost:{PORTS[service]}{path}"
        post = "-X POST " if method == "POST" and example["request"] is None else ""
        words = [f"curl -s {post}" + (f"'{address}'" if "?" in address else address)]
        if service in ("gating", "reward", "weights"):
            words.append('-H "authorization: Bearer $TOKEN"')
        if example["request"] is not None:
            words.append("-H 'content-type: application/json'")
            words.append(f"-d '{json.dumps(example['request'], ensure_ascii=False)}'")
        answer = _readable(example["answer"])
        lines += [f"### {method} {path.partition('?')[0]}", "", "```", " \\\n  ".join(words), "```", ""]
        lines += ["```json", answer, "```", ""]
    return lines


def _readable(value: Any, indent: str = "") -> str:
    """JSON with a line for each field, and short values on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + len(indent) <= 100 or not isinstance(value, dict | list) or not value:
        return flat
    deeper = indent + "  "
    if isinstance(value, list):
        rows = [f"{deeper}{_readable(one, deeper)}" for one in value]
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    rows = [f"{deeper}{json.dumps(name)}: {_readable(one, deeper)}" for name, one in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


def _errors() -> list[str]:
    """Every error of ours that a caller may see."""

    def below(cls: type[CoremeshError]) -> Iterator[type[CoremeshError]]:
        for one in cls.__subclasses__():
            if one.__module__ == errors.__name__:
                yield one
                yield from below(one)

    rows = [
        (f"`{one.code}`", str(one.status), cell((one.__doc__ or "").strip()), cell(one.default_remedy))
        for one in below(CoremeshError)
        if one.status != 500
    ]
    head = ("code", "HTTP", "meaning", "remedy, where none more exact is given")
    return ["## Errors", "", intros.ERRORS.strip(), "", *table(head, rows)]


def _takes(operation: Json, schemas: dict[str, Json], path: str) -> str:
    parts = [
        f"`{one['name']}`: {kind(one['schema'])}, default `{json.dumps(one['schema'].get('default'))}`"
        for one in operation.get("parameters", ())
        if one["in"] == "query"
    ]
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        if "$ref" not in schema:
            # Written into the operation: a shape like any other, with its own beside it.
            schemas |= schema.get("$defs", {})
            name = schema.get("title") or path.strip("/").title()
            schemas[name] = schema
            schema = {"$ref": name}
        parts.append(kind(schema))
    return cell("; ".join(parts))


def _gives(operation: Json) -> str:
    content = operation["responses"]["200"].get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    return cell(kind(schema)) if schema else "JSON" if "application/json" in content else "text"


def _shape(name: str, schema: Json) -> list[str]:
    required = schema.get("required", ())
    rows = [
        (
            f"`{field}`",
            cell(kind(one)),
            "" if field in required else f"`{json.dumps(one.get('default'), ensure_ascii=False)}`",
            cell(one.get("description", "")),
        )
        for field, one in schema.get("properties", {}).items()
    ]
    said = [schema["description"].replace("``", "`"), ""] if schema.get("description") else []
    return [f"### {name}", "", *said, *table(("field", "type", "default", "meaning"), rows), ""]


def options_page() -> str:
    """Every option of the original validator."""
    lines = ["# The original's options", NOTE, "", intros.OPTIONS.strip(), ""]
    head = ("option", "here", "")
    for title, origin in (("The core validator", legacy.FIRST), ("openvalidators", legacy.LATER)):
        rows = legacy.table(option for option in legacy.OPTIONS if option.origin == origin)
        lines += [f"## {title}", "", *table(head, ([cell(one) for one in row] for row in rows)), ""]
    return _page(lines)


def measured_page() -> str:
    """What was measured beside what it must reach."""
    return _page(
        ["# What was measured", NOTE, "", *measured.lines(measured.RESULTS.read_text(encoding="utf-8"))]
    )


def _page(lines: Iterable[str]) -> str:
    return "\n".join(lines).rstrip("\n") + "\n"


def pages(described: dict[str, Json]) -> dict[str, str]:
    """Every generated page by file name, and what else is generated, from here."""
    helps = command_helps()
    return {
        "settings.md": settings_page(),
        "cli.md": cli_page(helps),
        "metrics.md": metrics_page(described),
        "api.md": api_page(described),
        "options.md": options_page(),
        "measured.md": measured_page(),
        FLAGS: flags_file(helps),
    }


def main() -> int:
    """Write or check the pages. Gives the exit code: 1 when ``--check`` found a stale one."""
    parser = argparse.ArgumentParser(description="Write the generated pages of the documentation.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 when a page is stale"
    )
    parser.add_argument("--out", type=Path, default=HERE, help="directory to write to")
    parser.add_argument(
        "--openapi", type=Path, metavar="DIR", help="write each service's OpenAPI document there"
    )
    given = parser.parse_args()
    described = describe()
    if given.openapi:
        for service, one in described.items():
            (given.openapi / f"{service}.json").write_text(json.dumps(one["openapi"]), encoding="utf-8")
    stale = False
    for name, text in pages(described).items():
        file = given.out / (Path(name).name if given.out != HERE else name)
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        stale = True
        if not given.check:
            file.write_text(text, encoding="utf-8")
        print(f"{name}: {'stale; run python docs/generate.py' if given.check else 'written'}")
    return 1 if given.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
