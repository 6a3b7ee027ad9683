#!/bin/sh
# Make a base image from Debian's own packages, for machines that reach no image registry:
#   sh scripts/local_base_image.sh localhost/debian-python:bookworm podman
# Debian 12 has Python 3.11, the version that the pins were tried on. Needs mmdebstrap; takes about 40 s.
set -eu
name=$1 engine=${2:-podman}
command -v mmdebstrap > /dev/null || {
    echo "local_base_image: mmdebstrap was not found; apt-get install mmdebstrap, or name an image with BASE_IMAGE=…" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-pip \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    bookworm "$work/base.tar"
"$engine" import "$work/base.tar" "$name"
