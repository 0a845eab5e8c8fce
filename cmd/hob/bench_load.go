package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/spf13/cobra"

	"hob/faas"
)

// hotAnswer is what the function of the hot benchmarks answers to everything.
const hotAnswer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n"

// newBenchFunction is the function of the hot benchmarks, as plain as a server can
// be: a thread for each connection that reads and writes, without the scheduler of
// Go. What is measured is the way to it. The same program serves hob, nginx and the
// client that speaks to it directly.
func newBenchFunction(*cli) *cobra.Command {
	return &cobra.Command{
		Use: "bench-function [tcp ADDRESS | unix PATH]", Short: "the function of hob bench", Hidden: true,
		Args: cobra.MaximumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			debug.SetGCPercent(-1)  // it makes no garbage
			runtime.GOMAXPROCS(256) // threads keep their processor while they wait
			if listener, ok := strings.CutPrefix(os.Getenv("FN_LISTENER"), "unix:"); ok {
				return answerSocket(listener)
			}
			if len(args) < 2 {
				runtime.LockOSThread()
				answerRequests(0, 1)
				return nil
			}
			if args[0] == "unix" {
				return answerSocket(args[1])
			}
			l, err := net.Listen(args[0], args[1])
			if err != nil {
				return err
			}
			fmt.Println(l.Addr())
			return answerAll(l)
		},
	}
}

// answerSocket serves on a socket that appears only when it can be used.
func answerSocket(path string) error {
	early := filepath.Join(filepath.Dir(path), "early.sock")
	l, err := net.Listen("unix", early)
	if err != nil {
		return err
	}
	if err := cmp.Or(os.Chmod(early, 0o666), os.Rename(early, path)); err != nil {
		return err
	}
	return answerAll(l)
}

func answerAll(l net.Listener) error {
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
			answerRequests(fd, fd)
		}()
	}
}

// answerRequests answers each request of a stream, which has no body or one with
// a Content-Length. It is called on a thread of its own.
func answerRequests(in, out int) {
	buf, answer := make([]byte, 64<<10), []byte(hotAnswer)
	for n := 0; ; {
		k := plainIO(syscall.SYS_READ, in, buf[n:])
		if k <= 0 {
			return
		}
		n += k
		for {
			size := messageSize(buf[:n])
			if size == 0 || size > n {
				break
			}
			if plainIO(syscall.SYS_WRITE, out, answer) < len(answer) {
				return
			}
			n = copy(buf, buf[size:n])
		}
	}
}

// plainIO is read or write as the kernel has it.
func plainIO(call uintptr, fd int, p []byte) int {
	for {
		n, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		switch {
		case errno == 0:
			return int(n)
		case errno != syscall.EINTR:
			return -1
		}
	}
}

// messageSize returns the size of the message at the beginning of b, whose body
// may not be there yet; 0 if its head is not whole.
func messageSize(b []byte) int {
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

// load makes calls over connections that are kept, one after the other on each,
// for a while. It returns what each took.
func load(addr, path string, connections int, run time.Duration) ([]time.Duration, error) {
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: hob-bench\r\nAccept: */*\r\n\r\n")
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			took, err := loadOne(addr, request, run)
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, took...), cmp.Or(failed, err)
		})
	}
	wg.Wait()
	return all, failed
}

func loadOne(addr string, request []byte, run time.Duration) ([]time.Duration, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	buf := make([]byte, 16<<10)
	var took []time.Duration
	for begin, last := time.Now(), time.Now(); last.Sub(begin) < run; {
		if _, err := c.Write(request); err != nil {
			return nil, err
		}
		for n := 0; ; {
			k, err := c.Read(buf[n:])
			if err != nil {
				return nil, err
			}
			n += k
			if size := messageSize(buf[:n]); size > 0 && n >= size {
				if !bytes.HasPrefix(buf, []byte("HTTP/1.1 200")) {
					return nil, errors.New(string(buf[:n]))
				}
				break
			}
		}
		now := time.Now()
		took = append(took, now.Sub(last))
		last = now
	}
	return took, nil
}

var errNoPeer = faas.Errorf(faas.NotFound, "not installed")
