package sqlite_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/sqlite"
)

// acceptance is a call of function with a body.
func acceptance(s *sqlite.Store, function string, body []byte) store.Acceptance {
	b := s.NewBody()
	_, _ = b.Write(body) // what is large and does not fit is refused by Accept
	return store.Acceptance{
		Call: faas.Call{
			ID: faas.NewID(), App: "default", Function: "fn-" + function, FuncID: function, Revision: 3,
			Kind: faas.CallAsync, State: faas.CallQueued,
		},
		Request: &faas.Request{
			Method: "POST", URL: "http://localhost:8080/call/resize", Target: "/", Caller: "127.0.0.1",
			Header: http.Header{"Content-Type": {"application/octet-stream"}, "User-Agent": {"test"}},
		},
		Body: b,
	}
}

func accept(t testing.TB, s *sqlite.Store, a store.Acceptance) faas.Call {
	t.Helper()
	call, known, err := s.Accept(t.Context(), a)
	if err != nil || known {
		t.Fatalf("Accept = %v, known %v", err, known)
	}
	return call
}

func lane(limit int, functions ...string) []store.Lane {
	return []store.Lane{{Functions: functions, Limit: limit}}
}

func take(t testing.TB, s *sqlite.Store, limit int, functions ...string) []faas.Call {
	t.Helper()
	calls, _, err := s.Take(t.Context(), "me", lane(limit, functions...))
	if err != nil {
		t.Fatal(err)
	}
	return calls
}

// success is a settlement of call with the result body.
func success(s *sqlite.Store, call faas.Call, body []byte) store.Settlement {
	call.State = faas.CallSucceeded
	call.Outcome = faas.Outcome{Status: 200, In: 1024, Out: int64(len(body)), Start: faas.StartHot, Keep: true}
	b := s.NewBody()
	_, _ = b.Write(body)
	return store.Settlement{Call: call, Result: &store.NewResult{Status: 200, Header: http.Header{"Content-Type": {"text/plain"}}, Body: b}}
}

func openFor(b *testing.B, limits store.Limits) *sqlite.Store {
	s, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "hob.db"), limits)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func TestLifeOfACall(t *testing.T) {
	for name, size := range map[string]int{"row": 1000, "file": store.InMemory + 5} {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "hob.db"))
			body := strings.Repeat("x", size)
			call := accept(t, s, acceptance(s, "f", []byte(body)))
			taken := take(t, s, 5, "f")
			if len(taken) != 1 || taken[0].ID != call.ID || taken[0].Attempt != 1 || taken[0].Revision != 3 {
				t.Fatalf("took %+v", taken)
			}
			req, err := s.Request(t.Context(), call.ID)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(req.Body)
			if err != nil || string(got) != body {
				t.Errorf("payload of %d bytes, %v; want %d", len(got), err, len(body))
			}
			if err := req.Body.(io.Closer).Close(); err != nil {
				t.Error(err)
			}
			if err := s.Settle(t.Context(), success(s, taken[0], []byte(body))); err != nil {
				t.Fatal(err)
			}
			over, err := s.Wait(t.Context(), call.ID)
			if err != nil || over.State != faas.CallSucceeded || over.Result != faas.ResultKept {
				t.Errorf("Wait = %+v, %v", over, err)
			}
			result, r, err := s.Result(t.Context(), call.ID)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || string(got) != body || result.Size != int64(size) || result.Header.Get("Content-Type") != "text/plain" {
				t.Errorf("result %+v of %d bytes, %v", result, len(got), err)
			}
		})
	}
}

// BenchmarkAccept is what a caller who is promised durability waits for. Compare
// with one commit per call: one producer.
func BenchmarkAccept(b *testing.B) {
	for _, producers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			s := openFor(b, store.DefaultLimits())
			payload := make([]byte, 1024)
			each(b, producers, func() error {
				_, _, err := s.Accept(b.Context(), acceptance(s, "f", payload))
				return err
			})
		})
	}
}

// each runs do b.N times from n goroutines.
func each(b *testing.B, n int, do func() error) {
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	for range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := do(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

