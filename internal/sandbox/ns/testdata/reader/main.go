// Reader reads its standard input to the end, itself or in a child, and tells
// somebody outside, by datagrams, when it begins and when it has seen the end.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(who, addr string) error {
	if who == "parent" {
		child := exec.Command("/proc/self/exe", "child", addr)
		child.Stdin = os.Stdin
		return child.Run()
	}
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "reads"); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	_, err = fmt.Fprint(conn, "end seen by "+who)
	return err
}
