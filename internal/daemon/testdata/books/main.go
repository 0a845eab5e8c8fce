// Books is the function of the kill tests: it tells a book-keeper outside, in one
// datagram, of each run that it begins, and gives back its payload and the attempt.
// It shares the network of the node.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	payload, _ := io.ReadAll(os.Stdin)
	conn, err := net.Dial("udp", os.Getenv("BOOKS"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := fmt.Fprintf(conn, "%s %s %s", os.Getenv("HOB_CALL_ID"), os.Getenv("HOB_ATTEMPT"), payload); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%s %s", payload, os.Getenv("HOB_ATTEMPT"))
}
