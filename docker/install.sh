#!/bin/sh
# Install pinned wheels into a virtual environment without pip; used by the Dockerfile.
#   install.sh VENV REQUIREMENTS [FOLDER OF OUR WHEEL]
# The secrets pip_config and ca_bundle of the build, where given, say which index and whose certificates. Nothing is
# compiled: an sdist is refused, unless UNHASHED=1, which also takes versions without hashes.
set -eu
venv=$1 requirements=$2 ours=${3:-}
secrets=/run/secrets
[ ! -s "$secrets/pip_config" ] || export PIP_CONFIG_FILE="$secrets/pip_config"
[ ! -s "$secrets/ca_bundle" ] || export PIP_CERT="$secrets/ca_bundle"
checks='--require-hashes --only-binary=:all:'
[ "${UNHASHED:-}" != 1 ] || checks=
# shellcheck disable=SC2086 # several words are meant
python3 -m pip --python "$venv/bin/python" install --no-deps --no-compile $checks -r "$requirements"
if [ -n "$ours" ]; then
    python3 -m pip --python "$venv/bin/python" install --no-deps --no-compile --no-index "$ours"/*.whl
fi
# Checked by hash, not by time: the same sources always make the same files. torch has a file for Python 3.12 alone.
"$venv/bin/python" -m compileall -q -j 0 -x 'torch/testing/_internal/py312' --invalidation-mode unchecked-hash "$venv/lib"
