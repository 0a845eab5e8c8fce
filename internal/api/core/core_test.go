package core_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/txtar"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/core"
	"hob/internal/build"
	"hob/internal/catalog"
	"hob/internal/image"
	"hob/internal/logs"
	"hob/internal/store/memory"
)

var update = flag.Bool("update", false, "rewrite testdata with what the code does now")

// newServer returns a server of which everything is real but the functions. It
// has two images: hob.local/tools with a command, hob.local/bare without one.
func newServer(t testing.TB) *core.Server {
	t.Helper()
	ctx := t.Context()
	definitions := memory.New()
	t.Cleanup(func() { definitions.Close() })
	index, err := catalog.Load(ctx, definitions)
	if err != nil {
		t.Fatal(err)
	}
	images, err := image.Open(image.Config{Dir: t.TempDir(), Platform: "linux/amd64", Self: []string{"127.0.0.1:8080"}, InUse: index.Digests})
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]v1.Config{
		"hob.local/tools": {Entrypoint: []string{"/bin/run"}, Cmd: []string{"upper"}, User: "7:8", Env: []string{"PATH=/bin"}, Labels: map[string]string{"a": "b"}},
		"hob.local/bare":  {},
	} {
		if _, err := images.Load(ctx, archive(t, name, config), ""); err != nil {
			t.Fatal(err)
		}
	}
	lines, err := logs.Open(logs.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lines.Close() })
	index.Admit = admit
	return &core.Server{
		Catalog: index, Images: images, Logs: lines,
		Caller:     &functions{logs: lines},
		Queue:      &queue{calls: definitions},
		Calls:      definitions,
		MaxPayload: 1 << 10,
		Sandboxes: func() []faas.Sandbox {
			return []faas.Sandbox{{ID: "s1", App: "default", Function: "slow", Format: faas.FormatHTTP, Call: "c1", State: "busy",
				Start: faas.StartBare, Calls: 2, Started: time.Now(),
				Memory: 3 * faas.MB, PeakMemory: 4 * faas.MB, CPUTime: 5 * time.Millisecond, Processes: 2}}
		},
		Node: func() core.Node {
			return core.Node{Version: "v1", Go: "go1", Platform: "linux/amd64", Driver: "fake", CPUs: 2000, Memory: faas.GB, Started: time.Now(), Listen: "127.0.0.1:8080",
				Network: "open", Refused: 7, Isolations: []core.Isolation{{Name: faas.IsolationNative}, {Name: faas.IsolationGVisor, Missing: errors.New("no program runsc")}}}
		},
		Refusals: func(string) int { return 3 },
		Log:      slog.New(slog.DiscardHandler),
	}
}

// admit is what a node says that has one network by name, one device and no gVisor.
func admit(_ context.Context, app faas.App, fn faas.Function) error {
	switch {
	case app.Network == "nowhere":
		return faas.Errorf(faas.Invalid, "this node has no network %q", app.Network)
	case fn.Isolation == faas.IsolationGVisor:
		return faas.Errorf(faas.Unsupported, "this node cannot give the isolation gvisor: no program runsc")
	case len(fn.Devices) > 0 && fn.Devices[0] != "/dev/kvm":
		return faas.Errorf(faas.Denied, "function %s asks for device %s: the operator of this node allows /dev/kvm", fn.Name, fn.Devices[0])
	}
	return nil
}

// archive is a small image as a tar file.
func archive(t testing.TB, name string, config v1.Config) io.Reader {
	t.Helper()
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	if err := w.WriteHeader(&tar.Header{Name: "bin/run", Mode: 0o755, Size: int64(len(name))}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, name)
	w.Close()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", "amd64", config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := build.WriteTar(&out, name, img); err != nil {
		t.Fatal(err)
	}
	return &out
}

// functions stands for what runs calls: what a function is called decides what
// becomes of it.
type functions struct{ logs *logs.Store }

func (f *functions) Live() []faas.Call {
	return []faas.Call{{ID: "01K9ZZ8N2R6W0V5T3YQ4XH7JGM", App: "default", Function: "waits", FuncID: "01K9ZZ8N2R6W0V5T3YQ4XH7JGN", Revision: 1,
		Kind: faas.CallSync, State: faas.CallQueued, Attempt: 1, Queued: time.Now(), Waiting: "1st in line for memory"}}
}

func (f *functions) Call(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	now := time.Now()
	if err := call.Advance(faas.CallRunning, now); err != nil {
		return err
	}
	log := f.logs.Writer(fn.ID, call.ID, "stderr")
	err := f.run(fn.Name, req, w, log, &call.Outcome)
	log.Close()
	call.Queue, call.Image, call.Sandbox, call.Run = 1000, 2000, 3000, 4000
	if err != nil {
		call.Error, call.ErrKind = err.Error(), faas.KindOf(err)
	}
	if advance := call.Advance(faas.StateAfter(err), now.Add(time.Second)); advance != nil {
		return advance
	}
	f.logs.Record(*call)
	return err
}

func (f *functions) run(name string, req *faas.Request, w http.ResponseWriter, log io.Writer, out *faas.Outcome) error {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return faas.Errorf(faas.TooLarge, "the payload is over the limit: %w", err)
	}
	out.In, out.Exit, out.Start = int64(len(body)), &faas.Exit{}, faas.StartPrepared
	switch name {
	case "upper":
		fmt.Fprintf(log, "got %d bytes\nby %s\n", len(body), req.Method)
		out.Status = http.StatusOK
		w.Header().Set("Content-Type", "application/octet-stream")
		n, err := w.Write(bytes.ToUpper(body))
		out.Out = int64(n)
		return err
	case "tell":
		w.Header().Set("Hob-Call", "of my own")
		w.Header().Set("Hob-Fault", "internal")
		if req.Target == "/teapot" {
			w.WriteHeader(http.StatusTeapot)
		}
		_, err := fmt.Fprintf(w, "%s %s\n", req.Method, req.Target)
		return err
	case "half":
		io.WriteString(w, "the first ha")
		http.NewResponseController(w).Flush()
		out.Exit = &faas.Exit{Signal: "SIGKILL", OOM: true}
		return faas.Errorf(faas.FuncFailed, "killed: over its 128 MB memory limit")
	case "broken":
		out.Exit.Code = 3
		return faas.Errorf(faas.FuncFailed, "exit code 3: no such picture")
	case "full":
		return faas.Errorf(faas.Busy, "no sandbox became free in 30s")
	case "defect":
		return errors.New("open /var/lib/hob/db: permission denied")
	}
	return faas.Errorf(faas.Internal, "function %s is not in this test", name)
}

// TestTranscripts replays the requests in testdata, each file against a server
// of its own, and compares the answers, byte for byte: they are what we promise
// to clients. What differs from run to run is written as TIME and ID.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			script, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := newServer(t)
			s.Insecure = strings.Contains(string(script.Comment), "insecure server")
			h, last := s.Handler(), ""
			for i := 0; i < len(script.Files); i += 2 {
				if script.Files[i].Name != "request" || i+1 >= len(script.Files) || script.Files[i+1].Name != "answer" {
					t.Fatalf("%s: want pairs of request and answer", file)
				}
				request, want := script.Files[i].Data, string(script.Files[i+1].Data)
				var got string
				got, last = exchange(t, h, request, last)
				if *update {
					script.Files[i+1].Data = []byte(got)
				} else if got != want {
					t.Errorf("%s: %s\ngot\n%s\nwant\n%s", file, bytes.SplitN(request, []byte("\n"), 2)[0], got, want)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(script), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// exchange sends a request as written, in which CALL stands for the last call,
// and returns the answer as it would be written, and the last call.
func exchange(t *testing.T, h http.Handler, request []byte, last string) (answer, call string) {
	head, payload, _ := bytes.Cut(bytes.ReplaceAll(request, []byte("CALL"), []byte(last)), []byte("\n\n"))
	r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(head), strings.NewReader("\n\n"))))
	if err != nil {
		t.Fatal(err)
	}
	payload = bytes.TrimSuffix(payload, []byte("\n"))
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(payload)), int64(len(payload))
	w := httptest.NewRecorder()
	w.Header()[api.RequestID] = r.Header[api.RequestID] // as the listener does it
	h.ServeHTTP(w, r)
	if id := w.Header().Get("Hob-Call"); id != "" {
		last = id
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%d %s\n", w.Code, http.StatusText(w.Code))
	header := w.Result().Header
	header.Del(api.RequestID)
	header.Write(&out)
	fmt.Fprintf(&out, "\n%s", w.Body)
	if body := w.Body.String(); body != "" && !strings.HasSuffix(body, "\n") {
		out.WriteString("\n")
	}
	text := strings.ReplaceAll(out.String(), "\r\n", "\n")
	text = ulid.ReplaceAllString(text, "ID")
	text = uuid.ReplaceAllString(text, "UUID")
	text = moment.ReplaceAllString(text, "TIME")
	text = diskSize.ReplaceAllString(text, `"size":SIZE,"created`)
	text = diskSize2.ReplaceAllString(text, `"size":SIZE,"pulled`)
	return text, last
}

var (
	ulid      = regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b`)
	uuid      = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b`)
	moment    = regexp.MustCompile(`\b20\d\d-\d\d-\d\dT[0-9:.]+Z`)
	diskSize  = regexp.MustCompile(`"size":\d+,"created`)
	diskSize2 = regexp.MustCompile(`"size":\d+,"pulled`)
)

func create(t *testing.T, h http.Handler, name string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/api/apps/default/functions", strings.NewReader(`{"name":"`+name+`","image":"hob.local/tools"}`)))
	if w.Code != http.StatusCreated {
		t.Fatalf("create %s: %d %s", name, w.Code, w.Body)
	}
}

func TestHalfAnAnswerIsBrokenOff(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	create(t, h, "half")
	defer func() {
		if got := recover(); got != http.ErrAbortHandler {
			t.Errorf("panic %v, want %v", got, http.ErrAbortHandler)
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/api/apps/default/functions/half/call", nil))
}

func TestPayloadOverTheLimitIsTooLarge(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	create(t, h, "upper")
	for _, length := range []int64{-1, 1<<10 + 1} {
		r := httptest.NewRequest("POST", "/api/apps/default/functions/upper/call", bytes.NewReader(make([]byte, 1<<10+1)))
		r.ContentLength = length
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusRequestEntityTooLarge || !strings.Contains(w.Body.String(), "over the limit") || w.Header().Get("Hob-Call") == "" {
			t.Errorf("length %d: status %d, want 413: %s", length, w.Code, w.Body)
		}
	}
}

func TestLogsAreFollowedUntilTheClientLeaves(t *testing.T) {
	s := newServer(t)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	create(t, s.Handler(), "upper")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/api/apps/default/functions/upper/logs?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	call, err := http.Post(server.URL+"/api/apps/default/functions/upper/call", "", strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	call.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for _, want := range []string{"got 3 bytes", "by POST"} {
		if !lines.Scan() || !strings.Contains(lines.Text(), `"text":"`+want+`"`) {
			t.Fatalf("line %q, %v; want %q", lines.Text(), lines.Err(), want)
		}
	}
	leave() // server.Close waits for the handler
}

func TestTriggerIsWhereThePublicURLSays(t *testing.T) {
	s := newServer(t)
	s.PublicURL = "https://hob.example.com/base/"
	h := s.Handler()
	create(t, h, "f")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("PUT", "/api/apps/default/functions/f/triggers/in", strings.NewReader(`{"source":"/in"}`)))
	if want := `"url":"https://hob.example.com/base/t/default/in"`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("%d %s, want %s", w.Code, w.Body, want)
	}
}

func TestChangesAtTheSameTimeAreAllMade(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	create(t, h, "f")
	codes := make(chan string)
	for i := range 32 {
		go func() {
			w := httptest.NewRecorder()
			body := fmt.Sprintf(`{"env":{"K%d":"v"}}`, i)
			h.ServeHTTP(w, httptest.NewRequest("PATCH", "/api/apps/default/functions/f", strings.NewReader(body)))
			codes <- fmt.Sprint(w.Code, w.Body)
		}()
	}
	for range 32 {
		if got := <-codes; !strings.HasPrefix(got, "200") {
			t.Errorf("change ends with %s", got)
		}
	}
	fn, err := s.Catalog.Function("default", "f")
	if err != nil || len(fn.Env) != 32 || fn.Revision != 33 {
		t.Errorf("got %d variables at revision %d, %v; want 32 at 33", len(fn.Env), fn.Revision, err)
	}
}
