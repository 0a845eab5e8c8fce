package launch_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"go.uber.org/goleak"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/launch"
	"hob/internal/sandbox"
	"hob/internal/sandbox/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Launcher on a real image store and the fake driver, with the specs
// that the driver was given.
type rig struct {
	*launch.Launcher
	logs *logs
	only *launch.Only // its driver

	mu    sync.Mutex
	specs []sandbox.Spec // guarded by mu
}

// newRig returns a rig whose functions all run this program.
func newRig(t *testing.T, run fake.Program) *rig {
	t.Helper()
	images, err := image.Open(image.Config{Dir: t.TempDir(), Grace: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { images.Close() })
	r := &rig{only: new(launch.Only), logs: &logs{lines: make(map[string]*bytes.Buffer)}}
	d := fake.New(map[string]fake.Program{"prog": func(ctx context.Context, p *fake.Proc) int {
		r.mu.Lock()
		r.specs = append(r.specs, p.Spec)
		r.mu.Unlock()
		return run(ctx, p)
	}})
	t.Cleanup(func() { d.Close() })
	r.only.Driver = d
	r.Launcher = &launch.Launcher{Images: images, Drivers: r.only, Logs: r.logs, Log: slog.New(slog.DiscardHandler)}
	return r
}

// image loads an image with this configuration, and layers above that of accounts,
// and returns a function of it.
func (r *rig) image(t *testing.T, cfg v1.Config, layers ...[]byte) faas.Function {
	t.Helper()
	img := empty.Image
	for _, text := range slices.Concat([][]byte{accounts}, layers) {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.Config, f.OS, f.Architecture = cfg, "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, f); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := tarball.Write(name.MustParseReference("hob.local/test:1"), img, &buf); err != nil {
		t.Fatal(err)
	}
	loaded, err := r.Images.Load(t.Context(), &buf, "")
	if err != nil {
		t.Fatal(err)
	}
	return faas.Function{ID: "f1", App: "a1", Name: "resize", Image: "hob.local/test:1", Digest: loaded[0].Digest}.WithDefaults()
}

// accounts is a layer that knows root, app and its groups.
var accounts = func() []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range []struct{ name, body string }{
		{"etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:501:502::/home/app:/bin/sh\n"},
		{"etc/group", "root:x:0:\napp:x:502:\nvideo:x:44:app\n"},
	} {
		w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.body))})
		io.WriteString(w, f.body)
	}
	w.Close()
	return buf.Bytes()
}()

// unpinned reports whether the image of fn can be removed, and removes it.
func (r *rig) unpinned(t *testing.T, fn faas.Function) bool {
	t.Helper()
	gone, _, err := r.Images.Prune(t.Context(), func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(gone, func(i image.Image) bool { return i.Digest == fn.Digest })
}

// call carries out one call of fn and closes its sandbox.
func (r *rig) call(t *testing.T, fn faas.Function, env ...string) (answer string, err error) {
	t.Helper()
	c, err := r.Start(t.Context(), testApp, fn, nil)
	if err != nil {
		return "", err
	}
	w := httptest.NewRecorder()
	_, err = c.Exchange(t.Context(), request("CALL1", env...), w)
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	return w.Body.String(), err
}

// spec is what the driver is asked for when fn is called.
func (r *rig) spec(t *testing.T, fn faas.Function, env ...string) sandbox.Spec {
	t.Helper()
	if _, err := r.call(t, fn, env...); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.specs[len(r.specs)-1]
}

func request(id string, env ...string) *faas.Request {
	return &faas.Request{Call: id, Body: strings.NewReader(""), Env: env}
}

func succeed(context.Context, *fake.Proc) int { return 0 }

// logs implements launch.Logs.
type logs struct {
	mu    sync.Mutex
	lines map[string]*bytes.Buffer // by "function/call/stream"; guarded by mu
	open  int
}

func (l *logs) Writer(funcID, callID, stream string) io.WriteCloser {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open++
	key := funcID + "/" + callID + "/" + stream
	if l.lines[key] == nil {
		l.lines[key] = new(bytes.Buffer)
	}
	return &logWriter{l, l.lines[key]}
}

type logWriter struct {
	l *logs
	b *bytes.Buffer
}

func (w *logWriter) Write(p []byte) (int, error) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	return w.b.Write(p)
}

func (w *logWriter) Close() error {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.l.open--
	return nil
}

// peek is said while logs are open.
func (l *logs) peek(key string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines[key] == nil {
		return ""
	}
	return l.lines[key].String()
}

func (l *logs) said(t *testing.T, key string) string {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open != 0 {
		t.Errorf("%d logs were not closed", l.open)
	}
	if l.lines[key] == nil {
		return ""
	}
	return l.lines[key].String()
}

func TestFunctionWinsOverImage(t *testing.T) {
	for _, tt := range []struct {
		name                string
		entrypoint, command []string // of the image
		fnEntry, fnCommand  []string
		want                string
	}{
		{name: "command of the image", command: []string{"prog", "a"}, want: "prog a"},
		{name: "entrypoint of the image", entrypoint: []string{"prog"}, command: []string{"a"}, want: "prog a"},
		{name: "command of the function", entrypoint: []string{"prog"}, command: []string{"a"}, fnCommand: []string{"b", "c"}, want: "prog b c"},
		{name: "empty command of the function", entrypoint: []string{"prog"}, command: []string{"a"}, fnCommand: []string{}, want: "prog"},
		{name: "entrypoint of the function drops both", entrypoint: []string{"x"}, command: []string{"a"}, fnEntry: []string{"prog"}, want: "prog"},
		{name: "both of the function", entrypoint: []string{"x"}, command: []string{"a"}, fnEntry: []string{"prog", "-v"}, fnCommand: []string{"b"}, want: "prog -v b"},
		{name: "no entrypoint", entrypoint: []string{"x"}, command: []string{"a"}, fnEntry: []string{}, fnCommand: []string{"prog"}, want: "prog"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, succeed)
			fn := r.image(t, v1.Config{Entrypoint: tt.entrypoint, Cmd: tt.command})
			fn.Entrypoint, fn.Command = tt.fnEntry, tt.fnCommand
			if got := strings.Join(r.spec(t, fn).Args, " "); got != tt.want {
				t.Errorf("runs %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSpecIsOfTheFunction(t *testing.T) {
	r := newRig(t, succeed)
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}, WorkingDir: "/srv", Volumes: map[string]struct{}{"/data": {}}})
	fn.Memory, fn.CPU, fn.TmpSize, fn.Writable = 64*faas.MB, 500, faas.MB, true
	s := r.spec(t, fn)
	if s.ID != "call1" || s.Memory != 64*faas.MB || s.CPU != 500 || s.TmpSize != faas.MB || !s.Writable || s.HostNetwork() ||
		s.Dir != "/srv" || !slices.Equal(s.Volumes, []string{"/data"}) || s.Hostname != "resize" || s.Root.Key == "" || len(s.Root.Layers) != 1 {
		t.Errorf("spec %+v", s)
	}
	fn.Workdir, fn.Network = "/work", "host"
	if s = r.spec(t, fn); s.Dir != "/work" || !s.HostNetwork() {
		t.Errorf("workdir %q, host network %v", s.Dir, s.HostNetwork())
	}
}

func TestHostnameIsMadeOfTheName(t *testing.T) {
	r := newRig(t, succeed)
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}})
	for name, want := range map[string]string{
		"resize":                       "resize",
		"Resize_Photos.v2":             "resize-photos-v2",
		strings.Repeat("a", 200):       strings.Repeat("a", 63),
		strings.Repeat("a", 62) + "..": strings.Repeat("a", 62),
	} {
		fn.Name = name
		if got := r.spec(t, fn).Hostname; got != want {
			t.Errorf("hostname of %q is %q, want %q", name, got, want)
		}
	}
}

func TestEnvironmentIsLaidOver(t *testing.T) {
	const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, tt := range []struct {
		name       string
		image      []string
		user       string
		call, want []string
	}{
		{"every process has these", nil, "", nil, []string{path, "HOME=/", "HOSTNAME=resize"}},
		{"root is at home elsewhere", nil, "0", nil, []string{path, "HOME=/root", "HOSTNAME=resize"}},
		{"the image wins over them", []string{"PATH=/opt", "LEVEL=1"}, "", nil, []string{"PATH=/opt", "HOME=/", "HOSTNAME=resize", "LEVEL=1"}},
		{"the call wins over the image", []string{"LEVEL=1", "A=b"}, "", []string{"LEVEL=2", "HOME=/srv", "LEVEL=3"},
			[]string{path, "HOME=/srv", "HOSTNAME=resize", "LEVEL=3", "A=b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, succeed)
			fn := r.image(t, v1.Config{Cmd: []string{"prog"}, Env: tt.image})
			fn.User = tt.user
			if got := r.spec(t, fn, tt.call...).Env; !slices.Equal(got, tt.want) {
				t.Errorf("environment %q, want %q", got, tt.want)
			}
		})
	}
}

// TestCallsDoNotShareAnEnvironment: what one call brings, the next does not see.
func TestCallsDoNotShareAnEnvironment(t *testing.T) {
	r := newRig(t, succeed)
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}, Env: []string{"A=image"}})
	r.spec(t, fn, "A=secret", "B=secret")
	if got := r.spec(t, fn).Env; !slices.Contains(got, "A=image") || slices.Contains(got, "B=secret") {
		t.Errorf("environment of the second call: %q", got)
	}
}

func TestUser(t *testing.T) {
	for _, tt := range []struct {
		name, image, fn      string
		namespaces, writable bool
		want                 sandbox.User
	}{
		{name: "nobody is named", namespaces: true, want: sandbox.User{UID: 1000, GID: 1000}},
		{name: "nobody is named and the root is writable", namespaces: true, writable: true, want: sandbox.User{}},
		{name: "the same without user namespaces", writable: true, want: sandbox.User{UID: 1000, GID: 1000}},
		{name: "the image's with a writable root", image: "7:8", namespaces: true, writable: true, want: sandbox.User{UID: 7, GID: 8}},
		{name: "the image's", image: "app", want: sandbox.User{UID: 501, GID: 502, Groups: []uint32{44}}},
		{name: "the image's, in numbers", image: "7:8", want: sandbox.User{UID: 7, GID: 8}},
		{name: "the function's wins", image: "app", fn: "7", want: sandbox.User{UID: 7}},
		{name: "root of the image without user namespaces", image: "root", want: sandbox.User{UID: 1000, GID: 1000}},
		{name: "root of the image with user namespaces", image: "0", namespaces: true, want: sandbox.User{}},
		{name: "root asked for by the function", fn: "root", want: sandbox.User{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, succeed)
			r.only.Caps.UserNamespaces = tt.namespaces
			fn := r.image(t, v1.Config{Cmd: []string{"prog"}, User: tt.image})
			fn.User, fn.Writable = tt.fn, tt.writable
			got := r.spec(t, fn).User
			if got.UID != tt.want.UID || got.GID != tt.want.GID || !slices.Equal(got.Groups, tt.want.Groups) {
				t.Errorf("runs as %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestImageIsPinnedUntilClose(t *testing.T) {
	r := newRig(t, succeed)
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}})
	c, err := r.Start(t.Context(), testApp, fn, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.unpinned(t, fn) {
		t.Fatal("the image of a sandbox was removed")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if !r.unpinned(t, fn) {
		t.Error("the image is in use after Close")
	}
}

func TestFailedStartUndoesItsSteps(t *testing.T) {
	for _, tt := range []struct {
		name   string
		image  v1.Config
		change func(*faas.Function)
		says   string
	}{
		{"no command", v1.Config{}, nil, "function resize has no command, and neither has its image hob.local/test:1: give one behind the image"},
		{"no such user", v1.Config{Cmd: []string{"prog"}}, func(fn *faas.Function) { fn.User = "mallory" }, "user of function resize: "},
		{"no such program", v1.Config{Cmd: []string{"/bin/none"}}, nil, `start function resize: there is no program "/bin/none"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, succeed)
			fn := r.image(t, tt.image)
			if tt.change != nil {
				tt.change(&fn)
			}
			answer, err := r.call(t, fn)
			if faas.KindOf(err) != faas.Invalid || !strings.HasPrefix(err.Error(), tt.says) || answer != "" {
				t.Errorf("answer %q, error %v of kind %q; want Invalid %q", answer, err, faas.KindOf(err), tt.says)
			}
			if live := r.Live(); len(live) != 0 {
				t.Errorf("live: %+v", live)
			}
			r.logs.said(t, "")
			if !r.unpinned(t, fn) {
				t.Error("the image is in use after a failed start")
			}
		})
	}
}

func TestMissingImageIsNotFound(t *testing.T) {
	r := newRig(t, succeed)
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}})
	if _, err := r.Ready(t.Context(), faas.App{}, fn); err != nil {
		t.Errorf("an image that is there is not ready: %v", err)
	}
	fn.Digest = "sha256:" + strings.Repeat("0", 64)
	if _, err := r.Start(t.Context(), testApp, fn, nil); faas.KindOf(err) != faas.NotFound || !strings.HasPrefix(err.Error(), "image hob.local/test:1 of function resize: ") {
		t.Errorf("start: %v", err)
	}
	if _, err := r.Ready(t.Context(), faas.App{}, fn); err == nil || !strings.HasPrefix(err.Error(), "image hob.local/test:1 of function resize: ") {
		t.Errorf("an image that was only ever loaded cannot be fetched again: %v", err)
	}
}

func TestSlowPullIsTimedOut(t *testing.T) {
	r := newRig(t, succeed)
	registry := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }))
	defer registry.Close()
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}})
	fn.Image, fn.Digest = strings.TrimPrefix(registry.URL, "http://")+"/slow:1", ""
	r.PullTimeout = 20 * time.Millisecond
	_, err := r.Ready(t.Context(), faas.App{}, fn)
	if faas.KindOf(err) != faas.TimedOut || !errors.Is(err, faas.ErrPullTimeout) || !strings.HasSuffix(err.Error(), "the pull of the image took too long: it may take 20ms") {
		t.Errorf("error %v of kind %q", err, faas.KindOf(err))
	}
}

func TestStandardErrorReachesTheLogAndTheCaller(t *testing.T) {
	r := newRig(t, func(_ context.Context, p *fake.Proc) int {
		for n := range 7 {
			fmt.Fprintf(p.Stderr, "line %d\n", n)
		}
		return 9
	})
	_, err := r.call(t, r.image(t, v1.Config{Cmd: []string{"prog"}}))
	if want := "exit code 9: line 2\nline 3\nline 4\nline 5\nline 6"; faas.KindOf(err) != faas.FuncFailed || err.Error() != want {
		t.Errorf("error %q, want the last five lines: %q", err, want)
	}
	if got, want := r.logs.said(t, "f1/CALL1/stderr"), "line 0\nline 1\nline 2\nline 3\nline 4\nline 5\nline 6\n"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
}

func TestBeginningOfStandardErrorIsShownIfTheFunctionAsksForIt(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"short\n":                 "short\n",
		"\xff":                    "\uFFFD",
		strings.Repeat("ü", 9000): strings.Repeat("ü", 127),
		strings.Repeat("x", 255):  strings.Repeat("x", 255),
		strings.Repeat("x", 256):  strings.Repeat("x", 255),
	} {
		r := newRig(t, func(_ context.Context, p *fake.Proc) int {
			io.WriteString(p.Stderr, text)
			return 1
		})
		fn := r.image(t, v1.Config{Cmd: []string{"prog"}})
		for _, fn.LogPayload = range []bool{false, true} {
			c, err := r.Start(t.Context(), testApp, fn, nil)
			if err != nil {
				t.Fatal(err)
			}
			_, out, err := exchange(t, c, "ONE")
			if fn.LogPayload && out.Stderr != want || !fn.LogPayload && out.Stderr != "" || faas.KindOf(err) != faas.FuncFailed {
				t.Errorf("payload in the log %v: %.20q is shown as %q, %v; want %q", fn.LogPayload, text, out.Stderr, err, want)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// slowLogs take their time for the first that is written, as on a busy machine.
type slowLogs struct {
	*logs
	begun chan struct{}
	once  sync.Once
}

func (l *slowLogs) Writer(funcID, callID, stream string) io.WriteCloser {
	l.once.Do(func() {
		close(l.begun)
		<-time.After(300 * time.Millisecond)
	})
	return l.logs.Writer(funcID, callID, stream)
}

func TestLastWordsOfAnEndedProcessAreWaitedFor(t *testing.T) {
	begun := make(chan struct{})
	r := newRig(t, func(_ context.Context, p *fake.Proc) int {
		p.Stderr.WriteString("one\n")
		<-begun
		p.Stderr.WriteString("two\n")
		return 9
	})
	r.Logs = &slowLogs{logs: r.logs, begun: begun}
	_, err := r.call(t, r.image(t, v1.Config{Cmd: []string{"prog"}}))
	if want := "exit code 9: one\ntwo"; err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

// patient is a driver whose sandboxes have long to end.
type patient struct{ sandbox.Driver }

func (d patient) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	b, err := d.Driver.Start(ctx, spec)
	return patientBox{b}, err
}

type patientBox struct{ sandbox.Sandbox }

func (b patientBox) Stop(ctx context.Context, _ time.Duration) error {
	return b.Sandbox.Stop(ctx, time.Minute)
}

func TestNobodyWaitsForAnAnswerThatNobodyTakes(t *testing.T) {
	begun, wrote := make(chan struct{}), make(chan error, 1)
	r := newRig(t, func(_ context.Context, p *fake.Proc) int {
		close(begun)
		<-p.Term
		_, err := p.Stdout.Write(make([]byte, 1<<20)) // more than the pipe holds
		wrote <- err
		return 0
	})
	r.only.Driver = patient{r.only.Driver}
	c, err := r.Start(t.Context(), testApp, r.image(t, v1.Config{Cmd: []string{"prog"}}), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, err := c.Exchange(ctx, request("CALL1"), httptest.NewRecorder()); err == nil {
		t.Error("an answer")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-wrote; err != nil {
		t.Errorf("the process that was asked to end could not write: %v", err)
	}
}

func TestLastWordsAreShortAndText(t *testing.T) {
	r := newRig(t, func(_ context.Context, p *fake.Proc) int {
		p.Stderr.WriteString(strings.Repeat("x", 1<<20) + "\xff the end\n")
		return 1
	})
	_, err := r.call(t, r.image(t, v1.Config{Cmd: []string{"prog"}}))
	if err == nil || !strings.HasSuffix(err.Error(), "x� the end") || len(err.Error()) > 1100 {
		t.Errorf("error of %d bytes: %.60q", len(err.Error()), err)
	}
	if got := len(r.logs.said(t, "f1/CALL1/stderr")); got != 1<<20+10 {
		t.Errorf("the log has %d bytes", got)
	}
}

func TestLiveShowsWhatRuns(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, func(context.Context, *fake.Proc) int {
		<-release
		return 0
	})
	slow := &slowDriver{Driver: r.only.Driver, starting: make(chan struct{}), release: make(chan struct{})}
	r.only.Driver = slow
	c, err := r.Start(t.Context(), testApp, r.image(t, v1.Config{Cmd: []string{"prog"}}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if live := r.Live(); len(live) != 0 {
		t.Errorf("live before the exchange: %+v", live)
	}
	done := make(chan error, 1)
	body := &signalBody{read: make(chan struct{})}
	go func() {
		_, err := c.Exchange(t.Context(), &faas.Request{Call: "CALL1", Body: body, Size: -1}, httptest.NewRecorder())
		done <- err
	}()
	check := func(state string, processes int) {
		t.Helper()
		live := r.Live()
		if len(live) != 1 {
			t.Fatalf("live: %+v, want one", live)
		}
		if l := live[0]; l.ID != "call1" || l.Call != "CALL1" || l.App != "a1" || l.Function != "resize" || l.State != state || l.Processes != processes || l.Started.IsZero() {
			t.Errorf("live: %+v, want it %s with %d processes", l, state, processes)
		}
	}
	<-slow.starting
	check("starting", 0)
	close(slow.release)
	<-body.read
	check("busy", 1)
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(r.Live()) != 1 {
		t.Error("the sandbox is gone before it was closed")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if live := r.Live(); len(live) != 0 {
		t.Errorf("live after Close: %+v", live)
	}
}

// signalBody is an empty body that tells when it is read first: the process has
// started then.
type signalBody struct {
	read chan struct{}
	once sync.Once
}

func (b *signalBody) Read([]byte) (int, error) {
	b.once.Do(func() { close(b.read) })
	return 0, io.EOF
}

// slowDriver starts a sandbox when it is released, and not after ctx has ended.
type slowDriver struct {
	sandbox.Driver
	starting, release chan struct{}
}

func (d *slowDriver) Start(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	close(d.starting)
	select {
	case <-d.release:
		return d.Driver.Start(ctx, spec)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func TestSlowStartIsTimedOut(t *testing.T) {
	r := newRig(t, succeed)
	r.only.Driver = &slowDriver{Driver: r.only.Driver, starting: make(chan struct{}), release: nil}
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}})
	fn.StartTimeout = 10 * time.Millisecond
	_, err := r.call(t, fn)
	if want := "start function resize: the sandbox did not start within 10ms"; faas.KindOf(err) != faas.TimedOut || err.Error() != want || !errors.Is(err, faas.ErrStartTimeout) {
		t.Errorf("error %v of kind %q, want TimedOut %q", err, faas.KindOf(err), want)
	}
	if len(r.Live()) != 0 || !r.unpinned(t, fn) {
		t.Error("something is left of the start")
	}
}

// TestStartTimeoutIsNotOfTheRun: the limit of the start ends with the start.
func TestStartTimeoutIsNotOfTheRun(t *testing.T) {
	r := newRig(t, func(ctx context.Context, p *fake.Proc) int {
		select {
		case <-time.After(1100 * time.Millisecond): // over the limit of the start
		case <-ctx.Done():
		}
		p.Stdout.WriteString("done")
		return 0
	})
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}})
	fn.StartTimeout = time.Second
	if answer, err := r.call(t, fn); err != nil || answer != "done" {
		t.Errorf("answer %q: %v", answer, err)
	}
}

func TestCloseEndsAProcessThatGoesOn(t *testing.T) {
	var asked bool // read after Close, which waits for the program
	r := newRig(t, func(_ context.Context, p *fake.Proc) int {
		<-p.Term
		asked = true
		p.Stderr.WriteString("bye\n")
		return 0
	})
	c, err := r.Start(t.Context(), testApp, r.image(t, v1.Config{Cmd: []string{"prog"}}), nil)
	if err != nil {
		t.Fatal(err)
	}
	over := faas.Errorf(faas.TimedOut, "over")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	body := &signalBody{read: make(chan struct{})}
	go func() {
		<-body.read
		cancel(over)
	}()
	if _, err := c.Exchange(ctx, &faas.Request{Call: "CALL1", Body: body, Size: -1}, httptest.NewRecorder()); err != over {
		t.Errorf("exchange: %v", err)
	}
	if err := c.Close(); err != nil || !asked || r.logs.said(t, "f1/CALL1/stderr") != "bye\n" {
		t.Errorf("asked to end: %v, close: %v", asked, err)
	}
}
