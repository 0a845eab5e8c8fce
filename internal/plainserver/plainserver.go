// Package plainserver is the function of the hot benchmarks: an HTTP server as
// plain as one can be, which answers everything with the same few bytes. Each
// connection has a thread that does nothing but read and write, past Go's
// scheduler, so that what is measured is the way to the function.
//
// It is for benchmarks only: it takes the whole process for itself.
package plainserver

import (
	"bytes"
	"cmp"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"unsafe"
)

// Answer is what it answers.
const Answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n"

// alone makes the process ready for threads that keep their processor while they
// wait, and make no garbage.
func alone() {
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(256)
}

// Stdio answers requests on standard input until it ends.
func Stdio() {
	alone()
	runtime.LockOSThread()
	answer(0, 1, nil)
}

// Noisy is Stdio that writes a line of 60 bytes on standard error for each request.
func Noisy() {
	alone()
	runtime.LockOSThread()
	answer(0, 1, append(bytes.Repeat([]byte("x"), 59), '\n'))
}

// Socket serves on a Unix socket that appears only when it can be used.
func Socket(path string) error {
	early := filepath.Join(filepath.Dir(path), "early.sock")
	l, err := net.Listen("unix", early)
	if err != nil {
		return err
	}
	if err := cmp.Or(os.Chmod(early, 0o666), os.Rename(early, path)); err != nil {
		return err
	}
	return Serve(l)
}

// Serve serves on l.
func Serve(l net.Listener) error {
	alone()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		f, err := c.(interface{ File() (*os.File, error) }).File()
		c.Close()
		if err != nil {
			return err
		}
		go func() {
			defer f.Close()
			runtime.LockOSThread() // the thread ends with the connection
			fd := int(f.Fd())      // it waits from now on
			answer(fd, fd, nil)
		}()
	}
}

// answer answers each request of a stream, which has no body or one with a
// Content-Length. line is written on standard error for each.
func answer(in, out int, line []byte) {
	buf, text := make([]byte, 64<<10), []byte(Answer)
	for n := 0; ; {
		k := call(syscall.SYS_READ, in, buf[n:])
		if k <= 0 {
			return
		}
		n += k
		for {
			size := MessageSize(buf[:n])
			if size == 0 || size > n {
				break
			}
			if len(line) > 0 {
				call(syscall.SYS_WRITE, 2, line)
			}
			if call(syscall.SYS_WRITE, out, text) < len(text) {
				return
			}
			n = copy(buf, buf[size:n])
		}
	}
}

// call is read or write as the kernel has it.
func call(nr uintptr, fd int, p []byte) int {
	for {
		n, _, errno := syscall.RawSyscall(nr, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		switch {
		case errno == 0:
			return int(n)
		case errno != syscall.EINTR:
			return -1
		}
	}
}

// MessageSize returns the size of the message at the beginning of b, whose body
// may not be there yet; 0 if its head is not whole.
func MessageSize(b []byte) int {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return 0
	}
	body := 0
	for line := range bytes.Lines(b[:end]) {
		if len(line) > 15 && (line[0] == 'C' || line[0] == 'c') && bytes.EqualFold(line[:15], []byte("Content-Length:")) {
			body, _ = strconv.Atoi(string(bytes.TrimSpace(line[15:])))
		}
	}
	return end + 4 + body
}
