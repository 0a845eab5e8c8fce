package logs

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
)

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
