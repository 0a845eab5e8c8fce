package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
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
		Use: "bench-function [tcp ADDRESS | unix PATH]", Short: "the function of hob bench", Hidden: true,
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
			if size := plainserver.MessageSize(buf[:n]); size > 0 && n >= size {
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
