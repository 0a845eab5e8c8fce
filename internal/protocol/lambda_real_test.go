package protocol_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/protocol"
	"hob/internal/testenv"
)

// The tests of this file run Amazon's own runtimes, as processes of this machine.

// command is a program that is another process, with the environment of a function.
func command(dir string, env []string, name string, args ...string) program {
	return func(ctx context.Context, p *process) faas.Exit {
		cmd := exec.CommandContext(ctx, name, args...)
		var out strings.Builder
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
		cmd.Env = append(os.Environ(), append([]string{
			"AWS_LAMBDA_RUNTIME_API=" + p.listener.Addr().String(), "AWS_LAMBDA_FUNCTION_NAME=f", "AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
			"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128", "AWS_REGION=us-east-1", "LAMBDA_TASK_ROOT=" + dir,
		}, env...)...)
		cmd.Run()
		p.words = out.String()
		return faas.Exit{Code: cmd.ProcessState.ExitCode()}
	}
}

// goRuntimeDir is where goRuntime is, removed after all tests; "": it was not built.
var goRuntimeDir string

// goRuntime is testdata/lambdago, built once.
var goRuntime = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lambdago")
	if err != nil {
		return "", err
	}
	goRuntimeDir = dir
	file := filepath.Join(dir, "bootstrap")
	cmd := exec.Command("go", "build", "-o", file, ".")
	cmd.Dir = "testdata/lambdago"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return file, nil
})

func openGo(t *testing.T, env ...string) protocol.Conn {
	t.Helper()
	file, err := goRuntime()
	if err != nil {
		t.Fatal(err)
	}
	return openProgram(t, faas.FormatLambda, command("", env, file))
}

func TestGoRuntimeIsServed(t *testing.T) {
	c := openGo(t)
	req := request(`{"do":"tell"}`)
	req.Deadline = time.Now().Add(time.Hour)
	rec := httptest.NewRecorder()
	out, err := c.Exchange(t.Context(), req, rec)
	var told struct {
		Call           int
		ID, ARN, Trace string
		Deadline       int64
		Event          struct{ Do string }
	}
	if err != nil || !out.Keep || json.Unmarshal(rec.Body.Bytes(), &told) != nil || rec.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%+v, %v, %q", out, err, rec.Body)
	}
	if told.Call != 1 || told.ID != "c1" || told.ARN != "arn:aws:lambda:us-east-1:000000000000:function:f" || !strings.HasPrefix(told.Trace, "Root=1-") ||
		told.Deadline != req.Deadline.UnixMilli() || told.Event.Do != "tell" {
		t.Errorf("%+v", told)
	}
	for _, tt := range []struct {
		event, answer string
		status        int
		is            error
		says          string
		keep          bool
	}{
		{event: `{"do":"fail"}`, is: faas.ErrFunction, says: "no picture (pictureError)", keep: true},
		{event: `{"do":"stream"}`, status: 200, answer: "streamed", keep: true},
		{event: `{"do":"break"}`, status: 200, answer: "half", is: faas.ErrFunction, says: "the disk is gone (errorString)", keep: true},
		{event: `{"do":"long"}`, is: faas.ErrMalformed, says: "over the limit of 6291556 bytes"}, // it ends when it is told
	} {
		rec := httptest.NewRecorder()
		out, err := c.Exchange(t.Context(), request(tt.event), rec)
		if !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.says) || out.Status != tt.status || rec.Body.String() != tt.answer || out.Keep != tt.keep {
			t.Errorf("%s: %+v, %v, %q", tt.event, out, err, rec.Body)
		}
	}
}

func TestGoRuntimeThatFails(t *testing.T) {
	t.Run("panics", func(t *testing.T) {
		out, err := openGo(t).Exchange(t.Context(), request(`{"do":"panic"}`), httptest.NewRecorder())
		if !errors.Is(err, faas.ErrFunction) || !strings.HasPrefix(err.Error(), "boom (string") || out.Keep {
			t.Errorf("%+v, %v", out, err)
		}
	})
	t.Run("exits", func(t *testing.T) {
		out, err := openGo(t).Exchange(t.Context(), request(`{"do":"exit"}`), httptest.NewRecorder())
		if !errors.Is(err, faas.ErrBroken) || !strings.HasPrefix(err.Error(), "exit code 3") || out.Keep || out.Again {
			t.Errorf("%+v, %v", out, err)
		}
	})
	t.Run("is out of time", func(t *testing.T) {
		req := request(`{"do":"wait"}`)
		req.Deadline = time.Now() // it is over when the function looks
		out, err := openGo(t).Exchange(t.Context(), req, httptest.NewRecorder())
		if !errors.Is(err, faas.ErrFunction) || !strings.Contains(err.Error(), "context deadline exceeded") || !out.Keep {
			t.Errorf("%+v, %v", out, err)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		w := &told{ResponseRecorder: httptest.NewRecorder(), wrote: func() { cancel(errEnd) }}
		if out, err := openGo(t, "MODE=url").Exchange(ctx, triggered("begin"), w); err != errEnd || out.Keep || w.Code != 418 {
			t.Errorf("%+v, %v, %q", out, err, w.Body)
		}
	})
	t.Run("wants SIGTERM", func(t *testing.T) { // by an extension, which there is not
		if out, err := openGo(t, "MODE=sigterm").Exchange(t.Context(), request(""), httptest.NewRecorder()); err != nil || !out.Keep {
			t.Errorf("%+v, %v", out, err)
		}
	})
}

func TestGoRuntimeBehindATrigger(t *testing.T) {
	c := openGo(t, "MODE=url")
	for range 2 {
		req := request("hello")
		req.Route, req.Target, req.URL, req.Caller = "/x", "/x/y?q=%20", "http://h.example/x/y?q=%20", "192.0.2.1"
		rec := httptest.NewRecorder()
		out, err := c.Exchange(t.Context(), req, rec)
		if err != nil || !out.Keep || rec.Code != 418 || rec.Body.String() != "POST hello from 192.0.2.1" || rec.Header().Get("X-Path") != "/x/y?q=%20" || rec.Header().Get("Set-Cookie") != "a=1" {
			t.Errorf("%+v, %v, %d %v %q", out, err, rec.Code, rec.Header(), rec.Body)
		}
	}
}

// TestNodeRuntime runs aws-lambda-ric of npm. It builds its addon when it is
// installed, for minutes: one build serves all runs on a machine.
func TestNodeRuntime(t *testing.T) {
	testenv.SkipInShort(t)
	dir := nodeRuntime(t)
	runtime := filepath.Join(dir, "node_modules/aws-lambda-ric/bin/index.mjs")
	c := openProgram(t, faas.FormatLambda, command(dir, nil, "node", runtime, "index.handler"))
	for _, tt := range []struct {
		event, answer string
		is            error
		says          string
	}{
		{event: `{"a":"ä"}`, answer: `{"call":1,"event":{"a":"ä"},"id":"c1","left":true}`},
		{event: `{"fail":true}`, is: faas.ErrFunction, says: "no picture (TypeError)"},
		{event: ``, answer: `{"call":3,"event":{},"id":"c1","left":true}`},
	} {
		rec := httptest.NewRecorder()
		out, err := c.Exchange(t.Context(), request(tt.event), rec)
		if !out.Keep || !errors.Is(err, tt.is) || err != nil && err.Error() != tt.says || rec.Body.String() != tt.answer {
			t.Errorf("%s: %+v, %v, %q", tt.event, out, err, rec.Body)
		}
	}
	c = openProgram(t, faas.FormatLambda, command(dir, nil, "node", runtime, "index.stream"))
	for range 2 {
		req := request("")
		req.Route, req.Target, req.URL = "/x", "/x", "http://h/x"
		rec := httptest.NewRecorder()
		if out, err := c.Exchange(t.Context(), req, rec); err != nil || !out.Keep || rec.Code != 201 || rec.Header().Get("X-A") != "b" || rec.Body.String() != "first last" {
			t.Errorf("%+v, %v, %d %v %q", out, err, rec.Code, rec.Header(), rec.Body)
		}
	}
	p := start(func(ctx context.Context, p *process) faas.Exit {
		<-p.ready
		return command(dir, nil, "node", filepath.Join(dir, "node_modules/aws-lambda-ric/bin/index.mjs"), "nothing.handler")(ctx, p)
	})
	defer p.Close()
	p.listener = listen(t)
	close(p.ready)
	if _, err := protocol.Open(t.Context(), faas.Function{Format: faas.FormatLambda}, p); !errors.Is(err, faas.ErrStartExited) || !strings.Contains(err.Error(), "Cannot find module 'nothing'") {
		t.Errorf("a handler that is not there: %v", err)
	}
}

// ric is the version of aws-lambda-ric that runs on the Node of Debian, too.
const ric = "3.3.0"

// nodeRuntime is a directory with a function and the runtime it needs.
func nodeRuntime(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"node", "npm", "cmake", "g++", "make", "autoconf", "automake", "libtoolize"} {
		testenv.NeedTool(t, tool)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	version, err := exec.Command("node", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(cache, "hob-test", "aws-lambda-ric-"+ric+"-"+strings.TrimSpace(string(version)))
	if _, err := os.Stat(kept); err != nil {
		building := kept + ".building"
		os.RemoveAll(building)
		if err := os.MkdirAll(building, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("npm", "install", "--omit=dev", "--no-audit", "--no-fund", "--no-save", "aws-lambda-ric@"+ric)
		cmd.Dir = building
		if _, err := os.Stat("/usr/include/node/node.h"); err == nil { // else node-gyp fetches the headers
			cmd.Env = append(os.Environ(), "npm_config_nodedir=/usr")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm install: %v: %s", err, out)
		}
		if err := os.Rename(building, kept); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(kept, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "testdata/lambdanode/index.js", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}
