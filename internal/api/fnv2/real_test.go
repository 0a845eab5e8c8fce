package fnv2_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"hob/faas"
	"hob/internal/api/fnv2"
	"hob/internal/build"
	"hob/internal/capacity"
	"hob/internal/image"
	"hob/internal/invoke"
	"hob/internal/launch"
	"hob/internal/logs"
	"hob/internal/pool"
	"hob/internal/sandbox"
	"hob/internal/sandbox/fake"
	"hob/internal/store"
	"hob/internal/testenv"
)

// real is an edge behind which all is real but the sandboxes.
type real struct {
	*edge
	*launch.Launcher
	starts chan struct{}  // gets one for each start of a sandbox, if there is room
	ends   chan faas.Call // gets the record of each call
}

// Ready implements invoke.Images.
func (r *real) Ready(ctx context.Context, fn faas.Function) (_ faas.Function, err error) {
	fn.Digest, err = r.Launcher.Ready(ctx, faas.App{}, fn)
	return fn, err
}

// Record implements invoke.Journal.
func (r *real) Record(call faas.Call) { r.ends <- call }

func newReal(t *testing.T, change func(*fnv2.Server)) *real {
	testenv.NeedRoot(t) // images are unpacked with their owners
	r := &real{starts: make(chan struct{}, 1), ends: make(chan faas.Call, 1)}
	images, err := image.Open(image.Config{Dir: t.TempDir(), Platform: "linux/amd64", InUse: func() map[string]bool { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := images.Load(t.Context(), imageTar(t), ""); err != nil {
		t.Fatal(err)
	}
	lines, err := logs.Open(logs.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lines.Close() })
	driver := fake.New(map[string]fake.Program{"fdk": fdk})
	t.Cleanup(func() { driver.Close() })
	log := slog.New(slog.DiscardHandler)
	r.Launcher = &launch.Launcher{Images: images, Drivers: launch.Only{Driver: driver, Caps: sandbox.Capabilities{Driver: "fake"}}, Logs: lines, Log: log}
	set := &pool.Set{
		Start: func(ctx context.Context, need pool.Need, died func()) (pool.Conn, error) {
			select {
			case r.starts <- struct{}{}:
			default:
			}
			conn, err := r.Start(ctx, need.App, need.Function, died)
			if err != nil {
				return nil, err
			}
			return conn, nil
		},
		Capacity: capacity.New(faas.Resources{Memory: faas.GB, CPU: 4000}), FreezeAfter: -1, Log: log,
	}
	t.Cleanup(set.Close)
	r.edge = serve(t, nil, change)
	r.Caller = &invoke.Invoker{Pool: set, Images: r, Apps: r.catalog, Journal: r, Calls: r.Calls, Log: log}
	return r
}

// imageTar is an image with one file, which the fake driver does not look at.
func imageTar(t *testing.T) io.Reader {
	t.Helper()
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	w.WriteHeader(&tar.Header{Name: "fdk", Mode: 0o755})
	w.Close()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := build.WriteTar(&out, "hob.local/fdk:latest", img); err != nil {
		t.Fatal(err)
	}
	return &out
}

// put makes a function that runs the program fdk with this argument.
func (r *real) put(name, arg string, change func(*faas.Function)) (path string) {
	r.Helper()
	fn := faas.Function{
		App: r.app.ID, Name: name, Image: "hob.local/fdk:latest", Format: faas.FormatHTTPStream, Command: []string{"fdk", arg},
		User: "1000:1000", StartTimeout: time.Minute, Timeout: time.Minute,
	}.WithDefaults()
	if change != nil {
		change(&fn)
	}
	fn, err := r.catalog.PutFunction(r.Context(), fn, store.IfNew)
	if err != nil {
		r.Fatal(err)
	}
	return "/invoke/" + fn.ID
}

// fdk is a function of format http-stream. Its argument says how it starts, the body
// of a request how it answers: a status, or one of the words below.
func fdk(ctx context.Context, p *fake.Proc) int {
	switch p.Args[1] {
	case "exit":
		return 3
	case "deaf":
		<-ctx.Done()
		return 0
	}
	listener, err := net.Listen("unix", p.Sockets+"/lsnr.sock")
	if err != nil {
		return 1
	}
	defer listener.Close()
	os.Chmod(p.Sockets+"/lsnr.sock", 0o666)
	ended := make(chan int, 1)
	calls := 0
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Calls", strconv.Itoa(calls))
		switch what, n, _ := strings.Cut(string(body), " "); what {
		case "die":
			ended <- 7
			<-r.Context().Done()
		case "sleep":
			<-ctx.Done()
		case "body":
			size, _ := strconv.Atoi(n)
			w.Write(make([]byte, size))
		case "typed":
			w.Header()["Content-Type"] = nil // else net/http guesses here
			if n != "" {
				w.Header().Set("Content-Type", n)
			}
			io.WriteString(w, "<html>")
		case "header":
			size, _ := strconv.Atoi(n)
			w.Header().Set("X-Long", strings.Repeat("x", size))
		case "half":
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			ended <- 7
			<-r.Context().Done()
		case "nonsense":
			conn, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(conn, "this is not HTTP\r\n\r\n")
			conn.Close()
		default:
			status, _ := strconv.Atoi(what)
			w.WriteHeader(status)
			fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, r.Header.Get("Fn-Call-Id"))
		}
	})}
	go server.Serve(listener)
	defer server.Close()
	select {
	case status := <-ended:
		return status
	case <-ctx.Done():
	case <-p.Term:
	}
	return 0
}

func TestFailuresOfARealCall(t *testing.T) {
	const logs = ", please ensure you are using the latest fdk and check the logs"
	r := newReal(t, func(s *fnv2.Server) { s.MaxResponse, s.MaxResponseHeader, s.MaxRequest = 1000, 500, 100 })
	good := r.put("good", "", nil)
	short := r.put("short", "", func(fn *faas.Function) { fn.Timeout = 100 * time.Millisecond })
	for _, tt := range []struct {
		name, path, body string
		status           int
		says             string // an answer has its own
		kept             bool
		state            faas.CallState
	}{
		{"an answer", good, "200", 200, "", true, faas.CallSucceeded},
		{"502", good, "502", 502, "function failed", true, faas.CallFailed},
		{"504", good, "504", 504, "Timed out", true, faas.CallTimedOut},
		{"body over its limit", good, "body 1001", 502, "function response body too large", true, faas.CallFailed},
		{"another status", good, "404", 502, "invalid function response", false, faas.CallFailed},
		{"header over its limit", good, "header 600", 502, "function response header too large", false, faas.CallFailed},
		{"not HTTP", good, "nonsense", 502, "error receiving function response", false, faas.CallFailed},
		{"its end", good, "die", 502, "error receiving function response", false, faas.CallFailed},
		{"half an answer", good, "half", 502, "error receiving function response", false, faas.CallFailed},
		{"out of time", short, "sleep", 504, "Timed out", false, faas.CallTimedOut},
		{"an end before it listens", r.put("exit", "exit", nil), "", 502, "Container failed to initialize" + logs, false, faas.CallFailed},
		{"no socket in time", r.put("deaf", "deaf", func(fn *faas.Function) { fn.StartTimeout = 50 * time.Millisecond }), "", 504, "Container initialization timed out" + logs, false, faas.CallTimedOut},
		{"too large for the node", r.put("big", "", func(fn *faas.Function) { fn.Memory = 2 * faas.GB }), "", 400, "Requested CPU/Memory cannot be allocated", false, faas.CallFailed},
	} {
		resp, body := r.do("POST", tt.path, strings.NewReader(tt.body))
		id := resp.Header.Get("Fn-Call-Id")
		if tt.says == "" {
			tt.says = "POST /call " + id
		}
		r.says(tt.name, resp, body, tt.status, tt.says)
		if call := <-r.ends; call.ID != id || call.State != tt.state || call.App != "photos" {
			t.Errorf("%s: the record is %+v, want call %s %s", tt.name, call, id, tt.state)
		}
		if tt.path != good {
			continue
		}
		next, _ := r.do("POST", good, strings.NewReader("200"))
		<-r.ends
		if calls := next.Header.Get("X-Calls"); next.StatusCode != 200 || (calls == "1") == tt.kept {
			t.Errorf("%s: the next answer is %d, call %s of its container, which was to be kept: %t", tt.name, next.StatusCode, calls, tt.kept)
		}
	}
}

func TestTypeOfAnAnswerIsGuessedAsAFnServerDoes(t *testing.T) {
	r := newReal(t, nil)
	path := r.put("good", "", nil)
	for ask, want := range map[string]string{"typed": "text/html; charset=utf-8", "typed application/octet-stream": "application/octet-stream", "typed image/x-cat": "image/x-cat"} {
		for range 2 { // what is held is used again
			resp, body := r.do("POST", path, strings.NewReader(ask))
			<-r.ends
			if got := resp.Header["Content-Type"]; len(got) != 1 || got[0] != want || body != "<html>" {
				t.Errorf("%s: type %q of %q, want %q", ask, got, body, want)
			}
		}
	}
}

func TestCallWhoseCallerHasLeftIsCanceled(t *testing.T) {
	r := newReal(t, nil)
	path := r.put("deaf", "deaf", func(fn *faas.Function) { fn.StartTimeout = time.Minute })
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "POST", r.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		answered <- err
	}()
	<-r.starts
	leave()
	if err := <-answered; err == nil {
		t.Error("there is an answer")
	}
	if call := <-r.ends; call.State != faas.CallCanceled || call.ErrKind != faas.Canceled {
		t.Errorf("the record is %+v", call)
	}
}
