package logs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/logs"
)

// finished returns a record with every field set that a finished call has.
func finished() faas.Call {
	at := time.Date(2026, 11, 21, 5, 4, 3, 123456789, time.UTC)
	return faas.Call{
		ID: faas.NewID(), App: "photos", Function: "resize", FuncID: faas.NewID(), Revision: 7, Kind: faas.CallSync,
		State: faas.CallFailed, Attempt: 1, Waiting: "2nd in line, for memory", Queued: at, Started: at.Add(1), Finished: at.Add(2),
		Queue: 1, Image: 2, Sandbox: 3, Run: 4,
		Outcome: faas.Outcome{
			Status: 502, In: 5, Out: 6, Start: faas.StartHot, Keep: true, Exit: &faas.Exit{Code: 137, Signal: "SIGKILL", OOM: true},
			PeakMemory: 8, CPUTime: 9, Image: 10, Sandbox: 11, Run: 12,
		},
		Error: "killed: over its 64 MB memory limit", ErrKind: faas.FuncFailed,
		Priority: 3, Due: at.Add(time.Second), RetryOf: faas.NewID(), Losses: 2, Failures: 4, Hops: 5, Once: true,
		Result: faas.ResultKept, Delivery: "https://example.com: 200",
	}
}

func ids(calls []faas.Call) (all []string) {
	for _, c := range calls {
		all = append(all, c.ID)
	}
	return all
}

func TestRecordIsReadAtOnceWithEveryField(t *testing.T) {
	s, err := logs.Open(logs.Config{Dir: t.TempDir()}) // not run: nothing but the reader brings it to the disk
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := finished()
	for _, v := range []reflect.Value{reflect.ValueOf(want), reflect.ValueOf(want.Outcome)} {
		for i := range v.NumField() {
			switch name := v.Type().Field(i).Name; {
			case name == "Again", name == "Place", name == "Estimate": // of a try and of a call in line
			case name == "Stderr": // is the function's, and stays private
			case v.Field(i).IsZero():
				t.Fatalf("finished leaves the field %s zero: give it a value", name)
			}
		}
	}
	s.Record(want)
	got, err := s.Call(want.ID)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Call = %+v, %v\nwant %+v", got, err, want)
	}
	least := faas.Call{ID: faas.NewID()}
	s.Record(least)
	calls, next, err := s.Calls(t.Context(), logs.CallFilter{})
	if err != nil || next != "" || !reflect.DeepEqual(calls, []faas.Call{least, want}) {
		t.Errorf("Calls = %+v, %q, %v\nwant the two, the newer first", calls, next, err)
	}
}

func TestUnknownCallIsNotFound(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	for range 2 {
		if _, err := s.Call("01ABSENT"); faas.KindOf(err) != faas.NotFound || !strings.Contains(err.Error(), `no call "01ABSENT"`) {
			t.Errorf("Call = %v, want not found", err)
		}
		s.Record(faas.Call{ID: faas.NewID()})
	}
}

func TestPagesAreAllCallsNewestFirst(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, logs.Config{Dir: dir, JournalBytes: faas.MB})
	const n = 1500 // some segments of 128 KB
	var all []faas.Call
	for i := range n {
		c := faas.Call{ID: faas.NewID(), App: fmt.Sprint("app", i%2), Function: fmt.Sprint("fn", i%5), State: faas.CallSucceeded, Finished: time.Now()}
		if i%100 == 0 {
			c.State = faas.CallFailed
		}
		all = append(all, c)
	}
	// Calls end in another order than they begin in, and some much later.
	order := rand.New(rand.NewPCG(1, 2))
	late := slices.Clone(all)
	for i := range late {
		if k := i + order.IntN(50); k < n {
			late[i], late[k] = late[k], late[i]
		}
	}
	late = append(late[1:], late[0])
	for i, c := range late {
		if c.ID == all[700].ID { // a call with two records: the later one counts
			early := c
			early.State = faas.CallRunning
			s.Record(early)
		}
		s.Record(c)
		if i%300 == 0 {
			if _, err := s.Call(c.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Reverse(all)
	check := func() {
		t.Helper()
		for _, test := range []struct {
			filter logs.CallFilter
			keep   func(faas.Call) bool
		}{
			{logs.CallFilter{Limit: 7}, func(faas.Call) bool { return true }},
			{logs.CallFilter{Limit: 500}, func(faas.Call) bool { return true }},
			{logs.CallFilter{}, func(faas.Call) bool { return true }},
			{logs.CallFilter{Limit: 3000}, func(faas.Call) bool { return true }},
			{logs.CallFilter{Limit: 11, App: "app1"}, func(c faas.Call) bool { return c.App == "app1" }},
			{logs.CallFilter{Limit: 11, App: "app1", Function: "fn3"}, func(c faas.Call) bool { return c.App == "app1" && c.Function == "fn3" }},
			{logs.CallFilter{Limit: 2, State: faas.CallFailed}, func(c faas.Call) bool { return c.State == faas.CallFailed }},
			{logs.CallFilter{Function: "fn9"}, func(faas.Call) bool { return false }},
		} {
			var want []string
			for _, c := range all {
				if test.keep(c) {
					want = append(want, c.ID)
				}
			}
			var got []string
			filter := test.filter
			for pages := 0; ; pages++ {
				calls, next, err := s.Calls(t.Context(), filter)
				if err != nil {
					t.Fatal(err)
				}
				if limit := max(filter.Limit, 0); limit > 0 && len(calls) > limit {
					t.Errorf("%+v: %d calls", filter, len(calls))
				}
				for _, c := range calls {
					if c.State == faas.CallRunning {
						t.Errorf("%+v: the earlier record of a call", filter)
					}
				}
				got = append(got, ids(calls)...)
				if next == "" {
					break
				}
				filter.After = next
			}
			if !slices.Equal(got, want) {
				t.Errorf("%+v: %d calls in all pages, want %d in order", test.filter, len(got), len(want))
			}
		}
		for _, i := range []int{0, 1, 700, n - 1} {
			if c, err := s.Call(all[i].ID); err != nil || c.ID != all[i].ID || c.State == faas.CallRunning {
				t.Errorf("Call %d = %+v, %v", i, c, err)
			}
		}
	}
	check()
	stop()
	s = open(t, logs.Config{Dir: dir, JournalBytes: faas.MB})
	check()
}

func TestFullBufferDropsRecordsAndSaysSo(t *testing.T) {
	var said strings.Builder
	s, err := logs.Open(logs.Config{Dir: t.TempDir(), Log: logTo(&said)}) // not run
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 5000 {
		s.Record(faas.Call{ID: faas.NewID()})
	}
	calls, _, err := s.Calls(t.Context(), logs.CallFilter{Limit: 10_000})
	if err != nil || len(calls) != 4096 {
		t.Errorf("%d calls, %v; want 4096", len(calls), err)
	}
	if !strings.Contains(said.String(), "dropped=904") {
		t.Errorf("the log says %q, want dropped=904", said.String())
	}
}

func TestJournalKeepsNoMoreThanItsLimit(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir(), JournalBytes: faas.MB})
	var last faas.Call
	for range 8000 {
		last = finished()
		s.Record(last)
		if last.ID[25] == '0' {
			if _, err := s.Call(last.ID); err != nil { // keeps the buffer from filling up
				t.Fatal(err)
			}
		}
	}
	if _, err := s.Call(last.ID); err != nil {
		t.Error(err)
	}
	if n := size(t, logs.DirOf(s)); n > int64(faas.MB) || n < int64(faas.MB)/2 {
		t.Errorf("%d bytes on the disk, want up to 1 MB and not much less", n)
	}
}

func TestCallsEndsWithItsContext(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	s.Record(finished())
	left := errors.New("the client has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(left)
	if _, _, err := s.Calls(ctx, logs.CallFilter{}); !errors.Is(err, left) {
		t.Errorf("Calls = %v, want the cause", err)
	}
}

func TestLongErrorIsCut(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	c := finished()
	c.Error = strings.Repeat("ü", 1<<20)
	s.Record(c)
	got, err := s.Call(c.ID)
	if err != nil || len(got.Error) > 17<<10 || !strings.HasSuffix(got.Error, "üü…") {
		t.Errorf("Error of %d bytes, %v; want 16 KB and a mark", len(got.Error), err)
	}
}

func TestRecordersAndReadersAtOnce(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 300 {
				c := faas.Call{ID: faas.NewID(), App: "a"}
				s.Record(c)
				if i%20 == 0 {
					if _, err := s.Call(c.ID); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	calls, _, err := s.Calls(t.Context(), logs.CallFilter{Limit: 2000})
	if err != nil || len(calls) != 1200 {
		t.Errorf("%d calls, %v; want 1200", len(calls), err)
	}
}

func BenchmarkCalls(b *testing.B) {
	s := open(b, logs.Config{Dir: b.TempDir()})
	for i := range 100_000 {
		s.Record(finished())
		if i%1000 == 0 {
			s.Call("")
		}
	}
	for name, filter := range map[string]logs.CallFilter{"Newest": {Limit: 50}, "Rare": {Limit: 50, Function: "absent"}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := s.Calls(b.Context(), filter); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkWriter(b *testing.B) {
	s := open(b, logs.Config{Dir: b.TempDir()})
	w := s.Writer("f", faas.NewID(), "stderr")
	defer w.Close()
	line := []byte(strings.Repeat("x", 99) + "\n")
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		w.Write(line)
	}
}
