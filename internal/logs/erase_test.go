package logs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/logs"
)

// linesOf are the texts of a function's log, of one call or all.
func linesOf(t *testing.T, s *logs.Store, call string) (texts []string) {
	t.Helper()
	for _, line := range read(t, s, logs.Selection{Function: "f", Call: call, Tail: -1}) {
		texts = append(texts, line.Text)
	}
	return texts
}

func TestErasedCallHasNoLinesAndAllOthersStay(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, logs.Config{Dir: dir, PerFunction: 4 * faas.MB})
	var want []string
	for i := range 40 { // several segments
		text := strings.Repeat(string(rune('a'+i%26)), 20_000)
		write(t, s, "f", "kept", text+"\n")
		write(t, s, "f", "erased", "secret "+text+"\n")
		onDisk(t, s)
		want = append(want, text)
	}
	s.Event("f", faas.Event{Call: "erased", Name: faas.EventCall, Stdin: "secret payload"})
	linesOf(t, s, "") // on the disk
	files, _ := filepath.Glob(filepath.Join(dir, "functions/f/*.seg"))
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(files[0], old, old); err != nil || len(files) < 4 {
		t.Fatalf("%d segments, %v", len(files), err)
	}
	if err := s.Erase("f", "erased"); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		if got := linesOf(t, s, "erased"); len(got) > 0 {
			t.Errorf("%d lines are left, the first is %.20q", len(got), got[0])
		}
		if got := linesOf(t, s, ""); !slices.Equal(got, want) {
			t.Errorf("%d lines, want the %d of the other call", len(got), len(want))
		}
	}
	check()
	for i, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || strings.Contains(string(data), "secret") {
			t.Errorf("file %d still has the lines, %v", i, err)
		}
	}
	if info, err := os.Stat(files[0]); err != nil || !info.ModTime().Equal(old) {
		t.Errorf("the file is of %v, want %v: %v", info.ModTime(), old, err)
	}
	stop()
	s, stop = start(t, logs.Config{Dir: dir, PerFunction: 4 * faas.MB})
	defer stop()
	check()
	write(t, s, "f", "erased", "later\n")
	if got := linesOf(t, s, "erased"); !slices.Equal(got, []string{"later"}) {
		t.Errorf("it has %q, want what came later", got)
	}
	for _, id := range []string{"none", strings.Repeat("x", 300)} {
		if err := s.Erase("f", id); err != nil {
			t.Errorf("call %.10s: %v", id, err)
		}
	}
	if err := s.Erase("..", "x"); faas.KindOf(err) != faas.Invalid {
		t.Errorf("bad function: %v", err)
	}
}

func TestErasedLogIsToldFromAnEmptyOne(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, logs.Config{Dir: dir})
	gone := func(id string, want bool) {
		t.Helper()
		got, err := s.Gone(&faas.Call{ID: id, FuncID: "f"})
		if err != nil || got != want {
			t.Errorf("the log of call %s is gone: %v, %v; want %v", id, got, err, want)
		}
	}
	gone("silent", false) // there is no log at all
	write(t, s, "f", "kept", "a line\n")
	write(t, s, "f", "written", "a line\n")
	s.Event("f", faas.Event{Call: "queued", Name: faas.EventCall})
	for _, id := range []string{"written", "queued"} {
		gone(id, false)
		if err := s.Erase("f", id); err != nil {
			t.Fatal(err)
		}
		gone(id, true)
	}
	size := func() int64 {
		files, _ := filepath.Glob(filepath.Join(dir, "functions/f/*.seg"))
		info, err := os.Stat(files[0])
		if err != nil || len(files) != 1 {
			t.Fatalf("%d files, %v", len(files), err)
		}
		return info.Size()
	}
	gone("wordless", false)
	var once int64
	for range 3 {
		if err := s.Erase("f", "wordless"); err != nil {
			t.Fatal(err)
		}
		gone("wordless", true)
		if once == 0 {
			once = size()
		}
	}
	if size() != once {
		t.Errorf("erased again the log has %d bytes, want %d", size(), once)
	}
	if got := linesOf(t, s, ""); !slices.Equal(got, []string{"a line"}) {
		t.Errorf("the log has %q, want the line that is kept", got)
	}
	stop()
	s, stop = start(t, logs.Config{Dir: dir})
	defer stop()
	gone("wordless", true)
	gone("written", true)
	gone("kept", false)
	gone("silent", false)
	write(t, s, "f", "written", "later\n")
	gone("written", false)
}

func TestLogOfACallThatEndedBeforeTheAgeIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, logs.Config{Dir: t.TempDir(), MaxAge: time.Hour})
		write(t, s, "f", "c", "old\n")
		c := &faas.Call{ID: "c", FuncID: "f", Finished: time.Now()}
		for _, want := range []bool{false, true} {
			if got, err := s.Gone(c); got != want || err != nil {
				t.Errorf("%v later it is gone: %v, %v", time.Since(c.Finished), got, err)
			}
			time.Sleep(time.Hour + time.Second)
		}
		if got, err := s.Gone(&faas.Call{ID: "running", FuncID: "f"}); got || err != nil {
			t.Errorf("that of a call in flight is gone: %v, %v", got, err)
		}
	})
}

func TestLinesAreGoneAfterTheirAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, logs.Config{Dir: t.TempDir(), MaxAge: 24 * time.Hour})
		write(t, s, "f", "c", "old\n")
		time.Sleep(24*time.Hour - time.Second)
		write(t, s, "f", "c", "new\n")
		if got := linesOf(t, s, "c"); !slices.Equal(got, []string{"old", "new"}) {
			t.Errorf("within a day: %q", got)
		}
		time.Sleep(2 * time.Second)
		if got := linesOf(t, s, "c"); !slices.Equal(got, []string{"new"}) {
			t.Errorf("after a day: %q", got)
		}
		for line, err := range s.Follow(t.Context(), logs.Selection{Function: "f", Tail: 2}) {
			if err != nil || line.Text != "new" {
				t.Errorf("among the last two is %q, %v", line.Text, err)
			}
		}
		time.Sleep(24 * time.Hour)
		if got := linesOf(t, s, "c"); len(got) > 0 {
			t.Errorf("after two days: %q", got)
		}
	})
}
