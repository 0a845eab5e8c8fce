package logs

import (
	"strings"
	"testing"
	"time"

	"hob/faas"
)

// fullLog returns the directory of a store in which function f has a full log of
// 50 MB, each call with a hundred lines, and IDs of three calls in it: an early
// one, one of the middle and the last.
func fullLog(b *testing.B) (dir string, calls [3]string) {
	b.Helper()
	dir = b.TempDir()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	f, err := s.function("f")
	if err != nil {
		b.Fatal(err)
	}
	text := []byte(strings.Repeat("x", 60))
	const size = 50 << 20
	n := size / (100 * lineSize(faas.NewID(), text))
	for i := range n {
		id := faas.NewID()
		for at, part := range []float64{0.2, 0.5, 1} {
			if i == int(part*float64(n-1)) {
				calls[at] = id
			}
		}
		w := batch{count: 100}
		for range 100 {
			w.frames = appendLine(w.frames, time.Now(), id, streamStderr, text)
		}
		w.ids.addID(id)
		if err := f.series.append(w, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
	return dir, calls
}

// One read of a full log: by a store that has just been opened, and by one that
// knows the log.
func BenchmarkReadFullLog(b *testing.B) {
	dir, calls := fullLog(b)
	for _, c := range []struct {
		name string
		sel  Selection
		want int // at least
	}{
		{"tail 10", Selection{Tail: 10}, 10},
		{"tail 10 of the last call", Selection{Tail: 10, Call: calls[2]}, 10},
		{"tail 10 of a call of the middle", Selection{Tail: 10, Call: calls[1]}, 10},
		{"tail 10 of an early call", Selection{Tail: 10, Call: calls[0]}, 10},
		{"the last call", Selection{Tail: -1, Call: calls[2]}, 100},
		{"a call of the middle", Selection{Tail: -1, Call: calls[1]}, 100},
		{"a call that wrote nothing", Selection{Tail: -1, Call: faas.NewID()}, 0},
		{"tail over all", Selection{Tail: 1 << 30}, 400_000},
		{"all", Selection{Tail: -1}, 400_000},
	} {
		c.sel.Function = "f"
		read := func(b *testing.B, s *Store) {
			n := 0
			for _, err := range s.Follow(b.Context(), c.sel) {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n < c.want {
				b.Fatalf("%d lines, want %d", n, c.want)
			}
		}
		open := func(b *testing.B) *Store {
			s, err := Open(Config{Dir: dir})
			if err != nil {
				b.Fatal(err)
			}
			return s
		}
		b.Run(c.name+"/opened", func(b *testing.B) {
			for b.Loop() {
				read(b, open(b))
			}
		})
		b.Run(c.name+"/known", func(b *testing.B) {
			s := open(b)
			for b.Loop() {
				read(b, s)
			}
		})
	}
}

// One line of 60 bytes for each call, with a writer of its own, at a rate that
// the disk takes.
func BenchmarkLineOfACall(b *testing.B) {
	s, err := Open(Config{Dir: b.TempDir(), PerSecond: faas.GB})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	line, id, call := []byte(strings.Repeat("x", 59)+"\n"), faas.NewID(), faas.NewID()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		w := s.Writer(id, call, "stderr")
		w.Write(line)
		w.Close()
		if n++; n%1000 == 0 {
			b.StopTimer()
			s.flush()
			b.StartTimer()
		}
	}
}

// A flood over the limit: what its reader costs, 4 KB at a time.
func BenchmarkFlood(b *testing.B) {
	s, err := Open(Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	w := s.Writer("f", faas.NewID(), "stderr")
	defer w.Close()
	p := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 41))
	b.SetBytes(int64(len(p)))
	n := 0
	for b.Loop() {
		w.Write(p)
		if n++; n%20 == 0 {
			b.StopTimer()
			s.flush()
			b.StartTimer()
		}
	}
}

func BenchmarkRecord(b *testing.B) {
	s, err := Open(Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	call := hotCall()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		s.Record(call)
		if n++; n%100 == 0 { // what comes in 10 ms at 10,000 calls a second
			b.StopTimer()
			s.journal.flush()
			b.StartTimer()
		}
	}
}

// What it costs to bring a record to the disk, 100 at a time.
func BenchmarkRecordToDisk(b *testing.B) {
	s, err := Open(Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	call := hotCall()
	b.ReportAllocs()
	for b.Loop() {
		for range 100 {
			s.Record(call)
		}
		s.journal.flush()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/record")
}

// hotCall is the record of a call of a hot function as the invoker makes it.
func hotCall() faas.Call {
	now := time.Now()
	return faas.Call{
		ID: faas.NewID(), App: "default", Function: "hello", FuncID: faas.NewID(), Revision: 1, Kind: faas.CallSync,
		State: faas.CallSucceeded, Attempt: 1, Queued: now, Started: now.Add(1000), Finished: now.Add(200_000),
		Queue: 1000, Sandbox: 300, Run: 180_000,
		Outcome: faas.Outcome{Status: 200, In: 100, Out: 300, Start: faas.StartHot, Keep: true, Exit: &faas.Exit{}, Run: 170_000},
	}
}
