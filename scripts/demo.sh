#!/usr/bin/env bash
# Shows hob at work on this machine, from images to calls, on a throw-away
# daemon, and cleans up. Needs Linux, root and Go; no Docker. Every value that it
# shows is compared with what it must be: one that is not ends the demo with an
# exit code above zero.
#
# HOB names the program (default build/hob, as "make" builds it); TMPDIR the
# directory below which everything is made (default /var/tmp).
set -euo pipefail
exec </dev/null
export LC_ALL=C
cd "$(dirname "$0")/.."
HOB=${HOB:-$PWD/build/hob}

[ "$(uname -s)" = Linux ] || { echo "demo: needs Linux, this is $(uname -s)" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "demo: needs root, to make containers: sudo make demo" >&2; exit 1; }
[ -x "$HOB" ] || { echo "demo: no program $HOB: run make first" >&2; exit 1; }

if [ -t 1 ]; then bold=$'\e[1m' faint=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'; else bold='' faint='' red='' green='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fail() { printf '%sdemo: %s%s\n' "$red" "$*" "$plain" >&2; exit 1; }

# run shows a command line and its output, and keeps both in $out, $err and $code.
run() {
	printf '%s$ %s%s\n' "$faint" "$*" "$plain"
	code=0
	bash -c "$*" >"$work/out" 2>"$work/err" || code=$?
	out=$(tr -d '\0' <"$work/out") err=$(tr -d '\0' <"$work/err")
	[ -z "$out" ] || printf '%s\n' "$out"
	[ -z "$err" ] || printf '%s\n' "$err" | sed 's/^/  (stderr) /'
}
# must be: equal, part of, exit code.
is() { [ "$out" = "$1" ] || fail "the answer must be \"$1\" and is \"$out\""; }
has() { case $out$'\n'$err in *"$1"*) ;; *) fail "the output must say \"$1\"" ;; esac; }
exits() { [ "$code" = "$1" ] || fail "the exit code must be $1 and is $code"; }
ok() { run "$@"; exits 0; }

# http METHOD PATH [BODY]: the body of the answer goes to $out, its status to $code
# and the id of the call to $call; with curl, else with bash alone.
http() {
	local method=$1 path=$2 body=${3-}
	if command -v curl >/dev/null; then
		printf '%s$ curl -X %s -d "%s" http://%s%s%s\n' "$faint" "$method" "$body" "$listen" "$path" "$plain"
		curl -sS -i -X "$method" --data-binary "$body" -H 'Content-Type: text/plain' -H 'Expect:' "http://$listen$path" >"$work/http"
	else
		printf '%s%s http://%s%s "%s"%s\n' "$faint" "$method" "$listen" "$path" "$body" "$plain"
		exec 3<>"/dev/tcp/${listen%:*}/${listen#*:}"
		printf '%s %s HTTP/1.0\r\nHost: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s' \
			"$method" "$path" "$listen" "${#body}" "$body" >&3
		cat <&3 >"$work/http"
		exec 3>&-
	fi
	code=$(head -n 1 "$work/http" | cut -d ' ' -f 2)
	call=$(tr -d '\r' <"$work/http" | sed -n 's/^[Hh]ob-[Cc]all: //p' | head -n 1)
	out=$(tr -d '\r' <"$work/http" | sed '1,/^$/d') err=''
	printf '%s\n' "$out"
}

# look lists what a container engine could leave on a machine.
look() {
	(
		set +e +o pipefail # processes come and go while we look
		cut -d ' ' -f 5 /proc/self/mountinfo | grep -E "hob|^$work" | sed 's/^/mount /'
		find /sys/fs/cgroup -type d -name '*hob*' 2>/dev/null | sed 's/^/cgroup /'
		for dev in /sys/class/net/hob*; do [ -e "$dev" ] && echo "network device ${dev##*/}"; done
		for group in /proc/[0-9]*/cgroup; do
			grep -qs hob "$group" && ! cmp -s "$group" /proc/self/cgroup && echo "process ${group//[!0-9]/} in a cgroup of hob"
		done
		for exe in /proc/[0-9]*/exe; do
			[ "$(readlink "$exe" 2>/dev/null)" = "$HOB" ] && echo "process ${exe//[!0-9]/} of hob"
		done
		for ns in /proc/[0-9]*/ns/net; do readlink "$ns" 2>/dev/null | sed 's/^/network namespace /'; done
		[ -d "$work/data" ] && echo "directory $work/data"
		true
	) | sort -u
}

work=$(mktemp -d "${TMPDIR:-/var/tmp}/hob-demo.XXXXXX")
daemon=
finish() {
	local result=$?
	trap - EXIT INT TERM
	if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then kill "$daemon"; wait "$daemon" || true; fi
	if [ $result != 0 ] && [ -s "$work/daemon.log" ]; then
		echo "the end of the daemon's log:" >&2
		tail -n 20 "$work/daemon.log" | sed 's/^/  /' >&2
	fi
	rm -rf --one-file-system "$work"
	exit $result
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
look >"${work}/before"

for ((port = 18080; port < 18180; port++)); do
	(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
listen=127.0.0.1:$port

say "1. A daemon on a directory of its own"
printf '%s$ hob serve --data %s --listen %s%s\n' "$faint" "$work/data" "$listen" "$plain"
began=${EPOCHREALTIME/[.,]/}
"$HOB" serve --data "$work/data" --listen "$listen" >"$work/daemon.log" 2>&1 </dev/null &
daemon=$!
export HOB_SERVER=http://$listen HOB_CONFIG_DIR=$work PATH="$(dirname "$HOB"):$PATH"
ready() {
	(exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'GET /readyz HTTP/1.0\r\nHost: %s\r\n\r\n' "$listen" >&3 && head -n 1 <&3 | grep -q ' 200 ') 2>/dev/null
}
for ((tries = 0; ; tries++)); do
	ready && break
	kill -0 "$daemon" 2>/dev/null || fail "the daemon did not start"
	((tries < 1000)) || fail "the daemon is not ready after 10 seconds"
	sleep 0.01
done
echo "ready after $(((${EPOCHREALTIME/[.,]/} - began) / 1000)) ms"

say "2. Images out of programs, without Docker"
for example in hello counter limits; do
	(cd "examples/$example" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$work/$example" .)
	ok "hob image build -t $example $work/$example"
done
ok "hob image ls"
has hob.local/hello

say "3. A function, called from the command line"
ok "hob create --name hello -e GREETING=Welcome hob.local/hello"
ok "echo Ada | hob call hello"
is "Welcome, Ada!"

say "4. The same function over HTTP"
http POST /api/apps/default/functions/hello/call Grace
[ "$code" = 200 ] || fail "the status must be 200 and is $code"
is "Welcome, Grace!"
[ -n "$call" ] || fail "the answer must carry the id of the call"
first=$call

say "5. What it wrote on standard error is its log"
ok "hob logs hello"
has 'greeting "Ada"'
ok "hob logs hello --call $first"
is 'greeting "Grace"'

say "6. Every call has a fresh container: what one writes, no other sees"
ok "hob create --name counter hob.local/counter"
for _ in 1 2 3; do
	ok "hob call counter"
	is 1
done

say "7. Limits hold, and the caller reads which"
ok "hob create --name glutton --memory 64m hob.local/limits memory"
run "hob call glutton"
exits 8
has "killed: over its 64 MB memory limit"
ok "hob create --name sleeper --timeout 500ms hob.local/limits time"
run "hob call sleeper"
exits 7
ok "hob create --name quitter hob.local/limits exit"
run "hob call quitter"
exits 8
has "limits: out of ideas"
http POST /api/apps/default/functions/nobody/call
[ "$code" = 404 ] || fail "the status must be 404 and is $code"

# busybox is no part of a small machine; where it is, a shell function.
if busybox=$(command -v busybox) && "$busybox" --list 2>/dev/null | grep -qx sh; then
	say "8. A directory becomes an image: a shell function"
	mkdir -p "$work/root/bin"
	cp "$busybox" "$work/root/bin/busybox"
	ln -s busybox "$work/root/bin/sh"
	ln -s busybox "$work/root/bin/tr"
	run "hob image build -t upper --entrypoint '[\"/bin/sh\",\"-c\"]' --cmd '[\"tr a-z A-Z\"]' $work/root"
	if [ "$code" = 0 ]; then
		ok "hob create --name upper hob.local/upper"
		ok "echo whisper | hob call upper"
		is WHISPER
	else
		has "dynamically linked" # this busybox needs libraries: apt-get install busybox-static
	fi
fi

say "9. Asynchronously: the id at once, the result when it is there"
ok "echo Lin | hob call --async hello"
has "CallId: "
queued=${out#CallId: }
ok "hob get --wait $queued"
is "Welcome, Lin!"
ok "hob logs hello --call $queued"
has "[FINISHED] CallId: $queued"

say "10. Where the time of a cold call goes"
ok "hob call hello </dev/null"
is "Welcome, world!"
# The journal is written in batches: the third record of hello follows its answer.
for ((tries = 0; tries < 200; tries++)); do
	ids=$("$HOB" calls hello --state succeeded --json | sed -n 's/.*"id": "\([0-9A-Z]*\)".*/\1/p')
	[ "$(printf '%s\n' "$ids" | wc -l)" -ge 3 ] && break
	sleep 0.01
done
id=$(printf '%s\n' "$ids" | head -n 1)
[ -n "$id" ] || fail "there must be a record of the call"
ok "hob calls --limit 5"
run "hob calls inspect $id --format '{{.State}} queue={{.Times.Queue}} image={{.Times.Image}} sandbox={{.Times.Sandbox}} run={{.Times.Run}} peak={{.PeakMemory}}'"
exits 0
has "succeeded"
[ "${out//sandbox=0s/}" = "$out" ] || fail "a fresh container cannot have taken no time"

say "11. Nothing is left behind"
printf '%s$ kill -TERM %s%s\n' "$faint" "$daemon" "$plain"
kill -TERM "$daemon"
code=0
wait "$daemon" || code=$?
daemon=
[ $code = 0 ] || fail "the daemon must end with exit code 0 and ended with $code"
rm -rf --one-file-system "$work/data"
for ((tries = 0; tries < 50; tries++)); do # the kernel takes a moment
	look >"$work/after"
	left=$(comm -13 "$work/before" "$work/after")
	[ -z "$left" ] && break
	sleep 0.1
done
[ -z "$left" ] || fail "left behind:"$'\n'"$left"
echo "no process, mount, cgroup, network namespace or directory"
printf '\n%sall values are what they must be%s\n' "$green" "$plain"
