#!/bin/sh
# Serves many calls from one container: HTTP requests on standard input, answers
# on standard output, in nothing but a shell.
n=0
while read -r line; do # the request line
	length=0
	while read -r header; do
		header=$(printf %s "$header" | tr -d '\r')
		case $header in
		'') break ;;
		[Cc]ontent-[Ll]ength:*) length=$(printf %s "${header#*:}" | tr -d ' ') ;;
		esac
	done
	body=''
	[ "$length" -eq 0 ] || body=$(dd bs=1 count="$length" 2>/dev/null)
	n=$((n + 1))
	answer="call $n: $(printf %s "$body" | tr a-z A-Z)"
	printf 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s\n' $((${#answer} + 1)) "$answer"
done
