package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ask returns what is said at an address, in one line.
func ask(addr string) string {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return "error: " + err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	said, err := io.ReadAll(c)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(said)
}

// send sends a datagram from an address, whoever has it; "-": from the own one.
func send(to, from string) error {
	var d net.Dialer
	if from != "-" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		d.Control = func(_, _ string, c syscall.RawConn) (err error) {
			return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1) }), err)
		}
	}
	c, err := d.Dial("udp6", to)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.WriteString(c, from)
	return err
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

// noDevice is the index of a network device that no machine has: what is asked of the
// kernel for it would be done otherwise.
const noDevice = 1 << 30

// routing asks the kernel for a change of the network. attr is the number of an attribute
// and its value.
func routing(kind uint16, body any, attr ...byte) func() error {
	return func() error {
		s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		order := binary.NativeEndian
		rest, err := binary.Append(nil, order, body)
		if err != nil {
			return err
		}
		if len(attr) > 0 {
			rest = order.AppendUint16(rest, uint16(3+len(attr)))
			rest = append(order.AppendUint16(rest, uint16(attr[0])), attr[1:]...)
		}
		head := unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(rest)), Type: kind, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE}
		request, err := binary.Append(nil, order, head)
		if err != nil {
			return err
		}
		if err := unix.Sendto(s, append(request, rest...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		answer := make([]byte, 4096)
		n, _, err := unix.Recvfrom(s, answer, 0)
		if err != nil || n < unix.SizeofNlMsghdr+4 {
			return err
		}
		return refusal(syscall.Errno(-int32(order.Uint32(answer[unix.SizeofNlMsghdr:]))))
	}
}

// option sets an option of a socket.
func option(level, name int) func() error {
	return func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.SetsockoptInt(s, level, name, 1)
	}
}
