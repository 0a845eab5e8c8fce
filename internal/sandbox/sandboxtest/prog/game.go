package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// descriptors prints those that are open.
func descriptors() {
	for fd := range 4096 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			fmt.Print(fd, " ")
		}
	}
}

// swap listens on a socket in dir and puts it and links to target into the same
// place, one after the other, for ever.
func swap(dir, target string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := greet(at("real"), nil); err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		for _, put := range []func(string) error{
			func(name string) error { return os.Link(at("real"), name) },
			func(name string) error { return os.Symlink(target, name) },
			func(name string) error { return os.Symlink("real", name) },
			func(name string) error { return os.Symlink("../../../../../../../../.."+target, name) },
			func(name string) error { return unix.Mkfifo(name, 0o666) },
			func(name string) error { return os.Mkdir(name, 0o777) },
		} {
			os.RemoveAll(at("next"))
			if err := put(at("next")); err != nil {
				return err
			}
			if err := unix.Rename(at("next"), at("a")); err != nil { // a directory is in the way, or is put there
				os.RemoveAll(at("a"))
			}
		}
	}
}

// greet answers each connection with a word, and with it hands over descriptors.
func greet(path string, fds []int) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			var rights []byte
			if len(fds) > 0 {
				rights = unix.UnixRights(fds...)
			}
			conn.WriteMsgUnix([]byte("own"), rights, nil)
			conn.Close()
		}
	}()
	return nil
}
