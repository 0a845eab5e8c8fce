package hyperfunc_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/txtar"
	"go.uber.org/goleak"

	"hob/faas"
	"hob/internal/api/hyperfunc"
	"hob/internal/build"
	"hob/internal/catalog"
	"hob/internal/image"
	"hob/internal/logs"
	"hob/internal/store"
	"hob/internal/store/memory"
)

var update = flag.Bool("update", false, "rewrite testdata with what the code does now")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newServer returns a server of which everything is real but what runs calls. It
// has the images ubuntu, hob.local/tools with a command and a user, and
// hob.local/bare, with neither.
func newServer(t testing.TB, limits ...store.Limits) *hyperfunc.Server {
	t.Helper()
	ctx := t.Context()
	db := memory.New(limits...)
	t.Cleanup(func() { db.Close() })
	index, err := catalog.Load(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	images, err := image.Open(image.Config{Dir: t.TempDir(), Platform: "linux/amd64", Self: []string{"127.0.0.1:8080"}, InUse: index.Digests})
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]v1.Config{
		"ubuntu": {Cmd: []string{"/bin/bash"}, Env: []string{"PATH=/bin"}},
		"hob.local/tools": {Entrypoint: []string{"/bin/run"}, Cmd: []string{"upper"}, User: "7:8", WorkingDir: "/srv",
			Labels: map[string]string{"a": "b"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}, Volumes: map[string]struct{}{"/data": {}}},
		"hob.local/bare": {},
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
	return &hyperfunc.Server{
		Catalog: index, Images: images, Logs: lines, Calls: db, Queue: &queue{calls: db, logs: lines},
		Settings: hyperfunc.Settings{Quota: 10, MaxBody: faas.KB},
		Capacity: faas.Resources{Memory: 6 * faas.GB, CPU: 2000},
		Log:      slog.New(slog.DiscardHandler),
	}
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
	file.OS, file.Architecture, file.Config, file.Created = "linux", "amd64", config, v1.Time{Time: time.Unix(0, 0)}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := build.WriteTar(&out, name, img); err != nil {
		t.Fatal(err)
	}
	return &out
}

// queue stands for what runs calls: the first word of a function's command
// decides what becomes of each.
type queue struct {
	calls *memory.Store
	logs  *logs.Store
	live  []faas.Call
}

func (q *queue) Live() []faas.Call { return q.live }

func (q *queue) Enqueue(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, delay time.Duration) (faas.Call, error) {
	if len(fn.Command) > 0 && fn.Command[0] == "full" {
		return faas.Call{}, faas.Errorf(faas.Busy, "call %s: the queue is full", fn.Name)
	}
	payload, err := io.ReadAll(req.Body)
	if err != nil {
		return faas.Call{}, faas.Errorf(faas.TooLarge, "the payload is over the limit of 1 KB")
	}
	body := q.calls.NewBody()
	body.Write(payload)
	a := store.Acceptance{Call: *call, Request: req, Body: body}
	if req.Key != "" {
		a.Key = &store.Key{Function: fn.ID, Caller: req.Caller, Key: req.Key, Hash: string(payload)}
	}
	kept, known, err := q.calls.Accept(ctx, a)
	if err != nil || known {
		return kept, err
	}
	q.logs.Event(fn.ID, faas.Event{Name: faas.EventCall, Call: call.ID, Stdin: faas.Short(payload)})
	q.logs.Event(fn.ID, faas.Event{Name: faas.EventPending, Call: call.ID})
	return kept, q.run(ctx, fn, req, payload)
}

// run takes the call that was accepted and settles it, unless it is to wait or to
// go on.
func (q *queue) run(ctx context.Context, fn faas.Function, req *faas.Request, payload []byte) error {
	args := append(slices.Clone(fn.Command), "")
	if args[0] == "waits" {
		return nil
	}
	taken, _, err := q.calls.Take(ctx, "me", []store.Lane{{Functions: []string{fn.ID}, Limit: 1}})
	if err != nil || len(taken) != 1 {
		return fmt.Errorf("take: %v, %d", err, len(taken))
	}
	call := taken[0]
	q.logs.Event(fn.ID, faas.Event{Name: faas.EventRunning, Call: call.ID, Attempt: 1})
	if args[0] == "runs" {
		return nil
	}
	out := ""
	switch args[0] {
	case "echo":
		out = strings.Join(fn.Command[1:], " ") + "\n"
	case "cat":
		out = string(payload)
	case "many":
		n, _ := strconv.Atoi(args[1])
		out = strings.Repeat("x", n)
	case "header":
		out = fmt.Sprintf("%s %s %s=%s\n", req.Convention, req.Method, args[1], req.Header.Get(args[1]))
	case "fail":
		err = faas.Errorf(faas.FuncFailed, "call %s: exit code 3: no such picture", fn.Name)
	case "slow":
		err = faas.Errorf(faas.TimedOut, "call %s: the function ran longer than its timeout of 1s", fn.Name)
	case "big":
		err = faas.Errorf(faas.TooLarge, "call %s: the answer is over the limit of 1 MB", fn.Name)
	case "headers":
		err = faas.Errorf(faas.TooLarge, "the environment is over 128 KB: %w", faas.ErrEnvironment)
	case "gone":
		err = faas.Errorf(faas.NotFound, "no image ubuntu:latest on this node")
	case "defect":
		err = faas.Errorf(faas.Internal, "internal error")
	case "canceled":
		err = faas.Errorf(faas.Canceled, "canceled by mallory")
	}
	s := store.Settlement{Call: call}
	e := faas.Event{Name: faas.EventFinished, Call: call.ID, Attempt: 1, Stdout: faas.Short([]byte(out))}
	if err != nil {
		s.Call.Error, s.Call.ErrKind = err.Error(), faas.KindOf(err)
		e = faas.Event{Name: faas.EventFailed, Call: call.ID, Attempt: 1, Message: err.Error()}
	} else {
		s.Result = &store.NewResult{Status: http.StatusOK, Body: q.calls.NewBody()}
		io.WriteString(s.Result.Body, out)
	}
	if err := s.Call.Advance(faas.StateAfter(err), time.Now()); err != nil {
		return err
	}
	q.logs.Event(fn.ID, e)
	return q.calls.Settle(ctx, s)
}

// The UUID and the call that requests in testdata name: those of the answers before.
const (
	someUUID = "e62c014e-386c-42ea-8d07-41d44e98cc3d"
	someCall = "218b7b10-e7f1-4c48-ac3c-66792f8ffc06"
)

// TestTranscripts replays the requests in testdata, each file against a server
// of its own, and compares the answers, byte for byte: they are what we promise
// to clients. What differs from run to run is written as TIME, ID and UUID.
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
			s := newServer(t, store.Limits{ResultsPerFunction: 8 * faas.KB})
			h := s.Handler()
			seen := map[string]string{someUUID: someUUID, someCall: someCall}
			for i := 0; i < len(script.Files); i += 2 {
				if script.Files[i].Name != "request" || i+1 >= len(script.Files) || script.Files[i+1].Name != "answer" {
					t.Fatalf("%s: want pairs of request and answer", file)
				}
				request, want := script.Files[i].Data, string(script.Files[i+1].Data)
				got := exchange(t, h, string(request), seen)
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

// exchange sends a request as written, in which words of seen stand for others,
// and returns the answer as it would be written.
func exchange(t *testing.T, h http.Handler, request string, seen map[string]string) string {
	t.Helper()
	for word, real := range seen {
		request = strings.ReplaceAll(request, word, real)
	}
	head, payload, _ := strings.Cut(request, "\n\n")
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head + "\n\n")))
	if err != nil {
		t.Fatal(err)
	}
	length := r.ContentLength
	if r.Header.Get("Content-Length") == "" && length >= 0 {
		payload = strings.TrimSuffix(payload, "\n")
		length = int64(len(payload))
	}
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(payload)), length
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if m := secret.FindStringSubmatch(w.Body.String()); m != nil {
		seen[someUUID] = m[1]
	}
	if m := callID.FindStringSubmatch(w.Body.String()); m != nil {
		seen[someCall] = m[1]
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%d %s\n", w.Code, cmp.Or(http.StatusText(w.Code), "-"))
	w.Result().Header.Write(&out)
	fmt.Fprintf(&out, "\n%s", w.Body)
	if body := w.Body.String(); body != "" && !strings.HasSuffix(body, "\n") {
		out.WriteString("\n")
	}
	text := strings.ReplaceAll(out.String(), "\r\n", "\n")
	text = uuid.ReplaceAllString(text, "UUID")
	text = ulid.ReplaceAllString(text, "ID")
	text = digest.ReplaceAllString(text, "sha256:DIGEST")
	text = diskSize.ReplaceAllString(text, `Size":SIZE`)
	return moment.ReplaceAllString(text, "TIME")
}

var (
	secret   = regexp.MustCompile(`"UUID":"([^"]*)"`)
	callID   = regexp.MustCompile(`"CallId":"([^"]*)"}\n$`)
	ulid     = regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b`)
	uuid     = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	digest   = regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	moment   = regexp.MustCompile(`\b20\d\d-\d\d-\d\dT[0-9:.]+Z`)
	diskSize = regexp.MustCompile(`Size":\d+`)
)

// create makes a function that runs these words and returns it.
func create(t testing.TB, s *hyperfunc.Server, name string, command ...string) faas.Function {
	t.Helper()
	w := httptest.NewRecorder()
	body := fmt.Sprintf(`{"Name":%q,"Config":{"Image":"ubuntu","Cmd":["%s"]}}`, name, strings.Join(command, `","`))
	s.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/v1.23/funcs/create", strings.NewReader(body)))
	if w.Code != http.StatusCreated {
		t.Fatalf("create %s: %d %s", name, w.Code, w.Body)
	}
	fn, err := s.Catalog.Function(hyperfunc.AppName, name)
	if err != nil {
		t.Fatal(err)
	}
	return fn
}

// send sends a request and returns the status and the body of the answer.
func send(h http.Handler, method, target, body string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// idOf is the CallId of an answer.
func idOf(t testing.TB, answer string) string {
	t.Helper()
	m := callID.FindStringSubmatch(answer)
	if m == nil {
		t.Fatalf("no CallId in %q", answer)
	}
	return m[1]
}

func TestOnlyPathsOfThisAPIMatch(t *testing.T) {
	s := &hyperfunc.Server{}
	for path, want := range map[string]string{
		"/funcs": "management", "/v1.23/funcs": "management", "/v1.99/funcs/hw": "management", "/funcs/call/1": "management",
		"/v1.23/images/a/b/json": "management", "/images/a/json": "management", "/images/create": "management",
		"/v1.23/containers/json": "management", "/v1.23/call/a/b": "management",
		"/call/a/b": "data", "/call/a/b/sync": "data", "/output/a/b/c/wait": "data", "/logs/a/b": "data", "/status/a/b": "data",
		"/v1/apps": "", "/v1/routes": "", "/v1/tasks": "", "/v2/apps": "", "/v2/": "", "/": "", "/functions": "", "/api/functions": "",
		"/calls": "", "/call": "", "/logs": "", "/status": "", "/images": "", "/r/app/funcs": "", "/version": "",
	} {
		r := httptest.NewRequest("GET", path, nil)
		got := ""
		switch {
		case s.Match(r) && s.Data(r):
			got = "data"
		case s.Match(r):
			got = "management"
		}
		if got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func TestSizesAreThoseOfHyper(t *testing.T) {
	want := map[string]faas.Resources{
		"s1": {Memory: 64 * faas.MB, CPU: 1000}, "s2": {Memory: 128 * faas.MB, CPU: 1000}, "s3": {Memory: 256 * faas.MB, CPU: 1000}, "s4": {Memory: 512 * faas.MB, CPU: 1000},
		"m1": {Memory: faas.GB, CPU: 1000}, "m2": {Memory: 2 * faas.GB, CPU: 2000}, "m3": {Memory: 4 * faas.GB, CPU: 2000},
		"l1": {Memory: 4 * faas.GB, CPU: 4000}, "l2": {Memory: 8 * faas.GB, CPU: 4000}, "l3": {Memory: 16 * faas.GB, CPU: 8000},
	}
	s := newServer(t)
	h := s.Handler()
	for _, node := range []faas.Resources{{Memory: 200 * faas.GB, CPU: 80000}, {Memory: 200 * faas.GB, CPU: 2000}, {Memory: 6 * faas.GB, CPU: 80000}} {
		s.Capacity = node
		for name, size := range want {
			status, body := send(h, "POST", "/funcs/create", `{"Name":"f","ContainerSize":"`+name+`","Config":{"Image":"ubuntu"}}`)
			if size.Memory > node.Memory {
				if status != http.StatusBadRequest || !strings.Contains(body, name+" needs "+size.Memory.String()) || !strings.Contains(body, "this node has 6 GB") || !strings.Contains(body, "fits is l1") {
					t.Errorf("%s on a node of %v: %d %s", name, node.Memory, status, body)
				}
				continue
			}
			fn, err := s.Catalog.Function("hyper", "f")
			if err != nil {
				t.Fatalf("%s: %d %s", name, status, body)
			}
			cpu := size.CPU
			if node.CPU < 10*size.CPU {
				cpu = 0
			}
			if fn.Memory != size.Memory || fn.CPU != cpu || fn.TmpSize != fn.Memory/2 {
				t.Errorf("%s has %v, %v processors and a root of %v; want %v, %v and half the memory", name, fn.Memory, fn.CPU, fn.TmpSize, size.Memory, cpu)
			}
			if status, _ := send(h, "DELETE", "/funcs/f", ""); status != http.StatusNoContent {
				t.Errorf("delete: %d", status)
			}
		}
	}
}

func TestFunctionIsWhatHyperMeans(t *testing.T) {
	fn := create(t, newServer(t), "f", "echo")
	if fn.Format != faas.FormatDefault || fn.Timeout != 300*time.Second || fn.AsyncTimeout != fn.Timeout || !fn.Writable || !fn.LogPayload ||
		fn.User != "" || fn.Network != "" || len(fn.Address) != 36 || fn.Wait < time.Hour || fn.Digest == "" || fn.Retries != 0 {
		t.Errorf("function %+v", fn)
	}
}

func TestQuotaIsTheLimitOfTheApp(t *testing.T) {
	s := newServer(t)
	if _, err := s.Catalog.App("hyper"); faas.KindOf(err) != faas.NotFound {
		t.Errorf("app hyper before the first function: %v", err)
	}
	for _, name := range []string{"a", "b"} {
		create(t, s, name, "echo")
		if app, err := s.Catalog.App("hyper"); err != nil || app.MaxConcurrency != 10 {
			t.Errorf("limit %d, %v; want 10", app.MaxConcurrency, err)
		}
		s.Settings.Quota = 3 // for an app that is yet to be made
	}
}

func TestWhatCannotBeHonouredIsRefused(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	tests := map[string]string{ // of the body, to a word of the answer
		`{"Config":{"Image":"ubuntu"}}`:                                           "bad function name",
		`{"Name":"A","Config":{"Image":"ubuntu"}}`:                                "bad function name",
		`{"Name":"a-","Config":{"Image":"ubuntu"}}`:                               "bad function name",
		`{"Name":"` + strings.Repeat("a", 256) + `","Config":{"Image":"ubuntu"}}`: "1 to 255",
		`{"Name":"f"}`: "needs an image",
		`{"Name":"f","Config":{"Image":"UBUNTU"}}`:                                                  "UBUNTU",
		`{"Name":"f","Config":{"Image":"hob.local/bare"}}`:                                          "has no command",
		`{"Name":"f","Config":{"Image":"ubuntu","Entrypoint":[""]}}`:                                "has no command",
		`{"Name":"f","ContainerSize":"xl","Config":{"Image":"ubuntu"}}`:                             "s1, s2, s3, s4, m1, m2, m3, l1, l2, l3",
		`{"Name":"f","ContainerSize":"l3","Config":{"Image":"ubuntu"}}`:                             "l3 needs 16 GB",
		`{"Name":"f","Timeout":86401,"Config":{"Image":"ubuntu"}}`:                                  "between 1 and 86400",
		`{"Name":"f","Timeout":-1,"Config":{"Image":"ubuntu"}}`:                                     "between 1 and 86400",
		`{"Name":"f","Timeout":"1m","Config":{"Image":"ubuntu"}}`:                                   `"Timeout" cannot be a string`,
		`{"Name":"f","Config":{"Image":"ubuntu","Env":["A"]}}`:                                      "NAME=value",
		`{"Name":"f","Config":{"Image":"ubuntu","Env":["=A"]}}`:                                     "environment variable",
		`{"Name":"f","Config":{"Image":"ubuntu","Cmd":{}}}`:                                         "Cmd",
		`{"Name":"f","Config":{"Image":"ubuntu","WorkingDir":"srv"}}`:                               "absolute",
		`{"Name":"f","Config":{"Image":"ubuntu","ExposedPorts":{"http":{}}}}`:                       "8080/tcp",
		`{"Name":"f","Config":{"Image":"ubuntu"},"HostConfig":{"PortBindings":{"70000/tcp":null}}}`: "8080/tcp",
		`{"Name":"f","Config":{"Image":"ubuntu"},"HostConfig":{"NetworkMode":"host"}}`:              "--insecure",
		`{"Name":"f","Config":{"Image":"ubuntu"},"HostConfig":{"NetworkMode":"container:db"}}`:      "no other containers",
		`{"Name":"f","Config":{"Image":"ubuntu"},"HostConfig":{"NetworkMode":"backend"}}`:           "bridge, none, host",
		`{"Name":"f"`: "bad JSON",
		`[]`:          "bad JSON",
		``:            "no body",
	}
	for _, body := range slices.Sorted(maps.Keys(tests)) {
		if status, answer := send(h, "POST", "/v1.23/funcs/create", body); status != http.StatusBadRequest || !strings.Contains(answer, tests[body]) {
			t.Errorf("%s\n%d %swant 400 and %q", body, status, answer, tests[body])
		}
	}
	if status, answer := send(h, "POST", "/funcs/create", strings.Repeat(" ", 1<<20+1)); status != http.StatusRequestEntityTooLarge || !strings.Contains(answer, "1 MB") {
		t.Errorf("a body over 1 MB: %d %s", status, answer)
	}
	s.Insecure = true
	if status, answer := send(h, "POST", "/funcs/create", `{"Name":"f","Config":{"Image":"ubuntu"},"HostConfig":{"NetworkMode":"host"}}`); status != http.StatusCreated {
		t.Errorf("network of the host on an insecure server: %d %s", status, answer)
	}
	if fn, err := s.Catalog.Function("hyper", "f"); err != nil || fn.Network != "host" {
		t.Errorf("network %q, %v; want host", fn.Network, err)
	}
}

func TestFunctionIsNotRemovedWhileACallExecutes(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	fn := create(t, s, "f", "runs")
	other := create(t, s, "g", "waits")
	send(h, "POST", "/call/f/"+fn.Address, "")
	send(h, "POST", "/call/g/"+other.Address, "")
	if status, body := send(h, "DELETE", "/v1.23/funcs/f", ""); status != http.StatusConflict || !strings.Contains(body, "a call is executing") {
		t.Errorf("asynchronous: %d %s", status, body)
	}
	live := s.Queue.(*queue)
	live.live = []faas.Call{{FuncID: other.ID, State: faas.CallRunning, Kind: faas.CallSync}}
	if status, body := send(h, "DELETE", "/funcs/g", ""); status != http.StatusConflict {
		t.Errorf("synchronous: %d %s", status, body)
	}
	live.live[0].State = faas.CallQueued
	if status, body := send(h, "DELETE", "/funcs/g", ""); status != http.StatusNoContent || body != "" {
		t.Errorf("with calls in line only: %d %s", status, body)
	}
}

func TestFunctionOfAnotherAPIIsShown(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	fn := create(t, s, "f", "echo").Clone()
	fn.Annotations, fn.Memory, fn.TmpSize, fn.Env = nil, 200*faas.MB, faas.MB, map[string]string{"B": "2", "A": "1"}
	fn.AsyncTimeout, fn.Entrypoint = 1500*time.Millisecond, []string{}
	if _, err := s.Catalog.PutFunction(t.Context(), fn, store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	status, body := send(h, "GET", "/funcs/f", "")
	want := `{"Name":"f","ContainerSize":"s3","Timeout":2,"UUID":"` + fn.Address + `","Created":"TIME","Config":{"Env":["A=1","B=2"],"Cmd":["echo"],"Image":"ubuntu","Entrypoint":[""]},"HostConfig":{"NetworkMode":"bridge"},"NetworkingConfig":{"EndpointsConfig":null}}` + "\n"
	if got := moment.ReplaceAllString(body, "TIME"); status != http.StatusOK || got != want {
		t.Errorf("%d\n%swant\n%s", status, got, want)
	}
	if status, body := send(h, "PUT", "/funcs/f", `{"ContainerSize":"s1"}`); status != http.StatusOK || !strings.Contains(body, `"ContainerSize":"s1"`) {
		t.Errorf("update: %d %s", status, body)
	}
}

func TestUpdateMayRepeatWhatIs(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	create(t, s, "f", "echo")
	_, now := send(h, "GET", "/funcs/f", "")
	if status, body := send(h, "PUT", "/funcs/f", strings.Replace(now, `"Timeout":300`, `"Timeout":7`, 1)); status != http.StatusOK || !strings.Contains(body, `"Timeout":7`) {
		t.Errorf("%d %s", status, body)
	}
	for change, want := range map[string]string{
		`{"Name":"g"}`:                           "cannot be changed",
		`{"Config":{"Image":"hob.local/tools"}}`: "Config, but for Env, cannot be changed",
		`{"Config":{"Cmd":["cat"]}}`:             "cannot be changed",
		`{"HostConfig":{"Links":["a:b"]}}`:       "HostConfig cannot be changed",
		`{"ContainerSize":"l3"}`:                 "needs 16 GB",
		`{"ContainerSize":"x"}`:                  "is not one of",
		`{"Timeout":100000}`:                     "between 1 and 86400",
		`{"Config":{"Env":["x"]}}`:               "NAME=value",
		`{"Config":{"Env":["A=` + strings.Repeat("x", 128<<10) + `"]}}`: "limit of 128 KB",
	} {
		if status, body := send(h, "PUT", "/funcs/f", change); status != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%.60s: %d %s", change, status, body)
		}
	}
}

func TestUpdatesAtTheSameTimeAreAllMade(t *testing.T) {
	s := newServer(t)
	h := s.Handler()
	create(t, s, "f", "echo")
	codes := make(chan string)
	for i := range 4 {
		go func() {
			status, body := send(h, "PUT", "/funcs/f", fmt.Sprintf(`{"Config":{"Env":["A=%d"]}}`, i))
			codes <- fmt.Sprint(status, body)
		}()
	}
	for range 4 {
		if got := <-codes; !strings.HasPrefix(got, "200") {
			t.Errorf("update ends with %s", got)
		}
	}
}

func TestSignedRequestsAreTakenAndOthersNot(t *testing.T) {
	s := newServer(t)
	fn := create(t, s, "f", "echo", "hi")
	s.Settings.Keys = map[string]string{"AK": "SK"}
	h := s.Handler()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/v1.23/funcs", nil))
	if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") != "HYPER-HMAC-SHA256" || !strings.Contains(w.Body.String(), "access key") {
		t.Errorf("without a signature: %d %v %s", w.Code, w.Header(), w.Body)
	}
	r := httptest.NewRequest("GET", "/v1.23/funcs", nil)
	r.Header.Set("Authorization", "HYPER-HMAC-SHA256 Credential=AK/20200101/us-west-1/hyper/hyper_request, SignedHeaders=host;x-hyper-content-sha256;x-hyper-date, Signature="+strings.Repeat("00", 32))
	r.Header.Set("X-Hyper-Date", "20200101T000000Z")
	w = httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "SK") {
		t.Errorf("an old signature: %d %s", w.Code, w.Body)
	}
	for _, detour := range []string{"/call/../funcs", "/call/..%2Ffuncs", "/call%2F..%2Ffuncs", "/logs/../v1.23/funcs", "//funcs", "/v1.23//funcs", "/v1.23%2Ffuncs"} {
		if status, body := send(h, "GET", detour, ""); status == http.StatusOK || strings.Contains(body, fn.Address) {
			t.Errorf("%s: %d %s", detour, status, body)
		}
	}
	if status, body := send(h, "POST", "/call/f/"+fn.Address+"/sync", ""); status != http.StatusOK || body != "hi\n" {
		t.Errorf("the data plane, which is not signed: %d %s", status, body)
	}
}
