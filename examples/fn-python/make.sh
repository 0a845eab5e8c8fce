#!/usr/bin/env bash
# make.sh DIRECTORY: a root file system of this machine's Python, the libraries that
# it needs, and the function.
set -euo pipefail
dir=${1:?usage: make.sh DIRECTORY}
here=$(cd "$(dirname "$0")" && pwd)
python=$(command -v /usr/bin/python3 || command -v python3) || { echo "make.sh: needs python3: apt-get install python3" >&2; exit 1; }
rm -rf "$dir"
mkdir -p "$dir/function" "$dir/bin"
# An interpreter finds its library by its own place, so everything keeps its path.
{
	"$python" -c 'import os, sys, sysconfig; print(os.path.realpath(sys.executable)); print(sysconfig.get_path("stdlib"))'
	ldd "$(realpath "$python")" | grep -o '/[^ ]*'
} | while read -r path; do
	mkdir -p "$dir$(dirname "$path")"
	cp -rL "$path" "$dir$path"
done
find "$dir" -depth \( -name test -o -name dist-packages -o -name site-packages -o -name '__pycache__' -o -name 'config-*' -o -name idlelib \) -exec rm -rf {} +
ln -s "$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')" "$dir/bin/python"
cp "$here/func.py" "$dir/function/"
