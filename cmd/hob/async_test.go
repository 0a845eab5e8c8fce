package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
)

const anID = "01K9ZZ8N2R6W0V5T3YQ4XH7JGM"

// queue answers as a server does that has one call: it accepts it, and gives its
// result as result says.
func queue(t *testing.T, result http.HandlerFunc) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/apps/default/functions/f/call", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Hob-Call", anID)
		if r.Header.Get("Prefer") != "respond-async" {
			fmt.Fprintf(w, "plain %s", body)
			return
		}
		w.Header().Set("Hob-State", "queued")
		w.WriteHeader(http.StatusAccepted)
		h := r.Header
		fmt.Fprintf(w, `{"id":%q,"state":"queued","waiting":"priority %s, delay %s, key %s"}`, anID, h.Get("Hob-Priority"), h.Get("Hob-Delay"), h.Get("Idempotency-Key"))
	})
	mux.HandleFunc("GET /api/calls/"+anID+"/result", result)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func over(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Hob-Call", anID)
	w.Header().Set("Hob-State", "succeeded")
	io.WriteString(w, "done")
}

// onTerminal is an environment whose standard output is a terminal.
func onTerminal(server string) (env *environ, stdout, stderr *bytes.Buffer) {
	env, stdout, stderr = testEnv(map[string]string{"HOB_SERVER": server}, "typed")
	env.Terminal = func(stream any) bool { return stream == env.Stdout }
	return env, stdout, stderr
}

func TestCallGoesThroughTheQueueOnATerminalOnly(t *testing.T) {
	server := queue(t, over)
	for _, c := range []struct {
		terminal bool
		args     []string
		want     string
	}{
		{false, []string{"call", "f"}, "plain typed"},
		{true, []string{"call", "f"}, "done"},
		{true, []string{"call", "f", "--sync"}, "plain typed"},
		{true, []string{"call", "f", "--async"}, "CallId: " + anID + "\n"},
		{false, []string{"call", "f", "--async"}, "CallId: " + anID + "\n"},
		{false, []string{"call", "f", "--delay", "0s"}, "done"},
		{false, []string{"get", "--wait", anID}, "done"},
		{false, []string{"get", anID}, "done"},
	} {
		env, stdout, stderr := onTerminal(server)
		env.Terminal = func(stream any) bool { return c.terminal && stream == env.Stdout }
		if code := run(t.Context(), env, c.args); code != 0 || stdout.String() != c.want {
			t.Errorf("%q on a terminal %t: exit code %d, %q, %s; want %q", c.args, c.terminal, code, stdout, stderr, c.want)
		}
	}
}

func TestCallTellsTheQueueWhatItIsTold(t *testing.T) {
	env, stdout, stderr := testEnv(map[string]string{"HOB_SERVER": queue(t, over)}, "")
	args := []string{"call", "f", "--json", "--async", "--priority", "9", "--delay", "10s", "--key", "k"}
	if code := run(t.Context(), env, args); code != 0 || !strings.Contains(stdout.String(), `"waiting": "priority 9, delay 10s, key k"`) {
		t.Errorf("exit code %d, %s, %s", code, stdout, stderr)
	}
}

func TestInterruptedWaitTellsHowToComeBack(t *testing.T) {
	for _, args := range [][]string{{"call", "f"}, {"get", "--wait", anID}} {
		asked := make(chan struct{})
		server := queue(t, func(_ http.ResponseWriter, r *http.Request) {
			close(asked)
			<-r.Context().Done()
		})
		ctx, interrupt := context.WithCancelCause(t.Context())
		go func() {
			<-asked
			interrupt(errors.New("interrupt signal received"))
		}()
		env, _, stderr := onTerminal(server)
		want := "interrupt signal received; call " + anID + ` goes on: "hob get --wait ` + anID + `" prints its result` + "\n"
		if code := run(ctx, env, args); code != 130 || !strings.HasSuffix(stderr.String(), want) {
			t.Errorf("%q: exit code %d, %q; want 130, %q", args, code, stderr, want)
		}
	}
}

func TestTimeoutOfAnAwaitedCallLeavesTheCallAlone(t *testing.T) {
	server := queue(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	env, _, stderr := onTerminal(server)
	want := "hob: call f: no whole answer in 2s; call " + anID + " goes on: "
	if code := run(t.Context(), env, []string{"call", "--timeout", "2s", "f"}); code != 7 || !strings.HasPrefix(stderr.String(), want) {
		t.Errorf("exit code %d, %q; want 7, %q", code, stderr, want)
	}
}

func TestResultIsAwaitedOverARestartOfTheServer(t *testing.T) {
	l, err := net.Listen("tcp", freePort())
	if err != nil {
		t.Fatal(err)
	}
	server := func(l net.Listener, h http.HandlerFunc) *httptest.Server {
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
		s.Start()
		return s
	}
	down := make(chan struct{})
	var first *httptest.Server
	first = server(l, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		go func() { // it dies with a question in its hands
			first.Listener.Close()
			conn.Close()
			close(down)
		}()
	})
	defer first.Close()

	env, stdout, stderr := testEnv(map[string]string{"HOB_SERVER": first.URL}, "")
	var again *httptest.Server
	env.Stderr = writer(func(p []byte) (int, error) { // it comes back when we have told that it is away
		if again == nil {
			<-down
			l, err := net.Listen("tcp", l.Addr().String())
			if err != nil {
				return 0, err
			}
			asked := 0
			again = server(l, func(w http.ResponseWriter, r *http.Request) {
				switch asked++; {
				case asked == 1:
					w.Header().Set("Hob-Fault", "busy")
					w.WriteHeader(http.StatusServiceUnavailable)
					io.WriteString(w, `{"error":{"kind":"busy","message":"the server is starting"}}`)
				case !strings.HasSuffix(r.URL.Path, "/result"):
					io.WriteString(w, `{"state":"running"}`)
				default:
					over(w, r)
				}
			})
		}
		return stderr.Write(p)
	})
	code := run(t.Context(), env, []string{"get", "--wait", anID})
	if again != nil {
		again.Close()
	}
	if code != 0 || stdout.String() != "done" || strings.Count(stderr.String(), "\n") != 1 || !strings.HasSuffix(stderr.String(), "; trying again\n") {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestCallThatEndedBusyIsNotAskedForAgain(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/result") {
			io.WriteString(w, `{"state":"failed"}`)
			return
		}
		mu.Lock()
		asked++
		mu.Unlock()
		w.Header().Set("Hob-Call", anID)
		w.Header().Set("Hob-Fault", "busy")
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, `{"error":{"kind":"busy","message":"call f: no sandbox became free in 30s"}}`)
	}))
	defer server.Close()
	env, _, stderr := testEnv(map[string]string{"HOB_SERVER": server.URL}, "")
	want := "hob: call f: no sandbox became free in 30s (call " + anID + ")\n"
	if code := run(t.Context(), env, []string{"get", "--wait", anID}); code != 6 || stderr.String() != want || asked != 1 {
		t.Errorf("exit code %d, %q after %d questions; want 6, %q after one", code, stderr, asked, want)
	}
}

func TestCallThatIsNotOverTellsWhereItStands(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		call client.Call
		want string
	}{
		{client.Call{State: faas.CallQueued, Waiting: "place 12, the app may run 10 calls at once", Place: 12, Estimate: client.Duration(3 * time.Second)},
			"waits: place 12, the app may run 10 calls at once; about 3s"},
		{client.Call{State: faas.CallQueued, Place: 2, Estimate: client.Duration(time.Millisecond)}, "waits: place 2; about less than 1s"},
		{client.Call{State: faas.CallQueued}, "waits"},
		{client.Call{State: faas.CallRunning, Attempt: 1, Started: now}, "has run for 0s"},
		{client.Call{State: faas.CallRunning, Attempt: 2, Started: now.Add(-time.Minute)}, "has run for 1m, in attempt 2"},
	} {
		if got := standing(c.call); got != c.want {
			t.Errorf("%+v: %q, want %q", c.call, got, c.want)
		}
	}
}

func TestEventsAreLinesAsHyperPrintsThem(t *testing.T) {
	at := time.Date(2017, 3, 16, 16, 5, 58, 9e8, time.FixedZone("", 3600))
	for _, c := range []struct {
		event faas.Event
		want  string
	}{
		{faas.Event{Name: faas.EventCall, Stdin: "in\x1b[1m"}, "[CALL] CallId: " + anID + ", ShortStdin: in?[1m"},
		{faas.Event{Name: faas.EventCall}, "[CALL] CallId: " + anID + ", ShortStdin: "},
		{faas.Event{Name: faas.EventPending}, "[PENDING] CallId: " + anID},
		{faas.Event{Name: faas.EventPending, Message: "again in 10s"}, "[PENDING] CallId: " + anID + ", Message: again in 10s"},
		{faas.Event{Name: faas.EventRunning, Attempt: 1}, "[RUNNING] CallId: " + anID},
		{faas.Event{Name: faas.EventRunning, Attempt: 2}, "[RUNNING] CallId: " + anID + ", Attempt: 2"},
		{faas.Event{Name: faas.EventFinished, Stdout: "HelloWorld\n"}, "[FINISHED] CallId: " + anID + ", ShortStdout: HelloWorld\n, ShortStderr: "},
		{faas.Event{Name: faas.EventFailed, Message: "exit code 3"}, "[FAILED] CallId: " + anID + ", Message: exit code 3"},
	} {
		env, stdout, _ := testEnv(nil, "")
		c.event.Call = anID
		line := faas.LogLine{Time: at, Call: anID, Stream: "hob", Text: "…", Event: &c.event}
		if err := (&cli{environ: env}).printLogLine(line, false); err != nil || stdout.String() != "2017-03-16T15:05:58Z "+c.want+"\n" {
			t.Errorf("%+v: %q, %v; want %q", c.event, stdout, err, c.want)
		}
	}
}

func TestAddressIsOneThatCanBeReached(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:8080": "127.0.0.1:8080", "10.0.0.5:80": "10.0.0.5:80", "[::1]:80": "[::1]:80",
		"0.0.0.0:8080": "127.0.0.1:8080", "[::]:8080": "127.0.0.1:8080", ":8080": "127.0.0.1:8080",
	} {
		if got := reachable(listen); got != want {
			t.Errorf("reachable(%q) = %q, want %q", listen, got, want)
		}
	}
}
