#!/bin/sh
# A function: each call starts it anew, with the payload on standard input and the
# answer on standard output. What goes to standard error is the log of the function.
read -r name || [ -n "$name" ] || name=World
echo "Hello $name"
