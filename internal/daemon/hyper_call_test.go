package daemon_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"hob/internal/config"
)

// TestCallsOverTheHyperQuotaWaitInOneLine is row 47 of spec/checklist.md.
func TestCallsOverTheHyperQuotaWaitInOneLine(t *testing.T) {
	g := openGate(t)
	h := startHyper(t)
	one, two := h.gate(g, "one"), h.gate(g, "two")
	own := h.create("own", `["cat"]`, "")
	var ids []string
	for i := range 20 {
		f := one
		if i%3 == 0 {
			f = two
		}
		ids = append(ids, h.call(f, fmt.Sprint(i)))
	}
	began := make(map[string]*visit)
	for range 10 {
		v := g.next()
		began[v.Payload] = v
	}
	for i := range 10 {
		if began[fmt.Sprint(i)] == nil {
			t.Errorf("call %d has not begun: %v", i, began)
		}
	}
	var pending, running int
	until(t, "ten run", func() bool {
		pending, running = 0, 0
		for _, f := range []fn{one, two} {
			var s struct{ Pending, Running int }
			if err := json.Unmarshal([]byte(h.data("GET", f.at("status"), nil).body), &s); err != nil {
				t.Fatal(err)
			}
			pending, running = pending+s.Pending, running+s.Running
		}
		return running == 10
	})
	if pending != 10 {
		t.Errorf("Pending %d, Running %d; want 10 and 10", pending, running)
	}
	for i, id := range ids[10:] {
		c := h.record(id)
		if c.Place != i+1 || !strings.Contains(c.Waiting, "10 calls at once") {
			t.Errorf("call %d: place %d, %q; want place %d", i+10, c.Place, c.Waiting, i+1)
		}
	}
	queued, err := h.QueuedCalls(t.Context(), "hyper", "", 0)
	if err != nil || len(queued) != 10 || queued[0].ID != ids[10] || queued[9].ID != ids[19] {
		t.Errorf("queued: %+v, %v", queued, err)
	}
	last := h.call(own, "last in line") // the quota counts all functions together
	if a := h.data("GET", own.at("output")+"/"+last, nil); a.status != 202 {
		t.Errorf("a third function does not wait for the quota: %+v", a)
	}
	// Another app has nothing to do with it.
	h.function("free", "ubuntu", nil, "cat")
	if out, err := h.say("free", "x"); out != "x" || err != nil {
		t.Errorf("a function of another app = %q, %v", out, err)
	}
	for i := range 10 {
		began[fmt.Sprint(i)].say("cat")
		v := g.next()
		if v.Payload != fmt.Sprint(i+10) {
			t.Errorf("number %d to begin is call %s", i+10, v.Payload)
		}
		began[v.Payload] = v
	}
	for i := range 10 {
		began[fmt.Sprint(i+10)].say("cat")
	}
	for i, id := range ids {
		f := one
		if i%3 == 0 {
			f = two
		}
		if a := h.data("GET", f.at("output")+"/"+id+"/wait", nil); a.status != 200 || a.body != fmt.Sprint(i) {
			t.Errorf("call %d: %+v", i, a)
		}
	}
	if a := h.data("GET", own.at("output")+"/"+last+"/wait", nil); a.status != 200 || a.body != "last in line" {
		t.Errorf("the last one: %+v", a)
	}
	g.none()
	h.settled()
}

func TestUpgradedLogTellsOfCallsAsTheyGo(t *testing.T) {
	g := openGate(t)
	h := startHyper(t)
	f := h.gate(g, "f")
	h.call(f, "before")
	g.next().say("exit 2 bad luck")
	until(t, "the first call has failed", func() bool { return strings.Contains(h.data("GET", f.at("logs"), nil).body, "FAILED") })
	all, some := h.follow(f, "follow=true&tail=all"), h.follow(f, "follow=true&tail=1")
	next := func(r *bufio.Reader) (event, call, rest string) {
		t.Helper()
		line, err := r.ReadString('\n')
		var e struct{ Event, CallId, ShortStdin, ShortStdout, ShortStderr, Message string }
		if err == nil {
			err = json.Unmarshal([]byte(line), &e)
		}
		if err != nil {
			t.Fatalf("%q, %v", line, err)
		}
		return e.Event, e.CallId, e.ShortStdin + e.ShortStdout + e.Message
	}
	for _, want := range []string{"CALL before", "PENDING ", "RUNNING ", "FAILED exit code 2: bad luck"} {
		if event, _, rest := next(all); event+" "+rest != want && !(event == "FAILED" && strings.Contains(rest, "exit code 2: bad luck")) {
			t.Errorf("event %s %q, want %q", event, rest, want)
		}
	}
	if event, _, _ := next(some); event != "FAILED" {
		t.Errorf("the last event is %s, want FAILED", event)
	}
	id := h.call(f, "after")
	v := g.next()
	for _, r := range []*bufio.Reader{all, some} {
		for _, want := range []string{"CALL after", "PENDING ", "RUNNING "} { // while it runs
			if event, call, rest := next(r); event+" "+rest != want || call != id {
				t.Errorf("event %s %q of %s, want %q", event, rest, call, want)
			}
		}
	}
	v.say("say done")
	for _, r := range []*bufio.Reader{all, some} {
		if event, call, rest := next(r); event != "FINISHED" || call != id || rest != "done" {
			t.Errorf("event %s %q of %s, want FINISHED", event, rest, call)
		}
	}
	one := h.data("GET", f.at("logs")+"?callid="+id+"&tail=2", nil)
	if one.status != 200 || strings.Count(one.body, "\n") != 2 || strings.Count(one.body, id) != 2 {
		t.Errorf("two lines of one call: %+v", one)
	}
	if a := h.data("GET", f.at("logs")+"?follow=0?callid="+id, nil); a.status != 200 || strings.Count(a.body, id) != 4 {
		t.Errorf("with the second '?' of the documents: %+v", a)
	}
	h.stop() // with two that follow
	if _, err := all.ReadString('\n'); err != io.EOF {
		t.Errorf("the stream ends with %v", err)
	}
}

func TestHyperFunctionHasHeadersAndSettingsInItsEnvironment(t *testing.T) {
	h := startHyper(t)
	f := h.create("f", `["env","HTTP_X_TRACE_ID"]`, "")
	if a := h.data("GET", f.at("call")+"/sync", strings.NewReader("x"), "X-Trace-Id: 7"); a.status != 200 || a.body != "7" {
		t.Errorf("a header: %+v", a)
	}
	p := h.create("p", `["env","HTTP_PROXY"]`, "")
	if a := h.data("DELETE", p.at("call")+"/sync", nil, "Proxy: evil"); a.status != 200 || a.body != "" {
		t.Errorf("Proxy is passed on: %+v", a)
	}
	e := h.create("e", `["env","A"]`, "")
	for _, c := range []struct{ env, want string }{{`["A=1"]`, "1"}, {"", "1"}, {"[]", ""}} {
		body := `{"Name":"e","Config":{}}`
		if c.env != "" {
			body = `{"Name":"e","Config":{"Env":` + c.env + `}}`
		}
		if a := h.manage("PUT", "/funcs/e", body); a.status != 200 {
			t.Errorf("update: %+v", a)
		}
		if a := h.data("POST", e.at("call")+"/sync", nil); a.body != c.want {
			t.Errorf("after %s: %q, want %q", body, a.body, c.want)
		}
	}
}

func TestManySynchronousHyperCallersShareTheQuota(t *testing.T) {
	h := startHyper(t, func(c *config.Config) { c.HyperQuota = 3 })
	f := h.create("f", `["cat"]`, "")
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			if a := h.data("POST", f.at("call")+"/sync", strings.NewReader(fmt.Sprint(i))); a.status != 200 || a.body != fmt.Sprint(i) {
				t.Errorf("caller %d: %+v", i, a)
			}
		})
	}
	callers.Wait()
	if a := h.data("GET", f.at("status"), nil); !strings.Contains(a.body, `"Total":20,"Pending":0,"Running":0,"Finished":20,"Failed":0`) {
		t.Errorf("status: %+v", a)
	}
}

func TestKeyOverTheHyperAPIIsOneCall(t *testing.T) {
	g := openGate(t)
	h := startHyper(t)
	f := h.gate(g, "f")
	const key = "Idempotency-Key: k"
	first := h.accepted(h.data("POST", f.at("call"), strings.NewReader("x"), key))
	if second := h.accepted(h.data("POST", f.at("call"), strings.NewReader("x"), key)); second != first {
		t.Errorf("call %s, then %s", first, second)
	}
	if a := h.data("POST", f.at("call"), strings.NewReader("y"), key); a.status != 422 {
		t.Errorf("another payload: %+v, want 422", a)
	}
	g.next().say("cat")
	if a := h.data("POST", f.at("call")+"/sync", strings.NewReader("x"), key); a.status != 200 || a.body != "x" {
		t.Errorf("with /sync: %+v", a)
	}
	g.none()
}

func TestCallerOfSyncWhoLeavesFindsTheResult(t *testing.T) {
	g := openGate(t)
	h := startHyper(t)
	f := h.gate(g, "f")
	conn, err := tls.Dial("tcp", h.host, h.tls)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST %s/sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nHello", f.at("call"))
	v := g.next()
	conn.Close()
	var s struct {
		List []struct{ CallId, Status string }
	}
	if err := json.Unmarshal([]byte(h.data("GET", f.at("status")+"?list=True", nil).body), &s); err != nil || len(s.List) != 1 || s.List[0].Status != "RUNNING" {
		t.Fatalf("status %+v, %v", s, err)
	}
	v.say("cat")
	if a := h.data("GET", f.at("output")+"/"+s.List[0].CallId+"/wait", nil); a.status != 200 || a.body != "Hello" {
		t.Errorf("result %+v", a)
	}
}

func TestMostOfAPayloadIsAccepted(t *testing.T) {
	h := startHyper(t)
	f := h.create("f", `["cat"]`, "")
	payload := strings.Repeat("x", 1<<20)
	for _, body := range []io.Reader{strings.NewReader(payload), struct{ io.Reader }{strings.NewReader(payload)}} {
		if a := h.data("POST", f.at("call")+"/sync", body); a.status != 200 || a.body != payload {
			t.Errorf("1 MB: %d, %d bytes", a.status, len(a.body))
		}
	}
}

func TestKeyAnswersWhoAsksSyncTwice(t *testing.T) {
	h := startHyper(t)
	f := h.create("f", `["cat"]`, "")
	for i := range 2 {
		if a := h.data("POST", f.at("call")+"/sync", strings.NewReader("x"), "Idempotency-Key: k"); a.status != 200 || a.body != "x" {
			t.Errorf("time %d: %+v", i+1, a)
		}
	}
	if a := h.data("GET", f.at("status"), nil); !strings.Contains(a.body, `"Total":1,`) {
		t.Errorf("status %+v", a)
	}
}

func TestFunctionIsToldTheURLAsItWasAsked(t *testing.T) {
	h := startHyper(t)
	h.function("url", "ubuntu", nil, "env", "HOB_REQUEST_URL")
	req, _ := http.NewRequest("POST", "https://"+h.host+async("url"), nil)
	if a := h.do(req); a.status != 200 || !strings.HasPrefix(a.body, "https://"+h.host) {
		t.Errorf("%+v", a)
	}
}
