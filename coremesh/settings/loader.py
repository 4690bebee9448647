"""Reading settings, and saying exactly what is wrong with one."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from coremesh.errors import BadSetting

PREFIX = "COREMESH_"
CONFIG_FLAG = "--config"


class Section(BaseSettings):
    """One concern's settings, e.g. ``redis``: flag ``--redis.url``, environment ``COREMESH_REDIS_URL``."""

    section: ClassVar[str] = ""
    model_config = SettingsConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from ``load`` alone, which merges the sources and remembers where each came from."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A setting with its value and where it came from: ``flag``, ``environment``, ``file`` or ``default``."""

    flag: str
    variable: str
    value: Any
    source: str
    help: str


T = TypeVar("T", bound=Section)


class Settings:
    """The loaded sections. ``settings[RedisSettings].url``."""

    def __init__(self, sections: dict[type[Section], Section], loaded: list[Loaded]) -> None:
        self._sections = sections
        self.loaded = loaded

    def __getitem__(self, section: type[T]) -> T:
        found = self._sections[section]
        assert isinstance(found, section)
        return found

    def replace(self, *sections: Section) -> Settings:
        """A copy with other sections in place of the loaded ones."""
        return Settings({**self._sections, **{type(s): s for s in sections}}, self.loaded)


def load(
    sections: Sequence[type[Section]], argv: Sequence[str] = (), known: Sequence[type[Section]] = ()
) -> Settings:
    """Load ``sections``; flags and TOML tables of ``known`` ones are accepted and not used.

    Raises BadSetting naming the setting, what it got and what it takes.
    """
    flags, config = _parse(argv)
    config = config or os.environ.get(f"{PREFIX}CONFIG")
    tables = _read_toml(Path(config)) if config else {}
    names = {cls.section for cls in (*sections, *known)}
    _refuse_unknown(flags, tables, names, {cls.section: cls for cls in (*known, *sections)})
    result: dict[type[Section], Section] = {}
    loaded: list[Loaded] = []
    for cls in sections:
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        prefix = f"{PREFIX}{cls.section.upper()}_"
        try:
            environment = EnvSettingsSource(cls, env_prefix=prefix, case_sensitive=False)()
        except Exception as error:  # a list or table in the environment that is not JSON
            raise BadSetting(f"{prefix}*: {error}") from None
        for source, found in (
            ("file", tables.get(cls.section, {})),
            ("environment", environment),
            ("flag", flags.get(cls.section, {})),
        ):
            for name, value in found.items():
                values[name] = _listed(cls, name, value) if source == "flag" else value
                sources[name] = source
        try:
            section = cls(**values)
        except ValidationError as error:
            raise BadSetting(_explain(cls, error, sources)) from None
        result[cls] = section
        for name, field in cls.model_fields.items():
            loaded.append(
                Loaded(
                    flag=f"--{cls.section}.{name}",
                    variable=f"{prefix}{name.upper()}",
                    value=getattr(section, name),
                    source=sources.get(name, "default"),
                    help=field.description or "",
                )
            )
    return Settings(result, loaded)


def _listed(cls: type[Section], name: str, value: Any) -> Any:
    """A flag's text, read as JSON where the setting is a list, as in the environment."""
    if not str(cls.model_fields[name].annotation).startswith("tuple["):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise BadSetting(f"--{cls.section}.{name}: got {value!r}; takes a JSON list") from None


def _parse(argv: Sequence[str]) -> tuple[dict[str, dict[str, str]], str | None]:
    flags: dict[str, dict[str, str]] = {}
    config: str | None = None
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            raise BadSetting(
                f"{word!r} is no setting", remedy="Settings look like --redis.url=redis://127.0.0.1:6379/0."
            )
        if not equals:
            if not words:
                raise BadSetting(f"{name} needs a value", remedy=f"Write {name}=VALUE.")
            value = words.pop(0)
        if name == CONFIG_FLAG:
            config = value
            continue
        section, dot, field = name[2:].partition(".")
        if not dot:
            raise BadSetting(f"{name} is no setting", remedy="`coremesh config` lists every setting.")
        flags.setdefault(section, {})[field.replace("-", "_")] = value
    return flags, config


def _read_toml(path: Path) -> dict[str, dict[str, Any]]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise BadSetting(
            f"{CONFIG_FLAG} {path}: {error.strerror}", remedy="Name a TOML file that can be read."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"{CONFIG_FLAG} {path}: {error}", remedy="Correct the TOML.") from None


def _refuse_unknown(
    flags: dict[str, dict[str, str]],
    tables: dict[str, dict[str, Any]],
    names: set[str],
    classes: dict[str, type[Section]],
) -> None:
    for origin, found in (("flag --", flags), ("table ", tables)):
        for section, values in found.items():
            if section not in names:
                raise BadSetting(
                    f"{origin}{section}: there is no such group of settings: {', '.join(sorted(names))}"
                )
            for name in values:
                if name not in classes[section].model_fields:
                    takes = ", ".join(classes[section].model_fields)
                    raise BadSetting(
                        f"{origin}{section}.{name}: there is no such setting; {section} takes {takes}"
                    )


def _explain(cls: type[Section], error: ValidationError, sources: dict[str, str]) -> str:
    parts: list[str] = []
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        where = {
            "flag": f"--{cls.section}.{name}",
            "file": f"[{cls.section}] {name}",
        }.get(sources.get(name, ""), f"{PREFIX}{cls.section.upper()}_{name.upper()}")
        field = cls.model_fields.get(name)
        takes = f" ({field.description})" if field and field.description else ""
        shown = "***" if _secret(name, detail.get("input")) else repr(detail.get("input"))
        parts.append(f"{where}: got {shown}; {detail['msg'][0].lower()}{detail['msg'][1:]}{takes}")
    return "; ".join(parts)


def _secret(name: str, value: object) -> bool:
    """Whether a value may hold a secret: a token, a key, or a URL with a password in it."""
    return any(word in name for word in ("token", "key", "password")) or (
        isinstance(value, str) and "@" in value
    )
