#!/bin/bash
# Images in place of the public ones, made of Debian packages and this machine's Python, for a machine that cannot pull.
# Needs root, debootstrap and docker. Prints what to set before tests/compose/mesh.sh:
#
#   eval "$(tests/compose/standins.sh)" && tests/compose/mesh.sh
#
# PYTHON_TREE: a Python of its own prefix to copy (default: this python3's). WHEELS: a folder of wheels, such as torch's.
set -euo pipefail
tree=${PYTHON_TREE:-$(python3 -c 'import sys; print(sys.base_prefix)')}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
base=$work/base

debootstrap --variant=minbase \
  --include=ca-certificates,libbz2-1.0,libexpat1,libffi8,liblzma5,libreadline8,libsqlite3-0,libssl3,redis-server,zlib1g \
  bookworm "$base" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >&2
version=$("$tree/bin/python3" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
mkdir -p "$base/usr/local/bin" "$base/usr/local/lib/$version/site-packages"
cp -a "$tree/bin/$version" "$base/usr/local/bin/"
ln -sf "$version" "$base/usr/local/bin/python3"
ln -sf "$version" "$base/usr/local/bin/python"
tar -C "$tree/lib" --exclude='site-packages' --exclude='test' --exclude='__pycache__' --exclude='*.a' \
  -cf - "$version" | tar -C "$base/usr/local/lib" -xf -
find "$tree/lib" -maxdepth 1 -name 'libpython*.so*' -exec cp -a {} "$base/usr/local/lib/" \;
cp -r "$tree/lib/$version/site-packages/"pip* "$base/usr/local/lib/$version/site-packages/"
chroot "$base" ldconfig
chroot "$base" python3 -c 'import bz2, ctypes, lzma, sqlite3, ssl, zlib'
# Builds speak to the package index as this machine does.
cp /etc/ssl/certs/ca-certificates.crt "$base/etc/ssl/certs/ca-certificates.crt"
# As the public image of Redis has it: uid 999 owns /data.
mkdir -p "$base/data" && chown 999 "$base/data"
chroot "$base" sh -c 'cd /tmp && apt-get -qq download prometheus' >&2
mv "$base"/tmp/prometheus_*.deb "$work/prometheus.deb"
rm -rf "$base"/var/cache/apt/* "$base"/var/lib/apt/lists/* "$base"/usr/share/{doc,man,locale,info}
path='ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin'
tar -C "$base" -cf - . | docker import -c "$path" - coremesh-standin/base:1 >&2
# As the public image of Prometheus has it: the program is the entry point, and nobody owns /prometheus.
dpkg-deb -x "$work/prometheus.deb" "$work/prometheus"
cp "$work/prometheus/usr/bin/prometheus" "$base/usr/local/bin/"
mkdir -p "$base/prometheus" && chown 65534 "$base/prometheus"
tar -C "$base" -cf - . | docker import -c "$path" -c 'ENTRYPOINT ["prometheus"]' - coremesh-standin/prometheus:1 >&2

if [ -n "${WHEELS:-}" ]; then
  tar -C "$WHEELS" -cf - . | docker import - coremesh-standin/wheels:1 >&2
  echo "export WHEELS_IMAGE=coremesh-standin/wheels:1 TORCH_INDEX=https://pypi.org/simple"
fi
extra=${TMPDIR:-/tmp}/coremesh-standins.yml
{
  echo "services:"
  for service in gating reward weights querier trainer chain miners; do
    # An engine without a bridge has no other way to the package index.
    echo "  $service: {build: {network: host, args: {PIP_CERT: /etc/ssl/certs/ca-certificates.crt}}}"
  done
} >"$extra"
echo "export BASE_IMAGE=coremesh-standin/base:1 REDIS_IMAGE=coremesh-standin/base:1 EXTRA_COMPOSE_FILE=$extra"
# Debian has no Grafana.
echo "export PROMETHEUS_IMAGE=coremesh-standin/prometheus:1 WITHOUT_GRAFANA=1"
