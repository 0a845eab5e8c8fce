package sqlite_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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

// each runs do b.N times from n goroutines, and reports how long callers waited.
func each(b *testing.B, n int, do func() error) {
	b.ReportAllocs()
	took := make([]time.Duration, b.N)
	b.ResetTimer()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range n {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				start := time.Now()
				if err := do(); err != nil {
					b.Error(err)
					return
				}
				took[i-1] = time.Since(start)
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
	b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-us")
}

// BenchmarkLife is what a call costs from its acceptance to its stored result:
// callers accept, one dispatcher takes, workers read the payload and settle.
func BenchmarkLife(b *testing.B) {
	for _, producers := range []int{16, 128} {
		b.Run(fmt.Sprintf("producers=%d", producers), func(b *testing.B) {
			s := openFor(b, store.DefaultLimits())
			payload, answer := make([]byte, 1024), []byte("a small result")
			work := make(chan faas.Call, 256)
			var accepted atomic.Int64
			var wg sync.WaitGroup
			for range 32 {
				wg.Go(func() {
					for call := range work {
						req, err := s.Request(b.Context(), call.ID)
						if err != nil {
							b.Error(err)
							continue
						}
						_, _ = io.Copy(io.Discard, req.Body)
						if err := s.Settle(b.Context(), success(s, call, answer)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wake := make(chan struct{}, 1)
			wg.Go(func() {
				defer close(work)
				for taken := 0; taken < b.N; {
					<-wake
					for {
						calls, _, err := s.Take(b.Context(), "me", lane(64, "f"))
						if err != nil {
							b.Error(err)
							return
						}
						for _, call := range calls {
							work <- call
						}
						if taken += len(calls); len(calls) == 0 {
							break
						}
					}
				}
			})
			before := cpuTime(b)
			each(b, producers, func() error {
				_, _, err := s.Accept(b.Context(), acceptance(s, "f", payload))
				accepted.Add(1)
				select {
				case wake <- struct{}{}:
				default:
				}
				return err
			})
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-us/call")
		})
	}
}

// cpuTime is what this process used so far, system calls included.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBacklog shows what is asked while many calls wait: compare with an
// empty queue.
func BenchmarkBacklog(b *testing.B) {
	for _, backlog := range []int{0, 200_000} {
		path := filepath.Join(b.TempDir(), "hob.db")
		s, err := sqlite.Open(b.Context(), path, store.Limits{})
		if err != nil {
			b.Fatal(err)
		}
		fill(b, s, backlog)
		if log, err := os.Stat(path + "-wal"); err == nil {
			b.Logf("the log has %d MB", log.Size()>>20)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		run := func(name string, do func(b *testing.B, s *sqlite.Store)) {
			b.Run(fmt.Sprintf("%s/backlog=%d", name, backlog), func(b *testing.B) {
				s, err := sqlite.Open(b.Context(), path, store.Limits{})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				b.ResetTimer()
				do(b, s)
				var mem runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&mem)
				b.ReportMetric(float64(mem.HeapAlloc)/(1<<20), "heap-MB")
			})
		}
		run("Open", func(b *testing.B, s *sqlite.Store) {
			for b.Loop() {
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				if s, err = sqlite.Open(b.Context(), path, store.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
			s.Close()
		})
		run("Accept", func(b *testing.B, s *sqlite.Store) {
			for b.Loop() {
				accept(b, s, acceptance(s, "f", []byte("small")))
			}
		})
		run("Life", func(b *testing.B, s *sqlite.Store) {
			for b.Loop() {
				accept(b, s, acceptance(s, "f", []byte("small")))
				if err := s.Settle(b.Context(), success(s, take(b, s, 1, "f")[0], []byte("answer"))); err != nil {
					b.Fatal(err)
				}
			}
		})
		for name, ask := range map[string]func(s *sqlite.Store, newest string) error{
			"Tally": func(s *sqlite.Store, _ string) error { _, err := s.Tally(b.Context(), "f"); return err },
			"List": func(s *sqlite.Store, _ string) error {
				_, _, err := s.List(b.Context(), store.CallFilter{Function: "fn-f", Limit: 20})
				return err
			},
			"Failed": func(s *sqlite.Store, _ string) error {
				_, _, err := s.List(b.Context(), store.CallFilter{States: []faas.CallState{faas.CallFailed}})
				return err
			},
			"Line": func(s *sqlite.Store, _ string) error {
				_, err := s.Line(b.Context(), []string{"f", "g"}, 20)
				return err
			},
			"Place": func(s *sqlite.Store, newest string) error {
				_, _, err := s.Place(b.Context(), newest, []string{"f", "g"})
				return err
			},
		} {
			run(name, func(b *testing.B, s *sqlite.Store) {
				for range 40 {
					accept(b, s, acceptance(s, "f", []byte("small")))
				}
				newest := accept(b, s, acceptance(s, "f", []byte("small")))
				for b.Loop() {
					if err := ask(s, newest.ID); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		runtime.GC()
	}
}

// fill accepts n calls of two functions.
func fill(t testing.TB, s *sqlite.Store, n int) {
	var wg sync.WaitGroup
	for worker := range 200 {
		wg.Go(func() {
			for range n / 200 {
				if _, _, err := s.Accept(t.Context(), acceptance(s, []string{"f", "g"}[worker%2], make([]byte, 1024))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
