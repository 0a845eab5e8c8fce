package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
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
	"hob/internal/testenv"
)

// lambdaImage is laid out as the base images of AWS Lambda are, around a function
// made with Amazon's runtime for Go, which is unchanged.
var lambdaImage = sync.OnceValues(func() ([]byte, error) {
	root, err := os.MkdirTemp("", "hoblambda")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	for _, dir := range []string{"bin", "var/runtime", "var/task"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(root, "var/runtime/bootstrap"), ".")
	cmd.Dir = "../protocol/testdata/lambdago"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return out, err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	if out, err := exec.Command("cp", busybox, filepath.Join(root, "bin/sh")).CombinedOutput(); err != nil {
		return out, err
	}
	const entry = "#!/bin/sh\n[ $# = 1 ] || { echo 'no handler' >&2; exit 142; }\nexport _HANDLER=\"$1\"\nexec /var/runtime/bootstrap\n"
	if err := os.WriteFile(filepath.Join(root, "lambda-entrypoint.sh"), []byte(entry), 0o755); err != nil {
		return nil, err
	}
	img, err := build.FromDir(context.Background(), build.Options{
		Dir: root, Entrypoint: []string{"/lambda-entrypoint.sh"}, Cmd: []string{"app.handler"}, Workdir: "/var/task",
		Env: []string{"LAMBDA_TASK_ROOT=/var/task", "LAMBDA_RUNTIME_DIR=/var/runtime"},
	})
	if err != nil {
		return nil, err
	}
	var tar bytes.Buffer
	err = build.WriteTar(&tar, programImage("lambdago"), img)
	return tar.Bytes(), err
})

// lambda makes a function of format lambda.
func (n *node) lambda(name string, change func(*client.Settings)) {
	n.t.Helper()
	n.function(name, programImage("lambdago"), func(s *client.Settings) {
		s.Format, s.Command = ptr(string(faas.FormatLambda)), nil
		if change != nil {
			change(s)
		}
	})
}

func startLambda(t *testing.T) *node {
	t.Helper()
	testenv.NeedTool(t, "busybox")
	n := start(t)
	tar, err := lambdaImage()
	if err == nil {
		_, err = n.Load(t.Context(), bytes.NewReader(tar), "")
	}
	if err != nil {
		t.Fatalf("%v: %.500s", err, tar)
	}
	return n
}

// lambdaTold is what testdata/lambdago of package protocol says of its call.
type lambdaTold struct {
	Call           int
	ID, ARN, Trace string
	Deadline       int64
	Event          json.RawMessage
	Env            map[string]string
	WorkingDir     string
}

func (n *node) tell(name, event string) lambdaTold {
	n.t.Helper()
	out, err := n.say(name, event)
	var told lambdaTold
	if err == nil {
		err = json.Unmarshal([]byte(out), &told)
	}
	if err != nil {
		n.t.Errorf("call of %s: %q, %v", name, out, err)
	}
	return told
}

// TestLambdaImageRunsUnchanged in real sandboxes, which have no network but their own.
func TestLambdaImageRunsUnchanged(t *testing.T) {
	n := startLambda(t)
	n.lambda("f", func(s *client.Settings) { s.Memory, s.Env = ptr(256*faas.MB), map[string]*string{"LEVEL": ptr("3")} })
	const event = `{"names":["AWS_LAMBDA_RUNTIME_API","AWS_LAMBDA_FUNCTION_NAME","AWS_LAMBDA_FUNCTION_MEMORY_SIZE","AWS_REGION","LAMBDA_TASK_ROOT","_HANDLER","LEVEL"]}`
	told := n.tell("f", event)
	for name, want := range map[string]string{
		"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001", "AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256", "AWS_REGION": "us-east-1",
		"LAMBDA_TASK_ROOT": "/var/task", "_HANDLER": "app.handler", "LEVEL": "3",
	} {
		if told.Env[name] != want {
			t.Errorf("%s=%s, want %s", name, told.Env[name], want)
		}
	}
	left := time.Until(time.UnixMilli(told.Deadline))
	if told.Call != 1 || len(told.ID) != 26 || told.ARN != "arn:aws:lambda:us-east-1:000000000000:function:f" || !strings.HasPrefix(told.Trace, "Root=1-") ||
		left <= 0 || left > 30*time.Second || string(told.Event) != event || told.WorkingDir != "/var/task" {
		t.Errorf("%+v", told)
	}
	if again := n.tell("f", ""); again.Call != 2 || string(again.Event) != "{}" || again.ID == told.ID {
		t.Errorf("the second call: %+v", again)
	}
}

// TestLambdaFunctionsThatBehaveBadly: the next call tells whether the container went
// on.
func TestLambdaFunctionsThatBehaveBadly(t *testing.T) {
	n := startLambda(t)
	timeout := client.Duration(2 * time.Second) // of the one that hangs
	for _, tt := range []struct {
		name, event string
		out         string
		kind        faas.Kind
		says        string
		kept        bool
	}{
		{name: "fails", event: `{"do":"fail"}`, kind: faas.FuncFailed, says: "no picture (pictureError)", kept: true},
		{name: "panics", event: `{"do":"panic"}`, kind: faas.FuncFailed, says: "boom (string"},
		{name: "exits", event: `{"do":"exit"}`, kind: faas.FuncFailed, says: "exit code 3"},
		{name: "hangs", event: `{"do":"hang"}`, kind: faas.TimedOut, says: "timeout of 2s"},
		{name: "answers-too-much", event: `{"do":"long"}`, kind: faas.FuncFailed, says: "over the limit of 6291556 bytes"},
		{name: "streams", event: `{"do":"stream"}`, out: "streamed", kept: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.lambda(tt.name, func(s *client.Settings) {
				if tt.kind == faas.TimedOut {
					s.Timeout = &timeout
				}
			})
			if told := n.tell(tt.name, "{}"); told.Call != 1 {
				t.Fatalf("first call: %+v", told)
			}
			out, err := n.say(tt.name, tt.event)
			if faas.KindOf(err) != tt.kind || err != nil && !strings.Contains(err.Error(), tt.says) || out != tt.out {
				t.Errorf("call = %q, %s %v; want %s %q", out, faas.KindOf(err), err, tt.kind, tt.says)
			}
			want := 1
			if tt.kept {
				want = 3
			}
			if told := n.tell(tt.name, "{}"); told.Call != want {
				t.Errorf("the next call is number %d of its container, want %d", told.Call, want)
			}
		})
	}
	t.Run("does-not-start", func(t *testing.T) {
		n.lambda("mute", func(s *client.Settings) { s.Command = &[]string{} })
		if _, err := n.say("mute", "{}"); faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "before it asked for its first call: exit code 142: no handler") {
			t.Errorf("%s %v", faas.KindOf(err), err)
		}
	})
	t.Run("is-given-too-much", func(t *testing.T) {
		if _, err := n.say("fails", strings.Repeat(" ", 7<<20)); faas.KindOf(err) != faas.TooLarge || !strings.Contains(err.Error(), "6 MB") {
			t.Errorf("%s %v", faas.KindOf(err), err)
		}
	})
}

// TestLambdaInstancesRunAtOnce: while one is busy, calls have another, whose calls are
// counted anew.
func TestLambdaInstancesRunAtOnce(t *testing.T) {
	n := startLambda(t)
	timeout := client.Duration(6 * time.Second)
	n.lambda("f", func(s *client.Settings) { s.Timeout = &timeout })
	n.tell("f", "{}")
	ended := make(chan error, 1)
	go func() {
		_, err := n.say("f", `{"do":"hang"}`)
		ended <- err
	}()
	for n.tell("f", "{}").Call != 1 && t.Context().Err() == nil { // it came before the other
	}
	select {
	case err := <-ended:
		t.Errorf("the busy one has ended: %v", err)
	default:
	}
	if err := <-ended; faas.KindOf(err) != faas.TimedOut {
		t.Errorf("the busy one: %v", err)
	}
}

// TestLambdaExample runs examples/lambda-go as its README says.
func TestLambdaExample(t *testing.T) {
	n := start(t)
	file := filepath.Join(t.TempDir(), "bootstrap")
	cmd := exec.Command("go", "build", "-o", file, ".")
	cmd.Dir = "../../examples/lambda-go"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	img, err := build.FromProgram(t.Context(), build.Options{Program: file})
	if err != nil {
		t.Fatal(err)
	}
	var tar bytes.Buffer
	if err := build.WriteTar(&tar, "hob.local/lambda-go:latest", img); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Load(t.Context(), &tar, ""); err != nil {
		t.Fatal(err)
	}
	n.function("lambda-go", "hob.local/lambda-go", func(s *client.Settings) { s.Format, s.Command = ptr(string(faas.FormatLambda)), nil })
	if out, err := n.say("lambda-go", `{"name":"Ada"}`); err != nil || out != `{"message":"Hello Ada!"}` {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := n.say("lambda-go", `{}`); faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "who are you? (errorString)") {
		t.Errorf("%v", err)
	}
}

// TestLambdaFunctionBehindATrigger is asked as behind a function URL.
func TestLambdaFunctionBehindATrigger(t *testing.T) {
	n := startLambda(t)
	n.lambda("url", func(s *client.Settings) { s.Env = map[string]*string{"MODE": ptr("url")} })
	if _, err := n.CreateTrigger(t.Context(), faas.DefaultApp, "url", "web", client.TriggerSettings{Source: ptr("/web")}); err != nil {
		t.Fatal(err)
	}
	a := n.ask("PUT", "/t/default/web?q=%20", "hello", "Content-Type: text/plain")
	if a.status != 418 || a.body != "PUT hello from 127.0.0.1" || !strings.HasSuffix(a.header.Get("X-Path"), "/web?q=%20") || a.header.Get("Set-Cookie") != "a=1" {
		t.Errorf("%+v", a)
	}
	n.lambda("event", nil)
	if _, err := n.CreateTrigger(t.Context(), faas.DefaultApp, "event", "event", client.TriggerSettings{Source: ptr("/event")}); err != nil {
		t.Fatal(err)
	}
	a = n.ask("GET", "/t/default/event", "")
	var told lambdaTold
	var event struct{ Version, RawPath string }
	if json.Unmarshal([]byte(a.body), &told) != nil || json.Unmarshal(told.Event, &event) != nil || a.status != 200 || event.Version != "2.0" || event.RawPath != "/event" || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("%+v", a)
	}
}

// TestLambdaStreamsThroughATrigger: who has the first piece cancels the call, which
// has no other end; that breaks the answer off.
func TestLambdaStreamsThroughATrigger(t *testing.T) {
	n := startLambda(t)
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{Annotations: client.Annotations{faas.AnnotationHosts: json.RawMessage(`["lambda.example"]`)}}); err != nil {
		t.Fatal(err)
	}
	n.lambda("begin", func(s *client.Settings) { s.Env = map[string]*string{"MODE": ptr("url")} })
	if _, err := n.CreateTrigger(t.Context(), faas.DefaultApp, "begin", "web", client.TriggerSettings{Source: ptr("/web")}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ host, path string }{{"", "/t/default/web"}, {"", "/r/default/web"}, {"lambda.example", "/web"}} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+n.addr+tt.path, strings.NewReader("begin"))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = tt.host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		first := make([]byte, len("POST begin"))
		if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "POST begin" || resp.StatusCode != http.StatusTeapot {
			t.Errorf("%s: %d %q, %v", tt.path, resp.StatusCode, first, err)
			continue
		}
		if _, err := n.CancelCall(t.Context(), resp.Header.Get("Fn-Call-Id")); err != nil {
			t.Errorf("%s: %v", tt.path, err)
		}
		if rest, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s: the answer ends with %q as if it were whole", tt.path, rest)
		}
	}
}
