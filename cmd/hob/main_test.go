package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"hob/client"
	"hob/faas"
)

var update = flag.Bool("update", false, "rewrite testdata and docs/cli with what the code does now")

// TestMain lets the scripts run this test binary under the name hob.
func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){"hob": main})
}

// tests are all tests; what they share is removed behind them.
type tests struct{ *testing.M }

func (t tests) Run() int {
	defer removeProgram()
	return t.M.Run()
}

// exits CODE COMMAND... runs a command that must end with this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code command...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		code = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if got := strconv.Itoa(code); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// callID FUNCTION sets CALL to the id of the function's last call.
func callID(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: callid function")
	}
	c, err := client.New(ts.Getenv("HOB_SERVER"))
	ts.Check(err)
	defer c.Close()
	calls, _, err := c.Calls(context.Background(), client.CallFilter{App: faas.DefaultApp, Function: args[0]})
	ts.Check(err)
	if len(calls) == 0 {
		ts.Fatalf("function %s was not called", args[0])
	}
	ts.Setenv("CALL", calls[0].ID)
}

// called NAME sets a variable to the id of a call that the last command printed.
func called(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: called variable")
	}
	id := strings.TrimPrefix(strings.TrimSpace(ts.ReadFile("stdout")), "CallId: ")
	if _, ok := faas.IDTime(id); !ok {
		ts.Fatalf("%q is no id of a call", id)
	}
	ts.Setenv(args[0], id)
}

// step FUNCTION EVENT [ID] waits until a call of the function, or the one with
// this id, has come so far.
func step(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: step function event [id]")
	}
	c, err := client.New(ts.Getenv("HOB_SERVER"))
	ts.Check(err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := client.LogSelection{App: faas.DefaultApp, Function: args[0], Tail: -1, Follow: true}
	if len(args) == 3 {
		s.Call = args[2]
	}
	for line, err := range c.Logs(ctx, s) {
		ts.Check(err)
		if line.Event != nil && string(line.Event.Name) == args[1] {
			return
		}
	}
	ts.Fatalf("the log of %s ended", args[0])
}

// testEnv is an environment in which nothing of this machine is seen.
func testEnv(vars map[string]string, stdin string) (env *environ, stdout, stderr *bytes.Buffer) {
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	return &environ{
		Stdin: strings.NewReader(stdin), Stdout: stdout, Stderr: stderr,
		Getenv: func(name string) string { return vars[name] },
		Environ: func() (all []string) {
			for name, val := range vars {
				all = append(all, name+"="+val)
			}
			return all
		},
		Terminal: func(any) bool { return false },
	}, stdout, stderr
}

func TestEveryKindHasAnExitCodeOfItsOwn(t *testing.T) {
	seen := map[int]faas.Kind{}
	for _, kind := range faas.Kinds() {
		code := exitOf(faas.Errorf(kind, "why"))
		if other, twice := seen[code]; twice || code == 0 {
			t.Errorf("kind %s ends with %d, and so does %q", kind, code, other)
		}
		seen[code] = kind
	}
	if exitOf(faas.Errorf("teapot", "why")) == 0 {
		t.Error("a kind that the table does not know ends with success")
	}
}

func TestServerIsFoundInThisOrder(t *testing.T) {
	dir := t.TempDir()
	vars := map[string]string{"HOB_CONFIG_DIR": dir, "HOB_DATA": t.TempDir()}
	env, _, _ := testEnv(vars, "")
	env.Root = true
	check := func(flag, want string) {
		t.Helper()
		c := &cli{environ: env, server: flag}
		if got, _, err := c.address(); got != want || err != nil {
			t.Errorf("address %q, %v; want %q", got, err, want)
		}
	}
	check("", defaultServer)
	socket := listenUnix(t, vars["HOB_DATA"]+"/"+socketName)
	check("", "unix://"+socket)
	env.Root = false
	check("", defaultServer)
	env.Root = true
	if code := run(t.Context(), env, []string{"context", "create", "lab", "--server", "http://lab:1"}); code != 0 {
		t.Fatalf("context create ends with %d", code)
	}
	check("", "unix://"+socket)
	if code := run(t.Context(), env, []string{"context", "use", "lab"}); code != 0 {
		t.Fatalf("context use ends with %d", code)
	}
	check("", "http://lab:1")
	vars["HOB_SERVER"] = "http://env:2"
	check("", "http://env:2")
	check("http://flag:3", "http://flag:3")
}

func TestTokenGoesToItsServerOnly(t *testing.T) {
	var got string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		io.WriteString(w, `{"functions":[]}`)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte("of-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{"HOB_CONFIG_DIR": dir}
	hob := func(args ...string) {
		t.Helper()
		env, stdout, stderr := testEnv(vars, "")
		if code := run(t.Context(), env, args); code != 0 || strings.Contains(stdout.String()+stderr.String(), "of-") {
			t.Errorf("hob %q: exit code %d, %s%s", args, code, stdout, stderr)
		}
	}
	hob("context", "create", "lab", "--server", server.URL, "--token", "of-context")
	hob("context", "use", "lab")
	for _, c := range []struct {
		env  map[string]string
		args []string
		want string
	}{
		{nil, nil, "Bearer of-context"},
		{nil, []string{"--server", server.URL}, ""},
		{map[string]string{"HOB_SERVER": server.URL}, nil, ""},
		{map[string]string{"HOB_TOKEN": "of-env"}, nil, "Bearer of-env"},
		{map[string]string{"HOB_TOKEN": "of-env"}, []string{"--server", server.URL}, "Bearer of-env"},
		{map[string]string{"HOB_TOKEN": "of-env"}, []string{"--token", "of-flag"}, "Bearer of-flag"},
		{map[string]string{"HOB_TOKEN": "of-env"}, []string{"--token-file", file}, "Bearer of-file"},
	} {
		for name, value := range c.env {
			vars[name] = value
		}
		got = "nothing"
		hob(append([]string{"ls"}, c.args...)...)
		if got != c.want {
			t.Errorf("environment %v, flags %q: Authorization %q, want %q", c.env, c.args, got, c.want)
		}
		for name := range c.env {
			delete(vars, name)
		}
	}
}

func TestTokenInTheClearIsTold(t *testing.T) {
	for address, want := range map[string]bool{
		"http://127.0.0.1:8080": false, "http://localhost": false, "http://[::1]:80": false, "unix:///run/hob.sock": false,
		"https://hob.example.com": false, "http://hob.example.com": true, "http://10.0.0.5:8080": true, "http://localhost.example.com": true,
	} {
		for _, token := range []string{"t", ""} {
			env, _, stderr := testEnv(nil, "")
			(&cli{environ: env}).warnOfToken(address, token)
			if told := stderr.Len() > 0; told != (want && token != "") {
				t.Errorf("token %q for %s: %q", token, address, stderr)
			}
		}
	}
}

func TestAnswerThatIsNoTextIsBase64(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Hob-Call", "C1")
		w.Write([]byte{0xff, 'A', '\n'})
	}))
	t.Cleanup(server.Close)
	env, stdout, stderr := testEnv(map[string]string{"HOB_SERVER": server.URL}, "")
	code := run(t.Context(), env, []string{"call", "f", "--json"})
	var got struct{ Call, Body, Encoding string }
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil || code != 0 || got.Call != "C1" || got.Body != "/0EK" || got.Encoding != "base64" {
		t.Errorf("exit code %d, %s, %v, %s", code, stdout, err, stderr)
	}
}

func listenUnix(t *testing.T, path string) string {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return path
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ arg, app, want string }{
		{"f", "", "default/f"},
		{"f", "photos", "photos/f"},
		{"photos/f", "", "photos/f"},
		{"photos/f", "photos", "photos/f"},
		{"photos/f", "other", `invalid: photos/f names the app "photos", and --app the app "other"`},
		{"", "", "invalid: the function needs a name"},
		{"/f", "", "invalid: the app needs a name"},
		{"a/b/c", "", `invalid: bad function name "b/c": use letters, digits and the characters -_.~$&+=:@`},
		{"a b", "", `invalid: bad function name "a b": use letters, digits and the characters -_.~$&+=:@`},
		{"../f", "", `invalid: bad app name "..": it means a directory`},
		{"日本/größe:1", "", "日本/größe:1"},
		{"-f", "", "default/-f"},
	} {
		n, err := parseName(c.arg, c.app)
		got := n.String()
		if err != nil {
			got = string(faas.KindOf(err)) + ": " + err.Error()
		}
		if got != c.want {
			t.Errorf("parseName(%q, %q) = %s, want %s", c.arg, c.app, got, c.want)
		}
	}
}

func TestProgressIsALineOnATerminalAndALinePerLayerElsewhere(t *testing.T) {
	steps := []client.Progress{
		{Done: 0, Total: 0},
		{Done: 5 << 20, Total: 10 << 20, Layers: []client.LayerProgress{{Digest: "sha256:0123456789abcdef", State: "fetching", Total: 5 << 20}, {Digest: "sha256:1", State: "waiting"}}},
		{Done: 10 << 20, Total: 10 << 20, Layers: []client.LayerProgress{{Digest: "sha256:0123456789abcdef", State: "done", Total: 5 << 20}, {Digest: "sha256:1", State: "unpacking"}}},
	}
	for _, terminal := range []bool{false, true} {
		env, _, stderr := testEnv(nil, "")
		env.Terminal = func(any) bool { return terminal }
		p := newProgress(&cli{environ: env}, "busybox")
		for _, s := range steps {
			p.step(s)
		}
		p.end()
		want := "busybox: layer 0123456789ab done, 5 MB\n"
		if terminal {
			want = "\rbusybox [                        ] 0 bytes of 0 bytes, 0 of 0 layers" +
				"\rbusybox [============            ] 5 MB of 10 MB, 0 of 2 layers     " +
				"\rbusybox [========================] 10 MB of 10 MB, 1 of 2 layers, unpacking"
		}
		if got := stderr.String(); !strings.HasPrefix(got, want) || terminal && !strings.HasSuffix(got, " \r") {
			t.Errorf("terminal %t:\n got %q\nwant %q", terminal, got, want)
		}
	}
}

// TestScript replays the transcripts in testdata/script. A bug that was fixed is
// a few lines there, under its number.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			server := newServer(t)
			env.Setenv("HOB_SERVER", server)
			for name, content := range map[string][]byte{"tiny": tinyProgram(runtime.GOARCH), "big": make([]byte, 1<<20+1)} {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), content, 0o755); err != nil {
					return err
				}
			}
			env.Setenv("HOB_CONFIG_DIR", env.WorkDir+"/.hob")
			env.Setenv("HOB_DATA", env.WorkDir+"/data")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // under -race each process else sleeps a second as it ends
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "callid": callID,
		},
	})
}

func TestInterruptEndsWithItsOwnCode(t *testing.T) {
	for _, args := range [][]string{{"call", "f"}, {"call", "f", "--key", "k"}, {"logs", "f", "-f"}, {"pull", "busybox"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			reached := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // only then net/http sees that the client leaves
				if args[0] != "call" {             // an answer that has begun
					w.WriteHeader(http.StatusOK)
					http.NewResponseController(w).Flush()
				}
				close(reached)
				<-r.Context().Done()
			}))
			defer server.Close()
			env, _, stderr := testEnv(map[string]string{"HOB_SERVER": server.URL}, "")
			ctx, interrupt := context.WithCancelCause(t.Context())
			go func() {
				<-reached
				interrupt(errors.New("interrupt signal received"))
			}()
			want := "interrupt signal received\n"
			switch strings.Join(args, " ") {
			case "call f":
				want = "hob: call f: interrupt signal received: the call is canceled\n"
			case "call f --key k":
				want = "hob: call f: interrupt signal received: the call goes on, and with --key k again you get its answer\n"
			}
			if code := run(ctx, env, args); code != 130 || !strings.HasSuffix(stderr.String(), want) {
				t.Errorf("exit code %d, stderr %q; want 130, %q", code, stderr, want)
			}
		})
	}
}

func TestTerminalIsReadOnlyWhenItIsAskedFor(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer server.Close()
	for _, c := range []struct {
		terminal bool
		args     []string
		want     string
	}{
		{false, []string{"call", "f"}, "typed"},
		{true, []string{"call", "f"}, ""},
		{true, []string{"call", "f", "-"}, "typed"},
	} {
		env, stdout, stderr := testEnv(map[string]string{"HOB_SERVER": server.URL}, "typed")
		env.Terminal = func(stream any) bool { return c.terminal && stream == env.Stdin }
		if code := run(t.Context(), env, c.args); code != 0 || stdout.String() != c.want {
			t.Errorf("%q on a terminal %t: exit code %d, %q, %s; want %q", c.args, c.terminal, code, stdout, stderr, c.want)
		}
	}
}

func TestControlCharactersDoNotReachTheTerminal(t *testing.T) {
	if got, want := printable("a\x1b[31mb\tc\u009bd é"), "a?[31mb?c?d é"; got != want {
		t.Errorf("printable gives %q, want %q", got, want)
	}
}
