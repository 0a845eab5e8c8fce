package daemon_test

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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

// TestFunctionAtItsLimitBlocksNobodyElse has one app with a limit, too.
func TestFunctionAtItsLimitBlocksNobodyElse(t *testing.T) {
	n, g := start(t, withGate), openGate(t)
	n.gateImage()
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{MaxConcurrency: ptr(3)}); err != nil {
		t.Fatal(err)
	}
	n.gated(g, "one", func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	n.gated(g, "fails", func(s *client.Settings) {
		s.MaxConcurrency, s.Retries, s.RetryDelay = ptr(1), ptr(1), ptr(client.Duration(time.Hour))
	})
	n.gated(g, "free", nil)
	for range 5 {
		n.enqueue("one", "held")
	}
	held := g.next()
	again := n.enqueue("fails", "first")
	g.next().say("exit 1 not now")
	until(t, "the retry waits", func() bool { return n.record(again.ID).State == faas.CallQueued })
	if c := n.record(again.ID); c.Attempt != 1 || time.Until(c.Due) < 50*time.Minute || !strings.Contains(c.Waiting, "due in") || !strings.Contains(c.Waiting, "not now") {
		t.Errorf("the call that is to be retried: %+v", c)
	}
	second := n.enqueue("fails", "second")
	third := n.enqueue("free", "third")
	for range 2 {
		v := g.next()
		if v.Function == "one" {
			t.Errorf("a second call of a function that may run one: %+v", v)
		}
		v.say("cat")
	}
	for _, c := range []client.Call{second, third} {
		if out, err := n.result(c.ID); err != nil {
			t.Errorf("result %q, %v", out, err)
		}
	}
	held.say("cat")
	for range 4 {
		g.next().say("cat")
	}
	if _, err := n.CancelCall(t.Context(), again.ID); err != nil {
		t.Error(err)
	}
	if c := n.record(again.ID); c.State != faas.CallCanceled {
		t.Errorf("canceled: %+v", c)
	}
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

func TestFunctionRemovedWithCallsInLineCancelsThem(t *testing.T) {
	n, g := start(t, withGate), openGate(t)
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	runs := n.enqueue("f", "runs")
	v := g.next()
	var waits []client.Call
	for range 3 {
		waits = append(waits, n.enqueue("f", "waits"))
	}
	delay := time.Hour
	waits = append(waits, n.enqueue("f", "later", func(r *client.CallRequest) { r.Delay = &delay }))
	if err := n.DeleteFunction(t.Context(), faas.DefaultApp, "f", false); faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), runs.ID) {
		t.Errorf("removed while a call runs: %v, want Conflict with the call", err)
	}
	if err := n.DeleteFunction(t.Context(), faas.DefaultApp, "f", true); err != nil {
		t.Fatal(err)
	}
	for _, w := range waits {
		c := n.ended(w.ID)
		if c.State != faas.CallCanceled || c.Error == nil || !strings.Contains(c.Error.Message, "the function was removed") {
			t.Errorf("the call in line: %+v", c)
		}
	}
	v.say("cat")
	if c := n.ended(runs.ID); !c.State.Final() {
		t.Errorf("the call that ran: %+v", c)
	}
	n.gated(g, "f", nil) // another one
	if s, err := n.Status(t.Context(), faas.DefaultApp, "f"); err != nil || s.Total != 0 {
		t.Errorf("a function of the same name has %+v, %v", s, err)
	}
	if _, err := n.RetryCall(t.Context(), waits[0].ID); faas.KindOf(err) != faas.NotFound {
		t.Errorf("retry of a call of a function that is gone: %v", err)
	}
	g.none()
}

func TestSynchronousCallersAreServedDuringABacklog(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate, func(c *config.Config) { c.MaxConcurrency = 4 })
	image := n.gateImage()
	n.gated(g, "slow", nil)
	n.function("quick", image, nil, "cat")
	for range 40 {
		n.enqueue("slow", "x")
	}
	var held []*visit
	for range 4 {
		held = append(held, g.next())
	}
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			if out, err := n.say("quick", "now"); out != "now" || err != nil {
				t.Errorf("a synchronous call = %q, %v", out, err)
			}
		})
	}
	until(t, "all callers wait", func() bool {
		node, err := n.Node(t.Context())
		return err == nil && node.Waiting >= 20
	})
	held[0].say("cat")
	held[1].say("cat")
	callers.Wait() // while two calls of the backlog hold their slots
	held[2].say("cat")
	held[3].say("cat")
	for range 36 {
		g.next().say("cat")
	}
	until(t, "the backlog is worked off", func() bool {
		s, err := n.Status(t.Context(), faas.DefaultApp, "slow")
		return err == nil && s.Succeeded == 40
	})
	g.none()
}

func TestQueuedAndRunningCallsAreCanceled(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	for _, name := range []string{"hears", "deaf"} {
		n.gated(g, name, func(s *client.Settings) {
			s.MaxConcurrency, s.Retries = ptr(1), ptr(3)
			if name == "deaf" {
				s.Env["DEAF"] = ptr("1")
			}
		})
		runs := n.enqueue(name, "runs")
		v := g.next()
		waits, last := n.enqueue(name, "waits"), n.enqueue(name, "last")
		if c, err := n.CancelCall(t.Context(), waits.ID); err != nil || c.State != faas.CallCanceled {
			t.Errorf("cancel of one in line: %+v, %v", c, err)
		}
		if a := n.ask("POST", "/api/calls/"+runs.ID+"/cancel", ""); a.status != 202 {
			t.Errorf("cancel of one that runs: %+v, want 202", a)
		}
		v.gone(t)
		if c := n.ended(runs.ID); c.State != faas.CallCanceled || c.Error == nil || c.Error.Kind != faas.Canceled {
			t.Errorf("canceled: %+v", c)
		}
		if _, err := n.CancelCall(t.Context(), runs.ID); faas.KindOf(err) != faas.Conflict {
			t.Errorf("canceled twice: %v", err)
		}
		if v = g.next(); v.Call != last.ID {
			t.Errorf("next began %+v", v)
		}
		v.say("cat")
		n.ended(last.ID)
		again, err := n.RetryCall(t.Context(), runs.ID)
		if err != nil {
			t.Errorf("retry of one that was canceled while it ran: %v", err)
			continue
		}
		if v = g.next(); v.Call != again.ID || v.Payload != "runs" {
			t.Errorf("the repetition: %+v", v)
		}
		v.say("cat")
		n.ended(again.ID)
	}
	g.none()
	n.settled()
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

func TestSynchronousCallIsCanceledByItsID(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	n.gated(g, "f", nil)
	answers := make(chan answer, 1)
	for _, key := range []string{"X-None: x", "Idempotency-Key: k"} {
		go func() { answers <- n.ask("POST", async("f"), "x", key) }()
		v := g.next()
		if a := n.ask("POST", "/api/calls/"+v.Call+"/cancel", ""); a.status != 202 {
			t.Errorf("cancel: %+v", a)
		}
		v.gone(t)
		if a := <-answers; a.status < 400 || a.header.Get("Hob-Fault") != "canceled" {
			t.Errorf("the caller is told %+v", a)
		}
		until(t, "it is over", func() bool { return n.record(v.Call).State == faas.CallCanceled })
	}
	go func() { answers <- n.ask("POST", async("f"), "x", "Idempotency-Key: k") }()
	g.next().say("say again") // a canceled call has freed its key
	if a := <-answers; a.status != 200 || a.body != "again" {
		t.Errorf("again: %+v", a)
	}
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

func TestAppRemovedWithCallsInLineCancelsThem(t *testing.T) {
	n := start(t)
	n.gateImage()
	if _, err := n.CreateApp(t.Context(), "doomed", client.AppSettings{}); err != nil {
		t.Fatal(err)
	}
	image := gateImage
	if _, err := n.CreateFunction(t.Context(), "doomed", "f", client.Settings{Image: &image, Command: &[]string{"cat"}, Delay: ptr(client.Duration(time.Hour))}, ""); err != nil {
		t.Fatal(err)
	}
	call := n.enqueue("f", "x", func(r *client.CallRequest) { r.App = "doomed" })
	if err := n.DeleteApp(t.Context(), "doomed", true); err != nil {
		t.Fatal(err)
	}
	if c := n.ended(call.ID); c.State != faas.CallCanceled || c.Error == nil || !strings.Contains(c.Error.Message, "removed") {
		t.Errorf("its call: %+v", c)
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

// TestSynchronousCallersAreServedWhateverIsShort is as the one before, with each
// thing that calls may wait for.
func TestSynchronousCallersAreServedWhateverIsShort(t *testing.T) {
	for _, c := range []struct {
		name   string
		config func(*config.Config)
		app    int
		same   int // limit of the one function that both kinds call; 0: two functions
	}{
		{name: "memory", config: func(c *config.Config) { c.Memory = 128 * faas.MB }},
		{name: "the limit of the app", app: 4},
		{name: "the limit of the function", same: 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := openGate(t)
			n := start(t, withGate, func(cfg *config.Config) {
				if c.config != nil {
					c.config(cfg)
				}
			})
			n.gateImage()
			if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{MaxConcurrency: &c.app}); err != nil {
				t.Fatal(err)
			}
			n.gated(g, "slow", func(s *client.Settings) { s.MaxConcurrency = &c.same })
			quick := "slow"
			if c.same == 0 {
				quick = "quick"
				n.function(quick, gateImage, func(s *client.Settings) { s.Memory = ptr(32 * faas.MB) }, "cat")
			}
			for range 12 {
				n.enqueue("slow", "async")
			}
			var held []*visit
			for range 4 {
				held = append(held, g.next())
			}
			var callers sync.WaitGroup
			for range 10 {
				callers.Go(func() {
					if out, err := n.say(quick, "now"); out != "now" || err != nil {
						t.Errorf("a synchronous call = %q, %v", out, err)
					}
				})
			}
			until(t, "all callers wait", func() bool {
				top, err := n.Node(t.Context())
				return err == nil && top.Waiting >= 10
			})
			held[0].say("cat")
			held[1].say("cat")
			held = held[2:]
			done := make(chan struct{})
			go func() { callers.Wait(); close(done) }()
			served := false
			for !served {
				select {
				case v := <-g.visits:
					if v.Payload == "now" {
						v.say("cat")
					} else {
						held = append(held, v) // nobody waited just then
					}
				case <-done:
					served = true
				case <-time.After(long):
					t.Fatalf("synchronous callers wait, and the backlog holds %d slots", len(held))
				}
			}
			left := 12 - 2 - len(held)
			for _, v := range held {
				v.say("cat")
			}
			for range left {
				g.next().say("cat")
			}
			n.settled()
		})
	}
}

func TestBacklogIsSeenFromEverywhereOnce(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate, func(c *config.Config) { c.Memory = 128 * faas.MB })
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.Memory = ptr(64 * faas.MB) })
	var ids []string
	for range 6 {
		ids = append(ids, n.enqueue("f", "x").ID)
	}
	visits := []*visit{g.next(), g.next()}
	until(t, "two run, four wait", func() bool {
		s, err := n.Status(t.Context(), faas.DefaultApp, "f")
		return err == nil && s == (client.Status{Total: 6, Queued: 4, Running: 2})
	})
	made, err := n.Function(t.Context(), faas.DefaultApp, "f")
	if err != nil {
		t.Fatal(err)
	}
	if a := n.ask("GET", "/status/f/"+made.Address+"?list=1", ""); !strings.Contains(a.body, `"Pending":4,"Running":2,`) || strings.Count(a.body, `"PENDING"`) != 4 {
		t.Errorf("Hyper's status: %s", a.body)
	}
	for i, id := range ids {
		c := n.record(id)
		want := map[faas.CallState]int{faas.CallQueued: 202, faas.CallRunning: 201}[c.State]
		if a := n.ask("GET", "/output/f/"+made.Address+"/"+id, ""); a.status != want {
			t.Errorf("call %d is %s, and Hyper says %d %s", i, c.State, a.status, a.body)
		}
		runs := c.ID == visits[0].Call || c.ID == visits[1].Call
		if runs != (c.State == faas.CallRunning) {
			t.Errorf("call %d is %s: %+v", i, c.State, c)
		}
		if !runs && (!strings.Contains(c.Waiting, "memory") || !strings.Contains(c.Waiting, "place")) {
			t.Errorf("call %d waits for %q, want its place, and memory", i, c.Waiting)
		}
	}
	top, err := n.Top(t.Context())
	if err != nil || len(top.Functions) != 1 || top.Functions[0].Running != 2 || top.Functions[0].Queued != 4 {
		t.Errorf("top: %+v, %v; want 2 running and 4 queued", top.Functions, err)
	}
	if queued, err := n.QueuedCalls(t.Context(), faas.DefaultApp, "f", 0); err != nil || len(queued) != 4 {
		t.Errorf("queued: %d %+v, %v; want 4", len(queued), queued, err)
	} else {
		for i, c := range queued {
			if c.ID != ids[i+2] || c.Place != i+1 {
				t.Errorf("place %d has call %+v, want %s", i+1, c, ids[i+2])
			}
		}
	}
	count := func() map[string]int {
		seen := make(map[string]int)
		calls, _, err := n.Calls(t.Context(), client.CallFilter{App: faas.DefaultApp, Function: "f"})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			seen[c.ID]++
		}
		return seen
	}
	once := func(seen map[string]int) bool {
		for _, id := range ids {
			if seen[id] != 1 {
				return false
			}
		}
		return len(seen) == 6
	}
	if seen := count(); !once(seen) {
		t.Errorf("listed: %v", seen)
	}
	for _, v := range visits {
		v.say("cat")
	}
	for range 4 {
		g.next().say("cat")
	}
	for _, id := range ids {
		n.ended(id)
	}
	if seen := count(); !once(seen) {
		t.Errorf("listed when they are over: %v", seen)
	}
}

func TestCallThatWaitsForMemoryHasNotBegun(t *testing.T) {
	g := openGate(t)
	dir := filepath.Join(t.TempDir(), "data")
	small := func(c *config.Config) { c.Data, c.Memory = dir, 64*faas.MB }
	n := start(t, withGate, small)
	n.gateImage()
	n.gated(g, "once", func(s *client.Settings) { s.Memory, s.OnNodeLoss = ptr(64*faas.MB), ptr("fail") })
	runs := n.enqueue("once", "runs")
	v := g.next()
	first, second, third := n.enqueue("once", "first"), n.enqueue("once", "second"), n.enqueue("once", "third")
	for i, id := range []string{first.ID, second.ID, third.ID} {
		if c := n.record(id); c.State != faas.CallQueued || c.Place != i+1 {
			t.Errorf("call %d: %+v, want it queued at place %d", i+1, c, i+1)
		}
	}
	if c, err := n.CancelCall(t.Context(), first.ID); err != nil {
		t.Errorf("cancel of one that waits for memory: %+v, %v", c, err)
	}
	if c := n.ended(first.ID); c.State != faas.CallCanceled || !c.Started.IsZero() {
		t.Errorf("it was canceled: %+v", c)
	}
	until(t, "the next one has its place", func() bool { return n.record(second.ID).Place == 1 })
	n.stop()
	v.gone(t)
	n = run(t, withGate, small)
	if c := n.ended(runs.ID); c.State != faas.CallFailed || c.Error == nil || !strings.Contains(c.Error.Message, "must not run twice") {
		t.Errorf("the one that ran: %+v", c)
	}
	for _, id := range []string{second.ID, third.ID} {
		v := g.next()
		if v.Call != id {
			t.Errorf("began %+v, want %s", v, id)
		}
		v.say("cat")
		n.ended(id)
	}
	g.none()
}
