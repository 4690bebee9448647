"""The addresses that a Redis may have: one server, Sentinels that know it, or a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
FORMS = "redis://, rediss://, unix://, redis[s]+sentinel:// or redis[s]+cluster://"
SENTINEL_PORT = 26379
REDIS_PORT = 6379
OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "sentinel_username", "sentinel_password"})

Kind = Literal["one", "sentinel", "cluster"]


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """An address taken apart. ``nodes`` are Sentinels or members of a cluster; ``url`` is for one server."""

    kind: Kind
    url: str
    nodes: tuple[tuple[str, int], ...] = ()
    master: str = ""
    db: int = 0
    tls: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    options: dict[str, str] = field(default_factory=dict[str, str], repr=False)


def parse_address(url: str) -> RedisAddress:
    """Take an address apart. Raises ValueError in a few words that do not quote it: it may hold a password.

    ``redis+sentinel://[user:password@]host:port,host:port/master[/db]`` and
    ``redis+cluster://[user:password@]host:port,host:port``, with OPTIONS after a question mark; ``rediss+…`` is TLS.
    Other schemes are left to redis-py.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"must start with {FORMS}")
    name, _, kind = parts.scheme.partition("+")
    if not kind:
        return RedisAddress("one", url, tls=name == "rediss")
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - OPTIONS):
        raise ValueError(f"has no option {unknown[0][:40]!r}; it takes {', '.join(sorted(OPTIONS))}")
    path = [unquote(part) for part in parts.path.split("/") if part]
    nodes = tuple(_node(one, SENTINEL_PORT if kind == "sentinel" else REDIS_PORT) for one in hosts.split(","))
    if kind == "cluster":
        if path not in ([], ["0"]):
            raise ValueError("a cluster has the database 0 only")
        master, db = "", 0
    else:
        if not 1 <= len(path) <= 2 or (len(path) == 2 and not path[1].isdigit()):
            raise ValueError("Sentinels need the name of a master: redis+sentinel://host:port/master/0")
        master, db = path[0], int(path[1]) if len(path) == 2 else 0
    return RedisAddress(
        "cluster" if kind == "cluster" else "sentinel",
        url,
        nodes,
        master,
        db,
        tls=name == "rediss",
        username=unquote(username),
        password=unquote(password),
        options=options,
    )


def complete(url: str, *, username: str = "", password: str = "", tls_ca: str = "") -> str:
    """``url``, which ``parse_address`` takes, with what is set apart from it."""
    parts = urlsplit(url)
    if not (username or password or tls_ca):
        return url
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if tls_ca:
        query["ssl_ca_certs"] = tls_ca
    netloc = parts.netloc
    if parts.scheme == "unix":
        query |= {name: value for name, value in (("username", username), ("password", password)) if value}
        return f"unix://{netloc}{parts.path}?{urlencode(query)}"
    if username or password:
        login, _, hosts = netloc.rpartition("@")
        before = login.partition(":")
        named = quote(username, safe="") or before[0]
        secret = quote(password, safe="") or before[2]
        netloc = f"{named}:{secret}@{hosts}"
    return urlunsplit((parts.scheme, netloc, parts.path, urlencode(query), ""))


def _node(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(default_port)
    if not port.isdigit() or not 0 < int(port) < 65536 or not host.strip("[]"):
        raise ValueError("names its hosts as host:port,host:port")
    return host.strip("[]"), int(port)
