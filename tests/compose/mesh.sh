#!/bin/bash
# Brings the real compose files up and asks the mesh what a user would ask.
#
#   tests/compose/mesh.sh            on this machine's Docker (compose 2), with images built here
#   KEEP=1 tests/compose/mesh.sh     leaves the mesh running
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
dc() { docker compose -p "$PROJECT" "${FILES[@]}" "$@"; }
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
# until SECONDS WHAT COMMAND...: tries the command once a second.
until_true() {
  local left=$1 what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || fail "$what"
    sleep 1
  done
}
metric() { # SERVICE REPLICA PORT PATTERN: the sum of the samples whose line matches
  docker exec "$(dc ps -q --index "$2" "$1" 2>/dev/null || dc ps -q "$1" | sed -n "$2p")" python -c '
import sys, re, urllib.request
text = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode()
print(sum(float(l.split()[-1]) for l in text.splitlines() if re.match(sys.argv[2], l)))' "$3" "$4"
}

[ -n "${KEEP:-}" ] || trap 'dc down -v -t 10 >/dev/null 2>&1' EXIT

say "build"
# One at a time: they share layers, and a laptop has few cores.
COMPOSE_PARALLEL_LIMIT=1 dc build

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
dc up -d --no-build --wait --wait-timeout 300 || fail "not everything became healthy"

say "ask"
until_true 60 "no good answer" sh -c "$(declare -f ask); url=$url; ask | grep -q '\"completion\":\"'"
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

say "four replicas of reward share the work"
dc up -d --no-build --no-recreate --scale reward=4 --wait --wait-timeout 180 || fail "reward does not scale"
shared() {
  for replica in 1 2 3 4; do
    [ "$(metric reward "$replica" 8082 'coremesh_http_requests_total.*route="/reward"' | cut -d. -f1)" -gt 0 ] || return 1
  done
}
until_true 180 "a replica of reward gets nothing" shared
for replica in 1 2 3 4; do
  echo "reward $replica: $(metric reward "$replica" 8082 'coremesh_http_requests_total.*route="/reward"') requests"
done

say "two trainers, one leads"
dc up -d --no-build --no-recreate --scale reward=1 --scale trainer=2 --wait --wait-timeout 180 || fail "trainer does not scale"
leading() { echo $(($(metric trainer 1 8084 coremesh_trainer_leading | cut -d. -f1) + $(metric trainer 2 8084 coremesh_trainer_leading | cut -d. -f1))); }
one_leads() { [ "$(leading)" = 1 ]; }
until_true 30 "not one trainer leads" one_leads

say "a querier that is killed comes back"
docker kill -s KILL "$(dc ps -q querier)" >/dev/null
dc up -d --no-build --no-recreate --scale reward=1 --wait --wait-timeout 120 || fail "the querier did not come back"
until_true 60 "no good answer after the kill" sh -c "$(declare -f ask); url=$url; ask | grep -q '\"completion\":\"'"

say "stop"
for service in querier trainer gating reward weights; do
  id=$(dc ps -q "$service" | head -n 1)
  docker stop -t 30 "$id" >/dev/null
  code=$(docker inspect -f '{{.State.ExitCode}}' "$id")
  [ "$code" = 0 ] || fail "$service ended with $code"
done
say "all well"
