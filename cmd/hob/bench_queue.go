package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hob/client"
	"hob/faas"
)

// queue measures asynchronous calls: how quickly they are accepted, how quickly they
// pass, and what a long line does to all that.
func (b *bench) queue(ctx context.Context) (err error) {
	d, err := b.daemon(ctx, "queue", "--queue-per-function", "4g")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.function(ctx, b.self, "noop", []string{"--format", "http"}, "bench-function"); err != nil {
		return err
	}
	// Its first call never ends, and so the others wait.
	if err := d.function(ctx, b.self, "stuck", []string{"--max-concurrency", "1", "--async-timeout", "none"}, "bench-function", "tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	c, err := client.New(d.server)
	if err != nil {
		return err
	}
	if _, err := c.Enqueue(ctx, client.CallRequest{App: faas.DefaultApp, Function: "stuck"}); err != nil {
		return err
	}
	q := &queueBench{bench: b, d: d, c: c, addr: strings.TrimPrefix(d.server, "http://")}
	defer func() { q.c.Close() }()
	if err := q.accept(); err != nil {
		return err
	}
	if err := q.pass(ctx); err != nil {
		return err
	}
	if err := q.backlog(ctx); err != nil {
		return err
	}
	d = q.d
	return q.c.DeleteFunction(ctx, faas.DefaultApp, "stuck", true)
}

type queueBench struct {
	*bench
	d    *benchDaemon
	c    *client.Client
	addr string
}

// enqueue is a request that makes an asynchronous call with 1 KB.
func (q *queueBench) enqueue(function string) []byte {
	return postRequest(q.d.path(function), "Prefer: respond-async\r\n", strings.Repeat("x", 1<<10))
}

// run is how long one figure is measured.
func (q *queueBench) run() time.Duration {
	if q.short {
		return 300 * time.Millisecond
	}
	return 3 * time.Second
}

// accept measures acceptance alone.
func (q *queueBench) accept() error {
	q.head("asynchronous calls accepted, 1 KB, each on the disk before its answer; the client shares the cores")
	for _, callers := range []int{1, 16, 128} {
		begin := time.Now()
		took, err := load(q.addr, q.enqueue("stuck"), callers, q.run())
		if err != nil {
			return err
		}
		q.times("accepted", fmt.Sprintf("%d callers", callers), took, fmt.Sprintf("%.0f calls/s", float64(len(took))/time.Since(begin).Seconds()))
	}
	return nil
}

// pass measures calls from acceptance to their kept result.
func (q *queueBench) pass(ctx context.Context) error {
	var rates []float64
	rounds := 5
	for range rounds {
		before, err := q.c.Status(ctx, faas.DefaultApp, "noop")
		if err != nil {
			return err
		}
		begin := time.Now()
		if _, err := load(q.addr, q.enqueue("noop"), 64, q.run()); err != nil {
			return err
		}
		for {
			now, err := q.c.Status(ctx, faas.DefaultApp, "noop")
			if err != nil {
				return err
			}
			if now.Queued+now.Running == 0 {
				rates = append(rates, float64(now.Succeeded-before.Succeeded)/time.Since(begin).Seconds())
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	q.printf("\nasynchronous calls of a hot function, from the first accepted to the last result kept, %d rounds\n", rounds)
	q.number("passed", "64 callers", "calls/s", "", rates...)
	return nil
}

// backlog measures the same daemon without and with a long line.
func (q *queueBench) backlog(ctx context.Context) error {
	n := 200_000
	if q.short {
		n = 5_000
	}
	short, err := q.line(ctx)
	if err != nil {
		return err
	}
	status, err := q.c.Status(ctx, faas.DefaultApp, "stuck")
	if err != nil {
		return err
	}
	rss := q.resident()
	for status.Queued < n {
		if _, err := load(q.addr, q.enqueue("stuck"), 128, q.run()); err != nil {
			return err
		}
		if status, err = q.c.Status(ctx, faas.DefaultApp, "stuck"); err != nil {
			return err
		}
	}
	full := q.resident()
	long, err := q.line(ctx)
	if err != nil {
		return err
	}
	q.head("with %d calls in line, beside the line it had before", status.Queued)
	for i, l := range long {
		q.times("backlog", l.what, l.took, fmt.Sprintf("%.2f × %s", ratio(median(l.took), median(short[i].took)), ms(median(short[i].took))))
	}
	if err := q.d.stop(); err != nil {
		return err
	}
	if q.d, err = q.bench.daemon(ctx, "queue", "--queue-per-function", "4g"); err != nil {
		return err
	}
	q.c.Close()
	if q.c, err = client.New(q.d.server); err != nil {
		return err
	}
	q.addr = strings.TrimPrefix(q.d.server, "http://")
	if status, err = q.c.Status(ctx, faas.DefaultApp, "stuck"); err != nil {
		return err
	}
	q.times("restart", "restart", []time.Duration{q.d.ready}, fmt.Sprintf("with %d calls in line", status.Queued))
	q.number("memory", "the daemon holds", "MB", fmt.Sprintf("before the line was long %.1f, with it %.1f, after the restart", rss, full), q.resident())
	return nil
}

// resident is the memory of the daemon in MB.
func (q *queueBench) resident() float64 {
	return float64(status(strconv.Itoa(q.d.cmd.Process.Pid), "VmRSS:")) / 1024
}

type timed struct {
	what string
	took []time.Duration
}

// line times what users do beside a line.
func (q *queueBench) line(ctx context.Context) ([]timed, error) {
	last, err := q.c.Enqueue(ctx, client.CallRequest{App: faas.DefaultApp, Function: "stuck"})
	if err != nil {
		return nil, err
	}
	all := []timed{
		{what: "accept, 1 caller"}, {what: "accept, run, result kept"}, {what: "status of the function"},
		{what: "state and place of the last call"}, {what: "the first 50 in line"},
	}
	for range q.rounds {
		for i, do := range []func() error{
			func() error {
				_, err := q.c.Enqueue(ctx, client.CallRequest{App: faas.DefaultApp, Function: "stuck"})
				return err
			},
			func() error {
				call, err := q.c.Enqueue(ctx, client.CallRequest{App: faas.DefaultApp, Function: "noop"})
				if err != nil {
					return err
				}
				answer, err := q.c.Result(ctx, call.ID, time.Minute)
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, answer.Body)
				return errors.Join(err, answer.Body.Close())
			},
			func() error { _, err := q.c.Status(ctx, faas.DefaultApp, "stuck"); return err },
			func() error { _, err := q.c.CallRecord(ctx, last.ID); return err },
			func() error { _, err := q.c.QueuedCalls(ctx, faas.DefaultApp, "stuck", 50); return err },
		} {
			begin := time.Now()
			if err := do(); err != nil {
				return nil, err
			}
			all[i].took = append(all[i].took, time.Since(begin))
		}
	}
	return all, nil
}

// logs measures the end of a full log, and what a line and a record cost a hot call.
func (b *bench) logs(ctx context.Context) (err error) {
	d, err := b.daemon(ctx, "logs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.function(ctx, b.self, "writer", []string{"--timeout", "2m"}, "bench-function", "lines", strconv.Itoa(60<<20)); err != nil {
		return err
	}
	for name, args := range map[string][]string{"silent": {"bench-function"}, "noisy": {"bench-function", "noisy", ""}} {
		if err := d.function(ctx, b.self, name, []string{"--format", "http"}, args...); err != nil {
			return err
		}
	}
	if err := d.hob(ctx, "call", "writer"); err != nil {
		return err
	}
	var tail []time.Duration
	for range b.rounds {
		begin := time.Now()
		if err := d.hob(ctx, "logs", "writer", "--tail", "10"); err != nil {
			return err
		}
		tail = append(tail, time.Since(begin))
	}
	size := int64(0)
	_ = filepath.WalkDir(filepath.Join(b.dir, "logs", "logs"), func(_ string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if info, err := e.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil
	})
	b.head("hob logs --tail 10, the whole command")
	b.times("tail", fmt.Sprintf("a log of %v", faas.Bytes(size)), tail, "")

	addr := strings.TrimPrefix(d.server, "http://")
	took := map[string][]time.Duration{}
	rounds, each := 20, 300*time.Millisecond
	if b.short {
		rounds, each = 2, 50*time.Millisecond
	}
	for round := range rounds {
		names := []string{"silent", "noisy"}
		if round%2 == 1 {
			slices.Reverse(names)
		}
		for _, name := range names {
			all, err := load(addr, getRequest(d.path(name)), 1, each)
			if err != nil {
				return err
			}
			took[name] = append(took[name], median(all))
		}
	}
	b.head("hot calls, 1 connection, medians of %d rounds in turns", rounds)
	b.times("log line", "a function that writes nothing", took["silent"], "")
	b.times("log line", "a line of 60 bytes for each call", took["noisy"], fmt.Sprintf("%.3f ×", ratio(median(took["noisy"]), median(took["silent"]))))
	return nil
}
