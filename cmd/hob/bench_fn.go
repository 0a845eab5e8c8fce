package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hob/faas"
)

// fn measures the API of Fn: what a call costs through it beside the same call
// through our own, and definitions by the thousand.
func (b *bench) fn(ctx context.Context) (err error) {
	d, err := b.daemon(ctx, "fn")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.function(ctx, b.self, "hot", []string{"--format", string(faas.FormatHTTPStream)}, "bench-function"); err != nil {
		return err
	}
	var apps, fns struct{ Items []struct{ ID string } }
	if err := d.fnv2(ctx, http.MethodGet, "apps?name=default", nil, &apps); err != nil {
		return err
	}
	app := apps.Items[0].ID
	if err := d.fnv2(ctx, http.MethodGet, "fns?app_id="+app+"&name=hot", nil, &fns); err != nil {
		return err
	}
	hot := fns.Items[0].ID
	trigger := map[string]string{"name": "hot", "app_id": app, "fn_id": hot, "type": "http", "source": "/hot"}
	if err := d.fnv2(ctx, http.MethodPost, "triggers", trigger, nil); err != nil {
		return err
	}
	if err := b.fnCalls(d, hot); err != nil {
		return err
	}
	return b.fnDefinitions(ctx, d)
}

// fnCalls measures a hot call on each way to the same function, in turns.
func (b *bench) fnCalls(d *benchDaemon, id string) error {
	rounds, each := 20, 400*time.Millisecond
	if b.short {
		rounds, each = 3, 100*time.Millisecond
	}
	addr := strings.TrimPrefix(d.server, "http://")
	ways := []*way{{name: "POST /api/…/call", path: d.path("hot")}, {name: "POST /invoke/ID", path: "/invoke/" + id}, {name: "POST /t/default/hot", path: "/t/default/hot"}}
	for i, connections := range []int{1, 16} {
		for round := range rounds + 1 { // the first one warms up
			for k := range ways {
				w := ways[(k+round)%len(ways)]
				took, err := load(addr, postRequest(w.path, "Content-Type: text/plain\r\n", "hello"), connections, each)
				if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				if round > 0 {
					w.p50[i], w.p99[i] = append(w.p50[i], median(took)), append(w.p99[i], quantile(took, .99))
				}
			}
		}
		b.head("hot calls of a http-stream function, %d connection(s), %d rounds in turns", connections, rounds)
		for _, w := range ways {
			note := fmt.Sprintf("%.3f × our own", ratio(median(w.p50[i]), median(ways[0].p50[i])))
			b.times(fmt.Sprintf("fn, %d connections", connections), w.name, w.p50[i], note)
		}
	}
	return nil
}

// fnDefinitions makes functions as quickly as 32 callers can, and lists them.
func (b *bench) fnDefinitions(ctx context.Context, d *benchDaemon) error {
	n := 10_000
	if b.short {
		n = 1000
	}
	var app struct{ ID string }
	if err := d.fnv2(ctx, http.MethodPost, "apps", map[string]string{"name": "many"}, &app); err != nil {
		return err
	}
	var made atomic.Int64
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	begin := time.Now()
	for range 32 {
		wg.Go(func() {
			for {
				i := made.Add(1)
				if i > int64(n) {
					return
				}
				fn := map[string]string{"name": fmt.Sprintf("f%05d", i), "app_id": app.ID, "image": "x/y:1"}
				if err := d.fnv2(ctx, http.MethodPost, "fns", fn, nil); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return failed
	}
	took := time.Since(begin)
	b.head("definitions, each on the disk before its answer; the client shares the cores")
	b.number("fn definitions", fmt.Sprintf("%d functions made by 32 callers", n), "fns/s", "", float64(n)/took.Seconds())
	var lists []time.Duration
	for range b.rounds {
		begin := time.Now()
		if err := d.fnv2(ctx, http.MethodGet, "fns?app_id="+app.ID, nil, new(json.RawMessage)); err != nil {
			return err
		}
		lists = append(lists, time.Since(begin))
	}
	b.times("fn definitions", fmt.Sprintf("first page of %d functions", n), lists, "")
	return nil
}

// fnv2 makes one request to the API of Fn; in and out are JSON, or nil.
func (d *benchDaemon) fnv2(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, d.server+"/v2/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s /v2/%s: %s %s", method, path, resp.Status, answer)
	}
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(answer, out)
}
