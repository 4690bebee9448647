"""Reading settings, and saying exactly what is wrong with each."""

from __future__ import annotations

import difflib
import json
import os
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from coremesh.errors import BadSetting
from coremesh.settings import legacy

PREFIX = "COREMESH_"
CONFIG_FLAG = "--config"
FEW = 10
"""A section's settings are named in an error where there are no more of them."""
Tables = dict[str, Any]


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


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a setting: a stable code, the setting as it was written, a sentence, a remedy."""

    code: str
    setting: str
    message: str
    remedy: str = BadSetting.default_remedy


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

    def __contains__(self, section: type[Section]) -> bool:
        return section in self._sections

    def replace(self, *sections: Section) -> Settings:
        """A copy with other sections in place of the loaded ones."""
        return Settings({**self._sections, **{type(s): s for s in sections}}, self.loaded)


@dataclass(slots=True)
class Examined:
    """What ``examine`` found. ``settings`` lacks the sections that have problems."""

    settings: Settings
    problems: list[Problem] = field(default_factory=list[Problem])
    notices: list[str] = field(default_factory=list[str])
    """What an option of the original was taken for, a line each."""
    config: Path | None = None


def load(
    sections: Sequence[type[Section]], argv: Sequence[str] = (), known: Sequence[type[Section]] = ()
) -> Settings:
    """Load ``sections``; flags and TOML tables of ``known`` ones are accepted and not used.

    Raises BadSetting naming the first wrong setting, what it got and what it takes. Options of the original
    validator are taken for what they are now, with a line about it on standard error, once a process.
    """
    examined = examine(sections, argv, known)
    for notice in examined.notices:
        _say(notice)
    if examined.problems:
        first, more = examined.problems[0], len(examined.problems) - 1
        more_said = f" (`coremesh config check` lists {more} more)" if more else ""
        raise BadSetting(first.message, remedy=first.remedy + more_said)
    return examined.settings


def examine(
    sections: Sequence[type[Section]], argv: Sequence[str] = (), known: Sequence[type[Section]] = ()
) -> Examined:
    """Load as ``load`` does, and give every problem instead of raising the first."""
    found = Examined(Settings({}, []))
    flags, config = _parse(argv, found)
    config = config or os.environ.get(f"{PREFIX}CONFIG")
    found.config = Path(config) if config else None
    tables = _read_toml(found.config, found) if found.config else {}
    classes = {cls.section: cls for cls in (*known, *sections)}
    _refuse_unknown(flags, tables, classes, found)
    environment = {name.upper(): value for name, value in os.environ.items()}
    result: dict[type[Section], Section] = {}
    for cls in sections:
        section = _section(cls, flags, tables, environment, found)
        if section is not None:
            result[cls] = section
    found.settings = Settings(result, found.settings.loaded)
    return found


def _section(
    cls: type[Section], flags: Tables, tables: Tables, environment: Mapping[str, str], found: Examined
) -> Section | None:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    before = len(found.problems)
    for name in cls.model_fields:
        for source, given in (
            ("file", tables.get(cls.section, {})),
            ("environment", {n: environment[v] for n in (name,) if (v := variable(cls, n)) in environment}),
            ("flag", flags.get(cls.section, {})),
        ):
            if name not in given:
                continue
            where = _where(cls, name, source)
            try:
                values[name] = given[name] if source == "file" else _listed(cls, name, given[name])
            except ValueError:
                got = "***" if _secret(name, given[name]) else repr(given[name])
                found.problems.append(Problem("bad_list", where, f"{where}: got {got}; takes a JSON list"))
            sources[name] = source
    if len(found.problems) > before:
        return None
    try:
        section = cls(**values)
    except ValidationError as error:
        found.problems += _explain(cls, error, sources)
        return None
    for name, info in cls.model_fields.items():
        source = sources.get(name, "default")
        found.settings.loaded.append(
            Loaded(
                flag=f"--{cls.section}.{name}",
                variable=variable(cls, name),
                value=getattr(section, name),
                source=source,
                help=info.description or "",
            )
        )
    return section


def variable(cls: type[Section], name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{cls.section.upper()}_{name.upper()}"


def _where(cls: type[Section], name: str, source: str) -> str:
    named = {"flag": f"--{cls.section}.{name}", "file": f"[{cls.section}] {name}"}
    return named.get(source, variable(cls, name))


def _listed(cls: type[Section], name: str, value: Any) -> Any:
    """A flag's or variable's text, read as JSON where the setting is a list. Raises ValueError."""
    return json.loads(value) if str(cls.model_fields[name].annotation).startswith("tuple[") else value


def _parse(argv: Sequence[str], found: Examined) -> tuple[Tables, str | None]:
    flags: Tables = {}
    config: str | None = None
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            found.problems.append(
                Problem(
                    "no_setting",
                    word,
                    f"{word!r} is no setting",
                    "Settings look like --redis.url=redis://127.0.0.1:6379/0.",
                )
            )
            continue
        option = legacy.find(name[2:])
        if option is not None and not option.takes:
            value = value or "true"
        elif not equals:
            if not words:
                remedy = f"Write {name}=VALUE."
                found.problems.append(Problem("no_value", name, f"{name} needs a value", remedy))
                continue
            value = words.pop(0)
        if name == CONFIG_FLAG:
            config = value
            continue
        if option is not None:
            _translate(option, name, value, flags, found)
            continue
        section, dot, setting = name[2:].partition(".")
        if not dot:
            found.problems.append(
                Problem(
                    "no_setting", name, f"{name} is no setting", _near(name[2:]) or BadSetting.default_remedy
                )
            )
            continue
        flags.setdefault(section, {})[setting.replace("-", "_")] = value
    return flags, config


def _translate(option: legacy.Option, name: str, value: str, flags: Tables, found: Examined) -> None:
    """An option of the original: what it is now, with a notice, or a problem that says what to do instead."""
    if not option.to:
        message = f"{name} was an option of the original validator and is none here"
        found.problems.append(Problem("retired_option", name, message, f"Instead: {option.why}."))
        return
    if not option.takes and value.lower() in ("false", "0", "no"):
        return
    try:
        pairs = option.values(value)
    except ValueError:
        found.problems.append(
            Problem("bad_value", name, f"{name}: got {value!r}; takes a {option.takes_what}")
        )
        return
    for setting, given in pairs:
        section, _, field_name = setting.partition(".")
        flags.setdefault(section, {})[field_name] = given
    found.notices.append(f"{name} of the original validator is now {legacy.spelt(option)}")


@cache
def _say(notice: str) -> None:
    print(f"coremesh: {notice}", file=sys.stderr)


def _read_toml(path: Path, found: Examined) -> Tables:
    where = f"{CONFIG_FLAG} {path}"
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        message, remedy = f"{where}: {error.strerror}", "Name a TOML file that can be read."
        found.problems.append(Problem("bad_file", where, message, remedy))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        found.problems.append(Problem("bad_file", where, f"{where}: {error}", "Correct the TOML."))
    return {}


def _refuse_unknown(
    flags: Tables, tables: Tables, classes: Mapping[str, type[Section]], found: Examined
) -> None:
    known = [f"{section}.{name}" for section, cls in classes.items() for name in cls.model_fields]
    for origin, given in (("flag --", flags), ("table ", tables)):
        for section, values in given.items():
            if section not in classes:
                names = [f"{section}.{name}" for name in _names(values)] or [section]
                where, instead = f"{origin}{section}", _instead(names)
                if section in legacy.SECTIONS and not instead:
                    where = f"{origin}{names[0]}"
                    message = f"{where}: neither the original validator nor coremesh has this option"
                    remedy = (
                        _near(names[0], legacy.BY_NAME) or "docs/options.md lists the original's options."
                    )
                else:
                    message = f"{where}: there is no such group of settings: {', '.join(sorted(classes))}"
                    remedy = instead or _near(section, classes) or BadSetting.default_remedy
                found.problems.append(Problem("unknown_group", where, message, remedy))
                continue
            if not isinstance(values, dict):
                where = f"{origin}{section}"
                # Not the value: it may hold a secret, and nothing tells which of them would be one.
                message = f"{where}: got a {type(values).__name__}; takes a table"
                found.problems.append(Problem("bad_value", where, message, f"Write [{section}] on a line."))
                tables[section] = {}
                continue
            for name in _names(values):
                if name in classes[section].model_fields:
                    continue
                where, fields = f"{origin}{section}.{name}", list(classes[section].model_fields)
                takes = f"; {section} takes {', '.join(fields)}" if len(fields) <= FEW else ""
                message = f"{where}: there is no such setting{takes}"
                remedy = _instead([f"{section}.{name}"]) or _near(f"{section}.{name}", known)
                found.problems.append(
                    Problem("unknown_setting", where, message, remedy or BadSetting.default_remedy)
                )


def _names(values: Any) -> list[str]:
    return [str(name) for name in cast(dict[str, Any], values)] if isinstance(values, dict) else []


def _instead(names: Iterable[str]) -> str:
    """What options of the original, found as settings in a file, are now."""
    options = [option for name in names if (option := legacy.find(name)) is not None]
    return " ".join(
        f"{o.name} of the original is now {legacy.spelt(o)}." if o.to else f"{o.name}: {o.why}."
        for o in options
    )


def _near(name: str, known: Iterable[str] = ()) -> str:
    """``Did you mean …?`` with the nearest of the known names, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean {nearest[0]}? {BadSetting.default_remedy}" if nearest else ""


def unknown_variables(sections: Sequence[type[Section]], others: Iterable[str] = ()) -> list[Problem]:
    """A problem for every ``COREMESH_*`` variable of the environment that is no setting, nor one of ``others``."""
    known = {f"{PREFIX}CONFIG", *others}
    known |= {variable(cls, name) for cls in sections for name in cls.model_fields}
    return [
        Problem(
            "unknown_variable",
            name,
            f"{name}: no setting has this environment variable; it is not read",
            _near(name.upper(), known) or "Remove it; `coremesh config` lists every variable.",
        )
        for name in sorted(os.environ)
        if name.upper().startswith(PREFIX) and name.upper() not in known
    ]


def _explain(cls: type[Section], error: ValidationError, sources: dict[str, str]) -> list[Problem]:
    found: list[Problem] = []
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        where = _where(cls, name, sources.get(name, ""))
        info = cls.model_fields.get(name)
        takes = f" ({info.description})" if info and info.description else ""
        shown = "***" if _secret(name, detail.get("input")) else repr(detail.get("input"))
        said = detail["msg"][0].lower() + detail["msg"][1:]
        found.append(Problem("bad_value", where, f"{where}: got {shown}; {said}{takes}"))
    return found


def _secret(name: str, value: object) -> bool:
    """Whether a value may hold a secret: a token, a key, or a URL with a password in it."""
    return any(word in name for word in ("token", "key", "password")) or "@" in repr(value)
