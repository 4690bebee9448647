#!/bin/sh
# The archive against moto's S3 server, in an environment of its own: sh tests/s3.sh [DIRECTORY]
# Needs a package index the first time; a DIRECTORY keeps the environment for the next.
set -eu
directory=${1:-$(mktemp -d)}
port=${PORT:-17195}
[ -x "$directory/bin/moto_server" ] || { python3 -m venv "$directory"; "$directory/bin/pip" install -q 'moto[server]'; }
"$directory/bin/moto_server" -H 127.0.0.1 -p "$port" >"$directory/moto.log" 2>&1 &
trap 'kill $!' EXIT
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_EC2_METADATA_DISABLED=true
tries=0
until curl -fsS -X PUT "http://127.0.0.1:$port/coremesh" >/dev/null 2>&1; do
    tries=$((tries + 1)); [ "$tries" -lt 60 ] || { cat "$directory/moto.log"; exit 1; }
    sleep 1
done
COREMESH_TEST_S3="http://127.0.0.1:$port" .venv/bin/python -m pytest tests/integration/weights/test_archive_s3.py -k own_double
