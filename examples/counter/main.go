// Command counter counts its calls in a file. As every call has a container of
// its own, with a /tmp of its own, it never gets beyond 1.
package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	const file = "/tmp/count"
	old, _ := os.ReadFile(file) // none yet: the count is 0
	n, _ := strconv.Atoi(string(old))
	n++
	if err := os.WriteFile(file, []byte(strconv.Itoa(n)), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, "counter:", err)
		os.Exit(1)
	}
	fmt.Println(n)
}
