package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"hob/internal/plainserver"
)

// newBenchFunction is the function of the hot benchmarks. What is measured is the
// way to it. The same program serves hob, nginx and the client that speaks to it
// directly.
func newBenchFunction(*cli) *cobra.Command {
	return &cobra.Command{
		Use: "bench-function [tcp ADDRESS | unix PATH | noisy _ | lines BYTES]", Short: "the function of hob bench", Hidden: true,
		Args: cobra.MaximumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if listener, ok := strings.CutPrefix(os.Getenv("FN_LISTENER"), "unix:"); ok {
				return plainserver.Socket(listener)
			}
			switch {
			case len(args) < 2:
				plainserver.Stdio()
				return nil
			case args[0] == "unix":
				return plainserver.Socket(args[1])
			case args[0] == "noisy":
				plainserver.Noisy()
				return nil
			case args[0] == "lines":
				return writeLines(args[1])
			}
			l, err := net.Listen(args[0], args[1])
			if err != nil {
				return err
			}
			fmt.Println(l.Addr())
			return plainserver.Serve(l)
		},
	}
}

// writeLines writes so many bytes on standard error, in lines, as quickly as they
// are all kept.
func writeLines(size string) error {
	n, err := strconv.Atoi(size)
	line := strings.Repeat("x", 99) + "\n"
	for ; n > 0 && err == nil; n -= len(line) {
		_, err = os.Stderr.WriteString(line)
		if n%(1<<20) < len(line) {
			time.Sleep(250 * time.Millisecond) // under the limit of a log
		}
	}
	return err
}

// getRequest is a request without a body.
func getRequest(path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nUser-Agent: hob-bench\r\nAccept: */*\r\n\r\n")
}

// postRequest is a request with a body, and headers that end each with CRLF.
func postRequest(path, headers, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: hob-bench\r\nAccept: */*\r\n%sContent-Length: %d\r\n\r\n%s", path, headers, len(body), body)
}

// load makes a request over connections that are kept, one after the other on each,
// for a while. It returns what each took.
func load(addr string, request []byte, connections int, run time.Duration) ([]time.Duration, error) {
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
			if size := plainserver.MessageSize(buf[:n]); size > 0 && n >= size {
				if !bytes.HasPrefix(buf, []byte("HTTP/1.1 20")) {
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
