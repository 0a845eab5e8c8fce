package daemon_test

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
)

func TestCallsOverAQuotaStartInOrderAndTellTheirPlace(t *testing.T) {
	n, g := start(t, withGate), openGate(t)
	n.gateImage()
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{MaxConcurrency: ptr(2)}); err != nil {
		t.Fatal(err)
	}
	n.gated(g, "f", nil)
	n.gated(g, "g", nil)
	n.enqueue("f", "1")
	n.enqueue("g", "2")
	first, second := g.next(), g.next()
	var ids []string
	for i, c := range []struct {
		function string
		priority int
	}{{"f", 0}, {"g", 0}, {"f", 0}, {"g", 3}, {"f", 9}} {
		a := n.ask("POST", async(c.function), fmt.Sprint("waits ", i), "Prefer: respond-async", fmt.Sprint("Hob-Priority: ", c.priority))
		if want := []string{"1", "2", "3", "1", "1"}[i]; a.status != 202 || a.header.Get("Hob-Place") != want || !strings.Contains(a.header.Get("Hob-Wait-Reason"), "2 calls at once") {
			t.Errorf("call %d: %d %v, want 202 at place %s", i, a.status, a.header, want)
		}
		ids = append(ids, a.header.Get("Hob-Call"))
	}
	order := []int{4, 3, 0, 1, 2}
	queued, err := n.QueuedCalls(t.Context(), "", "", 0)
	if err != nil || len(queued) != 5 {
		t.Fatalf("queued: %+v, %v", queued, err)
	}
	for place, i := range order {
		if c := queued[place]; c.ID != ids[i] || c.Place != place+1 || c.Waiting == "" {
			t.Errorf("place %d has %+v, want call %d with its place and reason", place+1, c, i)
		}
		if c := n.record(ids[i]); c.Place != place+1 || c.State != faas.CallQueued || !strings.Contains(c.Waiting, fmt.Sprintf("place %d in the line of the app default", place+1)) {
			t.Errorf("call %d: %+v, want place %d", i, c, place+1)
		}
	}
	if a := n.ask("GET", "/api/calls/"+ids[2]+"/result", ""); a.status != 202 || a.header.Get("Hob-Place") != "5" || a.header.Get("Hob-Wait-Reason") == "" || a.header.Get("Retry-After") == "" {
		t.Errorf("result of one that waits: %+v", a)
	}
	if s, err := n.Status(t.Context(), faas.DefaultApp, "f"); err != nil || s != (client.Status{Total: 4, Queued: 3, Running: 1}) {
		t.Errorf("status %+v, %v", s, err)
	}
	first.say("say done")
	for _, i := range order {
		v := g.next()
		if v.Call != ids[i] || v.Payload != fmt.Sprint("waits ", i) {
			t.Errorf("call %s with %q began, want %d", v.Call, v.Payload, i)
		}
		v.say("cat")
	}
	if out, err := n.result(ids[2]); out != "waits 2" || err != nil {
		t.Errorf("result of the last = %q, %v", out, err)
	}
	n.enqueue("f", "last but one")
	third := g.next()
	late := n.enqueue("g", "last")
	if late.Place != 1 || late.Estimate <= 0 {
		t.Errorf("calls have ended, and there is no estimate: %+v", late)
	}
	second.say("say done")
	third.say("say done")
	g.next().say("say done")
	if c := n.ended(late.ID); c.State != faas.CallSucceeded || c.Waiting == "" {
		t.Errorf("what it waited for is not kept: %+v", c)
	}
	n.settled()
}

func TestBadAsynchronousCallsAreRefusedWithTheReason(t *testing.T) {
	n := start(t, withGate, func(c *config.Config) { c.MaxRequest = faas.MB })
	image := n.gateImage()
	n.function("f", image, nil, "cat")
	n.function("g", image, nil, "cat")
	id := n.enqueue("f", "x").ID
	n.ended(id)
	plain := n.ask("POST", async("f"), "x").header.Get("Hob-Call")
	unknown := faas.NewID()
	more := strings.Repeat("x", 1<<20+1)
	for _, c := range []struct {
		method, path, body string
		headers            []string
		status             int
		says               string
	}{
		{"POST", async("f"), more, []string{"Prefer: respond-async"}, 413, "1 MB"},
		{"POST", async("f"), "", []string{"Prefer: respond-async", "Hob-Priority: 10"}, 400, "9"},
		{"POST", async("f"), "", []string{"Prefer: respond-async", "Hob-Priority: high"}, 400, "between 0 and 9"},
		{"POST", async("f"), "", []string{"Prefer: respond-async", "Hob-Delay: soon"}, 400, "duration"},
		{"POST", async("f"), "", []string{"Prefer: respond-async", "Hob-Delay: -1s"}, 400, "0s"},
		{"POST", async("f"), "", []string{"Prefer: respond-async", "Hob-Delay: 100000h"}, 400, "between"},
		{"POST", async("f"), "", []string{"Prefer: respond-async, wait=long"}, 400, "3600"},
		{"POST", async("f"), "", []string{"Prefer: respond-async, wait=-1"}, 400, "3600"},
		{"POST", async("f"), "", []string{"Idempotency-Key: "}, 400, "255"},
		{"POST", async("f"), "", []string{"Idempotency-Key: a b"}, 400, "255"},
		{"POST", async("f"), "", []string{"Idempotency-Key: " + strings.Repeat("k", 256)}, 400, "255"},
		{"POST", async("f"), "", []string{"Idempotency-Key: a", "Idempotency-Key: b"}, 400, "2 times"},
		{"POST", async("f"), "", []string{"Hob-Priority: 1"}, 400, "respond-async"},
		{"POST", async("none"), "", []string{"Prefer: respond-async"}, 404, "none"},
		{"POST", "/api/apps/none/functions/f/call", "", []string{"Prefer: respond-async"}, 404, "none"},
		{"GET", "/api/calls/" + unknown, "", nil, 404, unknown},
		{"GET", "/api/calls/" + unknown + "/result", "", nil, 404, unknown},
		{"GET", "/api/calls/" + unknown + "/result?wait=1s", "", nil, 404, unknown},
		{"POST", "/api/calls/" + unknown + "/cancel", "", nil, 404, unknown},
		{"POST", "/api/calls/" + unknown + "/retry", "", nil, 404, unknown},
		{"GET", "/api/calls/x'%00--/result", "", nil, 404, ""},
		{"GET", "/api/calls/" + plain + "/result", "", nil, 404, "synchronous"},
		{"POST", "/api/calls/" + plain + "/cancel", "", nil, 409, "over"},
		{"POST", "/api/calls/" + plain + "/retry", "", nil, 409, "synchronous"},
		{"POST", "/api/calls/" + id + "/cancel", "", nil, 409, "succeeded"},
		{"POST", "/api/calls/" + id + "/retry", "", nil, 409, "succeeded"},
		{"GET", "/api/calls/" + id + "/result?wait=ages", "", nil, 400, "wait"},
		{"GET", "/api/calls/" + id + "/result?wait=-1s", "", nil, 400, "wait"},
		{"GET", "/api/calls/" + id + "/result?wait=100h", "", nil, 400, "1h"},
		{"GET", "/api/calls?queued=maybe", "", nil, 400, "queued"},
		{"GET", "/api/calls?queued=true&state=failed", "", nil, 400, "queued"},
		{"GET", "/api/calls?queued=true&app=none", "", nil, 404, "none"},
		{"GET", "/api/calls?queued=true&app=default&function=none", "", nil, 404, "none"},
		{"GET", "/api/calls?state=asleep", "", nil, 400, "asleep"},
		{"GET", "/api/calls?limit=0", "", nil, 400, "1000"},
		{"GET", "/api/calls?limit=5000", "", nil, 400, "1000"},
		{"GET", "/api/calls?after=%27%3B--", "", nil, 400, "after"},
		{"GET", "/api/apps/default/functions/f/logs?tail=all", "", nil, 400, "tail"},
		{"GET", "/api/apps/default/functions/f/logs?tail=-1", "", nil, 400, "tail"},
		{"GET", "/api/apps/default/functions/f/logs?tail=99999999999999999999", "", nil, 400, "tail"},
		{"GET", "/api/apps/default/functions/f/logs?events=some", "", nil, 400, "events"},
		{"GET", "/api/apps/default/functions/f/logs?call=" + unknown, "", nil, 404, unknown},
		{"GET", "/api/apps/default/functions/g/logs?call=" + id, "", nil, 400, "default/f"},
		{"GET", "/api/apps/default/functions/none/status", "", nil, 404, "none"},
		{"PATCH", "/api/apps/default/functions/f", `{"retries":-1}`, nil, 400, "retries"},
		{"PATCH", "/api/apps/default/functions/f", `{"async_timeout":"25h"}`, nil, 400, "24h"},
		{"PATCH", "/api/apps/default/functions/f", `{"async_timeout":"ever"}`, nil, 400, "async_timeout"},
		{"PATCH", "/api/apps/default/functions/f", `{"on_success":"ftp://x"}`, nil, 400, "on-success"},
		{"PATCH", "/api/apps/default/functions/f", `{"on_node_loss":"cry"}`, nil, 400, "on-node-loss"},
		{"PATCH", "/api/apps/default/functions/f", `{"delay":"-3s"}`, nil, 400, "delay"},
	} {
		a := n.ask(c.method, c.path, c.body, c.headers...)
		if a.status != c.status || !strings.Contains(a.body, c.says) {
			t.Errorf("%s %s %.60q: %d %s, want %d with %q", c.method, c.path, c.headers, a.status, a.body, c.status, c.says)
		}
		if a.status != 409 && a.header.Get("Location") != "" {
			t.Errorf("%s %s: a call %s that was not accepted", c.method, c.path, a.header.Get("Location"))
		}
	}
	_, err := n.tryEnqueue("f", "", func(r *client.CallRequest) { r.Body = struct{ io.Reader }{strings.NewReader(more)} })
	if faas.KindOf(err) != faas.TooLarge || !strings.Contains(err.Error(), "1 MB") {
		t.Errorf("a payload of unknown length over the limit: %v, want the limit", err)
	}
	if s, err := n.Status(t.Context(), faas.DefaultApp, "f"); err != nil || s.Total != 1 {
		t.Errorf("status %+v, %v: what was refused was accepted", s, err)
	}
}

func TestRaisedLimitStartsWhatWaits(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	for range 5 {
		n.enqueue("f", "x")
	}
	visits := []*visit{g.next()}
	if _, err := n.UpdateFunction(t.Context(), faas.DefaultApp, "f", client.Settings{MaxConcurrency: ptr(3)}, ""); err != nil {
		t.Fatal(err)
	}
	visits = append(visits, g.next(), g.next())
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{MaxConcurrency: ptr(4)}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.UpdateFunction(t.Context(), faas.DefaultApp, "f", client.Settings{MaxConcurrency: ptr(0)}, ""); err != nil {
		t.Fatal(err)
	}
	visits = append(visits, g.next())
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{MaxConcurrency: ptr(0)}); err != nil {
		t.Fatal(err)
	}
	visits = append(visits, g.next())
	for _, v := range visits {
		v.say("cat")
	}
	n.settled()
}

func TestQueueHasACap(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate, func(c *config.Config) { c.QueuePerFunction, c.QueueTotal = faas.MB, 2*faas.MB })
	n.gateImage()
	for _, name := range []string{"a", "b", "c"} {
		n.gated(g, name, func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	}
	payload := strings.Repeat("x", 700<<10)
	n.enqueue("a", payload)
	a := n.ask("POST", async("a"), payload, "Prefer: respond-async")
	if a.status != 503 || !strings.Contains(a.body, "1 MB") || a.header.Get("Retry-After") == "" {
		t.Errorf("over the cap of the function: %+v, want 503 with the limit", a)
	}
	n.enqueue("b", payload)
	if a := n.ask("POST", async("c"), payload, "Prefer: respond-async"); a.status != 503 || !strings.Contains(a.body, "2 MB") {
		t.Errorf("over the cap of the node: %+v, want 503 with the limit", a)
	}
	n.enqueue("c", "small")
	for range 3 {
		g.next().say("say done")
	}
	until(t, "there is room again", func() bool { _, err := n.tryEnqueue("a", payload); return err == nil })
	g.next().say("say done")
}

func TestQueuedCallRunsTheNewestRevision(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	n.enqueue("f", "first")
	v := g.next()
	second := n.enqueue("f", "second")
	if _, err := n.UpdateFunction(t.Context(), faas.DefaultApp, "f", client.Settings{Command: ptr([]string{"say", "new"})}, ""); err != nil {
		t.Fatal(err)
	}
	v.say("cat")
	if out, err := n.result(second.ID); out != "new" || err != nil {
		t.Errorf("result %q, %v", out, err)
	}
}

func TestPayloadThatBreaksOffIsNoCall(t *testing.T) {
	n := start(t)
	n.function("f", n.gateImage(), nil, "cat")
	made, err := n.Function(t.Context(), faas.DefaultApp, "f")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{async("f"), "/call/f/" + made.Address} {
		for _, body := range []string{"Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"} {
			for _, key := range []string{"", "Idempotency-Key: k\r\n"} {
				conn, err := net.Dial("tcp", n.addr)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nPrefer: respond-async\r\n%s%s", path, n.addr, key, body)
				conn.(*net.TCPConn).CloseWrite()
				conn.SetDeadline(time.Now().Add(long))
				if _, err := io.ReadAll(conn); err != nil {
					t.Errorf("%s: %v", path, err)
				}
				conn.Close()
			}
		}
	}
	if s, err := n.Status(t.Context(), faas.DefaultApp, "f"); err != nil || s.Total != 0 {
		t.Errorf("status %+v, %v; want no call", s, err)
	}
	if a := n.ask("POST", async("f"), "other", "Idempotency-Key: k"); a.status != 200 || a.body != "other" {
		t.Errorf("the key is taken: %+v", a)
	}
}

func TestCallsAreListedOnceInWhateverOrderTheyEnded(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.function("quick", n.gateImage(), nil, "cat")
	n.gated(g, "f", nil)
	var ids []string
	visits := make(map[string]*visit)
	for range 6 {
		id := n.enqueue("f", "x").ID
		ids = append(ids, id)
		visits[id] = g.next()
		if _, err := n.say("quick", "synchronous"); err != nil {
			t.Error(err)
		}
	}
	for _, i := range []int{3, 5, 4, 0, 2, 1} {
		visits[ids[i]].say("cat")
		n.ended(ids[i])
	}
	slices.Reverse(ids)
	var want []string
	for _, limit := range []int{100, 5, 1} {
		var got []string
		for f := (client.CallFilter{Limit: limit}); ; {
			calls, next, err := n.Calls(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range calls {
				got = append(got, c.ID)
			}
			if f.After = next; next == "" || len(got) > 50 {
				break
			}
		}
		if want == nil {
			want = got
		}
		async := slices.DeleteFunc(slices.Clone(got), func(id string) bool { return !slices.Contains(ids, id) })
		if len(got) != 12 || !slices.Equal(async, ids) || !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %d calls, the asynchronous ones %v, want 12 and %v", limit, len(got), async, ids)
		}
	}
}
