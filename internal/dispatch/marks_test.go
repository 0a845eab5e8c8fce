package dispatch

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/memory"
)

func TestMarksAreThereForTheNextDaemon(t *testing.T) {
	name := filepath.Join(t.TempDir(), "running")
	m, begun, known, err := openMarks(name)
	if err != nil || len(begun) != 0 || known {
		t.Fatalf("a new file: %v, %v, %v", begun, known, err)
	}
	if err := m.reset(); err != nil {
		t.Fatal(err)
	}
	ids := []string{faas.NewID(), faas.NewID(), faas.NewID(), faas.NewID()}
	for _, id := range ids[:3] {
		if err := m.begin(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.end(ids[1]); err != nil {
		t.Fatal(err)
	}
	if err := m.begin(ids[3]); err != nil {
		t.Fatal(err)
	}
	_ = m.end("never begun")
	if info, err := os.Stat(name); err != nil || info.Size() != markHead+3*markSize {
		t.Errorf("%v, %v: a slot that is free is to be used again", info, err)
	}
	m.close() // as when it is killed

	m, begun, known, err = openMarks(name)
	if err != nil || !known || len(begun) != 3 || begun[ids[1]] {
		t.Errorf("after it was killed: %v, %v, %v", begun, known, err)
	}
	m.close() // before it has settled anything
	m, begun, known, err = openMarks(name)
	if err != nil || !known || len(begun) != 3 {
		t.Errorf("after it was killed again: %v, %v, %v", begun, known, err)
	}
	if err := m.reset(); err != nil {
		t.Fatal(err)
	}
	m.close()
	m, begun, known, err = openMarks(name)
	if err != nil || !known || len(begun) != 0 {
		t.Errorf("once more: %v, %v, %v", begun, known, err)
	}
	m.close()
	if err := os.WriteFile(name, append(make([]byte, markHead), "01ARZ3NDEKTSV4RRFFQ69G5FAV torn"...), 0o600); err != nil {
		t.Fatal(err)
	}
	m, _, known, err = openMarks(name)
	if err != nil || known {
		t.Errorf("of another run of the machine: known %v, %v", known, err)
	}
	m.close()
}

func TestCallThatHadNotBegunLosesNothingWithItsDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := memory.New()
		dead := idle(calls, "dead")
		dead.Marks = filepath.Join(t.TempDir(), "running")
		if err := dead.rescue(t.Context()); err != nil {
			t.Fatal(err)
		}
		once := func(a *store.Acceptance) { a.Call.Once = true }
		begun, taken := accept(t, dead, "f", "", once), accept(t, dead, "f", "", once)
		if _, _, err := calls.Take(t.Context(), "dead", []store.Lane{{Functions: []string{"f"}, Limit: 2}}); err != nil {
			t.Fatal(err)
		}
		dead.Event("f", faas.Event{Name: faas.EventRunning, Call: begun.ID})
		dead.close()

		n := &node{}
		d, end := begin(t, calls, n, func(d *Dispatcher) { d.Marks = dead.Marks })
		defer end()
		if call := wait(t, d, begun.ID); call.State != faas.CallFailed {
			t.Errorf("the one that had begun: %+v", call)
		}
		if call := wait(t, d, taken.ID); call.State != faas.CallSucceeded || call.Losses != 0 || call.Attempt != 2 {
			t.Errorf("the one that had not: %+v", call)
		}
		synctest.Wait()
		if !slices.Contains(n.events, "PENDING 1 again: the node died before it ran") {
			t.Errorf("events %q", n.events)
		}
	})
}

func TestMarksStayUntilTheirCallsAreSettled(t *testing.T) {
	calls := memory.New()
	dead := idle(calls, "dead")
	dead.Marks = filepath.Join(t.TempDir(), "running")
	if err := dead.rescue(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := accept(t, dead, "f", "", func(a *store.Acceptance) { a.Call.Once = true }).ID
	if _, _, err := calls.Take(t.Context(), "dead", []store.Lane{{Functions: []string{"f"}, Limit: 1}}); err != nil {
		t.Fatal(err)
	}
	dead.Event("f", faas.Event{Name: faas.EventRunning, Call: id})
	dead.close()
	for i, disk := range []store.Calls{&broken{calls, 1}, calls} {
		d := idle(disk, "next")
		d.Marks, d.draining = dead.Marks, true // it does not try again
		if err := d.rescue(t.Context()); (err == nil) != (i == 1) {
			t.Fatalf("daemon %d: %v", i, err)
		}
		d.close()
	}
	if call, err := calls.Call(t.Context(), id); err != nil || call.State != faas.CallFailed {
		t.Errorf("call = %+v, %v", call, err)
	}
}
