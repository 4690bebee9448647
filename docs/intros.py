"""What stands at the top of the generated pages."""

from __future__ import annotations

SETTINGS = """
A value comes from a flag, else the environment, else the TOML file that `--config` or `COREMESH_CONFIG` names, else the
default: `--redis.url URL`, `COREMESH_REDIS_URL`, `[redis] url`. Lists are JSON (`'["a", "b"]'`). `coremesh config`
shows every value in force and where it came from, `coremesh config check` all that is wrong with them. A wrong one ends
the service with exit code 2 and one sentence that names it. Options of the first validator are taken too:
[The original's options](options.md). Services ignore the sections of others, so that one file serves the whole mesh.
"""

SERVICES = """
## python -m services.NAME

`gating`, `reward`, `querier`, `weights`. They take every [setting](settings.md) as a flag, and `--config FILE`. Exit
code 0 after SIGTERM or Ctrl-C, 1 when a background loop died, 2 for a wrong setting, wallet or model, 3 when it could
not start for another reason.
"""

METRICS = """
`GET /metrics` of each service, for Prometheus; no token is asked for. Names carry their unit, labels come from bounded
sets. A histogram `x` gives `x_bucket`, `x_sum` and `x_count`. `python_*` and `process_*` are there too.
"""

API = """
JSON both ways; a body needs `content-type: application/json`. An error is `{code, message, remedy}`; 429 has
`Retry-After`. Every service has `GET /healthz` (alive?), `GET /readyz` (200 when its dependencies answer, else 503
with what is wrong), `GET /metrics` and `GET /docs` (its part of this page, to try out). Under `/v1` errors have
OpenAI's shape.

**Who may call.** querier: bearers of one of `querier.api_keys`, everybody when there are none; `/forward` and the
texts in `/history` with `querier.operator_token`, without one from the machine itself only. gating, reward, weights:
bearers of `mesh.token`. The trainer's one endpoint is open. miner: requests signed with btauth/1
([For miners](miner.md)). More on keys, limits and priorities: [Callers and API keys](callers.md).

The examples were recorded on a devnet; long lists and texts are cut. Ports are the defaults, `$TOKEN` is `mesh.token`.
"""

ERRORS = """
`{"code", "message", "remedy"}`: the code is stable and meant for programs, the message is one sentence, the remedy says
what to do. 400 is also the answer to a body of the wrong shape, with the field in the message. 429 has `Retry-After`.
"""

OPTIONS = """
Every option of the first, one-process core validator and of openvalidators, which followed it. Services and
`coremesh config` take them as they were, and say on standard error what each is now; those that mean nothing here are
refused, with what to do instead. In a TOML file and in the environment only the new names are taken; a table of the
original in a file is refused with the new names.
"""
