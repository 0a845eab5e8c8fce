// Books is the function of the kill tests: it tells a book-keeper outside of each
// run that it begins, waits until that is written down, and gives back its payload
// and the attempt. It shares the network of the node, and so its abstract sockets.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	payload, _ := io.ReadAll(os.Stdin)
	conn, err := net.Dial("unix", os.Getenv("BOOKS"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := fmt.Fprintf(conn, "%s %s %s\n", os.Getenv("HOB_CALL_ID"), os.Getenv("HOB_ATTEMPT"), payload); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%s %s", payload, os.Getenv("HOB_ATTEMPT"))
}
