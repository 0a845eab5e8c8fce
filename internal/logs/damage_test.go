package logs

import (
	"bytes"
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

	"hob/faas"
)

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
