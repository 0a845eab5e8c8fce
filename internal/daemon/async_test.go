package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/build"
	"hob/internal/config"
	"hob/internal/testenv"
)

// long is how long a test waits for what must come.
const long = 30 * time.Second

// A gate is where runs of the function gate ask what to do.
type gate struct {
	t      *testing.T
	addr   string
	visits chan *visit

	mu   sync.Mutex
	open []net.Conn // of all visits: one that nobody knows any more would be closed
}

// A visit is one run of the function gate, which waits for a word.
type visit struct {
	Call, Attempt, Function, Payload string
	State, Of                        string // of the call whose result was delivered to it

	conn net.Conn
}

func openGate(t *testing.T) *gate {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{t: t, addr: l.Addr().String(), visits: make(chan *visit, 1000)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				g.mu.Lock()
				g.open = append(g.open, conn)
				g.mu.Unlock()
				v := &visit{conn: conn}
				if json.NewDecoder(conn).Decode(v) == nil { // else its sandbox has ended
					g.visits <- v
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return g
}

// next returns the next run that has begun.
func (g *gate) next() *visit {
	g.t.Helper()
	select {
	case v := <-g.visits:
		return v
	case <-time.After(long):
		g.t.Fatal("no call began")
		return nil
	}
}

// none says that no run has begun that nobody has seen.
func (g *gate) none() {
	g.t.Helper()
	select {
	case v := <-g.visits:
		g.t.Errorf("%s ran once more: call %s, attempt %s, payload %q", v.Function, v.Call, v.Attempt, v.Payload)
		v.say("exit 1")
	default:
	}
}

// say tells the run what to do.
func (v *visit) say(what string) {
	fmt.Fprintln(v.conn, what)
	v.conn.Close()
}

// gone waits until the sandbox of the run has ended.
func (v *visit) gone(t *testing.T) {
	t.Helper()
	v.conn.SetReadDeadline(time.Now().Add(long))
	if n, err := v.conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the sandbox of call %s goes on", v.Call)
	}
	v.conn.Close()
}

// gateTar is an image of testdata/gate.
var gateTar = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "hobgate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "bin")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(bin, "gate"), "./testdata/gate")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	for _, verb := range []string{"say", "echo", "cat", "env", "exit", "big", "log", "hang"} {
		if err := os.Symlink("gate", filepath.Join(bin, verb)); err != nil {
			return nil, err
		}
	}
	img, err := build.FromDir(context.Background(), build.Options{Dir: dir, Cmd: []string{"/bin/gate"}, Env: []string{"PATH=/bin"}})
	if err != nil {
		return nil, err
	}
	var tar bytes.Buffer
	err = build.WriteTar(&tar, gateImage, img)
	return tar.Bytes(), err
})

const gateImage = "hob.local/gate:latest"

// gateImage loads the image of testdata/gate.
func (n *node) gateImage() string {
	n.t.Helper()
	tar, err := gateTar()
	if err == nil {
		_, err = n.Load(n.t.Context(), bytes.NewReader(tar), "")
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return gateImage
}

// withGate lets functions share the network of the node.
func withGate(c *config.Config) { c.Insecure, c.Grace = true, 100*time.Millisecond }

// gated makes a function that asks at the gate.
func (n *node) gated(g *gate, name string, change func(*client.Settings)) {
	n.t.Helper()
	n.function(name, gateImage, func(s *client.Settings) {
		s.Network, s.Env, s.Memory, s.Command = ptr("host"), map[string]*string{"GATE": &g.addr}, ptr(32*faas.MB), nil
		if change != nil {
			change(s)
		}
	})
}

// enqueue makes an asynchronous call.
func (n *node) enqueue(name, payload string, change ...func(*client.CallRequest)) client.Call {
	n.t.Helper()
	call, err := n.tryEnqueue(name, payload, change...)
	if err != nil {
		n.t.Fatal(err)
	}
	return call
}

func (n *node) tryEnqueue(name, payload string, change ...func(*client.CallRequest)) (client.Call, error) {
	r := client.CallRequest{App: faas.DefaultApp, Function: name, Body: strings.NewReader(payload)}
	for _, f := range change {
		f(&r)
	}
	return n.Enqueue(n.t.Context(), r)
}

// result waits for the end of a call, and returns what it answered.
func (n *node) result(id string) (string, error) {
	n.t.Helper()
	a, err := n.Result(n.t.Context(), id, long)
	if err != nil {
		return "", err
	}
	defer a.Body.Close()
	out, err := io.ReadAll(a.Body)
	return string(out), err
}

// record returns the record of a call.
func (n *node) record(id string) client.Call {
	n.t.Helper()
	call, err := n.CallRecord(n.t.Context(), id)
	if err != nil {
		n.t.Fatal(err)
	}
	return call
}

// ended waits for the end of a call and returns its record.
func (n *node) ended(id string) client.Call {
	n.t.Helper()
	if _, err := n.result(id); errors.Is(err, client.ErrPending) {
		n.t.Fatalf("call %s does not end: %+v", id, n.record(id))
	}
	return n.record(id)
}

// until waits for what nothing tells of.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(long); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not happen: %s", what)
		}
	}
}

// answer is what came of a request.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request to the own API. Headers are "Name: value".
func (n *node) ask(method, path, body string, headers ...string) answer {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, "http://"+n.addr+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Error(err)
	}
	return answer{resp.StatusCode, resp.Header, string(out)}
}

func async(name string) string { return "/api/apps/default/functions/" + name + "/call" }

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

func TestLogIsReadAroundADamagedPlace(t *testing.T) {
	var data string
	n := start(t, func(c *config.Config) { data = c.Data })
	n.function("f", n.gateImage(), nil, "log", "50")
	call := n.enqueue("f", "")
	n.ended(call.ID)
	read := func() string { return n.ask("GET", "/api/apps/default/functions/f/logs", "").body }
	until(t, "the end of the call is in the log", func() bool { return strings.Contains(read(), `"FINISHED"`) })
	before := read()
	segments, err := filepath.Glob(filepath.Join(data, "logs/functions/*/*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte("line 25 "))
	if _, err := f.WriteAt([]byte("xx"), int64(at)); err != nil {
		t.Fatal(err)
	}
	after := read()
	for i := range 50 {
		if has := strings.Contains(after, fmt.Sprintf("line %d -", i)); has != (i != 25) {
			t.Errorf("line %d is there: %t", i, has)
		}
	}
	if !strings.Contains(after, "damaged") || strings.Count(after, `"event"`) != strings.Count(before, `"event"`) {
		t.Errorf("the loss is not named, or events are missing: %s", after)
	}
	if a := n.ask("GET", "/api/apps/default/functions/f/logs?call="+call.ID+"&tail=1", ""); a.status != 200 || !strings.Contains(a.body, `"FINISHED"`) {
		t.Errorf("the last line of the call: %+v", a)
	}
}

func TestFollowerThatNeverReadsHoldsNobodyUp(t *testing.T) {
	n := start(t)
	n.function("f", n.gateImage(), nil, "log", "500")
	lazy, err := net.Dial("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer lazy.Close()
	lazy.(*net.TCPConn).SetReadBuffer(1 << 10)
	fmt.Fprintf(lazy, "GET /api/apps/default/functions/f/logs?follow=true HTTP/1.1\r\nHost: %s\r\n\r\n", n.addr)
	ctx, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	var connected, followers sync.WaitGroup
	for range 99 {
		connected.Add(1)
		followers.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+n.addr+"/api/apps/default/functions/f/logs?follow=true", nil)
			resp, err := http.DefaultTransport.RoundTrip(req)
			connected.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			count := 0
			lines := bufio.NewScanner(resp.Body)
			for lines.Scan() {
				if count++; strings.Contains(lines.Text(), `"FINISHED"`) {
					return
				}
			}
			t.Errorf("a follower read %d lines, and never the end of the call: %v", count, lines.Err())
		})
	}
	connected.Wait()
	if out, err := n.call("f", nil); out != "" || err != nil {
		t.Errorf("call = %q, %v", out, err)
	}
	n.ended(n.enqueue("f", "").ID)
	followers.Wait()
	if out, err := n.call("f", nil); out != "" || err != nil {
		t.Errorf("call = %q, %v", out, err)
	}
	n.stop() // within its grace
}

func TestClockThatWasSetBackDelaysNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	n := start(t, keep)
	n.function("f", n.gateImage(), func(s *client.Settings) { s.MaxConcurrency = ptr(1) }, "cat")
	delay := 2 * time.Second
	later := n.enqueue("f", "later", func(r *client.CallRequest) { r.Delay = &delay })
	if c := n.record(later.ID); c.State != faas.CallQueued {
		t.Fatalf("it did not wait: %+v", c)
	}
	n.stop()
	shift(t, filepath.Join(dir, "hob.db"), time.Hour)
	n = run(t, keep)
	if c := n.record(later.ID); c.State == faas.CallQueued && time.Duration(c.Estimate) > time.Minute {
		t.Errorf("a call that is due in %v says %q, estimate %v", delay, c.Waiting, c.Estimate)
	}
	if out, err := n.result(later.ID); out != "later" || err != nil {
		t.Errorf("result = %q, %v", out, err)
	}
	hour := time.Hour
	late := n.enqueue("f", "", func(r *client.CallRequest) { r.Delay = &hour })
	if c := n.record(late.ID); time.Duration(c.Estimate) > hour+time.Minute {
		t.Errorf("a call with a delay of %v says %q, estimate %v", hour, c.Waiting, c.Estimate)
	}
	if out, err := n.result(n.enqueue("f", "now").ID); out != "now" || err != nil {
		t.Errorf("a new call = %q, %v", out, err)
	}
}

// TestPlaceInLineIsToldAlsoWhenTheClockWasSetBack is about calls that are due, on a
// node whose clock is behind its database.
func TestPlaceInLineIsToldAlsoWhenTheClockWasSetBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	g := openGate(t)
	n := start(t, keep, withGate)
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	n.stop()
	shift(t, filepath.Join(dir, "hob.db"), time.Hour)
	n = run(t, keep, withGate)
	n.enqueue("f", "first")
	v := g.next()
	second := n.enqueue("f", "second")
	if second.Place != 1 || !strings.Contains(second.Waiting, "place 1") {
		t.Errorf("the next in line: %+v, want place 1", second)
	}
	v.say("cat")
	g.next().say("cat")
	if c := n.ended(second.ID); c.Finished.Before(c.Queued) {
		t.Errorf("it ended (%v) before it was accepted (%v)", c.Finished, c.Queued)
	}
}

// shift moves all that a database knows of time into the future, as if the clock
// of the machine had been set back.
func shift(t *testing.T, path string, by time.Duration) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	us := strconv.FormatInt(by.Microseconds(), 10)
	now := strconv.FormatInt(time.Now().UnixMicro(), 10)
	for _, change := range []string{
		"UPDATE call SET due = due + " + us + ", queued = queued + " + us,
		"UPDATE key SET made = made + " + us,
		"UPDATE clock SET newest = max(newest, " + now + ") + " + us,
	} {
		if _, err := db.Exec(change); err != nil {
			t.Fatal(err)
		}
	}
}

// fill leaves about so much room in the file system of dir, and returns the file
// that holds the rest.
func fill(t *testing.T, dir string, leave int) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	size := int64(0)
	for err == nil {
		var k int
		k, err = f.Write(block)
		size += int64(k)
	}
	if leave > 0 {
		if err := f.Truncate(max(0, size-int64(leave))); err != nil {
			t.Fatal(err)
		}
	}
	return f.Name()
}

func TestFullDiskRefusesNewCallsAndKeepsTheAccepted(t *testing.T) {
	disk := smallDisk(t, "64m")
	g := openGate(t)
	n := start(t, withGate, func(c *config.Config) { c.Data, c.LeastFreeDisk = filepath.Join(disk, "data"), 0 })
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(2) })
	payload := make([]byte, 100<<10)
	rand.Read(payload)
	var ids []string
	for range 6 {
		ids = append(ids, n.enqueue("f", string(payload)).ID)
	}
	filler := fill(t, disk, 0)
	large := make([]byte, 3<<20) // a file
	rand.Read(large)
	if _, err := n.tryEnqueue("f", string(large)); faas.KindOf(err) != faas.Busy || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("a large payload while the disk is full: %v (%s), want Busy with the reason", err, faas.KindOf(err))
	}
	var refused error
	for range 100 { // until what room the database has is used up
		call, err := n.tryEnqueue("f", string(payload))
		if refused = err; err != nil {
			break
		}
		ids = append(ids, call.ID)
	}
	if faas.KindOf(refused) != faas.Busy || !strings.Contains(refused.Error(), "full") {
		t.Errorf("enqueue while the disk is full: %v (%s), want Busy with the reason", refused, faas.KindOf(refused))
	}
	a := n.ask("POST", async("f"), string(payload), "Prefer: respond-async")
	if a.status != 503 || !strings.Contains(a.body, "full") || a.header.Get("Retry-After") == "" {
		t.Errorf("enqueue while the disk is full: %d %s, want 503 with the reason and the time to wait", a.status, a.body)
	}
	for range 2 {
		g.next().say("cat") // what came of it cannot be kept
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	runs := make(chan int)
	enough := make(chan struct{})
	go func() {
		count := 2
		for {
			select {
			case v := <-g.visits:
				v.say("cat")
				count++
			case <-enough:
				runs <- count
				return
			}
		}
	}()
	for _, id := range ids {
		if out, err := n.result(id); out != string(payload) || err != nil {
			t.Errorf("result of an accepted call: %d bytes, %v", len(out), err)
		}
	}
	again := n.enqueue("f", "there is room")
	if out, err := n.result(again.ID); out != "there is room" || err != nil {
		t.Errorf("after the disk has room: %q, %v", out, err)
	}
	close(enough)
	attempts := 0
	for _, id := range append(ids, again.ID) {
		attempts += n.record(id).Attempt
	}
	if count := <-runs; count > attempts {
		t.Errorf("%d runs of %d attempts", count, attempts)
	}
}

func TestLowDiskRefusesAsynchronousCallsBeforeItIsFull(t *testing.T) {
	disk := smallDisk(t, "64m")
	g := openGate(t)
	n := start(t, withGate, func(c *config.Config) { c.Data, c.LeastFreeDisk = filepath.Join(disk, "data"), 16*faas.MB })
	image := n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	n.hot("hot", n.hotImage(), nil)
	n.function("cold", image, nil, "cat")
	cold, err := n.Function(t.Context(), faas.DefaultApp, "cold")
	if err != nil {
		t.Fatal(err)
	}
	address := "/call/cold/" + cold.Address
	earlier := n.enqueue("cold", "earlier")
	n.ended(earlier.ID)
	first, second := n.enqueue("f", "1"), n.enqueue("f", "2")
	v := g.next()
	filler := fill(t, disk, 8<<20)
	n.becomes(503)
	for _, headers := range [][]string{{"Prefer: respond-async"}, {"Idempotency-Key: k"}} {
		a := n.ask("POST", async("f"), "x", headers...)
		if a.status != 503 || !strings.Contains(a.body, "16 MB") || a.header.Get("Retry-After") == "" {
			t.Errorf("a call with %q while the disk is low: %+v, want 503 with the limit", headers, a)
		}
	}
	for _, path := range []string{address, address + "/sync"} {
		if a := n.ask("POST", path, "x"); a.status != 503 || !strings.Contains(a.body, "16 MB") || a.header.Get("Retry-After") == "" {
			t.Errorf("%s while the disk is low: %+v, want 503 with the limit", path, a)
		}
	}
	if a := n.ask("GET", strings.Replace(address, "call", "output", 1)+"/"+earlier.ID, ""); a.status != 200 || a.body != "earlier" {
		t.Errorf("an earlier result: %+v", a)
	}
	for i := range 5 {
		if out, err := n.say("hot", "count"); out != fmt.Sprint(i+1) || err != nil {
			t.Errorf("hot call = %q, %v", out, err)
		}
		if out, err := n.say("cold", "count"); out != "count" || err != nil {
			t.Errorf("call = %q, %v", out, err)
		}
	}
	v.say("cat")
	g.next().say("cat")
	for i, c := range []client.Call{first, second} {
		if out, err := n.result(c.ID); out != fmt.Sprint(i+1) || err != nil {
			t.Errorf("an accepted call = %q, %v", out, err)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	n.becomes(200)
	n.enqueue("f", "3")
	g.next().say("cat")
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

func TestShutdownPutsRunningCallsBackIntoTheirPlaces(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	g := openGate(t)
	n := start(t, keep, withGate)
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(2) })
	n.gated(g, "once", func(s *client.Settings) { s.MaxConcurrency, s.OnNodeLoss = ptr(1), ptr("fail") })
	var ids []string
	for i := range 5 {
		ids = append(ids, n.enqueue("f", fmt.Sprint(i)).ID)
	}
	runs, waits := n.enqueue("once", "runs"), n.enqueue("once", "waits")
	var held []*visit
	for range 3 {
		held = append(held, g.next())
	}
	follow, err := http.Get("http://" + n.addr + "/api/apps/default/functions/f/logs?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer follow.Body.Close()
	n.stop()
	for _, v := range held {
		v.gone(t)
	}
	g.none()
	n = run(t, keep, withGate)
	began := make(map[string]string) // attempt by call
	others := 0
	next := func() (of *visit) {
		for of == nil {
			switch v := g.next(); {
			case v.Function == "f":
				began[v.Call], of = v.Attempt, v
			case v.Call != waits.ID || v.Attempt != "1":
				t.Errorf("of the function that must not run twice began %+v", v)
				fallthrough
			default:
				others++
				v.say("cat")
			}
		}
		return of
	}
	held = []*visit{next(), next()}
	if began[ids[0]] != "2" || began[ids[1]] != "2" {
		t.Errorf("the first two to begin are %v, want the second attempts of %v", began, ids[:2])
	}
	for i := 2; i < 5; i++ {
		held[i-2].say("cat")
		if v := next(); v.Call != ids[i] || v.Attempt != "1" {
			t.Errorf("then began %+v, want call %d", v, i)
		} else {
			held = append(held, v)
		}
	}
	held[3].say("cat")
	held[4].say("cat")
	if others == 0 {
		g.next().say("cat")
	}
	for i, id := range ids {
		if out, err := n.result(id); out != fmt.Sprint(i) || err != nil {
			t.Errorf("call %d = %q, %v", i, out, err)
		}
	}
	if c := n.ended(runs.ID); c.State != faas.CallFailed || c.Error == nil || !strings.Contains(c.Error.Message, "must not run twice") {
		t.Errorf("the one that must not run twice: %+v", c)
	}
	if c := n.ended(waits.ID); c.State != faas.CallSucceeded {
		t.Errorf("the one that had not run: %+v", c)
	}
	g.none()
}

func TestFailuresAreTriedAgainThenKeptAndMayBeRepeated(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) {
		s.Retries, s.RetryDelay, s.RetryMax = ptr(2), ptr(client.Duration(20*time.Millisecond)), ptr(client.Duration(50*time.Millisecond))
	})
	call := n.enqueue("f", "payload")
	for attempt := range 3 {
		v := g.next()
		if v.Call != call.ID || v.Attempt != fmt.Sprint(attempt+1) || v.Payload != "payload" {
			t.Errorf("attempt %d: %+v", attempt+1, v)
		}
		v.say(fmt.Sprintf("exit %d reason %d", attempt+1, attempt+1))
	}
	c := n.ended(call.ID)
	if c.State != faas.CallFailed || c.Attempt != 3 || c.Error == nil || !strings.Contains(c.Error.Message, "exit code 3: reason 3") {
		t.Errorf("the call that gave up: %+v", c)
	}
	a := n.ask("GET", "/api/calls/"+call.ID+"/result", "")
	if a.status != 502 || a.header.Get("Hob-Fault") != "func_failed" || !strings.Contains(a.body, "reason 3") {
		t.Errorf("its result: %+v", a)
	}
	repeated, err := n.RetryCall(t.Context(), call.ID)
	if err != nil || repeated.ID == call.ID || repeated.RetryOf != call.ID {
		t.Fatalf("retry: %+v, %v", repeated, err)
	}
	v := g.next()
	if v.Call != repeated.ID || v.Payload != "payload" || v.Attempt != "1" {
		t.Errorf("the repetition: %+v", v)
	}
	v.say("cat")
	if out, err := n.result(repeated.ID); out != "payload" || err != nil {
		t.Errorf("result of the repetition = %q, %v", out, err)
	}
	if c := n.record(repeated.ID); c.RetryOf != call.ID {
		t.Errorf("the repetition does not name the first: %+v", c)
	}
	if c := n.record(call.ID); c.State != faas.CallFailed {
		t.Errorf("the first call is %+v", c)
	}
	var names []string
	for line, err := range n.Logs(t.Context(), client.LogSelection{App: faas.DefaultApp, Function: "f", Call: call.ID, Tail: -1}) {
		if err != nil {
			t.Fatal(err)
		}
		if line.Event != nil {
			names = append(names, fmt.Sprint(line.Event.Name, line.Event.Attempt))
		}
	}
	if len(names) != 8 || names[len(names)-1] != "FAILED3" || !slices.Contains(names, "PENDING1") || !slices.Contains(names, "RUNNING3") {
		t.Errorf("events of the call: %q", names)
	}
	g.none()
}

func TestResultsReachTheirDestinations(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	type post struct {
		key, call, state, body string
		status                 int
	}
	posts := make(chan post, 100)
	var mu sync.Mutex
	refuse := 1
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		status := 200
		if refuse > 0 {
			refuse, status = refuse-1, 503
		}
		mu.Unlock()
		w.WriteHeader(status)
		posts <- post{r.Header.Get("Idempotency-Key"), r.Header.Get("Hob-Call"), r.Header.Get("Hob-State"), string(body), status}
	}))
	defer server.Close()
	n.gated(g, "sink", nil)
	n.gated(g, "posts", func(s *client.Settings) {
		s.OnSuccess, s.OnFailure = ptr(server.URL+"/done?secret=1"), ptr("default/sink")
	})
	call := n.enqueue("posts", "payload")
	g.next().say("say result")
	first, second := <-posts, <-posts
	if first.status != 503 || second.status != 200 || first.key == "" || first.key != second.key || second.call != call.ID || second.state != "succeeded" || second.body != "result" {
		t.Errorf("posted %+v, then %+v", first, second)
	}
	until(t, "the delivery is told of", func() bool { return strings.HasPrefix(n.record(call.ID).Delivery, "delivered to") })
	if d := n.record(call.ID).Delivery; !strings.Contains(d, "2 tries") || strings.Contains(d, "secret") {
		t.Errorf("delivery: %q", d)
	}
	failing := n.enqueue("posts", "payload")
	g.next().say("exit 7 it is over")
	v := g.next()
	if v.Function != "sink" || v.Of != failing.ID || v.State != "failed" || !strings.Contains(v.Payload, "exit code 7: it is over") {
		t.Errorf("the failure was delivered as %+v", v)
	}
	v.say("cat")
	until(t, "the delivery is told of", func() bool { return n.record(failing.ID).Delivery == "delivered to default/sink" })
	n.ended(v.Call)
	canceled := n.enqueue("posts", "payload")
	v = g.next()
	if _, err := n.CancelCall(t.Context(), canceled.ID); err != nil {
		t.Error(err)
	}
	v.gone(t)
	if c := n.ended(canceled.ID); c.State != faas.CallCanceled || c.Delivery != "" {
		t.Errorf("one that was canceled: %+v", c)
	}
	if s, err := n.Status(t.Context(), faas.DefaultApp, "sink"); err != nil || s.Total != 1 {
		t.Errorf("the destination was called %+v, %v; want once", s, err)
	}
	if len(posts) != 0 {
		t.Errorf("one more post: %+v", <-posts)
	}
	g.none()
}

func TestAsynchronousCallHasItsOwnTimeoutOrNone(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	second := client.Duration(500 * time.Millisecond)
	n.gated(g, "none", func(s *client.Settings) { s.Timeout, s.AsyncTimeout = &second, ptr("none") })
	n.gated(g, "short", func(s *client.Settings) { s.AsyncTimeout, s.Env["DEAF"] = ptr("300ms"), ptr("1") })
	n.gated(g, "later", func(s *client.Settings) { s.Delay = ptr(client.Duration(time.Hour)) })
	none, short := n.enqueue("none", ""), n.enqueue("short", "")
	var held *visit
	for range 2 {
		if v := g.next(); v.Function == "none" {
			held = v
		}
	}
	if c := n.ended(short.ID); c.State != faas.CallTimedOut || c.Error == nil || !strings.Contains(c.Error.Message, "300ms") {
		t.Errorf("past its timeout: %+v", c)
	}
	if a := n.ask("GET", "/api/calls/"+short.ID+"/result", ""); a.status != 504 {
		t.Errorf("its result: %+v, want 504", a)
	}
	if _, err := n.say("none", ""); faas.KindOf(err) != faas.TimedOut {
		t.Errorf("the synchronous timeout is another: %v", err)
	}
	held.say("say at last") // it has run longer than the synchronous timeout
	if out, err := n.result(none.ID); out != "at last" || err != nil {
		t.Errorf("without a timeout: %q, %v", out, err)
	}
	(<-g.visits).conn.Close() // the synchronous one
	later := n.enqueue("later", "")
	if later.Due.IsZero() || time.Until(later.Due) < 59*time.Minute || !strings.Contains(later.Waiting, "due in") {
		t.Errorf("with the delay of its function: %+v", later)
	}
	zero := time.Duration(0)
	now := n.enqueue("later", "", func(r *client.CallRequest) { r.Delay = &zero })
	g.next().say("say now")
	if out, err := n.result(now.ID); out != "now" || err != nil {
		t.Errorf("with a delay of its own: %q, %v", out, err)
	}
	n.settled()
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

func TestKeyIsOneRunAndOneAnswer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data, c.MaxResult = dir, 64*faas.KB }
	g := openGate(t)
	n := start(t, keep, withGate)
	n.gateImage()
	n.gated(g, "f", nil)
	n.gated(g, "other", nil)
	const key = "Idempotency-Key: k1"
	answers := make(chan answer, 5)
	for range 5 {
		go func() { answers <- n.ask("POST", async("f"), "body", key) }()
	}
	v := g.next()
	if s := n.ask("GET", "/api/calls/"+v.Call, ""); s.status != 200 || !strings.Contains(s.body, `"running"`) {
		t.Errorf("a call with a key that runs: %+v", s)
	}
	if a := n.ask("POST", async("f"), "another", key); a.status != 422 || a.header.Get("Hob-Call") != "" {
		t.Errorf("the same key with another body, while it runs: %+v, want 422", a)
	}
	v.say("say answer")
	replayed := 0
	for range 5 {
		a := <-answers
		if a.status != 200 || a.body != "answer" || a.header.Get("Hob-Call") != v.Call {
			t.Errorf("answer %+v, want that of %s", a, v.Call)
		}
		if a.header.Get("Idempotency-Replayed") == "true" {
			replayed++
		}
	}
	if replayed != 4 {
		t.Errorf("%d of 5 answers say that they are repeated", replayed)
	}
	go func() { answers <- n.ask("POST", async("other"), "body", key) }()
	v2 := g.next() // the key is another one for another function
	v2.say("exit 9 no")
	if a := <-answers; a.status != 502 || !strings.Contains(a.body, "exit code 9: no") {
		t.Errorf("a failure: %+v", a)
	}
	if a := n.ask("POST", async("other"), "body", key); a.status != 502 || !strings.Contains(a.body, "exit code 9: no") || a.header.Get("Hob-Call") != v2.Call {
		t.Errorf("the failure, repeated: %+v", a)
	}

	first := n.ask("POST", async("f"), "async", "Idempotency-Key: k2", "Prefer: respond-async")
	second := n.ask("POST", async("f"), "async", "Idempotency-Key: k2", "Prefer: respond-async")
	if id := first.header.Get("Hob-Call"); first.status != 202 || second.status != 202 || id != second.header.Get("Hob-Call") || second.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("asynchronous calls with one key: %+v, %+v", first, second)
	}
	g.next().say("cat")
	if out, err := n.result(first.header.Get("Hob-Call")); out != "async" || err != nil {
		t.Errorf("result %q, %v", out, err)
	}

	go func() { answers <- n.ask("POST", async("f"), "big", "Idempotency-Key: k3") }()
	g.next().say("big 70000")
	if a := <-answers; a.status != 413 && a.status != 502 && a.status != 507 || !strings.Contains(a.body, "64 KB") {
		t.Errorf("an answer over the limit: %+v, want it refused with the limit", a)
	}
	if a := n.ask("POST", async("f"), "big", "Idempotency-Key: k3"); !strings.Contains(a.body, "64 KB") {
		t.Errorf("an answer over the limit, repeated: %+v", a)
	}

	gone := n.ask("POST", async("f"), "x", "Idempotency-Key: k4", "Prefer: respond-async").header.Get("Hob-Call")
	v = g.next()
	if _, err := n.CancelCall(t.Context(), gone); err != nil {
		t.Error(err)
	}
	v.gone(t)
	n.ended(gone)
	if again := n.ask("POST", async("f"), "x", "Idempotency-Key: k4", "Prefer: respond-async"); again.status != 202 || again.header.Get("Hob-Call") == gone {
		t.Errorf("a call that was canceled keeps its key: %+v", again)
	}
	g.next().say("cat")

	ctx, leave := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+n.addr+async("f"), strings.NewReader("left"))
	req.Header.Set("Idempotency-Key", "k5")
	left := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	v = g.next()
	leave()
	if err := <-left; err == nil {
		t.Error("it answered")
	}
	go func() { answers <- n.ask("POST", async("f"), "left", "Idempotency-Key: k5") }()
	v.say("say for who comes back")
	if a := <-answers; a.status != 200 || a.body != "for who comes back" {
		t.Errorf("whoever left and came back got %+v", a)
	}
	g.none()

	n.stop()
	n = run(t, keep, withGate)
	if a := n.ask("POST", async("f"), "body", key); a.status != 200 || a.body != "answer" || a.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("after a restart: %+v", a)
	}
	if a := n.ask("POST", async("other"), "body", key); a.status != 502 || !strings.Contains(a.body, "exit code 9: no") {
		t.Errorf("the failure, after a restart: %+v", a)
	}
	if a := n.ask("POST", async("f"), "another", key); a.status != 422 {
		t.Errorf("another body, after a restart: %+v", a)
	}
	g.none()
}

func TestPreferenceOfTheCallerIsTakenIntoAccount(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	image := n.gateImage()
	n.gated(g, "slow", nil)
	n.function("quick", image, nil, "cat")
	a := n.ask("POST", async("quick"), "in time", "Prefer: respond-async, wait=30")
	if id := a.header.Get("Hob-Call"); a.status != 200 || a.body != "in time" || id == "" || n.record(id).Kind != faas.CallAsync || !strings.Contains(a.header.Get("Preference-Applied"), "wait=30") {
		t.Errorf("in time: %+v", a)
	}
	late := n.ask("POST", async("slow"), "late", "Prefer: respond-async, wait=1")
	id := late.header.Get("Hob-Call")
	if late.status != 202 || id == "" || late.header.Get("Location") != "/api/calls/"+id || !strings.Contains(late.body, id) || late.header.Get("Hob-State") != "running" {
		t.Errorf("past its time: %+v", late)
	}
	g.next().say("cat")
	if out, err := n.result(id); out != "late" || err != nil {
		t.Errorf("the result of one that was late = %q, %v", out, err)
	}
	at := n.ask("GET", late.header.Get("Location"), "")
	if at.status != 200 || !strings.Contains(at.body, `"succeeded"`) {
		t.Errorf("where it was said to be: %+v", at)
	}
	n.function("fails", image, nil, "exit", "4", "bad")
	if a := n.ask("POST", async("fails"), "", "Prefer: wait=30, respond-async"); a.status != 502 || !strings.Contains(a.body, "exit code 4: bad") || a.header.Get("Hob-Call") == "" {
		t.Errorf("a failure in time: %+v", a)
	}
	if a := n.ask("POST", async("quick"), "plain", "Prefer: wait=1, return=minimal"); a.status != 200 || a.body != "plain" || n.record(a.header.Get("Hob-Call")).Kind != faas.CallSync {
		t.Errorf("a plain call: %+v", a)
	}
	if a := n.ask("HEAD", "/api/calls/"+id+"/result", ""); a.status != 200 {
		t.Errorf("HEAD of a result: %+v", a)
	}
}

func TestEventsAreOfAsynchronousCallsAndPayloadsArePrivate(t *testing.T) {
	n := start(t)
	image := n.gateImage()
	n.function("private", image, nil, "cat")
	n.function("public", image, func(s *client.Settings) { s.LogPayload = ptr(true) }, "cat")
	for _, name := range []string{"private", "public"} {
		if _, err := n.say(name, "plain secret"); err != nil {
			t.Error(err)
		}
		call := n.enqueue(name, "asynchronous secret")
		n.ended(call.ID)
		read := func() string { return n.ask("GET", "/api/apps/default/functions/"+name+"/logs", "").body }
		until(t, "the end of the call is in the log", func() bool { return strings.Contains(read(), `"FINISHED"`) })
		text := read()
		if strings.Count(text, `"event"`) != 4 || strings.Contains(text, "plain secret") {
			t.Errorf("%s: %s, want 4 events of the asynchronous call", name, text)
		}
		want := 0
		if name == "public" {
			want = 4 // in an event and in its text, twice
		}
		if got := strings.Count(text, "asynchronous secret"); got != want {
			t.Errorf("%s: the payload is %d times in the log, want %d: %s", name, got, want, text)
		}
		if text := n.ask("GET", "/api/apps/default/functions/"+name+"/logs?events=false", "").body; text != "" {
			t.Errorf("%s: without events: %s", name, text)
		}
	}
}

func TestResultStaysUntilItIsRotated(t *testing.T) {
	n := start(t, func(c *config.Config) { c.ResultPerFunction = faas.MB })
	n.function("f", n.gateImage(), nil, "big", "300000")
	var ids []string
	for range 5 {
		call := n.enqueue("f", "")
		n.ended(call.ID)
		ids = append(ids, call.ID)
	}
	for i, id := range ids {
		want := 200
		if i < 2 {
			want = 410
		}
		for range 2 {
			if a := n.ask("GET", "/api/calls/"+id+"/result", ""); a.status != want {
				t.Errorf("result %d of 5: %d %.100s, want %d", i+1, a.status, a.body, want)
			}
		}
	}
	if c := n.record(ids[0]); c.State != faas.CallSucceeded || c.Result != faas.ResultRotated {
		t.Errorf("the call of a rotated result: %+v", c)
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

func TestLargePayloadsAndResultsGoThroughTheQueue(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	n := start(t, func(c *config.Config) { c.Data = dir })
	n.function("f", n.gateImage(), func(s *client.Settings) { s.Memory = ptr(128 * faas.MB) }, "cat")
	payload := make([]byte, 7<<20+1)
	rand.Read(payload)
	var ids []string
	for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, len(payload)} {
		call := n.enqueue("f", string(payload[:size]))
		if out, err := n.result(call.ID); out != string(payload[:size]) || err != nil {
			t.Errorf("%d bytes came back as %d, %v", size, len(out), err)
		}
		ids = append(ids, call.ID)
	}
	n.stop()
	n = run(t, func(c *config.Config) { c.Data = dir })
	if out, err := n.result(ids[4]); out != string(payload) || err != nil {
		t.Errorf("after a restart %d bytes, %v", len(out), err)
	}
}

func TestDestinationsThatLeadToOneAnotherEnd(t *testing.T) {
	n := start(t)
	n.function("loop", n.gateImage(), func(s *client.Settings) { s.OnSuccess = ptr("default/loop") }, "cat")
	n.function("lost", gateImage, func(s *client.Settings) { s.OnSuccess = ptr("default/none") }, "cat")
	n.enqueue("loop", "x")
	lost := n.enqueue("lost", "x")
	var given string
	until(t, "the loop ends", func() bool {
		calls, _, err := n.Calls(t.Context(), client.CallFilter{App: faas.DefaultApp, Function: "loop"})
		if err != nil || len(calls) == 0 {
			t.Fatal(calls, err)
		}
		given = calls[0].Delivery
		return strings.HasPrefix(given, "given up")
	})
	if !strings.Contains(given, "16 deliveries") {
		t.Errorf("delivery of the last: %q", given)
	}
	if s, err := n.Status(t.Context(), faas.DefaultApp, "loop"); err != nil || s != (client.Status{Total: 17, Succeeded: 17}) {
		t.Errorf("status %+v, %v; want 17 calls", s, err)
	}
	until(t, "the delivery to nobody is given up", func() bool {
		d := n.record(lost.ID).Delivery
		return strings.HasPrefix(d, "given up") && strings.Contains(d, "none")
	})
}

func TestWhoWaitsDoesNotHoldUpTheShutdown(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	n.gated(g, "f", nil)
	id := n.enqueue("f", "x").ID
	v := g.next()
	paths := []string{"/api/calls/" + id + "/result?wait=1h", "/api/apps/default/functions/f/logs?follow=true"}
	var waiters sync.WaitGroup
	for _, path := range paths {
		waiters.Go(func() {
			resp, err := http.Get("http://" + n.addr + path)
			if err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	waiters.Go(func() {
		req, _ := http.NewRequest("POST", "http://"+n.addr+async("f"), strings.NewReader("second"))
		req.Header.Set("Prefer", "respond-async, wait=3600")
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	})
	second := g.next()
	n.stop()
	waiters.Wait()
	v.gone(t)
	second.gone(t)
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

func TestServerErrorOfAHotFunctionIsAFailureOfItsCall(t *testing.T) {
	n := start(t)
	n.hot("port", n.image("port"), func(s *client.Settings) {
		s.Format, s.Port, s.Concurrency = ptr(string(faas.FormatPort)), ptr(3000), ptr(4)
		s.Retries, s.RetryDelay = ptr(1), ptr(client.Duration(time.Millisecond))
	})
	for _, c := range []struct{ status, attempts int }{{201, 1}, {404, 1}, {418, 1}, {500, 2}, {503, 2}} {
		call := n.enqueue("port", "", func(r *client.CallRequest) { r.Path = fmt.Sprintf("/status/%d?q=1", c.status) })
		got := n.ended(call.ID)
		if got.Attempt != c.attempts || (got.State == faas.CallSucceeded) != (c.status < 500) {
			t.Errorf("%d: %s in attempt %d, want %d attempts", c.status, got.State, got.Attempt, c.attempts)
		}
		a := n.ask("GET", "/api/calls/"+call.ID+"/result", "")
		if c.status < 500 && (a.status != c.status || a.header.Get("X-Own") != "yes" || a.body != fmt.Sprintf("POST /status/%d?q=1", c.status)) {
			t.Errorf("%d: its result is %+v", c.status, a)
		}
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

func TestRetriesAndDeliveriesSurviveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	g := openGate(t)
	n := start(t, keep, withGate)
	n.gateImage()
	type post struct{ key, body string }
	posts := make(chan post, 10)
	var up atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		posts <- post{r.Header.Get("Idempotency-Key"), string(body)}
	}))
	defer server.Close()
	n.gated(g, "f", func(s *client.Settings) {
		s.Retries, s.RetryDelay, s.OnSuccess = ptr(1), ptr(client.Duration(2*time.Second)), ptr(server.URL)
	})
	done, fails := n.enqueue("f", "done"), n.enqueue("f", "fails")
	for range 2 {
		if v := g.next(); v.Call == done.ID {
			v.say("cat")
		} else {
			v.say("exit 1 at first")
		}
	}
	n.ended(done.ID)
	until(t, "a delivery and an attempt have failed", func() bool {
		return strings.HasPrefix(n.record(done.ID).Delivery, "tried") && n.record(fails.ID).State == faas.CallQueued
	})
	n.stop()
	up.Store(true)
	n = run(t, keep, withGate)
	v := g.next()
	if v.Call != fails.ID || v.Attempt != "2" || v.Payload != "fails" {
		t.Errorf("after a restart began %+v, want the second attempt", v)
	}
	v.say("cat")
	got := map[string]bool{}
	keys := map[string]bool{}
	for range 2 {
		select {
		case p := <-posts:
			got[p.body], keys[p.key] = true, true
		case <-time.After(long):
			t.Fatalf("delivered: %v", got)
		}
	}
	if !got["done"] || !got["fails"] || len(keys) != 2 {
		t.Errorf("delivered %v with the keys %v", got, keys)
	}
	for _, id := range []string{done.ID, fails.ID} {
		until(t, "the delivery is told of", func() bool { return strings.HasPrefix(n.record(id).Delivery, "delivered") })
	}
	if len(posts) > 0 {
		t.Errorf("one more: %+v", <-posts)
	}
	g.none()
}

// TestKeyOfACallThatDiedWithItsNode kills a daemon while a synchronous call runs.
func TestKeyOfACallThatDiedWithItsNodeRunsNothingTwice(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	g := openGate(t)
	dir := filepath.Join(t.TempDir(), "data")
	v := victimOn(t, dir, "ns")
	n := &node{Client: v.Client, t: t, addr: strings.TrimPrefix(v.Base(), "http://")}
	n.gateImage()
	n.gated(g, "f", nil)
	n.gated(g, "once", func(s *client.Settings) { s.OnNodeLoss = ptr("fail") })
	left := make(chan error, 1)
	go func() {
		_, err := n.Call(t.Context(), client.CallRequest{App: faas.DefaultApp, Function: "f", Key: "k", Body: strings.NewReader("x")})
		left <- err
	}()
	sync := g.next()
	once := n.enqueue("once", "")
	g.next()
	async := n.enqueue("f", "async", func(r *client.CallRequest) { r.Key = "k2" })
	g.next()
	v.kill()
	if err := <-left; err == nil {
		t.Error("the caller got an answer")
	}
	v = victimOn(t, dir, "ns")
	defer v.end(t)
	n = &node{Client: v.Client, t: t, addr: strings.TrimPrefix(v.Base(), "http://")}
	again := g.next()
	if again.Call != async.ID || again.Attempt != "2" {
		t.Errorf("after the kill began %+v, want the second attempt of the asynchronous call", again)
	}
	again.say("cat")
	if out, err := n.result(async.ID); out != "async" || err != nil {
		t.Errorf("the asynchronous call = %q, %v", out, err)
	}
	if c := n.record(async.ID); c.Losses != 1 || c.Attempt != 2 {
		t.Errorf("its record: %+v", c)
	}
	if c := n.ended(once.ID); c.State != faas.CallFailed || c.Error == nil || !strings.Contains(c.Error.Message, "must not run twice") {
		t.Errorf("the one that must not run twice: %+v", c)
	}
	for range 2 {
		_, err := n.Call(t.Context(), client.CallRequest{App: faas.DefaultApp, Function: "f", Key: "k", Body: strings.NewReader("x")})
		if faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "not known") {
			t.Errorf("the same key: %v, want that nobody knows what came of it", err)
		}
	}
	if c := n.record(sync.Call); c.State != faas.CallFailed {
		t.Errorf("its record: %+v", c)
	}
	g.none()
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

func TestLogIsRotatedWithItsEvents(t *testing.T) {
	n := start(t, func(c *config.Config) { c.LogPerFunction = faas.MB })
	n.function("f", n.gateImage(), nil, "log", "1000")
	first, last := n.enqueue("f", "").ID, ""
	n.ended(first)
	for range 4 {
		last = n.enqueue("f", "").ID
		n.ended(last)
	}
	const path = "/api/apps/default/functions/f/logs"
	until(t, "the last end is in the log", func() bool {
		return strings.Contains(n.ask("GET", path+"?call="+last+"&tail=5", "").body, `"FINISHED"`)
	})
	all := n.ask("GET", path, "")
	if size := len(all.body); all.status != 200 || size > 3<<20 || strings.Contains(all.body, first) {
		t.Errorf("%d bytes of log, want 1 MB of lines, and none of the first call", size)
	}
	if a := n.ask("GET", path+"?call="+first, ""); a.status != 200 || strings.Contains(a.body, `"line`) {
		t.Errorf("the log of the first call: %d, %d bytes", a.status, len(a.body))
	}
	if a := n.ask("GET", path+"?tail=1", ""); strings.Count(a.body, "\n") != 1 {
		t.Errorf("one line: %q", a.body)
	}
	if a := n.ask("GET", path+"?tail=0", ""); a.status != 200 || a.body != "" {
		t.Errorf("no line: %+v", a)
	}
}

// TestWhateverManyUsersDoEveryCallEndsOnce has many users do what they like, and
// looks at the books when all is over.
func TestWhateverManyUsersDoEveryCallEndsOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	open := func() *node {
		return run(t, func(c *config.Config) { c.Data, c.Driver, c.Grace = dir, "fake", 5*time.Millisecond })
	}
	n := open()
	names := []string{"quick", "single", "slow", "fails"}
	for i, does := range [][]string{{"cat"}, {"cat"}, {"sleep", "0.02"}, {"false"}} {
		n.function(names[i], n.gateImage(), func(s *client.Settings) {
			s.MaxConcurrency, s.Retries, s.RetryDelay = ptr(i), ptr(i/2), ptr(client.Duration(time.Millisecond))
		}, does...)
	}
	var mu sync.Mutex
	made := make(map[string]bool)
	keep := func(c client.Call, err error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			made[c.ID] = true
		case faas.KindOf(err) == faas.Internal:
			t.Error(err)
		}
	}
	some := func() string {
		mu.Lock()
		defer mu.Unlock()
		for id := range made {
			return id
		}
		return faas.NewID()
	}
	for range 2 {
		var users sync.WaitGroup
		for range 6 {
			users.Go(func() {
				for range 40 {
					name := names[mrand.IntN(len(names))]
					switch mrand.IntN(8) {
					case 0:
						keep(n.CancelCall(t.Context(), some()))
					case 1:
						keep(n.RetryCall(t.Context(), some()))
					case 2:
						if _, err := n.say(name, "x"); faas.KindOf(err) == faas.Internal {
							t.Error(err)
						}
					case 3:
						delay := time.Duration(mrand.IntN(20)) * time.Millisecond
						keep(n.tryEnqueue(name, "x", func(r *client.CallRequest) { r.Delay, r.Priority = &delay, mrand.IntN(10) }))
					case 4:
						keep(n.tryEnqueue(name, "x", func(r *client.CallRequest) { r.Key = fmt.Sprint(mrand.IntN(5)) }))
					default:
						keep(n.tryEnqueue(name, "x"))
					}
				}
			})
		}
		users.Wait()
		n.stop() // in the middle of what is left
		n = open()
	}
	sum := client.Status{}
	for _, name := range names {
		until(t, "all calls are over", func() bool {
			s, err := n.Status(t.Context(), faas.DefaultApp, name)
			if err != nil {
				t.Fatal(err)
			}
			if s.Queued+s.Running > 0 {
				return false
			}
			sum.Total, sum.Succeeded, sum.Failed = sum.Total+s.Total, sum.Succeeded+s.Succeeded, sum.Failed+s.Failed
			return true
		})
	}
	if sum.Total != sum.Succeeded+sum.Failed || sum.Total < len(made) {
		t.Errorf("%d calls known, the books say %+v", len(made), sum)
	}
	t.Logf("%d calls, %+v", len(made), sum)
	finals := make(map[string]int)
	for _, name := range names {
		for line, err := range n.Logs(t.Context(), client.LogSelection{App: faas.DefaultApp, Function: name, Tail: -1}) {
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case line.Event == nil:
			case line.Event.Name == faas.EventFinished || line.Event.Name == faas.EventFailed:
				finals[line.Call]++
			case finals[line.Call] > 0:
				t.Errorf("call %s: %s after its end", line.Call, line.Event.Name)
			}
		}
	}
	for id := range made {
		c := n.record(id)
		if !c.State.Final() || c.Kind == faas.CallAsync && finals[id] != 1 {
			t.Errorf("call %s is %s, and its end is %d times in the log", id, c.State, finals[id])
		}
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

func TestKeyStandsForACallOfEitherKind(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	n.gated(g, "f", nil)
	answers := make(chan answer, 1)
	go func() { answers <- n.ask("POST", async("f"), "x", "Idempotency-Key: k") }()
	v := g.next()
	if a := n.ask("POST", async("f"), "x", "Idempotency-Key: k", "Prefer: respond-async"); a.status != 202 || a.header.Get("Hob-Call") != v.Call {
		t.Errorf("asynchronous, while the synchronous one runs: %+v", a)
	}
	v.say("say done")
	if a := <-answers; a.body != "done" {
		t.Errorf("%+v", a)
	}
	if a := n.ask("POST", async("f"), "x", "Idempotency-Key: k", "Prefer: respond-async, wait=10"); a.status != 200 || a.body != "done" {
		t.Errorf("asynchronous, afterwards: %+v", a)
	}
	if a := n.ask("GET", "/api/calls/"+v.Call+"/result", ""); a.status != 200 || a.body != "done" {
		t.Errorf("its result: %+v", a)
	}
	first := n.ask("POST", async("f"), "x", "Idempotency-Key: k2", "Prefer: respond-async")
	go func() { answers <- n.ask("POST", async("f"), "x", "Idempotency-Key: k2") }()
	g.next().say("say second")
	if a := <-answers; a.status != 200 || a.body != "second" || a.header.Get("Hob-Call") != first.header.Get("Hob-Call") {
		t.Errorf("synchronous, with the key of an asynchronous one: %+v", a)
	}
	g.none()
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

func TestOldResultIsGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	n := start(t, keep)
	n.function("f", n.gateImage(), nil, "cat")
	made, err := n.Function(t.Context(), faas.DefaultApp, "f")
	if err != nil {
		t.Fatal(err)
	}
	old := n.enqueue("f", "old").ID
	n.ended(old)
	n.stop()
	db, err := sql.Open("sqlite", filepath.Join(dir, "hob.db"))
	if err != nil {
		t.Fatal(err)
	}
	week := strconv.FormatInt((8 * 24 * time.Hour).Microseconds(), 10)
	for _, change := range []string{"UPDATE call SET ended = ended - " + week + ", queued = queued - " + week + ", finished = finished - " + week} {
		if _, err := db.Exec(change); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	n = run(t, keep)
	young := n.enqueue("f", "young").ID
	n.ended(young)
	until(t, "it is swept", func() bool { return n.ask("GET", "/api/calls/"+old+"/result", "").status != 200 })
	if a := n.ask("GET", "/api/calls/"+old+"/result", ""); a.status != 410 {
		t.Errorf("an old result: %+v, want 410", a)
	}
	if a := n.ask("GET", "/output/f/"+made.Address+"/"+old, ""); a.status != 410 {
		t.Errorf("an old result, through Hyper: %+v, want 410", a)
	}
	if a := n.ask("GET", "/api/calls/"+young+"/result", ""); a.status != 200 {
		t.Errorf("a young result: %+v", a)
	}
}

func TestNoisyFunctionIsLimitedAndTheLossIsNamed(t *testing.T) {
	n := start(t)
	n.function("f", n.gateImage(), func(s *client.Settings) { s.Memory = ptr(128 * faas.MB) }, "log", "80000")
	call := n.enqueue("f", "").ID
	if c := n.ended(call); c.State != faas.CallSucceeded {
		t.Errorf("%+v", c)
	}
	var text string
	until(t, "the end is in the log", func() bool {
		text = n.ask("GET", "/api/apps/default/functions/f/logs", "").body
		return strings.Contains(text, `"FINISHED"`)
	})
	lines := strings.Count(text, `"line `)
	if !strings.Contains(text, "lines dropped: over the limit of 8 MB a second") || lines == 80000 || lines < 1000 {
		t.Errorf("%d lines are kept, and the log says: %s", lines, text[max(0, len(text)-600):])
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

func TestCallThatWaitedForMemoryRunsAfterAKill(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	g := openGate(t)
	dir := filepath.Join(t.TempDir(), "data")
	v := victimOn(t, dir, "ns")
	n := &node{Client: v.Client, t: t}
	n.gateImage()
	info, err := n.Node(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	most := info.Memory/faas.MB*faas.MB - 16*faas.MB // all that there is
	n.gated(g, "once", func(s *client.Settings) { s.Memory, s.OnNodeLoss = &most, ptr("fail") })
	runs := n.enqueue("once", "runs")
	g.next()
	first, second := n.enqueue("once", "first"), n.enqueue("once", "second")
	until(t, "they wait", func() bool { return n.record(second.ID).Place == 2 })
	v.kill()
	v = victimOn(t, dir, "ns")
	defer v.end(t)
	n = &node{Client: v.Client, t: t}
	for _, id := range []string{first.ID, second.ID} {
		v := g.next()
		if v.Call != id {
			t.Errorf("began %+v, want %s", v, id)
		}
		v.say("cat")
		if c := n.ended(id); c.State != faas.CallSucceeded {
			t.Errorf("it had not begun: %+v", c)
		}
	}
	if c := n.ended(runs.ID); c.State != faas.CallFailed || c.Error == nil || !strings.Contains(c.Error.Message, "must not run twice") {
		t.Errorf("the one that ran: %+v", c)
	}
	g.none()
}
