package daemon_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/config"
	"hob/internal/testenv"
)

// gateFn makes a function of testdata/fngate that asks at the gate.
func (n *fnNode) gateFn(g *gate, name, more string) string {
	n.t.Helper()
	image := n.node.image("fngate")
	fn := n.make("fns", fmt.Sprintf(`{"name":%q,"app_id":%q,"image":%q,"memory":32,"config":{"GATE":%q}%s}`, name, n.app, image, g.addr, more))
	if a := n.ask("PATCH", "/api/apps/a/functions/"+name, `{"network":"host"}`); a.status != 200 {
		n.t.Fatalf("network: %+v", a)
	}
	return fn
}

// detach makes a detached call and returns its ID.
func (n *fnNode) detach(fn, body string, headers ...string) string {
	n.t.Helper()
	a := n.invoke(fn, body, append(headers, "Fn-Invoke-Type: detached")...)
	if a.status != 202 || a.body != "" || len(a.header.Get("Fn-Call-Id")) != 26 {
		n.t.Fatalf("detached: %+v", a)
	}
	return a.header.Get("Fn-Call-Id")
}

// fnCall is a call as /v2 shows it.
type fnCall struct {
	ID, Status, Error string
	Completed         string `json:"completed_at"`
}

func (n *fnNode) fnCall(fn, id string) fnCall {
	n.t.Helper()
	var out struct{ Call fnCall }
	if a := n.ask("GET", "/v2/fns/"+fn+"/calls/"+id, ""); a.status != 200 || json.Unmarshal([]byte(a.body), &out) != nil {
		n.t.Fatalf("call %s: %+v", id, a)
	}
	return out.Call
}

func TestDetachedFnCallIsTriedAgainAsItsFunctionSays(t *testing.T) {
	g := openGate(t)
	n := startFn(t, withGate)
	fn := n.gateFn(g, "f", "")
	if a := n.ask("PATCH", "/api/apps/a/functions/f", `{"retries":2,"retry_delay":"100ms"}`); a.status != 200 {
		t.Fatalf("retries: %+v", a)
	}
	id := n.detach(fn, "payload")
	for attempt, do := range []string{"status 502", "exit 3", "say done"} {
		v := g.next()
		if v.Call != id || v.Payload != "payload" || attempt > 0 && v.Attempt != fmt.Sprint(attempt+1) {
			t.Errorf("attempt %d: %+v", attempt+1, v)
		}
		if attempt == 0 && n.fnCall(fn, id).Status != "running" {
			t.Errorf("while it runs: %+v", n.fnCall(fn, id))
		}
		v.say(do)
	}
	if call := n.ended(id); call.State != faas.CallSucceeded || call.Attempt != 3 {
		t.Errorf("call %+v", call)
	}
	if c := n.fnCall(fn, id); c.Status != "success" || c.Completed == "" {
		t.Errorf("shown as %+v", c)
	}
	g.none()
}

func TestDetachedFnCallHasItsOwnDeadline(t *testing.T) {
	g := openGate(t)
	n := startFn(t, withGate)
	fn := n.gateFn(g, "f", `,"timeout":3`)
	id := n.detach(fn, "")
	v := g.next()
	if call := n.ended(id); call.State != faas.CallTimedOut {
		t.Errorf("call %+v", call)
	}
	v.gone(t)
	if c := n.fnCall(fn, id); c.Status != "timeout" {
		t.Errorf("shown as %+v", c)
	}
}

func TestFullQueueRefusesDetachedFnCalls(t *testing.T) {
	g := openGate(t)
	n := startFn(t, withGate, func(c *config.Config) { c.QueuePerFunction = faas.MB })
	fn := n.gateFn(g, "f", "")
	if a := n.ask("PATCH", "/api/apps/a/functions/f", `{"max_concurrency":1}`); a.status != 200 {
		t.Fatalf("one at a time: %+v", a)
	}
	payload := strings.Repeat("x", 700<<10)
	first := n.detach(fn, payload)
	a := n.invoke(fn, payload, "Fn-Invoke-Type: detached")
	if a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("over the cap: %+v", a)
	} else {
		t.Log(a.message(t))
	}
	g.next().say("say done")
	n.ended(first)
	second := n.detach(fn, payload)
	g.next().say("say done")
	n.ended(second)
}

// TestDetachedFnCallOutlivesItsDaemon kills the daemon while calls run and wait. They
// run under their IDs after it.
func TestDetachedFnCallOutlivesItsDaemon(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	g := openGate(t)
	dir := filepath.Join(t.TempDir(), "data")
	v := victimOn(t, dir, "ns")
	n := &fnNode{node: &node{Client: v.Client, t: t, addr: v.addr}}
	n.app = n.make("apps", `{"name":"a"}`)
	fn := n.gateFn(g, "f", "")
	if a := n.ask("PATCH", "/api/apps/a/functions/f", `{"max_concurrency":2}`); a.status != 200 {
		t.Fatalf("two at a time: %+v", a)
	}
	payloads := make(map[string]string)
	for i := range 4 {
		body := fmt.Sprint("payload ", i)
		payloads[n.detach(fn, body)] = body
	}
	running := []*visit{g.next(), g.next()}
	v.kill()
	for _, r := range running {
		r.gone(t)
	}
	v = victimOn(t, dir, "ns")
	defer v.end(t)
	n.node = &node{Client: v.Client, t: t, addr: v.addr}
	seen := make(map[string]bool)
	for range payloads {
		r := g.next()
		if payloads[r.Call] != r.Payload || seen[r.Call] {
			t.Errorf("%+v runs after the kill", r)
		}
		seen[r.Call] = true
		r.say("say done " + r.Payload)
	}
	for id, body := range payloads {
		if out, err := n.result(id); out != "done "+body || err != nil {
			t.Errorf("result of %s: %q, %v", id, out, err)
		}
		if c := n.fnCall(fn, id); c.Status != "success" {
			t.Errorf("shown as %+v", c)
		}
	}
	g.none()
}

// syslogServer takes lines of RFC 5424 over TCP.
func syslogServer(t *testing.T) (addr string, lines <-chan string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 100)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				for r := bufio.NewScanner(conn); r.Scan(); {
					got <- r.Text()
				}
			})
		}
	})
	t.Cleanup(func() { // after the node, which closes its connections
		l.Close()
		all.Wait()
	})
	return l.Addr().String(), got
}

// nearTargets has the node connect to what runs here for owners of apps.
func nearTargets(c *config.Config) { c.Allow, c.UnixTargets = []string{"127.0.0.1:*"}, true }

func TestLogOfAFnAppReachesItsSyslogServer(t *testing.T) {
	addr, lines := syslogServer(t)
	other, more := syslogServer(t)
	n := startFn(t, nearTargets)
	if a := n.ask("PUT", "/v2/apps/"+n.app, fmt.Sprintf(`{"syslog_url":"tcp://%s"}`, addr)); a.status != 200 {
		t.Fatalf("syslog_url: %+v", a)
	}
	fn := n.fn("f", "")
	a := n.invoke(fn, "say hello from here")
	if a.status != 200 {
		t.Fatalf("call: %+v", a)
	}
	line := within(t, lines)
	for _, want := range []string{"app_id=" + n.app, "fn_id=" + fn, a.header.Get("Fn-Call-Id"), "hello from here"} {
		if !strings.HasPrefix(line, "<") || !strings.Contains(line, ">1 20") || !strings.Contains(line, want) {
			t.Errorf("the line %q has no %s", line, want)
		}
	}
	// A change of the app is heeded by the next call.
	n.ask("PUT", "/v2/apps/"+n.app, fmt.Sprintf(`{"syslog_url":"tcp://%s"}`, other))
	n.invoke(fn, "say to another")
	if line := within(t, more); !strings.Contains(line, "to another") {
		t.Errorf("the line %q", line)
	}
	n.ask("PUT", "/v2/apps/"+n.app, `{"syslog_url":""}`)
	n.invoke(fn, "say to nobody")
	until(t, "it is in the log of the node", func() bool {
		return strings.Contains(n.ask("GET", "/v2/fns/"+fn+"/calls/"+n.lastCall(fn)+"/log", "").body, "to nobody")
	})
	select {
	case line := <-more:
		t.Errorf("after syslog_url was removed: %q", line)
	case line := <-lines:
		t.Errorf("after syslog_url was changed: %q", line)
	default:
	}
}

// within returns the next of what must come.
func within[T any](t *testing.T, from <-chan T) (next T) {
	t.Helper()
	select {
	case next = <-from:
	case <-time.After(long):
		t.Error("nothing comes")
	}
	return next
}

// lastCall is the ID of the newest call of fn.
func (n *fnNode) lastCall(fn string) string {
	n.t.Helper()
	var list struct{ Items []fnCall }
	if a := n.ask("GET", "/v2/fns/"+fn+"/calls?per_page=1", ""); json.Unmarshal([]byte(a.body), &list) != nil || len(list.Items) != 1 {
		return ""
	}
	return list.Items[0].ID
}

// TestDeadSyslogServerFailsNoCall is one that nobody runs, and one that takes
// connections and reads nothing.
func TestDeadSyslogServerFailsNoCall(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nobody accepts
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	n := startFn(t, nearTargets)
	fn := n.fn("f", "")
	for _, url := range []string{"tcp://" + gone.Addr().String(), "tcp://" + l.Addr().String(), "udp://127.0.0.1:1", "unix:///none/socket", "tcp+tls://" + l.Addr().String()} {
		if a := n.ask("PUT", "/v2/apps/"+n.app, fmt.Sprintf(`{"syslog_url":%q}`, url)); a.status != 200 {
			t.Fatalf("%s: %+v", url, a)
		}
		for range 20 {
			if a := n.invoke(fn, "say "+strings.Repeat("x", 10_000)); a.status != 200 {
				t.Errorf("%s: %+v", url, a)
			}
		}
	}
	until(t, "the line is in the log of the node", func() bool {
		a := n.ask("GET", "/v2/fns/"+fn+"/calls/"+n.lastCall(fn)+"/log", "")
		return a.status == 200 && strings.Contains(a.body, "xxx")
	})
}
