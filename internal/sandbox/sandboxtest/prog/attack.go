package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attack carries out one attack and says what came of it: "done", the name of an
// errno, or words.
func attack(name string) string {
	do, ok := attacks[name]
	if !ok {
		return "unknown"
	}
	if onTheHost() { // in a mount namespace of its own, which must not tell the others
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	err := survive(do)
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return unix.ErrnoName(errno)
	}
	if err != nil {
		return strings.ReplaceAll(err.Error(), "\n", " ")
	}
	return "done"
}

// survive has a thread of its own do something, and notices when the kernel ends the
// thread: a filter of system calls may, and leaves the process without a word.
func survive(do func() error) error {
	thread, done := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		thread <- unix.Gettid()
		done <- do()
	}()
	at := fmt.Sprintf("/proc/self/task/%d/stat", <-thread)
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Millisecond):
			if text, err := os.ReadFile(at); err == nil && !strings.Contains(string(text), ") Z ") { // the first thread of a process stays
				continue
			}
			select {
			case err := <-done: // it has ended by itself
				return err
			default:
				return errors.New("the thread is ended")
			}
		}
	}
}

// attackAll carries out each attack in a process of its own and prints a line for
// each: its name, a tab, what came of it.
func attackAll(names []string) {
	for _, name := range names {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		cmd := exec.CommandContext(ctx, "/proc/self/exe", "attack", name)
		if onTheHost() {
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
		}
		out, err := cmd.Output()
		cancel()
		if err != nil {
			out = []byte(err.Error())
		}
		fmt.Printf("%s\t%s\n", name, out)
	}
}

// try makes a system call.
func try(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return refusal(errno)
}

// c is s for the kernel.
func c(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	return uintptr(unsafe.Pointer(p))
}

// at is the address of v.
func at[T any](v *T) uintptr { return uintptr(unsafe.Pointer(v)) }

// victim is a process outside; secret the name of a file there.
func victim() uintptr {
	pid, _ := strconv.Atoi(os.Getenv("VICTIM"))
	return uintptr(pid)
}

func secret() string { return os.Getenv("SECRET") }

// steal reads a file that holds the secret.
func steal(name string) error {
	text, err := os.ReadFile(name)
	if err == nil && !strings.Contains(string(text), "secret of the host") {
		err = fmt.Errorf("read %d bytes of something else", len(text))
	}
	return err
}

// opens opens a file that nobody may open.
func opens(name string, flags int) func() error {
	return func() error {
		fd, err := unix.Open(name, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		return err
	}
}

// sweep opens what is below dirs, where nothing should let itself be opened, and
// names what does. On the host it is content with the first.
func sweep(flags int, want func(fs.FileMode, string) bool, dirs ...string) error {
	var open []string
	seen := 0
	for _, dir := range dirs {
		filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil
			case e.IsDir():
				if filepath.Dir(name) == "/proc" && strings.Trim(e.Name(), "0123456789") == "" {
					return fs.SkipDir // a process
				}
				return nil
			case !want(e.Type(), name):
				return nil
			}
			seen++
			if fd, err := unix.Open(name, flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0); err == nil {
				var st unix.Stat_t
				unix.Fstat(fd, &st)
				unix.Close(fd)
				if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
					return nil // null in the place of something
				}
				if open = append(open, name); onTheHost() {
					return fs.SkipAll
				}
			}
			return nil
		})
	}
	switch {
	case onTheHost() && len(open) > 0:
		return nil
	case len(open) > 0:
		return fmt.Errorf("%d can be opened: %s", len(open), strings.Join(open[:min(3, len(open))], " "))
	case seen == 0:
		return errors.New("nothing is there")
	}
	return errors.New("none of them")
}

// onTheHost says that this is no sandbox, and the attack is to be shown as one.
func onTheHost() bool { return os.Getenv("ON_THE_HOST") != "" }

func regular(m fs.FileMode, _ string) bool { return m.IsRegular() }

// socket makes a socket.
func socket(family, kind, protocol int) func() error {
	return func() error {
		fd, err := unix.Socket(family, kind, protocol)
		unix.Close(fd)
		return err
	}
}

// connect connects to what the environment says under name.
func connect(network, name string) func() error {
	return func() error {
		conn, err := net.DialTimeout(network, os.Getenv(name), 10*time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	}
}

// clone makes a process in a new namespace.
func clone(flags uintptr) func() error {
	return func() error {
		cmd := exec.Command("/proc/self/exe", "exit", "0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		return cmd.Run()
	}
}

// rights executes a copy of this program that would have other rights, and says
// which.
func rights(of string) error {
	cmd := exec.Command(of, "rights")
	if onTheHost() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	}
	out, err := cmd.Output()
	switch {
	case err != nil:
		return err
	case string(out) == "none":
		return errors.New("no right")
	case !onTheHost():
		return errors.New(string(out))
	}
	return nil
}

// printRights prints what changed for a program that is setuid or has file
// capabilities: "none", or what it has.
func printRights() {
	status, _ := os.Open("/proc/self/status")
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if caps, ok := strings.CutPrefix(lines.Text(), "CapEff:\t"); ok && strings.Trim(caps, "0") != "" {
			fmt.Print("rights " + caps)
			return
		}
	}
	if os.Getuid() != os.Geteuid() {
		fmt.Print("rights of user ", os.Geteuid())
		return
	}
	fmt.Print("none")
}
