package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hob/faas"
)

// soak calls functions of every kind at half of what the machine can do for a
// long while, and compares what the daemon holds in the first minute with the last.
func (b *bench) soak(ctx context.Context) (err error) {
	d, err := b.daemon(ctx, "soak")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	tiny, err := b.program("tiny", tinyProgram(runtime.GOARCH))
	if err == nil {
		err = d.function(ctx, tiny, "tiny", nil)
	}
	for _, f := range []struct {
		format faas.Format
		args   []string
	}{{faas.FormatHTTP, nil}, {faas.FormatHTTPStream, nil}, {faas.FormatPort, []string{"tcp", ":8080"}}} {
		if err == nil {
			err = d.function(ctx, b.self, string(f.format), []string{"--format", string(f.format)}, append([]string{"bench-function"}, f.args...)...)
		}
	}
	if err != nil {
		return err
	}
	addr := strings.TrimPrefix(d.server, "http://")
	const callers = 16
	took, err := load(addr, getRequest(d.path("http")), callers, 3*time.Second)
	if err != nil {
		return err
	}
	rate := float64(len(took)) / 3 / 2
	b.printf("\nsoak: %v at %.0f hot calls a second, half of what is possible, and 20 fresh containers a second\n  %8s %12s %12s %9s %9s %9s %9s\n",
		b.soakTime, rate, "", "calls", "resident KB", "threads", "files", "cgroups", "children")

	ctx, stop := context.WithTimeout(ctx, b.soakTime)
	defer stop()
	var calls atomic.Int64
	var mu sync.Mutex
	var failed error
	fail := func(err error) {
		if err != nil && ctx.Err() == nil {
			mu.Lock()
			failed = cmp.Or(failed, err)
			mu.Unlock()
			stop()
		}
	}
	var wg sync.WaitGroup
	paced := func(every time.Duration, call func(n int) error) {
		wg.Go(func() {
			next := time.Now()
			for n := 0; ctx.Err() == nil; n++ {
				fail(call(n))
				calls.Add(1)
				next = next.Add(every)
				time.Sleep(time.Until(next))
			}
		})
	}
	hot := []string{"http", "http-stream", "port"}
	for worker := range callers {
		paced(time.Duration(callers*float64(time.Second)/rate), func(n int) error { return d.hello(ctx, hot[(worker+n)%3]) })
	}
	for range 2 {
		paced(100*time.Millisecond, func(int) error { _, _, err := d.call(ctx, "tiny"); return err })
	}
	var looks [][]tally
	begin := time.Now()
	every := min(time.Minute, b.soakTime/5)
	for tick := time.NewTicker(every); ctx.Err() == nil; {
		select {
		case <-tick.C:
			l := b.look(d)
			looks = append(looks, l)
			b.printf("  %8s %12d %12d %9d %9d %9d %9d\n", time.Since(begin).Round(time.Second), calls.Load(), l[0].n, l[1].n, l[2].n, l[5].n, l[3].n)
		case <-ctx.Done():
			tick.Stop()
		}
	}
	wg.Wait()
	if failed != nil {
		return failed
	}
	if len(looks) < 2 {
		return nil
	}
	first, last := looks[0], looks[len(looks)-1]
	for i := range first {
		b.rows = append(b.rows, benchRow{What: "soak", Way: first[i].what, Samples: samples(looks, i)})
	}
	if grown := last[0].n - first[0].n; grown > first[0].n/4 {
		return fmt.Errorf("the daemon has grown by %d KB since the first look", grown)
	}
	if grown := last[2].n - first[2].n; grown > 64 {
		return fmt.Errorf("the daemon has %d descriptors more than at the first look", grown)
	}
	return nil
}

func samples(looks [][]tally, i int) (out []float64) {
	for _, l := range looks {
		out = append(out, float64(l[i].n))
	}
	return out
}

// hello calls a function of the hot benchmarks.
func (d *benchDaemon) hello(ctx context.Context, function string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.server+d.path(function), nil)
	if err != nil {
		return err
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer [6]byte
	if n, _ := resp.Body.Read(answer[:]); resp.StatusCode != http.StatusOK || string(answer[:n]) != "hello\n" {
		return fmt.Errorf("call %s: %s %q", function, resp.Status, answer[:n])
	}
	return nil
}
