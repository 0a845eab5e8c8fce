package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/build"
	"hob/internal/config"
)

// long is how long a test waits for what must come.
const long = time.Minute

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

// of returns the next run of a function. Those of others are left to themselves.
func (g *gate) of(function string) *visit {
	g.t.Helper()
	for {
		if v := g.next(); v.Function == function {
			return v
		}
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
	for _, verb := range []string{"say", "echo", "cat", "env", "exit", "big", "log", "flood", "hang"} {
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
