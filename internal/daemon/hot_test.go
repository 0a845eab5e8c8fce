package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
	"hob/internal/pool"
)

// hotImage is the image of testdata/hot.
func (n *node) hotImage() string { return n.image("hot") }

// image loads a program of testdata and returns its name.
func (n *node) image(program string) string {
	n.t.Helper()
	built, _ := programs.LoadOrStore(program, sync.OnceValues(func() ([]byte, error) { return programTar(program) }))
	tar, err := built.(func() ([]byte, error))()
	if err == nil {
		_, err = n.Load(n.t.Context(), bytes.NewReader(tar), "")
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return programImage(program)
}

// programs are the images of testdata that were built, by name: a build for all tests.
var programs sync.Map

func programImage(program string) string { return "hob.local/" + program + ":latest" }

func programTar(program string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "hob"+program)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, program)
	cmd := exec.Command("go", "build", "-o", file, "./testdata/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	img, err := build.FromProgram(context.Background(), build.Options{Program: file})
	if err != nil {
		return nil, err
	}
	var tar bytes.Buffer
	err = build.WriteTar(&tar, programImage(program), img)
	return tar.Bytes(), err
}

// hot makes a function of format http.
func (n *node) hot(name, image string, change func(*client.Settings)) {
	n.t.Helper()
	n.function(name, image, func(s *client.Settings) {
		s.Format = ptr(string(faas.FormatHTTP))
		s.Command = nil
		if change != nil {
			change(s)
		}
	})
}

// say calls a hot function with a small body.
func (n *node) say(name, body string) (string, error) {
	n.t.Helper()
	return n.call(name, strings.NewReader(body))
}

// TestHotFunctionsThatBehaveBadly does to a hot function what functions do, and
// looks whether its container goes on: the next call tells how many it has served.
func TestHotFunctionsThatBehaveBadly(t *testing.T) {
	n := start(t)
	image := n.hotImage()
	timeout := client.Duration(2 * time.Second) // of those that hang
	tests := []struct {
		name, body string
		change     func(*client.Settings)
		out        string // of a success
		kind       faas.Kind
		says       string // part of the error
		kept       bool   // the container serves the next call
	}{
		{name: "well", body: "count", out: "2", kept: true},
		{name: "exits", body: "exit 3", kind: faas.FuncFailed, says: "exit code 3: these are its last words"},
		{name: "panics", body: "crash", kind: faas.FuncFailed, says: "exit code 2"},
		{name: "garbage", body: "garbage", kind: faas.FuncFailed, says: "this is not HTTP"},
		{name: "ten-megabytes-of-header", body: "header 10000000", kind: faas.FuncFailed, says: "header of more than 256 KB"},
		{name: "two-answers", body: "two", out: "one"},
		{name: "longer-than-it-says", body: "longer", out: "one"},
		{name: "shorter-than-it-says", body: "shorter", kind: faas.Internal},
		{name: "no-end-to-be-seen", body: "unframed", kind: faas.FuncFailed, says: "Content-Length"},
		{name: "bytes-between", body: "between", out: "fine"},
		{name: "hangs", body: "hang", kind: faas.TimedOut, says: "timeout of 2s"},
		{name: "ignores-sigterm", body: "hang", kind: faas.TimedOut, change: func(s *client.Settings) { s.Env = map[string]*string{"DEAF": ptr("1")} }},
		{name: "too-much-memory", body: "hoard 200", kind: faas.FuncFailed, says: "over its 32 MB memory limit"},
		{name: "leaves-a-child", body: "fork", kind: faas.FuncFailed, says: "exit code 4"},
		{name: "leaks-descriptors", body: "leak 3000", out: "leaked", kept: true},
	}
	for _, tt := range tests {
		n.hot(tt.name, image, func(s *client.Settings) {
			s.Memory = ptr(32 * faas.MB)
			if tt.kind == faas.TimedOut {
				s.Timeout = &timeout
			}
			if tt.change != nil {
				tt.change(s)
			}
		})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if out, err := n.say(tt.name, "count"); err != nil || out != "1" {
				t.Fatalf("first call = %q, %v", out, err)
			}
			out, err := n.say(tt.name, tt.body)
			switch {
			case tt.kind == "" && (err != nil || out != tt.out):
				t.Errorf("call = %q, %v; want %q", out, err, tt.out)
			case tt.kind == faas.Internal && err == nil: // broken off: what the client makes of it is its own
				t.Errorf("call = %q, want it to break off", out)
			case tt.kind != "" && tt.kind != faas.Internal && (faas.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("call = %q, %s %v; want %s %q", out, faas.KindOf(err), err, tt.kind, tt.says)
			}
			want := "1"
			if tt.kept {
				want = "3"
			}
			out, err = n.say(tt.name, "count")
			if tt.name == "bytes-between" && err != nil && strings.Contains(err.Error(), "something between") {
				out, err = n.say(tt.name, "count") // they came while the next one was being asked
			}
			if err != nil || out != want {
				t.Errorf("next call = %q, %v; want %s", out, err, want)
			}
		})
	}
}

func TestFunctionThatWritesBeforeItIsAskedIsToldWhatIsWrong(t *testing.T) {
	n := start(t)
	n.hot("noisy", n.hotImage(), func(s *client.Settings) { s.Env = map[string]*string{"NOISE": ptr("Server is starting")} })
	var err error
	for range 3 { // the noise may come while it is being asked already
		if _, err = n.say("noisy", "count"); faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "Server is starting") {
			t.Errorf("call = %v, want what it wrote", err)
		}
	}
}

func TestMemoryIsHoardedOverManyCalls(t *testing.T) {
	n := start(t)
	n.hot("hoards", n.hotImage(), func(s *client.Settings) { s.Memory = ptr(64 * faas.MB) })
	for i := 1; ; i++ {
		out, err := n.say("hoards", "hoard 2")
		if err != nil {
			if i < 10 || !strings.Contains(err.Error(), "over its 64 MB memory limit") {
				t.Errorf("call %d: %v", i, err)
			}
			break
		}
		if out != strconv.Itoa(i) || i > 100 {
			t.Fatalf("call %d = %q", i, out)
		}
	}
	if out, err := n.say("hoards", "hoard 2"); err != nil || out != "1" {
		t.Errorf("next call = %q, %v; want a new container", out, err)
	}
}

func TestAnswerBeforeTheRequestWasRead(t *testing.T) {
	n := start(t)
	// One at a time, or the next call would find another container while the first
	// one reads on; and over a connection that goes on writing after the answer.
	n.hot("early", n.hotImage(), func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	post := func(early string, size int) string {
		t.Helper()
		conn, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		written := make(chan struct{})
		go func() {
			defer close(written)
			fmt.Fprintf(conn, "POST /api/apps/default/functions/early/call HTTP/1.1\r\nHost: x\r\nEarly: %s\r\nContent-Length: %d\r\n\r\n", early, size)
			conn.Write(make([]byte, size))
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if early == "1" {
			<-written
		}
		return string(out)
	}
	for _, size := range []int{1000, 1 << 20} {
		if out := post("1", size); out != "early" {
			t.Errorf("answer %q", out)
		}
		if out, err := n.say("early", "count"); err != nil || out == "1" {
			t.Errorf("after %d bytes: next call = %q, %v; want the same container", size, out, err)
		}
	}
	if out := post("never", 1<<20); out != "early" {
		t.Errorf("answer %q", out)
	}
	if out, err := n.say("early", "count"); err != nil || out != "1" {
		t.Errorf("next call = %q, %v; want a new container", out, err)
	}
}

func TestAnswerInPiecesArrivesInPieces(t *testing.T) {
	n := start(t)
	n.hot("drips", n.hotImage(), nil)
	resp, err := http.Post("http://"+n.addr+"/api/apps/default/functions/drips/call", "", strings.NewReader("drip 40"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	piece := make([]byte, 8)
	if _, err := io.ReadFull(resp.Body, piece); err != nil || string(piece) != "data: 0\n" {
		t.Fatalf("first piece %q, %v", piece, err)
	}
	if live, err := n.Sandboxes(t.Context()); err != nil || len(live) != 1 || live[0].State != "busy" {
		t.Errorf("the first piece came when the function had ended: %+v, %v", live, err)
	}
	rest, err := io.ReadAll(resp.Body)
	if err != nil || len(rest) != 39*8 {
		t.Errorf("rest %q, %v", rest, err)
	}
}

func TestGigabyteThroughAHotFunctionInLittleMemory(t *testing.T) {
	n := start(t, func(cfg *config.Config) { cfg.MaxRequest = 0 })
	n.hot("echo", n.hotImage(), func(s *client.Settings) {
		s.Memory, s.Timeout = ptr(64*faas.MB), ptr(client.Duration(5*time.Minute))
	})
	const size = 1 << 30
	sent, got := sha256.New(), sha256.New()
	body := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sent)
	req, _ := http.NewRequest("POST", "http://"+n.addr+"/api/apps/default/functions/echo/call", body)
	req.ContentLength = size
	req.Header.Set("Echo", "1")
	peak := watchMemory(t)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	k, err := io.Copy(got, resp.Body)
	if err != nil || k != size || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("%d bytes came back, %v; want all of %d as they were", k, err, size)
	}
	if grown := peak(); grown > 64<<20 {
		t.Errorf("this process grew by %d MB meanwhile", grown>>20)
	}
	if out, err := n.say("echo", "count"); err != nil || out != "2" {
		t.Errorf("next call = %q, %v; want the same container", out, err)
	}
}

// watchMemory returns a function that tells by how much this process has grown.
func watchMemory(t *testing.T) func() int {
	resident := func() int {
		text, _ := os.ReadFile("/proc/self/statm")
		pages, _ := strconv.Atoi(strings.Fields(string(text))[1])
		return pages * os.Getpagesize()
	}
	begin, most := resident(), 0
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			most = max(most, resident())
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int {
		close(stop)
		<-done
		return most - begin
	}
}

func TestClientOfAHotFunctionThatLeaves(t *testing.T) {
	n := start(t)
	image := n.hotImage()
	timeout := client.Duration(4 * time.Second)
	n.hot("left", image, func(s *client.Settings) { s.Timeout = &timeout })
	leave := func(body string) {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+n.addr+"/api/apps/default/functions/left/call", strings.NewReader(body))
		go func() {
			for n.busy() == 0 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		defer cancel()
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			t.Errorf("%s: it answered before its client had left", body)
		}
		until(t, "the container is free", func() bool { return n.busy() == 0 })
	}
	leave("sleep 1500")
	if out, err := n.say("left", "count"); err != nil || out != "2" {
		t.Errorf("after it finished in time the next call = %q, %v; want the same container", out, err)
	}
	leave("hang")
	if out, err := n.say("left", "count"); err != nil || out != "1" {
		t.Errorf("after it did not finish the next call = %q, %v; want a new container", out, err)
	}
}

// busy counts the sandboxes that serve a call.
func (n *node) busy() (count int) {
	live, err := n.Sandboxes(n.t.Context())
	if err != nil {
		n.t.Error(err)
		return 0
	}
	for _, s := range live {
		if s.State == "busy" {
			count++
		}
	}
	return count
}

func TestNewRevisionFailsNoCall(t *testing.T) {
	n := start(t)
	n.hot("changes", n.hotImage(), func(s *client.Settings) { s.Env = map[string]*string{"VERSION": ptr("0")} })
	var stop atomic.Bool
	var calls atomic.Int64
	var newest atomic.Int64 // that the store has answered
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for !stop.Load() {
				least := newest.Load()
				out, err := n.say("changes", "version")
				if got, _ := strconv.ParseInt(out, 10, 64); err != nil || got < least {
					t.Errorf("version %q after %d was set: %v", out, least, err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for version := int64(1); version <= 30; version++ {
		time.Sleep(15 * time.Millisecond)
		if _, err := n.UpdateFunction(t.Context(), faas.DefaultApp, "changes", client.Settings{Env: map[string]*string{"VERSION": ptr(fmt.Sprint(version))}}, ""); err != nil {
			t.Fatal(err)
		}
		newest.Store(version)
	}
	stop.Store(true)
	callers.Wait()
	t.Logf("%d calls over 30 changes", calls.Load())
	until(t, "containers of old revisions have ended", func() bool { return len(n.live()) <= 4 })
}

func (n *node) live() []client.Sandbox {
	n.t.Helper()
	live, err := n.Sandboxes(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return live
}

// TestCallsAtTheIdleTimeout calls real containers about when they are given up.
func TestCallsAtTheIdleTimeout(t *testing.T) {
	n := start(t)
	idle := client.Duration(20 * time.Millisecond)
	n.hot("idles", n.hotImage(), func(s *client.Settings) { s.IdleTimeout = &idle })
	new := 0
	for i := range 300 {
		out, err := n.say("idles", "count")
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		if out == "1" {
			new++
		}
		time.Sleep(time.Duration(idle) + time.Duration(rand.IntN(1000)-500)*time.Microsecond)
	}
	t.Logf("%d of 300 calls found a new container", new)
}

func TestWarmContainersAreThereWithoutACall(t *testing.T) {
	n := start(t)
	n.hot("warm", n.hotImage(), func(s *client.Settings) { s.Min = ptr(2) })
	until(t, "two containers are there", func() bool { return len(n.live()) == 2 })
	if out, err := n.say("warm", "count"); err != nil || out != "1" {
		t.Errorf("call = %q, %v", out, err)
	}
	if err := n.DeleteFunction(t.Context(), faas.DefaultApp, "warm", false); err != nil {
		t.Fatal(err)
	}
	until(t, "no container of a function that is no more is left", func() bool { return len(n.live()) == 0 })
}

func TestContainerIsReplacedAfterItsCalls(t *testing.T) {
	n := start(t)
	n.hot("renewed", n.hotImage(), func(s *client.Settings) { s.MaxCalls = ptr(3) })
	var got []string
	for range 7 {
		out, err := n.say("renewed", "count")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, out)
	}
	if want := "1 2 3 1 2 3 1"; strings.Join(got, " ") != want {
		t.Errorf("calls served by their containers: %v, want %s", got, want)
	}
}

func TestStartTimeoutNamesItsLimit(t *testing.T) {
	n := start(t)
	limit := client.Duration(300 * time.Millisecond)
	for _, format := range []faas.Format{faas.FormatHTTPStream, faas.FormatPort} {
		n.hot("mute-"+string(format), n.hotImage(), func(s *client.Settings) { s.Format, s.StartTimeout = ptr(string(format)), &limit })
		if _, err := n.say("mute-"+string(format), ""); faas.KindOf(err) != faas.TimedOut || !strings.Contains(err.Error(), "300ms") {
			t.Errorf("%s: %s %v", format, faas.KindOf(err), err)
		}
	}
	if len(n.live()) != 0 {
		t.Errorf("left: %+v", n.live())
	}
}

// blank is an http.ResponseWriter that keeps nothing.
type blank struct{ header http.Header }

func (b *blank) Header() http.Header         { return b.header }
func (b *blank) WriteHeader(int)             { clear(b.header) }
func (b *blank) Write(p []byte) (int, error) { return len(p), nil }

func TestHotCallAllocatesLittle(t *testing.T) {
	n := start(t)
	n.hot("lean", n.hotImage(), nil)
	if _, err := n.say("lean", "count"); err != nil {
		t.Fatal(err)
	}
	definitions, set := n.daemon.Parts()
	app, err := definitions.App(faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	fn, err := definitions.Function(faas.DefaultApp, "lean")
	if err != nil {
		t.Fatal(err)
	}
	need := &pool.Need{App: app, Function: fn}
	w := &blank{http.Header{}}
	body := strings.NewReader("")
	req := &faas.Request{Call: faas.NewID(), Method: "POST", Target: "/", Header: http.Header{"Content-Type": {"text/plain"}}, Body: body}
	ctx := t.Context()
	allocs := testing.AllocsPerRun(2000, func() {
		body.Reset("count")
		req.Size, req.Body = 5, body
		req.Deadline = time.Now().Add(time.Minute)
		slot, err := set.Acquire(ctx, need, req.Call)
		if err != nil {
			t.Fatal(err)
		}
		out, err := slot.Exchange(ctx, req, w)
		slot.Done(out.Keep)
		if err != nil || !out.Keep {
			t.Fatalf("%+v, %v", out, err)
		}
	})
	t.Logf("%v allocations", allocs)
	if allocs > 12 {
		t.Errorf("%v allocations from Acquire to Done, want 12 at most", allocs)
	}
}

func TestServerOnAPort(t *testing.T) {
	n := start(t)
	n.hot("port", n.image("port"), func(s *client.Settings) {
		s.Format, s.Concurrency, s.Port, s.MaxConcurrency = ptr(string(faas.FormatPort)), ptr(5), ptr(3000), ptr(5)
	})
	base := "http://" + n.addr + "/api/apps/default/functions/port/call"
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get(base + path)
		if err != nil {
			t.Error(err)
			return ""
		}
		defer resp.Body.Close()
		out, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %q, %v", path, resp.Status, out, err)
		}
		return string(out)
	}

	t.Run("serves several calls at once", func(t *testing.T) {
		get("/sleep/0")
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { get("/together/5") })
		}
		wg.Wait()
		if got := get("/most"); got != "5" {
			t.Errorf("%s calls at once, want 5", got)
		}
		if live := n.live(); len(live) != 1 || live[0].Calls != 7 {
			t.Errorf("containers %+v, want one that served 7 calls", live)
		}
	})
	t.Run("status, method and target are passed on", func(t *testing.T) {
		req, _ := http.NewRequest("PUT", base+"/status/418?a=b%20c", nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		out, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 418 || resp.Header.Get("X-Own") != "yes" || string(out) != "PUT /status/418?a=b%20c" {
			t.Errorf("%s %v %q", resp.Status, resp.Header, out)
		}
	})
	t.Run("upgrades pass", func(t *testing.T) {
		conn, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(long))
		fmt.Fprintf(conn, "GET /api/apps/default/functions/port/call/upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "echo" {
			t.Fatalf("%+v, %v", resp, err)
		}
		for _, word := range []string{"one", "two"} {
			io.WriteString(conn, word)
			got := make([]byte, 3)
			if _, err := io.ReadFull(in, got); err != nil || string(got) != word {
				t.Fatalf("echo %q, %v; want %s", got, err, word)
			}
		}
	})
	t.Run("a caller that leaves is told of, and the container is kept", func(t *testing.T) {
		before := n.live()[0]
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", base+"/sleep/30000", nil)
		go func() {
			for n.busy() == 0 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		defer cancel()
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			t.Error("it answered")
		}
		until(t, "the container is free", func() bool { return n.busy() == 0 })
		get("/sleep/0")
		if live := n.live(); len(live) != 1 || live[0].ID != before.ID {
			t.Errorf("containers %+v, want %s alone", live, before.ID)
		}
	})
	t.Run("a connection for every call is of no harm", func(t *testing.T) {
		before := n.live()[0]
		for range 50 {
			conn, err := net.Dial("tcp", n.addr)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "GET /api/apps/default/functions/port/call/most HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if _, err := io.ReadAll(conn); err != nil {
				t.Error(err)
			}
			conn.Close()
		}
		if live := n.live(); len(live) != 1 || live[0].ID != before.ID {
			t.Errorf("containers %+v, want %s alone", live, before.ID)
		}
	})
}
