// Command hello is the smallest function that is of any use: what it reads it
// greets, what it is configured with it uses, and what it writes to standard
// error is its log.
package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hello: read the payload:", err)
		os.Exit(1)
	}
	name := cmp.Or(strings.TrimSpace(string(body)), "world")
	fmt.Fprintf(os.Stderr, "greeting %q\n", name)
	fmt.Printf("%s, %s!\n", cmp.Or(os.Getenv("GREETING"), "Hello"), name)
}
