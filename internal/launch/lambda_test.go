package launch_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/launch"
	"hob/internal/sandbox/fake"
)

// runtimeOfLambda asks for calls as a runtime of AWS Lambda does, and says each on both
// outputs.
func runtimeOfLambda(ctx context.Context, p *fake.Proc) int {
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() {
		defer end()
		select {
		case <-p.Term:
		case <-ctx.Done():
		}
	}()
	api := "http://" + p.Listen + "/2018-06-01/runtime/invocation/"
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for n := 1; ; n++ {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, api+"next", nil)
		next, err := client.Do(req)
		if err != nil {
			return 0
		}
		next.Body.Close()
		fmt.Fprintln(p.Stdout, "out", n)
		fmt.Fprintln(p.Stderr, "err", n)
		done, err := client.Post(api+next.Header.Get("Lambda-Runtime-Aws-Request-Id")+"/response", "", strings.NewReader(fmt.Sprint(n)))
		if err != nil {
			return 0
		}
		done.Body.Close()
	}
}

// startLambda starts a sandbox of fn, closes it, and returns the directory and the
// environment that it had.
func (r *rig) startLambda(t *testing.T, fn faas.Function) (dir string, env []string) {
	t.Helper()
	fn.Format = faas.FormatLambda
	c, err := r.Start(t.Context(), testApp, fn, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.specs[len(r.specs)-1]
	return s.Dir, s.Env
}

func TestFunctionOfLambdaFindsWhatItIsPromised(t *testing.T) {
	r := newRig(t, runtimeOfLambda)
	of := r.image(t, v1.Config{
		Entrypoint: []string{"prog"}, Cmd: []string{"app.handler"},
		Env: []string{"PATH=/var/lang/bin:/bin", "LD_LIBRARY_PATH=/var/lang/lib", "LAMBDA_TASK_ROOT=/function", "AWS_LAMBDA_RUNTIME_API=image", "AWS_LAMBDA_FUNCTION_VERSION=image"},
	})
	for _, tt := range []struct {
		name   string
		change func(fn *faas.Function)
		want   []string
	}{
		{"by itself", func(*faas.Function) {}, []string{
			"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001", "AWS_LAMBDA_FUNCTION_NAME=resize", "AWS_LAMBDA_FUNCTION_VERSION=$LATEST", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
			"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/resize", "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand", "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1",
			"LAMBDA_TASK_ROOT=/function", "LAMBDA_RUNTIME_DIR=/var/runtime", "_HANDLER=app.handler", "TZ=:UTC", "PATH=/var/lang/bin:/bin", "LD_LIBRARY_PATH=/var/lang/lib",
			"A=app", "B=app", "HOB_FORMAT=lambda", "FN_FORMAT=lambda"}},
		{"as its configuration says", func(fn *faas.Function) {
			fn.Min, fn.Memory = 1, 512*faas.MB
			fn.Env = map[string]string{"AWS_REGION": "eu-central-1", "AWS_LAMBDA_FUNCTION_NAME": "mine", "AWS_LAMBDA_RUNTIME_API": "mine", "TZ": "CET", "_HANDLER": "mine"}
		}, []string{"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001", "AWS_LAMBDA_FUNCTION_NAME=mine", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=512", "TZ=CET", "_HANDLER=mine",
			"AWS_LAMBDA_INITIALIZATION_TYPE=provisioned-concurrency", "AWS_REGION=eu-central-1", "AWS_DEFAULT_REGION=eu-central-1"}},
		{"with a command of its own", func(fn *faas.Function) {
			fn.Command = []string{"other.handler"}
			fn.Env = map[string]string{"AWS_DEFAULT_REGION": "eu-west-1"}
		}, []string{"_HANDLER=other.handler", "AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=eu-west-1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fn := of
			tt.change(&fn)
			_, env := r.startLambda(t, fn)
			for _, want := range tt.want {
				if !slices.Contains(env, want) {
					t.Errorf("environment lacks %s: %q", want, env)
				}
			}
			stream, ok := "", false
			for _, e := range env {
				if s, there := strings.CutPrefix(e, "AWS_LAMBDA_LOG_STREAM_NAME="); there {
					stream, ok = s, !ok
				}
				if name, _, _ := strings.Cut(e, "="); name == "AWS_EXECUTION_ENV" || name == "FN_LISTENER" || name == "PORT" {
					t.Errorf("it is told %s", e)
				}
			}
			if !ok || !strings.Contains(stream, "/[$LATEST]") {
				t.Errorf("log stream %q", stream)
			}
		})
	}
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}})
	dir, env := r.startLambda(t, fn)
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "_HANDLER=") }) || !slices.Contains(env, "LAMBDA_TASK_ROOT=/var/task") {
		t.Errorf("without an entrypoint: environment %q", env)
	}
	if dir != "" {
		t.Errorf("works in %q, which the image does not have", dir)
	}
}

func TestFunctionOfLambdaWorksInItsTaskRoot(t *testing.T) {
	r := newRig(t, runtimeOfLambda)
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	w.WriteHeader(&tar.Header{Name: "var/task/", Typeflag: tar.TypeDir, Mode: 0o755})
	w.Close()
	for _, tt := range []struct{ image, function, want string }{{"", "", "/var/task"}, {"/srv", "", "/srv"}, {"/srv", "/mine", "/mine"}} {
		fn := r.image(t, v1.Config{Cmd: []string{"prog"}, WorkingDir: tt.image}, layer.Bytes())
		fn.Workdir = tt.function
		if dir, _ := r.startLambda(t, fn); dir != tt.want {
			t.Errorf("works in %q, want %q", dir, tt.want)
		}
	}
}

func TestBothOutputsOfAFunctionOfLambdaAreItsLog(t *testing.T) {
	r := newRig(t, runtimeOfLambda)
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}})
	fn.Format = faas.FormatLambda
	c, err := r.Start(t.Context(), testApp, fn, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for n, id := range []string{"ONE", "TWO"} {
		if answer, out, err := exchange(t, c, id); err != nil || !out.Keep || answer != fmt.Sprint(n+1) {
			t.Fatalf("%s: %q, %+v, %v", id, answer, out, err)
		}
		for _, stream := range []string{"out", "err"} {
			want, got := fmt.Sprintf("%s %d\n", stream, n+1), ""
			for until := time.Now().Add(time.Minute); got != want && time.Now().Before(until); time.Sleep(time.Millisecond) {
				got = r.logs.peek("f1/" + id + "/std" + stream)
			}
			if got != want {
				t.Errorf("log of %s: %q, want %q", id, got, want)
			}
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// framing serves calls on a socket as a development kit of Oracle does. Before the
// frame of a call it writes what it had to say of the one before.
func framing(ctx context.Context, p *fake.Proc) int {
	socket := filepath.Join(p.Sockets, "lsnr.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return 1
	}
	os.Chmod(socket, 0o666)
	late := "begin\n"
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(p.Getenv("FN_LOGFRAME_HDR"))
		for _, out := range []*os.File{p.Stdout, p.Stderr} {
			fmt.Fprintf(out, "%s\n%s=%s\nearly %s\n", late, p.Getenv("FN_LOGFRAME_NAME"), id, id)
		}
		late = "late " + id + "\n"
	})}
	go func() {
		select {
		case <-p.Term:
		case <-ctx.Done():
		}
		p.Stdout.WriteString(late)
		s.Close()
	}()
	s.Serve(l)
	return 0
}

func TestWhatIsWrittenAfterTheAnswerIsLoggedUnderItsCallWithFrames(t *testing.T) {
	r := newRig(t, framing)
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}})
	fn.Format, fn.Env = faas.FormatHTTPStream, map[string]string{"FN_LOGFRAME_HDR": "opc-request-id"}
	app := testApp
	app.Env = map[string]string{"FN_LOGFRAME_NAME": "01FRAME"}
	c, err := r.Start(t.Context(), app, fn, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for n, id := range []string{"ONE", "TWO", "THREE"} {
		req := request(id)
		req.Header, req.Size = http.Header{"Opc-Request-Id": {fmt.Sprint("opc", n+1)}}, 0
		if out, err := c.Exchange(t.Context(), req, httptest.NewRecorder()); err != nil || !out.Keep {
			t.Fatalf("%s: %+v, %v", id, out, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for key, want := range map[string]string{
		"f1/ONE/stdout": "early opc1\nlate opc1\n", "f1/TWO/stdout": "early opc2\nlate opc2\n", "f1/THREE/stdout": "early opc3\nlate opc3\n",
		"f1/ONE/stderr": "early opc1\nlate opc1\n", "f1/TWO/stderr": "early opc2\nlate opc2\n", "f1/THREE/stderr": "early opc3\n",
	} {
		if got := strings.TrimPrefix(r.logs.said(t, key), "begin\n"); got != want { // said while the first call was there already
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}

// TestSandboxesOfLambdaAskForTheirCalls has several real ones at once, each with the
// same address, frozen between its calls.
func TestSandboxesOfLambdaAskForTheirCalls(t *testing.T) {
	r, fn := contract(t)
	fn.Format, fn.Profile, fn.Env, fn.Command = faas.FormatLambda, "", nil, []string{"app.handler"}
	fn.StartTimeout = time.Minute
	var conns []*launch.Conn
	for range 2 {
		c, err := r.Start(t.Context(), testApp, fn, func() {})
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for round := range 3 {
		for i, c := range conns {
			if r.only.Caps.Freezer && round > 0 {
				if err := c.Thaw(); err != nil {
					t.Fatal(err)
				}
			}
			req, w := request(fmt.Sprintf("CALL%d%d", round, i)), httptest.NewRecorder()
			event := fmt.Sprintf(`{"of":%d}`, i)
			req.Body, req.Size = strings.NewReader(event), int64(len(event))
			if out, err := c.Exchange(t.Context(), req, w); err != nil || !out.Keep {
				t.Fatalf("%+v, %v", out, err)
			}
			if want := event + " of app.handler in /: open file: read-only file system, <nil>"; w.Body.String() != want {
				t.Errorf("answer %q, want %q", w.Body, want)
			}
			for end := time.Now().Add(time.Minute); r.logs.peek("f1/"+req.Call+"/stdout") == "" || r.logs.peek("f1/"+req.Call+"/stderr") == ""; time.Sleep(time.Millisecond) {
				if time.Now().After(end) { // what is read later is the next call's
					t.Fatalf("call %s has said nothing", req.Call)
				}
			}
			if r.only.Caps.Freezer {
				if _, err := c.Freeze(); err != nil && !strings.Contains(err.Error(), "does not stand still") { // on a busy machine it may go on
					t.Fatal(err)
				}
			}
		}
	}
	for i, c := range conns {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		for key, want := range map[string]string{fmt.Sprintf("f1/CALL2%d/stdout", i): fmt.Sprintf("asked {\"of\":%d}\n", i), fmt.Sprintf("f1/CALL2%d/stderr", i): "asked, too\n"} {
			if got := r.logs.peek(key); got != want {
				t.Errorf("%s: %q, want %q", key, got, want)
			}
		}
	}
}
