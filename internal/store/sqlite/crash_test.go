package sqlite_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/sqlite"
)

// answerTo is the result of a call in the tests of this file.
func answerTo(id string) []byte { return []byte("answer to " + id) }

// callForever accepts, takes and settles calls in the store at path from several
// goroutines, and prints each step after the store has returned nil for it.
func callForever(path string) {
	ctx := context.Background()
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) } // one write to a pipe: whole or not at all
	s, err := sqlite.Open(ctx, path, store.Limits{})
	if err != nil {
		say("error %v", err)
		return
	}
	me := faas.NewID()
	lost, err := s.Lost(ctx, me)
	if err != nil {
		say("error %v", err)
	}
	for _, call := range lost {
		call.State, call.Losses = faas.CallQueued, call.Losses+1
		if err := s.Settle(ctx, store.Settlement{Call: call, Stay: true}); err != nil {
			say("error %v", err)
		}
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				a := acceptance(s, "f", bytes.Repeat([]byte("payload "), i%300))
				if _, _, err := s.Accept(ctx, a); err != nil {
					say("error %v", err)
					return
				}
				say("accepted %s", a.Call.ID)
			}
		})
	}
	for range 3 {
		wg.Go(func() {
			for {
				calls, _, err := s.Take(ctx, me, lane(2, "f"))
				if err != nil {
					say("error %v", err)
					return
				}
				for _, call := range calls {
					say("taken %s %d", call.ID, call.Attempt)
					if err := s.Settle(ctx, success(s, call, answerTo(call.ID))); err != nil {
						say("error %v", err)
						return
					}
					say("settled %s", call.ID)
				}
			}
		})
	}
	wg.Wait()
}

func TestWhatIsSaidOfCallsSurvivesKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hob.db")
	accepted, settled, taken := map[string]bool{}, map[string]bool{}, map[string]int{}
	for round := range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "HOB_TEST_CALL_FOREVER="+path)
		cmd.Dir = filepath.Dir(path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n := 0
		for lines := bufio.NewScanner(out); lines.Scan(); n++ {
			var id string
			var attempt int
			if n == 150+37*round {
				if err := cmd.Process.Kill(); err != nil { // SIGKILL; what was printed before it is still read
					t.Error(err)
				}
			}
			switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
			case "accepted":
				accepted[rest] = true
			case "settled":
				settled[rest] = true
			case "taken":
				if _, err := fmt.Sscan(rest, &id, &attempt); err != nil {
					t.Error(err)
				}
				if settled[id] || taken[id] >= attempt {
					t.Errorf("round %d: call %s was taken for attempt %d after attempt %d; settled: %v", round, id, attempt, taken[id], settled[id])
				}
				taken[id] = attempt
			default:
				t.Error(lines.Text())
			}
		}
		_ = cmd.Wait() // killed
		checkBooks(t, path, accepted, settled, taken)
	}
	t.Logf("%d accepted, %d settled", len(accepted), len(settled))
}

// checkBooks compares the store at path with what was said of it.
func checkBooks(t *testing.T, path string, accepted, settled map[string]bool, taken map[string]int) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, store.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for id := range accepted {
		call, err := s.Call(t.Context(), id)
		switch {
		case err != nil:
			t.Errorf("%s was accepted: %v", id, err)
		case settled[id] && call.State != faas.CallSucceeded:
			t.Errorf("%s was settled and is %s", id, call.State)
		case call.Attempt < taken[id]:
			t.Errorf("%s was taken for attempt %d and is at %d", id, taken[id], call.Attempt)
		}
	}
	var tally store.Tally
	for after := ""; ; {
		calls, next, err := s.List(t.Context(), store.CallFilter{After: after})
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range calls {
			checkWhole(t, s, call)
			switch call.State {
			case faas.CallQueued:
				tally.Queued++
			case faas.CallRunning:
				tally.Running++
			default:
				tally.Succeeded++
			}
		}
		if after = next; next == "" {
			break
		}
	}
	if got, err := s.Tally(t.Context(), "f"); err != nil || got != tally {
		t.Errorf("Tally = %+v, %v; want %+v", got, err, tally)
	}
	if lost, err := s.Lost(t.Context(), "nobody"); err != nil || len(lost) != tally.Running {
		t.Errorf("%d calls lost, %v; want %d", len(lost), err, tally.Running)
	}
}

// checkWhole reports a call that is half of one state and half of another: it
// has its payload until it is over, and its result from then on.
func checkWhole(t *testing.T, s *sqlite.Store, call faas.Call) {
	t.Helper()
	req, err := s.Request(t.Context(), call.ID)
	if over := call.State.Final(); over != errors.Is(err, faas.ErrGone) {
		t.Errorf("payload of %s call %s: %v", call.State, call.ID, err)
	} else if !over {
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			t.Errorf("payload of %s call %s: %v", call.State, call.ID, err)
		}
		_ = req.Body.(io.Closer).Close()
	}
	_, body, err := s.Result(t.Context(), call.ID)
	if over := call.State.Final(); over != (err == nil) {
		t.Errorf("result of %s call %s: %v", call.State, call.ID, err)
	} else if over {
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, answerTo(call.ID)) {
			t.Errorf("result of call %s = %q, %v", call.ID, got, err)
		}
		_ = body.Close()
	}
}

// A torn or damaged log loses what was written last, and whole steps of it.
func TestTornLogHoldsABeginningOfWhatHappened(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "hob.db")
	s := open(t, path)
	var steps []func(*sqlite.Store) (done bool) // whether a store has this step
	settledCalls := 0
	for i := range 40 {
		call := accept(t, s, acceptance(s, "f", make([]byte, 100*i)))
		steps = append(steps, func(s *sqlite.Store) bool {
			_, err := s.Call(t.Context(), call.ID)
			return err == nil
		})
		if i%3 == 0 {
			continue
		}
		taken := take(t, s, 1, "f")[0]
		settledCalls++
		settled := success(s, taken, answerTo(taken.ID))
		settled.Deliveries = []store.Delivery{{ID: faas.NewID(), Target: "http://there"}}
		if err := s.Settle(t.Context(), settled); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, func(s *sqlite.Store) bool {
			c, err := s.Call(t.Context(), taken.ID)
			return err == nil && c.State != faas.CallQueued
		}, func(s *sqlite.Store) bool {
			c, err := s.Call(t.Context(), taken.ID)
			return err == nil && c.State.Final()
		})
	}
	db, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	held := map[int]bool{}
	for i := range 30 {
		torn := slices.Clone(log)
		if i%2 == 0 {
			torn = torn[:rng.IntN(len(torn))]
		} else {
			for at, n := len(torn)/4+rng.IntN(len(torn)*3/4), 1+rng.IntN(64); n > 0 && at < len(torn); at, n = at+1, n-1 {
				torn[at] ^= byte(1 + rng.IntN(255))
			}
		}
		held[checkBeginning(t, db, torn, steps, settledCalls)] = true
	}
	if got := checkBeginning(t, db, log, steps, settledCalls); got != len(steps) {
		t.Errorf("the log as it was holds %d steps of %d", got, len(steps))
	}
	if len(held) < 8 {
		t.Errorf("only %d different numbers of steps were held: %v", len(held), slices.Sorted(maps.Keys(held)))
	}
}

// checkBeginning opens a store made of db and log, and returns how many steps it has.
func checkBeginning(t *testing.T, db, log []byte, steps []func(*sqlite.Store) bool, settled int) (n int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hob.db")
	if err := errors.Join(os.WriteFile(path, db, 0o600), os.WriteFile(path+"-wal", log, 0o600)); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), path, store.Limits{})
	if err != nil {
		t.Errorf("Open of a torn log: %v", err)
		return 0
	}
	defer s.Close()
	for n < len(steps) && steps[n](s) {
		n++
	}
	for i, step := range steps[n:] {
		if step(s) {
			t.Errorf("step %d is there, and step %d is not", n+i, n)
		}
	}
	calls, _, err := s.List(t.Context(), store.CallFilter{Limit: len(steps) + 1})
	if err != nil {
		t.Error(err)
	}
	over := 0
	for _, call := range calls {
		checkWhole(t, s, call)
		if call.State.Final() {
			over++
		}
	}
	if due, _, err := s.Deliveries(t.Context(), settled+1); err != nil || len(due) != over {
		t.Errorf("%d deliveries, %v; want one of each of %d calls that are over", len(due), err, over)
	}
	return n
}

// Whatever operation on a file fails, what returned nil holds, and nothing is
// left over after the next start.
func TestFailedFileOperationBreaksNoPromise(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("0123456789abcdef"), store.InMemory/16+1)
	for failing := 1; ; failing++ {
		path := filepath.Join(t.TempDir(), "hob.db")
		s := open(t, path)
		operations, failed := 0, ""
		s.FailFiles(func(operation string) error {
			if operations++; operations == failing {
				failed = operation
				return errors.New("the test has it fail")
			}
			return nil
		})
		var payloads, results []string
		for i := range 3 {
			a := acceptance(s, "f", large)
			if _, _, err := s.Accept(t.Context(), a); err == nil {
				payloads = append(payloads, a.Call.ID)
			} else if failed == "" {
				t.Fatal(err)
			}
			if i == 0 {
				continue
			}
			for _, call := range take(t, s, 1, "f") {
				if err := s.Settle(t.Context(), success(s, call, large)); err != nil {
					continue // it goes on running
				}
				results = append(results, call.ID)
				payloads = slices.DeleteFunc(payloads, func(id string) bool { return id == call.ID })
				if i == 2 {
					if err := s.Fetched(t.Context(), call.ID); err != nil {
						t.Error(err)
					}
					results = results[:len(results)-1]
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		s = open(t, path)
		for _, id := range payloads {
			req, err := s.Request(t.Context(), id)
			if err != nil {
				t.Fatalf("failed %d, %s: payload of %s: %v", failing, failed, id, err)
			}
			checkLarge(t, req.Body.(io.ReadCloser), large)
		}
		for _, id := range results {
			_, body, err := s.Result(t.Context(), id)
			if err != nil {
				t.Fatalf("failed %d, %s: result of %s: %v", failing, failed, id, err)
			}
			checkLarge(t, body, large)
		}
		if files, err := os.ReadDir(path + ".bodies"); err != nil || len(files) != len(payloads)+len(results) {
			t.Errorf("failed %d, %s: %d files, %v; want %d payloads and %d results", failing, failed, len(files), err, len(payloads), len(results))
		}
		if failed == "" {
			t.Logf("%d operations", operations)
			return
		}
	}
}

func checkLarge(t *testing.T, body io.ReadCloser, want []byte) {
	t.Helper()
	got, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
}

func TestClockSetBackDelaysNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	s := open(t, path)
	a := acceptance(s, "f", nil)
	a.Delay = 50 * time.Millisecond
	old := accept(t, s, a)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// All that was written lies an hour ahead now: the machine's clock was set back.
	execSQL(t, path, `UPDATE call SET due = due + 3600000000, queued = queued + 3600000000; UPDATE clock SET newest = newest + 3600000000`)
	s = open(t, path)
	var taken []faas.Call
	for start := time.Now(); len(taken) == 0; {
		calls, due, err := s.Take(t.Context(), "me", lane(1, "f"))
		if err != nil || due > 2*time.Second || time.Since(start) > 10*time.Second {
			t.Fatalf("Take = %v, due in %v, %v; want it as soon as it was meant to be", calls, due, err)
		}
		taken = calls
		<-time.After(due)
	}
	if young := accept(t, s, acceptance(s, "f", nil)); young.Queued.Before(old.Queued.Add(time.Hour)) {
		t.Errorf("accepted at %v, after a call of %v", young.Queued, old.Queued.Add(time.Hour))
	}
}

func TestDamagedCallHarmsNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	s := open(t, path)
	damaged := accept(t, s, acceptance(s, "damaged", nil))
	execSQL(t, path, `UPDATE call SET record = '{'`)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if i%4 == 0 {
				if _, err := s.Cancel(t.Context(), damaged.ID, ""); err == nil || !strings.Contains(err.Error(), damaged.ID) || !strings.Contains(err.Error(), path) {
					t.Errorf("Cancel of a damaged call = %v, want an error that names it and the file", err)
				}
				return
			}
			if _, _, err := s.Accept(t.Context(), acceptance(s, "f", nil)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := s.Tally(t.Context(), "f"); err != nil || got.Queued != 30 {
		t.Errorf("Tally = %+v, %v; want 30 queued", got, err)
	}
	if got := take(t, s, 40, "f"); len(got) != 30 {
		t.Errorf("took %d, want 30", len(got))
	}
}

func TestBodyThatIsNotWholeIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	s := open(t, path)
	large := bytes.Repeat([]byte("0123456789abcdef"), store.InMemory/16+1)
	ended := accept(t, s, acceptance(s, "f", large))
	over := success(s, take(t, s, 1, "f")[0], large)
	over.KeepPayload = true
	if err := s.Settle(t.Context(), over); err != nil {
		t.Fatal(err)
	}
	queued := accept(t, s, acceptance(s, "f", large))
	files, err := filepath.Glob(path + ".bodies/*")
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files, %v; want two payloads and a result", len(files), err)
	}
	for _, file := range files {
		if err := os.Truncate(file, 100); err != nil {
			t.Fatal(err)
		}
	}
	const want = "has 100 bytes, and had 1048592 when it was kept"
	for _, id := range []string{ended.ID, queued.ID} {
		if _, err := s.Request(t.Context(), id); err == nil || !strings.Contains(err.Error(), want) || faas.KindOf(err) != faas.Internal {
			t.Errorf("Request = %v, want an error that it %s", err, want)
		}
	}
	if _, _, err := s.Result(t.Context(), ended.ID); err == nil || !strings.Contains(err.Error(), want) || faas.KindOf(err) != faas.Internal {
		t.Errorf("Result = %v, want an error that it %s", err, want)
	}
}
