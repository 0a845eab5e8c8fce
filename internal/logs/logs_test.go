package logs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"hob/faas"
	"hob/internal/logs"
	"hob/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens a store that runs until the test ends.
func open(t testing.TB, config logs.Config) *logs.Store {
	t.Helper()
	s, stop := start(t, config)
	t.Cleanup(stop)
	return s
}

// start opens a store that runs until stop is called.
func start(t testing.TB, config logs.Config) (s *logs.Store, stop func()) {
	t.Helper()
	s, err := logs.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return s, sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Logf("Close = %v", err)
		}
	})
}

func write(t testing.TB, s *logs.Store, function, call, text string) {
	t.Helper()
	w := s.Writer(function, call, "stderr")
	if n, err := io.WriteString(w, text); n != len(text) || err != nil {
		t.Fatalf("Write = %d, %v; want %d", n, err, len(text))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// read returns the lines of a selection that does not follow.
func read(t testing.TB, s *logs.Store, sel logs.Selection) []faas.LogLine {
	t.Helper()
	var all []faas.LogLine
	for line, err := range s.Follow(t.Context(), sel) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, line)
	}
	return all
}

// onDisk returns when all lines of f are on the disk. Who has more lines at once than
// there is memory for calls it in between: writers wait for a slow disk only briefly.
func onDisk(t testing.TB, s *logs.Store) {
	t.Helper()
	for _, err := range s.Follow(t.Context(), logs.Selection{Function: "f"}) {
		t.Error(err)
	}
}

func texts(lines []faas.LogLine) (all []string) {
	for _, line := range lines {
		all = append(all, line.Text)
	}
	return all
}

func wantTexts(t *testing.T, what string, lines []faas.LogLine, want ...string) {
	t.Helper()
	if got := texts(lines); !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func TestLinesAreReadAsTheyWereWritten(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	before := time.Now()
	w := s.Writer("f", "c1", "stderr")
	for _, p := range []string{"one\ntw", "o\r\n", "\n", "thr", "", "ee"} {
		if _, err := io.WriteString(w, p); err != nil {
			t.Fatal(err)
		}
	}
	wantTexts(t, "before Close", read(t, s, logs.Selection{Function: "f", Tail: -1}), "one", "two", "")
	w.Close()
	got := read(t, s, logs.Selection{Function: "f", Tail: -1})
	wantTexts(t, "after Close", got, "one", "two", "", "three")
	if l := got[0]; l.Call != "c1" || l.Stream != "stderr" || l.Time.Before(before) || l.Time.After(time.Now()) {
		t.Errorf("first line %+v, want call c1, stream stderr and the time", l)
	}
	wantTexts(t, "another function", read(t, s, logs.Selection{Function: "g", Tail: -1}))
}

func TestLongLinesAreCutBetweenCharacters(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	const limit = 64 << 10
	exact := strings.Repeat("x", limit)
	w := s.Writer("f", "c", "stderr")
	for text := range strings.SplitAfterSeq(exact+"\n"+exact+"y\n"+exact[1:]+"üz\n"+strings.Repeat("w", 3*limit)+"\nend", "\n") {
		io.WriteString(w, text)
		onDisk(t, s)
	}
	w.Close()
	wantTexts(t, "lines", read(t, s, logs.Selection{Function: "f", Tail: -1}),
		exact, exact, "y", exact[1:], "üz", strings.Repeat("w", limit), strings.Repeat("w", limit), strings.Repeat("w", limit), "end")
}

func TestTailAndCallSelectLines(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir(), PerFunction: faas.MB}) // segments of 128 KB
	var all []string
	for i := range 3000 {
		text := fmt.Sprintf("line %d %s", i, strings.Repeat(".", 100))
		all = append(all, text)
		write(t, s, "f", fmt.Sprint("c", i%3), text)
		if i%500 == 0 {
			onDisk(t, s) // a segment takes all that wait
		}
	}
	if n := len(segments(t, s, "f")); n < 3 {
		t.Fatalf("%d segments, want at least 3 for this test", n)
	}
	for _, n := range []int{0, 1, 10, 1000, 2999, 3000, 5000} {
		want := all[max(0, len(all)-n):]
		wantTexts(t, fmt.Sprintf("tail %d", n), read(t, s, logs.Selection{Function: "f", Tail: n}), want...)
	}
	var ofC1 []string
	for i := 1; i < len(all); i += 3 {
		ofC1 = append(ofC1, all[i])
	}
	wantTexts(t, "call c1", read(t, s, logs.Selection{Function: "f", Call: "c1", Tail: -1}), ofC1...)
	wantTexts(t, "tail 700 of call c1", read(t, s, logs.Selection{Function: "f", Call: "c1", Tail: 700}), ofC1[len(ofC1)-700:]...)
	wantTexts(t, "unknown call", read(t, s, logs.Selection{Function: "f", Call: "c9", Tail: -1}))
}

func TestLinesOfACallAreThoseOfItAmongAll(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, logs.Config{Dir: dir, PerFunction: faas.MB}) // segments of 128 KB
	var calls []string
	for i := range 6000 {
		if i%20 == 0 {
			calls = append(calls, faas.NewID())
		}
		// Most lines are of the latest calls, some of any; some of none.
		call := calls[max(0, len(calls)-1-rand.IntN(3))]
		switch rand.IntN(100) {
		case 0:
			call = calls[rand.IntN(len(calls))]
		case 1:
			call = ""
		}
		if i%7 == 0 {
			s.Event("f", faas.Event{Name: faas.EventRunning, Call: call, Attempt: i})
		} else {
			write(t, s, "f", call, fmt.Sprintf("line %d %s\n", i, strings.Repeat(".", 100)))
		}
		if i%100 == 0 {
			onDisk(t, s)
		}
	}
	for _, state := range []string{"as it was written", "opened again"} {
		if n := len(segments(t, s, "f")); n < 4 {
			t.Fatalf("%d segments, want at least 4 for this test", n)
		}
		all := read(t, s, logs.Selection{Function: "f", Tail: -1})
		of := make(map[string][]faas.LogLine)
		for _, l := range all {
			of[l.Call] = append(of[l.Call], l)
		}
		for _, call := range append(calls[len(calls)-100:], calls[0], faas.NewID(), "0") {
			if got := read(t, s, logs.Selection{Function: "f", Tail: -1, Call: call}); !reflect.DeepEqual(got, of[call]) {
				t.Errorf("%s: call %s has %d lines, want %d", state, call, len(got), len(of[call]))
			}
			want := of[call][max(0, len(of[call])-5):]
			if got := read(t, s, logs.Selection{Function: "f", Tail: 5, Call: call}); !slices.Equal(texts(got), texts(want)) {
				t.Errorf("%s: the tail of call %s is %q, want %q", state, call, texts(got), texts(want))
			}
		}
		stop()
		s, stop = start(t, logs.Config{Dir: dir, PerFunction: faas.MB})
	}
	stop()
}

// segments lists the segment files of a function.
func segments(t testing.TB, s *logs.Store, function string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(logs.DirOf(s), "functions", function, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func size(t testing.TB, dir string) (all int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			all += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFollowerSeesEveryLineOnceWhileSegmentsRotate(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir(), PerFunction: 4 * faas.MB})
	const writers, lines = 4, 2000
	write(t, s, "f", "old", "before\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			next := make(map[string]int)
			total := 0
			for line, err := range s.Follow(ctx, logs.Selection{Function: "f", Tail: -1, Follow: true}) {
				if err != nil {
					t.Error(err)
					return
				}
				if line.Call == "old" {
					continue
				}
				if want := fmt.Sprintf("line %d ", next[line.Call]); !strings.HasPrefix(line.Text, want) {
					t.Errorf("call %s: line %.20q, want %q", line.Call, line.Text, want)
					return
				}
				next[line.Call]++
				if total++; total == writers*lines {
					return
				}
			}
		})
	}
	for n := range writers {
		wg.Go(func() {
			w := s.Writer("f", fmt.Sprint("c", n), "stderr")
			defer w.Close()
			for i := range lines {
				fmt.Fprintf(w, "line %d %s\n", i, strings.Repeat("x", 200))
				if i%100 == 0 {
					onDisk(t, s)
				}
			}
		})
	}
	wg.Wait()
	if n := len(segments(t, s, "f")); n < 3 {
		t.Errorf("%d segments, want several", n)
	}
}

func TestFollowerThatNeverReadsCostsNobodyAnything(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir(), PerFunction: faas.MB})
	const followers, lines = 100, 20_000 // of 100 bytes: two times what is kept
	write(t, s, "f", "first", "first\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	asleep, letGo := make(chan struct{}), make(chan struct{})
	defer close(letGo)
	all.Go(func() {
		for range s.Follow(ctx, logs.Selection{Function: "f", Tail: -1, Follow: true}) {
			close(asleep)
			<-letGo
			return
		}
	})
	<-asleep
	var others sync.WaitGroup
	for range followers - 1 {
		others.Go(func() {
			seen, lost := 0, 0
			for line, err := range s.Follow(ctx, logs.Selection{Function: "f", Call: "c", Tail: -1, Follow: true}) {
				if err != nil {
					t.Error(err)
					return
				}
				if line.Text == "last" {
					break
				}
				if line.Stream == "hob" {
					var n int
					if _, err := fmt.Sscanf(line.Text, "… %d lines lost", &n); err != nil {
						t.Errorf("%q: %v", line.Text, err)
					}
					lost += n
					continue
				}
				seen++
			}
			if seen+lost < lines || lost == 0 && seen != lines {
				t.Errorf("a follower has seen %d lines and was told of %d that are lost, of %d", seen, lost, lines)
			}
		})
	}
	longest := time.Duration(0)
	w := s.Writer("f", "c", "stderr")
	for i := range lines {
		at := time.Now()
		fmt.Fprintf(w, "line %d %s\n", i, strings.Repeat("x", 50))
		if longest = max(longest, time.Since(at)); i%100 == 0 {
			s.Event("f", faas.Event{Name: faas.EventCall, Call: "other"})
			onDisk(t, s)
		}
	}
	io.WriteString(w, "last\n")
	w.Close()
	others.Wait()
	if dropped := slices.ContainsFunc(read(t, s, logs.Selection{Function: "f", Tail: -1}), func(l faas.LogLine) bool { return strings.Contains(l.Text, "dropped") }); dropped {
		t.Error("lines were dropped")
	}
	t.Logf("the longest write took %v", longest)
	if n := size(t, logs.DirOf(s)); n > int64(faas.MB) {
		t.Errorf("%d bytes on the disk, want up to 1 MB", n)
	}
}

func TestFollowEndsWithTheCauseOfItsContext(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	left := errors.New("the client has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	write(t, s, "f", "c", "one\n")
	for line, err := range s.Follow(ctx, logs.Selection{Function: "f", Tail: -1, Follow: true}) {
		if line.Text == "one" {
			cancel(left)
			continue
		}
		if !errors.Is(err, left) {
			t.Errorf("Follow = %+v, %v; want the cause", line, err)
		}
		return
	}
	t.Error("Follow ended without the cause")
}

func TestSlowFollowerIsToldWhatItLost(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir(), PerFunction: faas.MB})
	const lines = 20_000
	write(t, s, "f", "c", "line 0\n")
	seen, lost := 0, 0
	for line, err := range s.Follow(t.Context(), logs.Selection{Function: "f", Tail: -1, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen == 0 { // while we look at the first line, many more are written than are kept
			for i := 1; i < lines; i += 100 {
				w := s.Writer("f", "c", "stderr")
				for k := i; k < min(i+100, lines); k++ {
					fmt.Fprintf(w, "line %d %s\n", k, strings.Repeat("x", 200))
				}
				w.Close()
				onDisk(t, s)
			}
		}
		if line.Stream == "hob" {
			var n int
			if _, err := fmt.Sscanf(line.Text, "… %d lines lost", &n); err != nil {
				t.Errorf("line of hob %q: %v", line.Text, err)
			}
			lost += n
			continue
		}
		if want := fmt.Sprintf("line %d", seen+lost); line.Text != want && !strings.HasPrefix(line.Text, want+" ") {
			t.Fatalf("line %.30q after %d seen and %d lost", line.Text, seen, lost)
		}
		if seen++; seen+lost == lines {
			break
		}
	}
	if lost == 0 {
		t.Error("nothing was lost: this test has tested nothing")
	}
	t.Logf("seen %d, lost %d", seen, lost)
}

func TestFunctionKeepsNoMoreThanItsLimit(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir(), PerFunction: faas.MB})
	w := s.Writer("f", "c", "stderr")
	for i := range 60_000 {
		fmt.Fprintf(w, "line %d %s\n", i, strings.Repeat("x", 60))
		if i%1000 == 0 {
			onDisk(t, s)
		}
	}
	w.Close()
	got := read(t, s, logs.Selection{Function: "f", Tail: -1})
	if last := got[len(got)-1].Text; !strings.HasPrefix(last, "line 59999 ") {
		t.Errorf("last line %q, want line 59999", last)
	}
	if n := size(t, logs.DirOf(s)); n > int64(faas.MB) || n < int64(faas.MB)/2 {
		t.Errorf("%d bytes on the disk, want up to 1 MB and not much less", n)
	}
}

func TestEventsCountToTheLimitOfTheirFunction(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir(), PerFunction: faas.MB})
	const events = 30_000 // 1.7 MB
	for i := range events {
		s.Event("f", faas.Event{Name: faas.EventFailed, Call: fmt.Sprint("c", i), Attempt: 1, Message: "exit 1, and so on"})
		if i%1000 == 0 {
			onDisk(t, s)
		}
	}
	got := read(t, s, logs.Selection{Function: "f", Tail: -1, Only: logs.Events})
	if n := len(got); n < events/3 || n >= events || got[n-1].Call != fmt.Sprint("c", events-1) {
		t.Errorf("%d events, the last %+v; want those that fit, and the last", n, got[n-1])
	}
	if n := size(t, logs.DirOf(s)); n > int64(faas.MB) || n < int64(faas.MB)/2 {
		t.Errorf("%d bytes on the disk, want up to 1 MB and not much less", n)
	}
}

func TestReopenedLogGoesOn(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, logs.Config{Dir: dir})
	write(t, s, "f", "c", "one\ntwo\n")
	s.Record(faas.Call{ID: faas.NewID(), State: faas.CallSucceeded, App: "a", Function: "f"})
	stop()
	s = open(t, logs.Config{Dir: dir})
	write(t, s, "f", "c", "three\n")
	wantTexts(t, "lines", read(t, s, logs.Selection{Function: "f", Tail: -1}), "one", "two", "three")
	if calls, _, err := s.Calls(t.Context(), logs.CallFilter{}); err != nil || len(calls) != 1 {
		t.Errorf("Calls = %v, %v; want one", calls, err)
	}
	if n := len(segments(t, s, "f")); n != 1 {
		t.Errorf("%d segments, want 1", n)
	}
}

func TestNoFileIsOpenBetweenLines(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	w := s.Writer("f", "c", "stderr")
	fmt.Fprintln(w, "one")
	read(t, s, logs.Selection{Function: "f", Tail: -1})
	for _, d := range testenv.Descriptors() {
		if strings.Contains(d, filepath.Join(logs.DirOf(s), "functions", "f")+"/") { // the sweep may look into the directory
			t.Errorf("open: %s", d)
		}
	}
	w.Close()
}

func TestWriterWithoutALineLeavesNoTrace(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	write(t, s, "f", "c", "")
	if entries, err := os.ReadDir(filepath.Join(logs.DirOf(s), "functions")); err != nil || len(entries) != 0 {
		t.Errorf("entries %v, %v; want none", entries, err)
	}
	if n := testing.AllocsPerRun(100, func() { s.Writer("f", "c", "stderr").Close() }); n > 1 {
		t.Errorf("%v allocations for a writer that writes nothing, want 1", n)
	}
}

func TestForgottenFunctionHasNoLines(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	w := s.Writer("f", "c", "stderr")
	fmt.Fprintln(w, "one")
	ended := make(chan error, 1)
	reading := make(chan struct{})
	go func() {
		for _, err := range s.Follow(context.Background(), logs.Selection{Function: "f", Tail: -1, Follow: true}) {
			if err != nil {
				ended <- err
				return
			}
			close(reading)
		}
		ended <- nil
	}()
	<-reading
	s.Forget("f")
	if err := <-ended; err != nil {
		t.Errorf("Follow of a function that was forgotten ended with %v, want no error", err)
	}
	fmt.Fprintln(w, "two") // a call that is still running
	w.Close()
	wantTexts(t, "lines", read(t, s, logs.Selection{Function: "f", Tail: -1}))
	if entries, err := os.ReadDir(filepath.Join(logs.DirOf(s), "functions")); err != nil || len(entries) != 0 {
		t.Errorf("entries %v, %v; want none", entries, err)
	}
	s.Forget("../../etc") // names nothing
}

func TestBadFunctionIDIsInvalid(t *testing.T) {
	s := open(t, logs.Config{Dir: t.TempDir()})
	for _, id := range []string{"", "..", "a/b", "a\x00", strings.Repeat("x", 65)} {
		write(t, s, id, "c", "goes nowhere\n")
		for _, err := range s.Follow(t.Context(), logs.Selection{Function: id, Tail: -1}) {
			if faas.KindOf(err) != faas.Invalid {
				t.Errorf("Follow %q = %v, want invalid", id, err)
			}
		}
	}
}

func TestFilesAreForTheOwnerAlone(t *testing.T) {
	s := open(t, logs.Config{Dir: filepath.Join(t.TempDir(), "logs")})
	write(t, s, "f", "c", "secret\n")
	s.Record(faas.Call{ID: faas.NewID()})
	if _, _, err := s.Calls(t.Context(), logs.CallFilter{}); err != nil {
		t.Fatal(err)
	}
	read(t, s, logs.Selection{Function: "f"})
	err := filepath.WalkDir(logs.DirOf(s), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFullDiskDropsCountsAndPasses(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	var said strings.Builder
	s, stop := start(t, logs.Config{Dir: dir, Log: logTo(&said)})
	write(t, s, "f", "c", "before\n")
	onDisk(t, s)
	ballast := filepath.Join(dir, "ballast")
	_ = os.WriteFile(ballast, make([]byte, 1<<20), 0o600) // as much as there is room for
	for i := range 30 {
		write(t, s, "f", "c", fmt.Sprintf("lost %d %s\n", i, strings.Repeat("x", 5000)))
		s.Record(faas.Call{ID: faas.NewID(), State: faas.CallSucceeded})
		onDisk(t, s)
	}
	if err := s.Fault(); faas.KindOf(err) != faas.Busy {
		t.Errorf("Fault = %v, want busy", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	write(t, s, "f", "c", "after\n")
	got := read(t, s, logs.Selection{Function: "f", Tail: -1})
	kept := 0
	for _, line := range got {
		if strings.HasPrefix(line.Text, "lost ") {
			kept++ // while the last page had room
		}
	}
	n := len(got)
	if want := fmt.Sprintf("… %d lines dropped: the disk is full", 30-kept); n < 3 || got[0].Text != "before" || got[n-2].Text != want || got[n-2].Stream != "hob" || got[n-1].Text != "after" {
		t.Errorf("%d lines, the last %q; want before, …, %q, after", n, texts(got[max(0, n-2):]), want)
	}
	if _, _, err := s.Calls(t.Context(), logs.CallFilter{}); err != nil {
		t.Error(err)
	}
	if err := s.Fault(); err != nil {
		t.Errorf("Fault afterwards = %v, want nil", err)
	}
	stop()
	if n := strings.Count(said.String(), "cannot be written"); n != 1 {
		t.Errorf("said %d times that logs cannot be written, want once:\n%s", n, said.String())
	}
	if !strings.Contains(said.String(), "written again") {
		t.Errorf("did not say that logs are written again:\n%s", said.String())
	}
}
