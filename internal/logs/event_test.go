package logs_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/logs"
)

func TestEventsAreLinesOfTheLogInTheirPlace(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	events := []faas.Event{
		{Name: faas.EventCall, Call: "c1", Attempt: 1, Stdin: "hello"},
		{Name: faas.EventPending, Call: "c1", Attempt: 1},
		{Name: faas.EventRunning, Call: "c1", Attempt: 1},
		{Name: faas.EventFailed, Call: "c1", Attempt: 1, Stdout: "half", Stderr: "no\nsuch", Message: "exit 1"},
		{Name: faas.EventPending, Call: "c1", Attempt: 2, Message: "again in 10s"},
		{Name: faas.EventFinished, Call: "c1", Attempt: 2, Stdout: "all"},
		{Name: faas.EventCall, Call: "c2"},
	}
	before := time.Now()
	var want []faas.LogLine
	for _, e := range events {
		s.Event("f", e)
		want = append(want, faas.LogLine{Call: e.Call, Stream: "hob", Text: e.String(), Event: &e})
		if e.Name == faas.EventRunning {
			write(t, s, "f", "c1", "at work\n")
			want = append(want, faas.LogLine{Call: "c1", Stream: "stderr", Text: "at work"})
		}
	}
	check := func(what string, sel logs.Selection, want []faas.LogLine) {
		t.Helper()
		sel.Function = "f"
		got := read(t, s, sel)
		for i := range got {
			if got[i].Time.Before(before) || got[i].Time.After(time.Now()) {
				t.Errorf("%s: line %d has the time %v", what, i, got[i].Time)
			}
			got[i].Time = time.Time{}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
		}
	}
	line := func(l faas.LogLine) bool { return l.Event == nil }
	onlyEvents := slices.DeleteFunc(slices.Clone(want), line)
	check("all", logs.Selection{Tail: -1}, want)
	check("events", logs.Selection{Tail: -1, Only: logs.Events}, onlyEvents)
	check("the last 3 events", logs.Selection{Tail: 3, Only: logs.Events}, onlyEvents[len(onlyEvents)-3:])
	check("lines", logs.Selection{Tail: -1, Only: logs.Lines}, slices.DeleteFunc(slices.Clone(want), func(l faas.LogLine) bool { return !line(l) }))
	check("of a call", logs.Selection{Tail: -1, Call: "c2"}, want[len(want)-1:])
}

func TestEventsFollow(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	s.Event("f", faas.Event{Name: faas.EventCall, Call: "c0"})
	n := 0
	for line, err := range s.Follow(t.Context(), logs.Selection{Function: "f", Tail: -1, Follow: true, Only: logs.Events}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprint("c", n); line.Call != want {
			t.Fatalf("an event of call %s, want %s", line.Call, want)
		}
		if n++; n == 10 {
			break
		}
		write(t, s, "f", "c", "between\n")
		s.Event("f", faas.Event{Name: faas.EventCall, Call: fmt.Sprint("c", n)})
	}
}

func TestLongPartsOfEventsAreCut(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	long := strings.Repeat("ü", 50_000)
	s.Event("f", faas.Event{Name: "NEWS", Call: "c", Stdin: long, Message: long, Attempt: -1})
	got := read(t, s, logs.Selection{Function: "f", Tail: -1})
	want := strings.Repeat("ü", 8<<10) + "…"
	if len(got) != 1 || got[0].Event.Stdin != want || got[0].Event.Message != want || got[0].Event.Name != "" || got[0].Event.Attempt != 0 {
		t.Errorf("%d lines, want one event whose parts are cut at 16 KB", len(got))
	}
	s.Event("../f", faas.Event{Name: faas.EventCall}) // goes nowhere
}

func BenchmarkEvent(b *testing.B) {
	s := open(b, logs.Config{Dir: b.TempDir()})
	id, e := faas.NewID(), faas.Event{Name: faas.EventFinished, Call: faas.NewID(), Attempt: 1}
	b.ReportAllocs()
	for b.Loop() {
		s.Event(id, e)
	}
}
