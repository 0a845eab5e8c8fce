#!/usr/bin/env bash
# make.sh DIRECTORY [MIRROR]: a root file system with ImageMagick out of Debian
# packages. Documentation and translations are left out: a function needs none.
# Debian 13 (trixie): the ImageMagick 6 of Debian 12 writes nothing to "fd:1" if
# that is a pipe.
set -euo pipefail
dir=${1:?usage: make.sh DIRECTORY [MIRROR]}
command -v mmdebstrap >/dev/null || { echo "make.sh: needs mmdebstrap: apt-get install mmdebstrap" >&2; exit 1; }
rm -rf "$dir"
mmdebstrap --quiet --variant=essential --include=imagemagick \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	trixie "$dir" ${2:+"$2"}
find "$dir/dev" -xdev -mindepth 1 -delete # every sandbox has its own
