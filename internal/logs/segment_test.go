package logs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
)

func openTest(t *testing.T, config Config) *Store {
	t.Helper()
	s, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func textsOf(t *testing.T, s *Store, function string) []string {
	t.Helper()
	return textsOfSelection(t, s, Selection{Function: function, Tail: -1})
}

func textsOfSelection(t *testing.T, s *Store, sel Selection) (all []string) {
	t.Helper()
	for line, err := range s.Follow(t.Context(), sel) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, line.Text)
	}
	return all
}

func writeLines(t *testing.T, s *Store, function string, lines ...string) {
	t.Helper()
	w := s.Writer(function, "c", "stderr")
	for _, line := range lines {
		if _, err := io.WriteString(w, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// onlySegment returns the one segment file of a directory.
func onlySegment(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(names) != 1 {
		t.Fatalf("segments %v, %v; want one", names, err)
	}
	return names[0]
}

func TestTornLastFrameIsCutAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Config{Dir: dir})
	writeLines(t, s, "f", "one", "two", "three")
	s.Close()
	whole, err := os.ReadFile(onlySegment(t, filepath.Join(dir, "functions", "f")))
	if err != nil {
		t.Fatal(err)
	}
	last := len(whole) - lineSize("c", []byte("three"))
	try := func(what string, content []byte, want ...string) {
		t.Helper()
		dir := t.TempDir()
		name := filepath.Join(dir, "functions", "f", filepath.Base(onlySegmentName))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openTest(t, Config{Dir: dir})
		if got := textsOf(t, s, "f"); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
		writeLines(t, s, "f", "next")
		if got := textsOf(t, s, "f"); !slices.Equal(got, append(want, "next")) {
			t.Errorf("%s, then a line: got %q, want %q and next", what, got, want)
		}
		s.Close()
		s = openTest(t, Config{Dir: dir}) // the end that was cut off has left nothing behind
		if got := textsOf(t, s, "f"); !slices.Equal(got, append(want, "next")) {
			t.Errorf("%s, opened again: got %q, want %q and next", what, got, want)
		}
	}
	damage := func(n int) string { return string(damageText(int64(n))) }
	try("whole", whole, "one", "two", "three")
	try("cut between two frames", whole[:last], "one", "two")
	for cut := last; cut < len(whole); cut++ {
		if cut > last {
			try(fmt.Sprintf("cut at byte %d of the last frame", cut-last), whole[:cut], "one", "two", damage(cut-last))
		}
		garbled := bytes.Clone(whole)
		garbled[cut] ^= 0x10
		try(fmt.Sprintf("bit flipped in byte %d of the last frame", cut-last), garbled, "one", "two", damage(len(whole)-last))
	}
	for cut := range 8 {
		var want []string
		if cut > 0 {
			want = []string{damage(cut)}
		}
		try(fmt.Sprintf("cut at byte %d", cut), whole[:cut], want...)
	}
	try("only the head", whole[:8])
	try("zeros behind", append(bytes.Clone(whole), make([]byte, 5000)...), "one", "two", "three", damage(5000))
	try("no segment at all", []byte("something else altogether"), damage(25))
}

// onlySegmentName is the name of the first segment of a series.
const onlySegmentName = "00000000000000000000.seg"

func TestTornJournalIsCut(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Config{Dir: dir})
	first, second := faas.Call{ID: faas.NewID()}, faas.Call{ID: faas.NewID()}
	s.Record(first)
	s.Record(second)
	s.Close()
	name := onlySegment(t, filepath.Join(dir, "journal"))
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, info.Size()-1); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, Config{Dir: dir})
	third := faas.Call{ID: faas.NewID()}
	s.Record(third)
	calls, _, err := s.Calls(t.Context(), CallFilter{})
	if err != nil || len(calls) != 2 || calls[0].ID != third.ID || calls[1].ID != first.ID {
		t.Errorf("Calls = %v, %v; want the third and the first", calls, err)
	}
}

func TestDamageCostsOnlyTheLinesInItAndIsNamed(t *testing.T) {
	flip := func(t *testing.T, name string, at int64) {
		edit(t, name, func(b []byte) []byte { b[at] ^= 0x40; return b })
	}
	for _, c := range []struct {
		name string
		do   func(t *testing.T, name string) // with a segment
		lost int                             // at most
		last bool                            // of the last one: lines may be lost without a word if nobody knows of them
	}{
		{"a bit in a text", func(t *testing.T, name string) { flip(t, name, 50_000) }, 1, false},
		{"the length of the first frame", func(t *testing.T, name string) { flip(t, name, 10) }, 1, false},
		{"the head of the file", func(t *testing.T, name string) { flip(t, name, 1) }, 0, false},
		{"zeros for 4 KB", func(t *testing.T, name string) {
			edit(t, name, func(b []byte) []byte { clear(b[40_000:44_096]); return b })
		}, 40, false},
		{"random for 4 KB", func(t *testing.T, name string) {
			edit(t, name, func(b []byte) []byte { rand.Read(b[40_000:44_096]); return b })
		}, 40, false},
		{"two places", func(t *testing.T, name string) { flip(t, name, 20_000); flip(t, name, 60_000) }, 2, false},
		{"4 KB in the middle gone", func(t *testing.T, name string) {
			edit(t, name, func(b []byte) []byte { return append(b[:40_000], b[44_096:]...) })
		}, 40, false},
		{"half of the file gone", func(t *testing.T, name string) {
			edit(t, name, func(b []byte) []byte { return b[:len(b)/2] })
		}, 600, false},
		{"all of the file empty", func(t *testing.T, name string) {
			edit(t, name, func(b []byte) []byte { return nil })
		}, 1200, true},
		{"the file gone", func(t *testing.T, name string) {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}, 1200, true},
	} {
		for _, known := range []bool{false, true} {
			for _, which := range []string{"old", "last"} {
				t.Run(fmt.Sprintf("%s/%s segment/known=%v", c.name, which, known), func(t *testing.T) {
					dir := t.TempDir()
					s := openTest(t, Config{Dir: dir, PerFunction: faas.MB})
					var all []string
					for i := range 3000 {
						all = append(all, fmt.Sprintf("line %d %s", i, strings.Repeat("x", 80)))
					}
					for lines := range slices.Chunk(all, 50) {
						writeLines(t, s, "f", lines...)
						s.flush()
					}
					names, err := filepath.Glob(filepath.Join(dir, "functions", "f", "*"))
					if err != nil || len(names) < 3 {
						t.Fatalf("segments %v, %v; want at least 3", names, err)
					}
					name := names[1]
					if which == "last" {
						name = names[len(names)-1]
					}
					c.do(t, name)
					if !known {
						s.Close()
						s = openTest(t, Config{Dir: dir, PerFunction: faas.MB})
					}
					for _, state := range []string{"as it is", "after more lines"} {
						got := textsOf(t, s, "f")
						next, notes := 0, 0
						for _, text := range got {
							if strings.HasPrefix(text, "…") {
								notes++
								continue
							}
							at := slices.Index(all[next:], text)
							if at < 0 {
								t.Fatalf("%s: %.20q behind %.20q", state, text, all[max(0, next-1)])
							}
							next += at + 1
						}
						lost := len(all) - (len(got) - notes)
						if lost > c.lost || notes == 0 && lost > 0 && !(c.last && which == "last" && !known) {
							t.Errorf("%s: %d lines are lost, want up to %d; %d notes", state, lost, c.lost, notes)
						}
						tail := textsOfSelection(t, s, Selection{Function: "f", Tail: 2000 + notes})
						if n := len(got) - 1000; !slices.Equal(tail[len(tail)-n+500:], got[len(got)-n+500:]) {
							t.Errorf("%s: the tail differs from the end of all", state)
						}
						writeLines(t, s, "f", "one more")
						all = append(all, "one more")
						s.flush()
					}
				})
			}
		}
	}
}

func edit(t *testing.T, name string, do func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err == nil {
		err = os.WriteFile(name, do(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDamageInTheJournalCostsOnlyTheRecordsInIt(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		dir := t.TempDir()
		var said bytes.Buffer
		config := Config{Dir: dir, JournalBytes: faas.MB, Log: slog.New(slog.NewTextHandler(&said, nil))}
		s := openTest(t, config)
		const calls = 1000
		var ids []string
		for i := range calls {
			ids = append(ids, faas.NewID())
			s.Record(faas.Call{ID: ids[i], Error: strings.Repeat("x", 100)})
			if i%50 == 49 {
				s.journal.flush()
			}
		}
		s.Close()
		names, err := filepath.Glob(filepath.Join(dir, "journal", "*"))
		if err != nil || len(names) < 2 {
			t.Fatalf("segments %v, %v; want at least 2", names, err)
		}
		edit(t, names[0], func(b []byte) []byte {
			b[50_000] ^= 1
			clear(b[60_000:61_000])
			if !sealed {
				b[len(b)-1] ^= 1
			}
			return b
		})
		s = openTest(t, config)
		for range 2 {
			got, _, err := s.Calls(t.Context(), CallFilter{Limit: 2 * calls})
			if err != nil || len(got) < calls-10 || len(got) > calls-3 || got[len(got)-1].ID != ids[0] || got[0].ID != ids[calls-1] {
				t.Errorf("%d records, %v; want all but some of %d", len(got), err, calls)
			}
		}
		if _, err := s.Call(ids[2]); err != nil {
			t.Error(err)
		}
		if n := strings.Count(said.String(), "the journal is damaged"); n != 1 {
			t.Errorf("said %d times that the journal is damaged, want once:\n%s", n, said.String())
		}
	}
}

// Bytes that look like the heads of long frames everywhere cost no more than a moment.
func TestDamageThatLooksLikeFramesIsPassedOverQuickly(t *testing.T) {
	b := make([]byte, 0, 4<<20)
	for len(b)+9 < cap(b) {
		b = append(binary.LittleEndian.AppendUint32(b, maxBody), 1, 1, 1, 1, kindLine)
	}
	r := frameReader{from: bytes.NewReader(b), end: int64(len(b))}
	fr, err := r.next()
	if err != nil || fr.lost != int64(len(b)) || r.vain > 2*maxVain {
		t.Errorf("%d bytes lost, %v, %d checked in vain; want %d and not more than %d", fr.lost, err, r.vain, len(b), maxVain)
	}
	if _, err := r.next(); err != io.EOF {
		t.Errorf("then %v, want the end", err)
	}
}

// stuck makes the disk of f take nothing until it is let go.
func stuck(f *function) (letGo func()) {
	f.flushing.Lock()
	return f.flushing.Unlock
}

func TestFloodWaitsBrieflyThenDropsAndSaysHowMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		f, err := s.function("f")
		if err != nil {
			t.Fatal(err)
		}
		letGo := stuck(f)
		start := time.Now()
		w := s.Writer("f", "c", "stderr")
		line := []byte(strings.Repeat("x", 999) + "\n")
		const lines = 2000
		for range lines {
			w.Write(line)
		}
		if took := time.Since(start); took != writerPatience {
			t.Errorf("a flood of %d lines on a disk that is stuck took %v, want %v once", lines, took, writerPatience)
		}
		if n := len(f.buf); n > bufferSize {
			t.Errorf("%d bytes in memory, want up to %d", n, bufferSize)
		}
		writeLines(t, s, "other", "not blocked")
		if took := time.Since(start); took != writerPatience {
			t.Errorf("a line of another function waited %v", took-writerPatience)
		}
		letGo()
		s.flush()
		io.WriteString(w, "after\n")
		w.Close()
		got := textsOf(t, s, "f")
		kept := 0
		for _, text := range got {
			if strings.HasPrefix(text, "xxx") {
				kept++
			}
		}
		want := fmt.Sprintf("… %d lines dropped: the disk did not keep up", lines-kept)
		if n := len(got); kept < 100 || got[n-2] != want || got[n-1] != "after" {
			t.Errorf("%d lines kept, the last %q; want %q, after", kept, got[max(0, n-2):], want)
		}
	})
}

func TestLinesOfAWriterThatClosesWhileTheDiskIsStuckAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		f, err := s.function("f")
		if err != nil {
			t.Fatal(err)
		}
		letGo := stuck(f)
		for range 10 {
			writeLines(t, s, "f", strings.Repeat("x", 60_000))
		}
		letGo()
		s.flush()
		writeLines(t, s, "f", "after")
		got := textsOf(t, s, "f")
		if n := len(got); n != 6 || got[4] != "… 6 lines dropped: the disk did not keep up" || got[5] != "after" {
			t.Errorf("%d lines, the last %q; want 4, how many were dropped, after", n, got[max(0, n-2):])
		}
	})
}

func TestLinesOverTheLimitAreDroppedAndCountedEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Config{Dir: t.TempDir(), PerSecond: 100 * faas.KB})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		w := s.Writer("f", "c", "stderr")
		line := []byte(strings.Repeat("x", 999) + "\n")
		const seconds, each = 5, 1000 // a second: a flood of ten times the limit
		for range seconds * each {
			w.Write(line)
			time.Sleep(time.Second / each)
		}
		s.Event("f", faas.Event{Name: faas.EventCall, Call: "c"}) // has no limit
		writeLines(t, s, "other", "not limited")
		time.Sleep(2 * time.Second) // a writer that writes no more says it, too
		texts := textsOf(t, s, "f")
		kept, dropped, notes := 0, 0, 0
		for _, text := range texts {
			switch {
			case strings.HasPrefix(text, "x"):
				kept++
			case strings.HasPrefix(text, "…"):
				var n int
				if _, err := fmt.Sscanf(text, "… %d lines dropped: over the limit of 100 KB a second", &n); err != nil {
					t.Errorf("%q: %v", text, err)
				}
				dropped += n
				notes++
			}
		}
		if want := seconds * each; kept+dropped != want || notes < seconds-2 || notes > seconds+1 {
			t.Errorf("%d kept and %d dropped with %d notes, want %d in all and about a note a second", kept, dropped, notes, want)
		}
		if size := kept * lineSize("c", line[1:]); size < 600<<10 || size > 720<<10 {
			t.Errorf("%d bytes kept in %d seconds, want 100 KB for each and 200 KB at once", size, seconds)
		}
		if !slices.Contains(texts, "[CALL] CallId: c, ShortStdin: ") {
			t.Error("the event is not there")
		}
		if got := textsOf(t, s, "other"); !slices.Equal(got, []string{"not limited"}) {
			t.Errorf("the other function has %q", got)
		}
		io.WriteString(w, strings.Repeat("y", 50_000)+"\n"+strings.Repeat(strings.Repeat("z", 50_000)+"\n", 10))
		w.Close()
		texts = textsOf(t, s, "f")
		if got, want := texts[len(texts)-1], "… 7 lines dropped: over the limit of 100 KB a second"; got != want {
			t.Errorf("after Close: %.60q, want %q", got, want)
		}
		cancel()
		<-ended
		s.Close()
	})
}

func TestRunBringsLinesToTheDiskByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		writeLines(t, s, "f", "one")
		s.Record(faas.Call{ID: faas.NewID()})
		time.Sleep(flushDelay) // of the bubble's clock
		synctest.Wait()
		for _, name := range []string{"functions/f", "journal"} {
			if info, err := os.Stat(onlySegment(t, filepath.Join(dir, name))); err != nil || info.Size() <= int64(len(segmentMagic)) {
				t.Errorf("%s: %v, %v; want something in it", name, info, err)
			}
		}
		writeLines(t, s, "f", "two")
		cancel() // the rest is written on the way out
		<-ended
		if f, err := s.function("f"); err != nil || len(f.buf) > 0 {
			t.Errorf("%d bytes are left in memory after Run, %v", len(f.buf), err)
		}
		s.Close()
	})
}

func TestOldSegmentsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Config{Dir: dir, MaxAge: time.Hour, JournalAge: time.Hour})
	writeLines(t, s, "old", "old")
	writeLines(t, s, "new", "new")
	s.Record(faas.Call{ID: "01OLD"})
	s.flush()
	s.journal.flush()
	past := time.Now().Add(-2 * time.Hour)
	for _, name := range []string{"functions/old", "journal"} {
		if err := os.Chtimes(onlySegment(t, filepath.Join(dir, name)), past, past); err != nil {
			t.Fatal(err)
		}
	}
	s.sweep(t.Context(), time.Now())
	if got := textsOf(t, s, "old"); len(got) != 0 {
		t.Errorf("old lines %q, want none", got)
	}
	if got := textsOf(t, s, "new"); !slices.Equal(got, []string{"new"}) {
		t.Errorf("new lines %q", got)
	}
	if _, err := s.Call("01OLD"); faas.KindOf(err) != faas.NotFound {
		t.Errorf("old record: %v, want not found", err)
	}
	writeLines(t, s, "old", "again")
	if got := textsOf(t, s, "old"); !slices.Equal(got, []string{"again"}) {
		t.Errorf("lines %q after the sweep, want again", got)
	}
}

func TestOldestLinesOfAllFunctionsGoFirst(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Config{Dir: dir, Total: faas.MB})
	text := strings.Repeat("x", 50_000)
	for i, name := range []string{"oldest", "middle", "newest"} {
		for range 10 {
			writeLines(t, s, name, text)
			s.flush()
		}
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(onlySegment(t, filepath.Join(dir, "functions", name)), at, at); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-s.tooBig:
	default:
		t.Error("1.5 MB are on the disk, and nobody says that it is over the limit of 1 MB")
	}
	s.sweep(t.Context(), time.Now())
	for name, want := range map[string]int{"oldest": 0, "middle": 0, "newest": 10} {
		if name == "middle" {
			continue // 1 MB less what is kept free decides
		}
		if got := len(textsOf(t, s, name)); got != want {
			t.Errorf("%d lines of %s, want %d", got, name, want)
		}
	}
	if used := s.used.Load(); used > int64(faas.MB) || used < 500_000 {
		t.Errorf("%d bytes counted, want at most 1 MB", used)
	}
}

func TestSegmentIsClosedBeforeItSpansTooLongATime(t *testing.T) {
	s := openTest(t, Config{Dir: t.TempDir(), MaxAge: 8 * time.Hour})
	f, err := s.function("f")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i, at := range []time.Time{now, now.Add(59 * time.Minute), now.Add(61 * time.Minute)} {
		if err := f.series.append(batch{frames: appendLine(nil, at, "c", streamStderr, nil), count: 1}, at); err != nil {
			t.Fatal(err)
		}
		if segments, _, err := f.series.state(); err != nil || len(segments) != 1+i/2 {
			t.Errorf("%d segments after line %d, %v; want %d", len(segments), i, err, 1+i/2)
		}
	}
}

func TestSealSparesReadingAJournalSegment(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Config{Dir: dir, JournalBytes: faas.MB})
	for range 2000 {
		s.Record(faas.Call{ID: faas.NewID(), Error: strings.Repeat("x", 100)})
		if len(s.journal.pending) == 200 {
			s.journal.flush()
		}
	}
	want, _, err := s.journal.series.state()
	if err != nil || len(want) < 3 {
		t.Fatalf("%d segments, %v; want at least 3", len(want), err)
	}
	s.Close()
	for _, g := range want[:len(want)-1] {
		f, err := os.Open(s.journal.series.file(g.base))
		if err != nil {
			t.Fatal(err)
		}
		sealed := segment{size: g.size}
		if !readSeal(f, &sealed) || sealed.first != g.first || sealed.last != g.last || sealed.count != g.count {
			t.Errorf("seal of segment %d = %+v, want %+v", g.base, sealed, g)
		}
		f.Close()
	}
	again := openTest(t, Config{Dir: dir, JournalBytes: faas.MB})
	got, _, err := again.journal.series.state()
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d segments after opening again, %v; want %d", len(got), err, len(want))
	}
	for i := range got {
		if got[i].first != want[i].first || got[i].last != want[i].last || got[i].count != want[i].count || got[i].size != want[i].size {
			t.Errorf("segment %d = %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestRemovedFilesAreMadeAgain(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, Config{Dir: dir})
	writeLines(t, s, "f", "one")
	s.flush()
	if err := os.RemoveAll(filepath.Join(dir, "functions")); err != nil {
		t.Fatal(err)
	}
	writeLines(t, s, "f", "two")
	s.flush()
	if got := textsOf(t, s, "f"); len(got) == 0 || got[len(got)-1] != "two" {
		t.Errorf("lines %q, want two at the end", got)
	}
}

func TestZerosAreNoFrame(t *testing.T) {
	for n := range 40 {
		if _, _, err := parseFrame(make([]byte, n)); err == nil {
			t.Errorf("%d zero bytes are a frame", n)
		}
	}
}

func FuzzFrames(f *testing.F) {
	good := appendLine(nil, time.Unix(0, 1), "call", streamStderr, []byte("text"))
	record := appendRecord(nil, time.Unix(0, 1), &faas.Call{ID: "01ABC", App: "a", Function: "f", State: faas.CallFailed, Error: "x"})
	f.Add([]byte{})
	f.Add(good)
	f.Add(record)
	f.Add(append(bytes.Clone(good), record...))
	f.Add(good[:len(good)-1])
	f.Add(appendEntry(nil, kindEvent, time.Unix(0, 1), "call", 4, appendEvent(nil, faas.Event{Attempt: 300, Stdout: "out", Message: "why"})))
	f.Add(append(bytes.Clone(good), make([]byte, 100)...))
	f.Add(appendSeal(nil, segment{first: "01ABC", last: "01XYZ", count: 3}, time.Unix(0, 1)))
	f.Add(slices.Concat(good, []byte("damage"), record, make([]byte, 50), good))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := frameReader{from: bytes.NewReader(b), end: int64(len(b))}
		var again []byte
		damaged := false
		for {
			off := r.off
			fr, err := r.next()
			if err != nil {
				if !errors.Is(err, io.EOF) || r.off != int64(len(b)) {
					t.Errorf("next = %v at %d of %d", err, r.off, len(b))
				}
				break
			}
			if r.off <= off || r.off > int64(len(b)) {
				t.Fatalf("a step from %d to %d of %d", off, r.off, len(b))
			}
			if fr.lost > 0 {
				if fr.lost != r.off-off || damaged {
					t.Fatalf("%d bytes lost from %d to %d, behind others: %v", fr.lost, off, r.off, damaged)
				}
				again, damaged = append(again, b[off:r.off]...), true
				continue
			}
			damaged = false
			var start int
			again, start = beginFrame(again, fr.kind, time.Unix(0, fr.at))
			again = endFrame(append(again, fr.rest...), start)
			if c := (cursor{}); c.wants(fr) {
				logLine(fr)
			}
			if k, ok := parseKeys(fr.rest); ok {
				k.call()
			}
		}
		if !bytes.Equal(again, b[:r.off]) {
			t.Errorf("frames written again differ:\n got %x\nwant %x", again, b[:r.off])
		}
		g := segment{size: int64(len(b))}
		readSeal(bytes.NewReader(b), &g)
	})
}

// A segment that is not read in one go, with frames of all sizes.
func TestFramesAcrossReadsAreWhole(t *testing.T) {
	var b []byte
	var want []int
	for i := range 400 {
		n := i * i % 70_000
		want = append(want, n)
		b = appendLine(b, time.Now(), "c", streamStderr, bytes.Repeat([]byte{'x'}, n))
	}
	b = appendLine(b, time.Now(), "c", streamStderr, make([]byte, maxBody-bodyHead-3))
	r := frameReader{from: bytes.NewReader(b), end: int64(len(b))}
	for _, n := range want {
		fr, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, text, ok := parseLine(fr.rest); !ok || len(text) != n {
			t.Fatalf("a line of %d bytes, want %d", len(text), n)
		}
	}
	if _, err := r.next(); err != nil {
		t.Errorf("the largest frame: %v", err)
	}
	if _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestHealthSaysEachThingOnce(t *testing.T) {
	var said bytes.Buffer
	h := health{log: slog.New(slog.NewTextHandler(&said, nil))}
	h.report(nil, 1)
	for range 3 {
		h.report(errors.New("no space"), 5)
	}
	if err := h.err(); faas.KindOf(err) != faas.Busy || !strings.Contains(err.Error(), "15 lines") {
		t.Errorf("err = %v, want busy with 15 lines", err)
	}
	h.report(nil, math.MaxInt32)
	if err := h.err(); err != nil || strings.Count(said.String(), "\n") != 2 || !strings.Contains(said.String(), "dropped=15") {
		t.Errorf("err = %v, said:\n%s\nwant one line that it broke and one that it works, after 15", err, said.String())
	}
}
