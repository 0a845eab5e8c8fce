package client_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
)

func TestAsynchronousCallIsAcceptedWithWhatWasAskedFor(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got := fmt.Sprintf("%s %s %q prefer=%s priority=%s delay=%s key=%s own=%s", r.Method, r.RequestURI, body,
			r.Header.Get("Prefer"), r.Header.Get("Hob-Priority"), r.Header.Get("Hob-Delay"), r.Header.Get("Idempotency-Key"), r.Header.Get("X-A"))
		if want := `PUT /api/apps/default/functions/f/call/a?b "x" prefer=respond-async priority=4 delay=1m30s key=k own=b`; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		w.Header().Set("Hob-Call", "C1")
		w.Header().Set("Hob-State", "queued")
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"id":"C1","state":"queued","priority":4,"due":"2026-01-02T03:04:05Z","place":2,"estimate":"3s"}`)
	})
	delay, header := 90*time.Second, http.Header{"X-A": {"b"}}
	call, err := c.Enqueue(t.Context(), client.CallRequest{App: "default", Function: "f", Method: "PUT", Path: "/a?b", Header: header,
		Body: strings.NewReader("x"), Priority: 4, Delay: &delay, Key: "k"})
	want := client.Call{ID: "C1", State: faas.CallQueued, Priority: 4, Place: 2, Estimate: client.Duration(3 * time.Second), Due: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	if err != nil || !reflect.DeepEqual(call, want) {
		t.Errorf("%+v, %v; want %+v", call, err, want)
	}
	if len(header) != 1 {
		t.Errorf("the caller's headers have become %v", header)
	}
}

func TestServerThatKnowsNoAsynchronousCallsIsUnsupported(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Hob-Call", "C1")
		io.WriteString(w, "the answer")
	})
	if _, err := c.Enqueue(t.Context(), client.CallRequest{App: "default", Function: "f"}); faas.KindOf(err) != faas.Unsupported {
		t.Errorf("%v of kind %q, want unsupported", err, faas.KindOf(err))
	}
}

func TestKeyGoesWithEveryCall(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Hob-Call", "C1")
		io.WriteString(w, r.Header.Get("Idempotency-Key")+r.Header.Get("Prefer"))
	})
	a, err := c.Call(t.Context(), client.CallRequest{App: "default", Function: "f", Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if b, err := io.ReadAll(a.Body); string(b) != "k" || err != nil {
		t.Errorf("sent %q, %v; want the key and nothing else", b, err)
	}
}

func TestResultIsTheAnswerOrWhyThereIsNone(t *testing.T) {
	for _, tt := range []struct {
		name          string
		status        int
		state, fault  string
		body, message string
		kind          faas.Kind
		is            error
	}{
		{"the answer", 201, "succeeded", "", "hello", "", faas.OK, nil},
		{"a 202 that the function chose", 202, "succeeded", "", "hello", "", faas.OK, nil},
		{"not over", 202, "running", "", `{"id":"C1"}`, "call C1 is running: ask again later", faas.Busy, client.ErrPending},
		{"in line", 202, "queued", "", `{"id":"C1"}`, "call C1 is queued: ask again later", faas.Busy, client.ErrPending},
		{"removed", 410, "succeeded", "not_found", "", "the result of call C1: it is not kept any more", faas.NotFound, faas.ErrGone},
		{"unknown", 404, "", "not_found", "", `no call "C1"`, faas.NotFound, nil},
		{"failed", 502, "failed", "func_failed", "", "exit code 3", faas.FuncFailed, nil},
		{"gave up for lack of room", 503, "failed", "busy", "", "no sandbox became free", faas.Busy, nil},
		{"the key of another", 422, "", "conflict", "", "use a new key for a new request", faas.Conflict, faas.ErrKeyReused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := server(t, func(w http.ResponseWriter, r *http.Request) {
				if r.RequestURI != "/api/calls/C1/result?wait=1m30s" {
					t.Errorf("asked for %s", r.RequestURI)
				}
				for name, value := range map[string]string{"Hob-Call": "C1", "Hob-State": tt.state, "Hob-Fault": tt.fault} {
					if value != "" {
						w.Header().Set(name, value)
					}
				}
				w.WriteHeader(tt.status)
				if tt.fault != "" {
					fmt.Fprintf(w, `{"error":{"kind":%q,"message":%q,"request":"R1"}}`, tt.fault, tt.message)
				}
				io.WriteString(w, tt.body)
			})
			a, err := c.Result(t.Context(), "C1", 90*time.Second)
			if faas.KindOf(err) != tt.kind || err != nil && err.Error() != tt.message {
				t.Fatalf("%v of kind %q, want %s of kind %q", err, faas.KindOf(err), tt.message, tt.kind)
			}
			for _, reason := range []error{client.ErrPending, faas.ErrGone, faas.ErrKeyReused} {
				if errors.Is(err, reason) != (reason == tt.is) {
					t.Errorf("is %v: %t", reason, errors.Is(err, reason))
				}
			}
			if err != nil {
				return
			}
			defer a.Body.Close()
			if b, err := io.ReadAll(a.Body); string(b) != tt.body || err != nil || a.Status != tt.status || a.Call != "C1" {
				t.Errorf("%d %q of call %s, %v", a.Status, b, a.Call, err)
			}
		})
	}
}

func TestResultThatEndsBeforeItsEndIsAnError(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Hob-Call", "C1")
		w.Header().Set("Hob-State", "succeeded")
		w.Header().Set("Content-Length", "20")
		io.WriteString(flushing{w}, "the first ha")
		panic(http.ErrAbortHandler)
	})
	a, err := c.Result(t.Context(), "C1", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if b, err := io.ReadAll(a.Body); string(b) != "the first ha" || faas.KindOf(err) != faas.Internal {
		t.Errorf("%q, %v of kind %q; want internal: the call succeeded", b, err, faas.KindOf(err))
	}
}

func TestWhatIsDoneToCallsAndFunctions(t *testing.T) {
	var asked string
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.RequestURI
		if strings.HasSuffix(r.URL.Path, "/status") {
			io.WriteString(w, `{"total":6,"queued":1,"running":2,"succeeded":3,"failed":0,"refused":4}`)
			return
		}
		io.WriteString(w, `{"id":"C2","retry_of":"C1","calls":[{"id":"C3"}],"address":"U"}`)
	})
	ctx := t.Context()
	for want, do := range map[string]func() (string, error){
		"POST /api/calls/C1/cancel": func() (string, error) { call, err := c.CancelCall(ctx, "C1"); return call.ID, err },
		"POST /api/calls/C1/retry":  func() (string, error) { call, err := c.RetryCall(ctx, "C1"); return call.RetryOf, err },
		"GET /api/calls?app=a&function=f&limit=7&queued=true": func() (string, error) {
			calls, err := c.QueuedCalls(ctx, "a", "f", 7)
			return fmt.Sprint(len(calls)), err
		},
		"GET /api/calls?queued=true": func() (string, error) {
			calls, err := c.QueuedCalls(ctx, "", "", 0)
			return fmt.Sprint(len(calls)), err
		},
		"GET /api/apps/a/functions/f/status":        func() (string, error) { s, err := c.Status(ctx, "a", "f"); return fmt.Sprint(s), err },
		"POST /api/apps/a/functions/f/refresh":      func() (string, error) { f, err := c.RefreshFunction(ctx, "a", "f"); return f.Address, err },
		"DELETE /api/apps/a/functions/f":            func() (string, error) { return "", c.DeleteFunction(ctx, "a", "f", false) },
		"DELETE /api/apps/a/functions/f?force=true": func() (string, error) { return "", c.DeleteFunction(ctx, "a", "f", true) },
	} {
		got, err := do()
		if err != nil || asked != want {
			t.Errorf("%v, %s; want %s", err, asked, want)
		}
		if strings.HasPrefix(want, "DELETE") {
			continue
		}
		if !strings.Contains("C2 C1 1 {6 1 2 3 0 4} U", got) || got == "" {
			t.Errorf("%s: got %q", want, got)
		}
	}
}

func TestEventsOfALog(t *testing.T) {
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if got, want := r.URL.String(), "/api/apps/default/functions/f/logs?events=false&tail=2"; got != want {
			t.Errorf("asked for %s, want %s", got, want)
		}
		io.WriteString(w, `{"time":"2026-01-02T03:04:05Z","call":"C1","stream":"hob","text":"[FAILED]","event":{"name":"FAILED","attempt":2,"stderr":"no","message":"exit code 3"}}`+"\n")
	})
	want := faas.LogLine{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Call: "C1", Stream: "hob", Text: "[FAILED]",
		Event: &faas.Event{Name: faas.EventFailed, Call: "C1", Attempt: 2, Stderr: "no", Message: "exit code 3"}}
	for line, err := range c.Logs(t.Context(), client.LogSelection{App: "default", Function: "f", Tail: 2, NoEvents: true}) {
		if err != nil || !reflect.DeepEqual(line, want) {
			t.Errorf("%+v, %v; want %+v", line, err, want)
		}
	}
}
