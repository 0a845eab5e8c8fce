package launch_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/launch"
	"hob/internal/sandbox/fake"
)

var testApp = faas.App{ID: "a1", Name: "photos", Env: map[string]string{"A": "app", "B": "app"}}

// serve answers HTTP requests without a body until its input ends.
func serve(_ context.Context, p *fake.Proc) int {
	in := bufio.NewScanner(p.Stdin)
	for n := 1; ; n++ {
		for in.Scan() && in.Text() != "" {
		}
		if in.Err() != nil || in.Text() != "" || !scanned(in) {
			return 3
		}
		fmt.Fprintf(p.Stderr, "call %d\n", n)
		body := fmt.Sprint("answer ", n)
		fmt.Fprintf(p.Stdout, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}

// scanned reports whether the scanner stopped at a line: at the end of its input
// it stops with nothing.
func scanned(in *bufio.Scanner) bool { return in.Bytes() != nil }

func (r *rig) hot(t *testing.T) faas.Function {
	t.Helper()
	fn := r.image(t, v1.Config{Cmd: []string{"prog"}, Env: []string{"B=image", "C=image"}})
	fn.Format, fn.Env = faas.FormatHTTP, map[string]string{"B": "function"}
	return fn
}

func exchange(t *testing.T, c *launch.Conn, id string) (answer string, out faas.Outcome, err error) {
	t.Helper()
	w := httptest.NewRecorder()
	req := request(id)
	req.Size = 0
	out, err = c.Exchange(t.Context(), req, w)
	return w.Body.String(), out, err
}

func TestHotSandboxServesCallsAndLogsEachUnderItsOwn(t *testing.T) {
	r := newRig(t, serve)
	died := make(chan struct{})
	c, err := r.Start(t.Context(), testApp, r.hot(t), func() { close(died) })
	if err != nil {
		t.Fatal(err)
	}
	for n, id := range []string{"ONE", "TWO"} {
		answer, out, err := exchange(t, c, id)
		if err != nil || !out.Keep || answer != fmt.Sprint("answer ", n+1) {
			t.Fatalf("%s: %q, %+v, %v", id, answer, out, err)
		}
		for want := fmt.Sprintf("call %d\n", n+1); r.logs.peek("f1/"+id+"/stderr") != want; {
			time.Sleep(time.Millisecond)
		}
	}
	live := r.Live()
	if len(live) != 1 || live[0].State != "idle" || live[0].Calls != 2 || live[0].Call != "" || live[0].Start != faas.StartOnDemand || live[0].Format != faas.FormatHTTP {
		t.Errorf("live: %+v", live)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	<-died
	if len(r.Live()) != 0 {
		t.Error("it is live after Close")
	}
}

func TestEachCallOfAHotSandboxShowsTheBeginningOfItsOwnStandardError(t *testing.T) {
	heard := make(chan struct{})
	n := 0
	r := newRig(t, func(_ context.Context, p *fake.Proc) int {
		for in := bufio.NewReader(p.Stdin); ; n++ {
			for line := ""; line != "\r\n"; {
				var err error
				if line, err = in.ReadString('\n'); err != nil {
					return 0
				}
			}
			if n != 1 { // the second is silent
				fmt.Fprintf(p.Stderr, "call %d\n", n)
				<-heard
			}
			fmt.Fprint(p.Stdout, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	fn := r.hot(t)
	fn.LogPayload = true
	c, err := r.Start(t.Context(), testApp, fn, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, want := range []string{"call 0\n", "", "call 2\n"} {
		id := fmt.Sprint("CALL", i)
		var told sync.WaitGroup
		if want != "" {
			told.Go(func() {
				for r.logs.peek("f1/"+id+"/stderr") != want {
					time.Sleep(time.Millisecond)
				}
				heard <- struct{}{}
			})
		}
		if _, out, err := exchange(t, c, id); err != nil || out.Stderr != want {
			t.Errorf("call %d: %q, %v; want %q", i, out.Stderr, err, want)
		}
		told.Wait()
	}
}

func TestHotSandboxHasTheEnvironmentOfItsFunction(t *testing.T) {
	r := newRig(t, serve)
	c, err := r.Start(t.Context(), testApp, r.hot(t), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := exchange(t, c, "ONE"); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	env := r.specs[0].Env
	r.mu.Unlock()
	for _, want := range []string{"A=app", "B=function", "C=image", "HOB_APP=photos", "HOB_FUNCTION=resize", "HOB_FORMAT=http", "FN_FORMAT=http",
		"FN_APP_ID=a1", "FN_FN_ID=f1", "FN_TYPE=sync", "FN_APP_NAME=photos", "FN_FN_NAME=resize"} {
		if !slices.Contains(env, want) {
			t.Errorf("environment %q lacks %s", env, want)
		}
	}
}

func TestDeathOfAHotSandboxIsToldOf(t *testing.T) {
	end := make(chan struct{})
	r := newRig(t, func(context.Context, *fake.Proc) int {
		<-end
		return 1
	})
	died := make(chan struct{})
	c, err := r.Start(t.Context(), testApp, r.hot(t), func() { close(died) })
	if err != nil {
		t.Fatal(err)
	}
	close(end)
	<-died
	if _, out, err := exchange(t, c, "ONE"); faas.KindOf(err) != faas.FuncFailed || !out.Again {
		t.Errorf("exchange with a dead process: %+v, %v", out, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestFunctionThatNeverListensIsTimedOutAndEnded(t *testing.T) {
	r := newRig(t, func(ctx context.Context, p *fake.Proc) int {
		select {
		case <-p.Term:
		case <-ctx.Done():
		}
		return 0
	})
	fn := r.hot(t)
	fn.Format, fn.StartTimeout = faas.FormatHTTPStream, 300*time.Millisecond
	_, err := r.Start(t.Context(), testApp, fn, func() {})
	if faas.KindOf(err) != faas.TimedOut || !strings.Contains(err.Error(), "start timeout of 300ms") {
		t.Errorf("start = %s %v", faas.KindOf(err), err)
	}
	if len(r.Live()) != 0 || !r.unpinned(t, fn) {
		t.Error("something is left of it")
	}
}

func TestFunctionThatExitsBeforeItListensSaysWhy(t *testing.T) {
	r := newRig(t, func(_ context.Context, p *fake.Proc) int {
		p.Stderr.WriteString("no such file: model.bin\n")
		return 7
	})
	fn := r.hot(t)
	fn.Format, fn.StartTimeout = faas.FormatHTTPStream, time.Minute
	_, err := r.Start(t.Context(), testApp, fn, func() {})
	if faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "exit code 7") || !strings.Contains(err.Error(), "model.bin") {
		t.Errorf("start = %s %v", faas.KindOf(err), err)
	}
	if len(r.Live()) != 0 || !r.unpinned(t, fn) {
		t.Error("something is left of it")
	}
}

func TestIdleSandboxIsFrozenAndThawed(t *testing.T) {
	r := newRig(t, serve)
	r.only.Caps.Freezer = true
	c, err := r.Start(t.Context(), testApp, r.hot(t), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Freeze(); err != nil {
		t.Fatal(err)
	}
	if live := r.Live(); live[0].State != "frozen" {
		t.Errorf("live: %+v", live)
	}
	if err := c.Thaw(); err != nil {
		t.Fatal(err)
	}
	if answer, _, err := exchange(t, c, "ONE"); err != nil || answer != "answer 1" {
		t.Errorf("answer %q, %v", answer, err)
	}
	r.only.Caps.Freezer = false
	other, err := r.Start(t.Context(), testApp, r.hot(t), func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Freeze(); err == nil {
		t.Error("it was frozen on a node that cannot")
	}
}
