package daemon_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	"hob/internal/daemon"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

// node is a whole daemon in the test process, with real sandboxes.
type node struct {
	*client.Client
	t      *testing.T
	addr   string
	daemon *daemon.Daemon
	stop   func()
}

// start starts a daemon with the ns driver on a directory of its own. When the
// test ends it has drained without an error and left nothing.
func start(t *testing.T, change ...func(*config.Config)) *node {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	return run(t, change...)
}

// run is start without a look at what is left: for a test's second daemon.
func run(t *testing.T, change ...func(*config.Config)) *node {
	t.Helper()
	return runWith(t, nil, change...)
}

func runWith(t *testing.T, options []daemon.Option, change ...func(*config.Config)) *node {
	t.Helper()
	cfg := config.Default()
	cfg.Data, cfg.Listen = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0"
	cfg.Grace = 2 * time.Second
	for _, f := range change {
		f(&cfg)
	}
	d, err := daemon.New(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)), options...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	n := &node{t: t, addr: d.Addr(), daemon: d}
	n.stop = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(n.stop)
	if n.Client, err = client.New("http://" + d.Addr()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Client.Close)
	return n
}

// prog loads the test program of package sandboxtest as an image and returns its name.
func (n *node) prog() string {
	n.t.Helper()
	img, err := build.FromProgram(n.t.Context(), build.Options{Program: sandboxtest.Build(n.t, n.t.TempDir())})
	if err != nil {
		n.t.Fatal(err)
	}
	var tar bytes.Buffer
	if err := build.WriteTar(&tar, "hob.local/prog:latest", img); err != nil {
		n.t.Fatal(err)
	}
	if _, err := n.Load(n.t.Context(), &tar, ""); err != nil {
		n.t.Fatal(err)
	}
	return "hob.local/prog:latest"
}

// function makes a function of the image that runs the program with these arguments.
func (n *node) function(name, image string, change func(*client.Settings), args ...string) {
	n.t.Helper()
	s := client.Settings{Image: &image, Command: &args}
	if change != nil {
		change(&s)
	}
	if _, err := n.CreateFunction(n.t.Context(), faas.DefaultApp, name, s, ""); err != nil {
		n.t.Fatal(err)
	}
}

// call calls a function and returns the whole answer.
func (n *node) call(name string, body io.Reader) (string, error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	a, err := n.Call(ctx, client.CallRequest{App: faas.DefaultApp, Function: name, Body: body})
	if err != nil {
		return "", err
	}
	defer a.Body.Close()
	out, err := io.ReadAll(a.Body)
	return string(out), err
}

func ptr[T any](v T) *T { return &v }

// TestHostileFunctions calls functions that behave as functions do when something
// is wrong with them. The node serves the next call, and nothing is left.
func TestHostileFunctions(t *testing.T) {
	n := start(t)
	image := n.prog()
	timeout := client.Duration(3 * time.Second)
	tests := []struct {
		name   string
		args   []string
		change func(*client.Settings)
		body   string
		kind   faas.Kind
		says   string // part of the error
		out    string // of a success
	}{
		{name: "exits 1", args: []string{"exit", "1"}, kind: faas.FuncFailed, says: "exit code 1"},
		{name: "dies by a signal", args: []string{"crash"}, kind: faas.FuncFailed, says: "exit code 2"},
		{name: "says why", args: []string{"what"}, kind: faas.FuncFailed, says: `what is "what"?`},
		{name: "prints nothing", args: []string{"exit", "0"}},
		{name: "never reads its input", args: []string{"args", "deaf"}, body: strings.Repeat("x", 5<<20), out: "deaf"},
		{name: "closes its input", args: []string{"deaf"}, body: strings.Repeat("x", 5<<20), out: "did not listen"},
		{name: "leaves children", args: []string{"orphan"}, out: "left"},
		{name: "over its memory", args: []string{"hog", "500"}, change: func(s *client.Settings) { s.Memory = ptr(64 * faas.MB) },
			kind: faas.FuncFailed, says: "killed: over its 64 MB memory limit"},
		{name: "over its time", args: []string{"spin", "1h"}, change: func(s *client.Settings) { s.Timeout = &timeout },
			kind: faas.TimedOut, says: "3s"},
		{name: "ignores SIGTERM", args: []string{"hang"}, change: func(s *client.Settings) { s.Timeout = &timeout },
			kind: faas.FuncFailed, says: "timeout of 3s"}, // it had begun to answer
		{name: "fork bomb", args: []string{"take", "processes"}, change: func(s *client.Settings) { s.Memory = ptr(512 * faas.MB) }},
		{name: "fills its disk", args: []string{"write", "/tmp/x", "300000000"}, change: func(s *client.Settings) { s.Memory = ptr(256 * faas.MB) },
			kind: faas.FuncFailed, says: "exit code 1"},
		{name: "not there", args: nil, change: func(s *client.Settings) { s.Entrypoint = ptr([]string{"/nope"}) }, kind: faas.Invalid, says: `"/nope"`},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := fmt.Sprintf("f%d", i)
			n.function(name, image, tt.change, tt.args...)
			out, err := n.call(name, strings.NewReader(tt.body))
			if got := faas.KindOf(err); got != tt.kind {
				t.Fatalf("call = %q, %v (%s), want kind %q", out, err, got, tt.kind)
			}
			if err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("the error is %q, want it to say %q", err, tt.says)
			}
			if err == nil && tt.out != "" && out != tt.out {
				t.Errorf("answer %q, want %q", out, tt.out)
			}
		})
	}
	n.function("well", image, nil, "args", "I am well")
	if out, err := n.call("well", nil); out != "I am well" || err != nil {
		t.Errorf("the next call = %q, %v", out, err)
	}
	n.settled()
}

// settled waits until no sandbox is left.
func (n *node) settled() {
	n.t.Helper()
	until(n.t, "no sandbox is left", func() bool { return len(n.live()) == 0 })
}

func TestMuchOutputInLittleMemory(t *testing.T) {
	n := start(t)
	n.function("big", n.prog(), func(s *client.Settings) { s.Timeout = ptr(client.Duration(5 * time.Minute)) }, "big", "104857600")
	a, err := n.Call(t.Context(), client.CallRequest{App: faas.DefaultApp, Function: "big"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if got, err := io.Copy(io.Discard, a.Body); got != 100<<20 || err != nil {
		t.Errorf("read %d bytes, %v; want 100 MB", got, err)
	}
	n.settled()
}

func TestFunctionThatClosesItsOutputGoesOn(t *testing.T) {
	n := start(t)
	n.function("close", n.prog(), nil, "close")
	if _, err := n.call("close", strings.NewReader("x")); faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "exit code 3") {
		t.Errorf("call = %v, want the exit code that it ended with later", err)
	}
}

func TestPayloadOverTheLimit(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxRequest = faas.MB })
	n.function("count", n.prog(), nil, "count")
	for _, known := range []bool{true, false} {
		var body io.Reader = strings.NewReader(strings.Repeat("x", 2<<20))
		if !known {
			body = struct{ io.Reader }{body}
		}
		_, err := n.call("count", body)
		if faas.KindOf(err) != faas.TooLarge || !strings.Contains(err.Error(), "1 MB") {
			t.Errorf("call with a payload of 2 MB (length known: %t) = %v, want TooLarge with the limit", known, err)
		}
	}
	if out, err := n.call("count", strings.NewReader("small")); out != "5" || err != nil {
		t.Errorf("call = %q, %v", out, err)
	}
	n.settled()
}

func TestClientThatLeavesFreesTheSandbox(t *testing.T) {
	n := start(t)
	n.function("hang", n.prog(), nil, "hang")
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		a, err := n.Call(ctx, client.CallRequest{App: faas.DefaultApp, Function: "hang"})
		if err == nil {
			_, err = io.ReadAll(a.Body)
		}
		done <- err
	}()
	until(t, "it runs", func() bool {
		live := n.live()
		return len(live) == 1 && live[0].Processes > 0
	})
	leave()
	if err := <-done; err == nil {
		t.Error("the call succeeded")
	}
	n.settled()
	until(t, "the call is recorded as canceled", func() bool {
		calls, _, err := n.Calls(t.Context(), client.CallFilter{})
		if err != nil {
			t.Fatal(err)
		}
		return len(calls) == 1 && calls[0].State == faas.CallCanceled
	})
}

// TestSlowClients send a request so slowly that they are not waited for: of a short
// body before there is a container, of a longer one until the function's time is up.
func TestSlowClients(t *testing.T) {
	n := start(t)
	n.function("count", n.prog(), func(s *client.Settings) { s.Timeout = ptr(client.Duration(500 * time.Millisecond)) }, "count")
	var clients sync.WaitGroup
	for length, want := range map[int]string{1000: "HTTP/1.1 499", 100_000: "HTTP/1.1 504"} {
		clients.Go(func() {
			conn, err := net.Dial("tcp", n.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST /api/apps/default/functions/count/call HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\nx", n.addr, length)
			conn.SetReadDeadline(time.Now().Add(long))
			head := make([]byte, len(want))
			if _, err := io.ReadFull(conn, head); err != nil || string(head) != want {
				t.Errorf("%d bytes: answer %q, %v; want %s", length, head, err, want)
			}
		})
	}
	clients.Wait()
	n.settled()
}

func TestHugeHeaders(t *testing.T) {
	n := start(t)
	n.function("echo", n.prog(), nil, "echo")
	for _, size := range []int{200 << 10, 4 << 20} { // over the environment's limit; over the server's
		req, _ := http.NewRequest(http.MethodPost, "http://"+n.addr+"/api/apps/default/functions/echo/call", nil)
		req.Header.Set("X-Large", strings.Repeat("x", size))
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "broken pipe") {
				t.Error(err)
			}
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a header of %d bytes: %s, want 431", size, resp.Status)
		}
	}
	n.settled()
}

func TestDefinitionsAndImagesSurviveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kept")
	keep := func(c *config.Config) { c.Data = dir }
	n := start(t, keep)
	n.function("echo", n.prog(), nil, "echo")
	if out, err := n.call("echo", strings.NewReader("first")); out != "first" || err != nil {
		t.Fatalf("call = %q, %v", out, err)
	}
	n.stop()
	n = run(t, keep)
	if out, err := n.call("echo", strings.NewReader("second")); out != "second" || err != nil {
		t.Errorf("call after the restart = %q, %v", out, err)
	}
	calls, _, err := n.Calls(t.Context(), client.CallFilter{})
	if err != nil || len(calls) != 2 {
		t.Errorf("records after the restart: %d, %v; want 2", len(calls), err)
	}
}

func TestSecondDaemonOnTheSameDirectoryIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kept")
	start(t, func(c *config.Config) { c.Data = dir })
	cfg := config.Default()
	cfg.Data, cfg.Listen = dir, "127.0.0.1:0"
	_, err := daemon.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second daemon: %v (%s), want Conflict with the first one's process", err, faas.KindOf(err))
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := config.Default()
	cfg.Data, cfg.Listen, cfg.Driver = filepath.Join(t.TempDir(), "data"), l.Addr().String(), "fake"
	d, err := daemon.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err == nil {
		err = d.Run(t.Context())
	}
	if faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("daemon on a port that is taken: %v (%s), want Conflict with the address", err, faas.KindOf(err))
	}
}

// TestManyCallsLeaveNothing makes calls one after the other and from many callers
// and compares what the process holds.
func TestManyCallsLeaveNothing(t *testing.T) {
	n := start(t)
	n.function("say", n.prog(), nil, "args", "x")
	many := func(count, callers int) {
		work := make(chan struct{})
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range work {
					if out, err := n.call("say", nil); out != "x" || err != nil {
						t.Errorf("call = %q, %v", out, err)
					}
				}
			})
		}
		for range count {
			work <- struct{}{}
		}
		close(work)
		wg.Wait()
		n.settled()
	}
	many(64, 32)
	before := len(testenv.Descriptors())
	many(100, 1)
	many(300, 32)
	if after := len(testenv.Descriptors()); after > before+200 { // connections of callers come and go, and blanks; one left of each call would be 400
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}

// smallDisk is a file system of its own for a data directory, of this size.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	testenv.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "hobtest", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// ready returns what /readyz says.
func (n *node) ready() (status int, why string) {
	n.t.Helper()
	resp, err := http.Get("http://" + n.addr + "/readyz")
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// becomes waits until /readyz answers with status.
func (n *node) becomes(status int) (why string) {
	n.t.Helper()
	for end := time.Now().Add(long); ; time.Sleep(20 * time.Millisecond) {
		got, why := n.ready()
		if got == status {
			return why
		}
		if time.Now().After(end) {
			n.t.Fatalf("/readyz answers %d (%s), want %d", got, why, status)
		}
	}
}

// TestFullDisk fills the disk under a node. It goes on serving, says so on
// /readyz, takes no image that does not fit, and recovers by itself.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, "64m")
	n := start(t, func(c *config.Config) { c.Data, c.LeastFreeDisk = filepath.Join(disk, "data"), 8*faas.MB })
	image := n.prog()
	n.function("echo", image, nil, "echo")
	n.function("says", image, nil, "say", "something")
	n.becomes(http.StatusOK)

	// An image that does not fit leaves nothing of itself.
	big := t.TempDir()
	noise := make([]byte, 100<<20)
	rand.Read(noise)
	if err := os.WriteFile(filepath.Join(big, "noise"), noise, 0o644); err != nil {
		t.Fatal(err)
	}
	img, err := build.FromDir(t.Context(), build.Options{Dir: big})
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(build.WriteTar(w, "hob.local/big:latest", img)) }()
	_, err = n.Load(t.Context(), r, "")
	r.Close()
	if faas.KindOf(err) != faas.Busy || !strings.Contains(err.Error(), "space") {
		t.Errorf("load of an image larger than the disk = %v (%s), want Busy with the reason", err, faas.KindOf(err))
	}
	if out, err := n.call("echo", strings.NewReader("after the image")); out != "after the image" || err != nil {
		t.Errorf("call = %q, %v", out, err)
	}

	// Somebody fills the disk to the last byte, in the middle of the service.
	filler := filepath.Join(disk, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(f, bytes.NewReader(noise)) // until there is no room
	f.Close()
	if why := n.becomes(http.StatusServiceUnavailable); !strings.Contains(why, disk) || !strings.Contains(why, "8 MB") {
		t.Errorf("/readyz says %q, want the disk and the number", why)
	}
	for range 20 {
		if out, err := n.call("echo", strings.NewReader("full")); out != "full" || err != nil {
			t.Fatalf("call while the disk is full = %q, %v", out, err)
		}
		if out, err := n.call("says", nil); out != "out something" || err != nil {
			t.Fatalf("call that logs while the disk is full = %q, %v", out, err)
		}
	}
	command := []string{"echo"}
	if _, err := n.CreateFunction(t.Context(), faas.DefaultApp, "more", client.Settings{Image: &image, Command: &command}, ""); err != nil && faas.KindOf(err) != faas.Busy {
		t.Errorf("a new function while the disk is full: %v (%s), want none or Busy", err, faas.KindOf(err))
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	n.becomes(http.StatusOK)
	n.function("again", image, nil, "args", "there is room")
	if out, err := n.call("again", nil); out != "there is room" || err != nil {
		t.Errorf("call = %q, %v", out, err)
	}
	if out, err := n.call("says", nil); out != "out something" || err != nil {
		t.Errorf("call = %q, %v", out, err)
	}
	n.settled()
}
