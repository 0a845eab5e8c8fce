#!/usr/bin/env bash
# make.sh DIRECTORY: a root file system of this machine's Node, the libraries that
# it needs, and the function with its packages.
set -euo pipefail
dir=${1:?usage: make.sh DIRECTORY}
here=$(cd "$(dirname "$0")" && pwd)
command -v node >/dev/null || { echo "make.sh: needs node: apt-get install nodejs" >&2; exit 1; }
command -v npm >/dev/null || { echo "make.sh: needs npm: apt-get install npm" >&2; exit 1; }
rm -rf "$dir"
mkdir -p "$dir/function" "$dir/bin" "$dir/etc"
node=$(realpath "$(command -v node)")
cp "$node" "$dir/bin/node"
ldd "$node" | grep -o '/[^ ]*' | while read -r library; do # into the places where the loader looks
	mkdir -p "$dir$(dirname "$library")"
	cp -L "$library" "$dir$library"
done
cp "$here/func.js" "$here/package.json" "$dir/function/"
(cd "$dir/function" && npm install --omit=dev --no-audit --no-fund --silent)
