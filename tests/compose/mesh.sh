#!/bin/bash
# Brings the real compose files up and asks the mesh what a user would ask.
#
#   tests/compose/mesh.sh            on this machine's Docker (compose 2), with images built here
#   KEEP=1 tests/compose/mesh.sh     leaves the mesh running
#   NO_BUILD=1 tests/compose/mesh.sh takes the images that are there
#   PATIENCE=4 tests/compose/mesh.sh waits four times as long, on a machine that is slow or busy
#   tests/compose/standins.sh        first, on a machine that cannot pull images: see there
#
# Needs docker, curl and python3. Exits with 77 when there is no engine. Takes minutes: not a part of `make test`.
set -euo pipefail
cd "$(dirname "$0")/../.."

docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 || {
  echo "no Docker engine with compose answers here: skipped" >&2
  exit 77
}
PROJECT=${PROJECT:-coremesh-try}
export COREMESH_PORT=${COREMESH_PORT:-18080} COREMESH_TAG=${COREMESH_TAG:-try}
# Without an .env of this checkout, which may name a validator.
FILES=(--env-file /dev/null -f docker-compose.yml -f docker-compose.override.yml)
[ -z "${EXTRA_COMPOSE_FILE:-}" ] || FILES+=(-f "$EXTRA_COMPOSE_FILE")
dc() { docker compose -p "$PROJECT" "${FILES[@]}" --profile observability "$@"; }
mesh=(redis chain miners gating reward weights querier trainer)
url=http://127.0.0.1:$COREMESH_PORT

say() { printf '== %s\n' "$*"; }
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  dc ps -a >&2
  dc logs --tail 20 >&2
  exit 1
}
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
ask() {
  curl -sS -m 30 "$url/inference" -H 'content-type: application/json' \
    -d '{"messages":[{"role":"user","content":"How do vaccines train the immune system?"}]}'
}
patience() { echo $(($1 * ${PATIENCE:-1})); }
# until SECONDS WHAT COMMAND...: tries the command once a second.
until_true() {
  local left what=$2
  left=$(patience "$1")
  shift 2
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || fail "$what"
    sleep 1
  done
}
container() { # SERVICE REPLICA
  dc ps -q "$1" | while read -r id; do docker inspect -f '{{index .Config.Labels "com.docker.compose.container-number"}} {{.Id}}' "$id"; done |
    sort -n | sed -n "$2p" | cut -d' ' -f2
}
metric() { # SERVICE REPLICA PORT PATTERN: the sum of the samples whose line matches
  docker exec "$(container "$1" "$2")" python -c '
import sys, re, urllib.request
text = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode()
print(sum(float(l.split()[-1]) for l in text.splitlines() if re.match(sys.argv[2], l)))' "$3" "$4"
}

[ -n "${KEEP:-}" ] || trap 'dc down -v -t 10 >/dev/null 2>&1' EXIT

say "build"
# One at a time: they share layers, and a laptop has few cores.
[ -n "${NO_BUILD:-}" ] || COMPOSE_PARALLEL_LIMIT=1 dc build

say "images without torch stay below 400 MB"
for name in querier weights devnet; do
  bytes=$(docker image inspect -f '{{.Size}}' "coremesh/$name:$COREMESH_TAG")
  echo "$name $((bytes / 1000000)) MB"
  [ "$bytes" -lt 400000000 ] || fail "the image of $name has $bytes bytes"
done
for name in querier weights; do
  docker run --rm --network none --entrypoint python "coremesh/$name:$COREMESH_TAG" \
    -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is not None)' \
    || fail "torch is in the image of $name"
done

say "up"
dc up -d --no-build --wait --wait-timeout "$(patience 300)" "${mesh[@]}" || fail "not everything became healthy"

say "ask"
good() { ask | grep -q '"completion":"'; }
until_true 60 "no good answer" good
ask
echo

say "no root, nothing to write on, no way out"
for service in querier trainer gating reward weights chain miners; do
  id=$(dc ps -q "$service")
  [ "$(docker exec "$id" id -u)" != 0 ] || fail "$service runs as root"
  ! docker exec "$id" sh -c 'touch /opt/coremesh/x || touch /etc/x' 2>/dev/null || fail "$service can write to its image"
done
for service in gating reward; do
  networks=$(docker inspect -f '{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}' "$(dc ps -q "$service")")
  [ "$networks" = "${PROJECT}_mesh " ] || fail "$service is in the networks $networks"
done
[ "$(docker network inspect -f '{{.Internal}}' "${PROJECT}_mesh")" = true ] || fail "the mesh's network is not internal"
published=$(docker ps --filter "label=com.docker.compose.project=$PROJECT" --format '{{.Names}} {{.Ports}}' | grep -c -- '->' || true)
[ "$published" = 1 ] || fail "$published containers publish ports"

say "weights land on the chain"
until_true 180 "no weights landed" sh -c "docker exec $(dc ps -q weights) coremesh status | grep -q 'landed at block'"
dc exec -T weights coremesh status | tail -2 || true # its code says that something is not ready this instant

scale() { # --scale SERVICE=N...
  local tries=${PATIENCE:-1}
  # It gives up on a container as soon as its start takes longer than a start should.
  until dc up -d --no-build --no-recreate --wait --wait-timeout 180 "$@" "${mesh[@]}"; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "does not scale: $*"
  done
}
say "four replicas of reward share the work"
scale --scale reward=4
asked() { metric reward "$1" 8082 'coremesh_http_requests_total.*route="/reward"' | cut -d. -f1; }
before=$(asked 1)
shared() {
  for replica in 2 3 4; do
    [ "$(asked $replica)" -ge 20 ] || return 1
  done
}
until_true 240 "a replica of reward gets next to nothing" shared
echo "reward 1: $(($(asked 1) - before)) requests since then, 2: $(asked 2), 3: $(asked 3), 4: $(asked 4)"

say "two trainers and two weights services, one leads of each"
scale --scale reward=2 --scale trainer=2 --scale weights=2
one_leads() { # SERVICE PORT METRIC
  [ "$(metric "$1" 1 "$2" "$3" | cut -d. -f1) $(metric "$1" 2 "$2" "$3" | cut -d. -f1)" = "1 0" ] ||
    [ "$(metric "$1" 1 "$2" "$3" | cut -d. -f1) $(metric "$1" 2 "$2" "$3" | cut -d. -f1)" = "0 1" ]
}
until_true 30 "not one trainer leads" one_leads trainer 8084 coremesh_trainer_leading
until_true 30 "not one weights service leads" one_leads weights 8083 'coremesh_fold_leading{fold="scores"}'

say "Prometheus scrapes every replica, knows every alert and answers every panel"
dc up -d --no-build --no-recreate --no-deps prometheus || fail "Prometheus does not start"
prometheus() { # PATH: what its API says; it is reachable inside the mesh alone
  docker exec "$(container querier 1)" python -c '
import sys, urllib.request
print(urllib.request.urlopen("http://prometheus:9090/api/v1/" + sys.argv[1], timeout=10).read().decode())' "$1"
}
scraped() {
  prometheus targets | python3 -c '
import collections, json, sys
found = json.load(sys.stdin)["data"]["activeTargets"]
up = collections.Counter(one["labels"]["job"] for one in found if one["health"] == "up")
print(dict(up))
sys.exit(up != {"querier": 1, "gating": 1, "reward": 2, "weights": 2, "trainer": 2} or len(found) != up.total())'
}
until_true 90 "Prometheus does not see every replica" scraped
scraped
alerts() {
  prometheus rules | python3 -c '
import json, sys
rules = [rule for group in json.load(sys.stdin)["data"]["groups"] for rule in group["rules"]]
print(len(rules), "alerts; firing:", [rule["name"] for rule in rules if rule["state"] == "firing"])
sys.exit(len(rules) != int(sys.argv[1]) or {rule["health"] for rule in rules} != {"ok"})' \
    "$(grep -c -- '- alert:' deploy/prometheus/alerts.yml)"
}
until_true 60 "an alert was not evaluated" alerts
alerts
python3 -c '
import json, urllib.parse
for panel in json.load(open("deploy/grafana/dashboards/mesh.json"))["panels"]:
    for target in panel.get("targets", ()):
        print("query?query=" + urllib.parse.quote(target["expr"], safe=""))' |
  docker exec -i "$(container querier 1)" python -c '
import json, sys, urllib.parse, urllib.request
answers = empty = 0
for path in sys.stdin.read().split():
    answer = json.load(urllib.request.urlopen("http://prometheus:9090/api/v1/" + path, timeout=10))
    assert answer["status"] == "success", answer
    answers += 1
    if not answer["data"]["result"]:
        empty += 1
        print("nothing yet:", urllib.parse.unquote(path[12:]))
print(answers, "queries of the dashboard answered,", empty, "of them with nothing yet")
sys.exit(empty > answers / 3)' || fail "Prometheus does not answer the panels"

if [ -z "${WITHOUT_GRAFANA:-}" ]; then
  say "Grafana has the dashboard"
  export GRAFANA_PORT=${GRAFANA_PORT:-13000}
  dc up -d --no-build --no-recreate --no-deps grafana || fail "Grafana does not start"
  until_true 90 "Grafana has no dashboard" curl -sSf -m 5 "http://127.0.0.1:$GRAFANA_PORT/api/dashboards/uid/coremesh"
fi

say "what dies comes back, and users are answered meanwhile"
restarts() { docker inspect -f '{{.RestartCount}} {{.State.Health.Status}}' "$1"; }
died() { # SERVICE: all processes of its first container, but the init whose end the engine sees
  local id
  id=$(container "$1" 1)
  docker exec "$id" sh -c 'kill -9 -1' || true
  echo "$id"
}
scale --scale reward=1 --scale trainer=1 --scale weights=1
for service in reward gating redis; do
  id=$(died "$service")
  good || fail "no answer while $service is away"
  returned() { [ "$(restarts "$id")" = "1 healthy" ]; }
  until_true 120 "$service did not come back" returned
done
id=$(died querier)
until_true 120 "the querier did not come back" returned
until_true 60 "no good answer after the querier died" good

say "stop"
for service in querier trainer gating reward weights; do
  id=$(dc ps -q "$service" | head -n 1)
  docker stop -t 30 "$id" >/dev/null
  code=$(docker inspect -f '{{.State.ExitCode}}' "$id")
  [ "$code" = 0 ] || fail "$service ended with $code"
done
say "all well"
