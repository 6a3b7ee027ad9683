#!/bin/sh
# Install pinned wheels, or the wheel of our own sources, into a virtual environment without pip; used by the Dockerfile.
#   install.sh VENV REQUIREMENTS|SOURCES [ROOT]
# With ROOT, what the environment does not have yet is put under that folder instead, to be a layer of its own. The
# secrets pip_config and ca_bundle of the build, where given, say which index and whose certificates. Nothing is
# compiled: an sdist is refused, unless UNHASHED=1, which also takes versions without hashes.
set -eu
venv=$1 what=$2 root=${3:-}
secrets=/run/secrets
[ ! -s "$secrets/pip_config" ] || export PIP_CONFIG_FILE="$secrets/pip_config"
[ ! -s "$secrets/ca_bundle" ] || export PIP_CERT="$secrets/ca_bundle"
if [ -d "$what" ]; then
    (cd "$what" && /build/tools/bin/python -c "from setuptools.build_meta import build_wheel; print(build_wheel('/build/wheels'))")
    set -- --no-index /build/wheels/*.whl
elif [ "${UNHASHED:-}" = 1 ]; then
    set -- -r "$what"
else
    set -- --require-hashes --only-binary=:all: -r "$what"
fi
python3 -m pip --python "$venv/bin/python" install --no-deps --no-compile ${root:+--root "$root"} "$@"
# Checked by hash, not by time: the same sources always make the same files. torch has a file for Python 3.12 alone.
"$venv/bin/python" -m compileall -q -j 0 -x 'torch/testing/_internal/py312' --invalidation-mode unchecked-hash \
    ${root:+-s "$root"} "$root$venv/lib"
[ -d "$what" ] || python3 /build/notices.py "$venv" "$root"
# The environment stands in /layer, behind a link.
layer=${root:-/layer}
[ ! -d "$layer" ] || find "$layer" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
