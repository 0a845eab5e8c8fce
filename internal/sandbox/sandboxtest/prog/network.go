package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// ask returns what is said at an address, in one line.
func ask(addr string) string {
	c, err := net.DialTimeout("tcp", addr, 3*time.Second)
	if err != nil {
		return "error: " + err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	said, err := io.ReadAll(c)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(said)
}

// printDevices prints the devices of the network, each with its addresses.
func printDevices() {
	devices, err := net.Interfaces()
	if err != nil {
		fmt.Println("error:", err)
	}
	for _, d := range devices {
		addrs, err := d.Addrs()
		if err != nil {
			fmt.Println("error:", err)
		}
		fmt.Println(d.Name, strings.Trim(fmt.Sprint(addrs), "[]"))
	}
}
