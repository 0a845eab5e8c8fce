package ns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
)

// percentiles reports the middle and the end of all.
func percentiles(b *testing.B, what string, all []time.Duration) {
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "us-p50/"+what)
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "us-p99/"+what)
}

// once starts s, waits for its first byte and stops it. It returns how long it
// took until it was started, and until the byte.
func once(b *testing.B, d *Driver, s sandbox.Spec) (started, first time.Duration, from faas.Start) {
	begin := time.Now()
	box, err := d.Start(context.Background(), s)
	if err != nil {
		b.Error(err)
		return
	}
	started = time.Since(begin)
	var buf [64]byte
	if n, err := box.Stdio().Stdout.Read(buf[:]); n == 0 {
		b.Error(err)
	}
	first = time.Since(begin)
	box.Wait(context.Background())
	if err := box.Stop(context.Background(), 0); err != nil {
		b.Error(err)
	}
	return started, first, box.Start()
}

// BenchmarkStart measures until the program is executed and until its first byte
// is there, for each sort of blank, back to back and 100 ms apart. The clean-up is
// off this path.
func BenchmarkStart(b *testing.B) {
	for _, want := range []faas.Start{faas.StartPrepared, faas.StartBare, faas.StartOnDemand} {
		for _, rest := range []time.Duration{0, 100 * time.Millisecond} {
			b.Run(fmt.Sprintf("%s/rest=%v", want, rest), func(b *testing.B) {
				d := open(b, func(c *Config) {
					if want == faas.StartOnDemand {
						c.Blanks = -1
					}
				})
				of := spec(b, "echo", "hello")
				once(b, d, of)
				var starts, firsts []time.Duration
				hits := 0
				for i := range b.N {
					if want == faas.StartBare { // a kind that was never started before
						of.PIDs = 1000 + i
					}
					time.Sleep(rest)
					started, first, from := once(b, d, of)
					starts, firsts = append(starts, started), append(firsts, first)
					if from == want {
						hits++
					}
				}
				percentiles(b, "exec", starts)
				percentiles(b, "byte", firsts)
				b.ReportMetric(float64(hits)/float64(b.N), "hits")
			})
		}
	}
}

// BenchmarkBurst starts 100 sandboxes at once and measures until the last of
// their first bytes.
func BenchmarkBurst(b *testing.B) {
	d := open(b)
	of := spec(b, "echo", "hello")
	for b.Loop() {
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { once(b, d, of) })
		}
		wg.Wait()
		time.Sleep(200 * time.Millisecond)
	}
}

// BenchmarkThroughput starts sandboxes for 16 callers, each of whom starts the
// next when the last is gone.
func BenchmarkThroughput(b *testing.B) {
	for _, blanks := range []int{-1, 0} {
		b.Run(fmt.Sprintf("blanks=%d", blanks), func(b *testing.B) {
			d := open(b, func(c *Config) { c.Blanks = blanks })
			of := spec(b, "echo", "hello")
			work := make(chan struct{})
			from := make(map[faas.Start]int)
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					for range work {
						_, _, f := once(b, d, of)
						mu.Lock()
						from[f]++
						mu.Unlock()
					}
				})
			}
			begin := time.Now()
			for range b.N {
				work <- struct{}{}
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "starts/s")
			b.ReportMetric(float64(from[faas.StartPrepared])/float64(b.N), "prepared")
			b.ReportMetric(float64(from[faas.StartBare])/float64(b.N), "bare")
		})
	}
}

func BenchmarkUsage(b *testing.B) {
	d := open(b)
	s, err := d.Start(b.Context(), spec(b, "prog", "hang"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Stop(context.Background(), 0)
	b.Run("hot", func(b *testing.B) {
		for b.Loop() {
			s.Usage()
		}
	})
	b.Run("after a rest", func(b *testing.B) {
		var all []time.Duration
		for range b.N {
			time.Sleep(30 * time.Millisecond)
			begin := time.Now()
			s.Usage()
			all = append(all, time.Since(begin))
		}
		percentiles(b, "usage", all)
	})
}

// BenchmarkListen measures what a listener adds to a start that makes its own.
func BenchmarkListen(b *testing.B) {
	d := open(b)
	n, err := d.networks.Take()
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	for b.Loop() {
		l, err := d.listen(netip.MustParseAddrPort("127.0.0.1:9001"), n.FD())
		if err != nil {
			b.Fatal(err)
		}
		l.Close()
	}
}

// BenchmarkNetworks measures starts by what the sandbox reaches, of prepared blanks and
// on demand, in turn.
func BenchmarkNetworks(b *testing.B) {
	w := sandboxtest.NewWorld(b)
	modes := []struct {
		name, mode string
		rules      []string
	}{{"none", "none", nil}, {"open", "open", nil}, {"allow", "allow", []string{"10.1.2.3:5432", "10.0.0.0/8:443", "api.example.com:443"}}}
	for _, want := range []faas.Start{faas.StartPrepared, faas.StartOnDemand} {
		b.Run(string(want), func(b *testing.B) {
			d := open(b, func(c *Config) {
				c.Router = w.Router
				if want == faas.StartOnDemand {
					c.Blanks = -1
				}
			})
			starts, firsts := make([][]time.Duration, len(modes)), make([][]time.Duration, len(modes))
			hits := 0
			for n := range b.N + 4 {
				for i, m := range modes {
					of := spec(b, "echo", "hello")
					var err error
					if of.Network, err = faas.ParseEgress(m.mode, m.rules); err != nil {
						b.Fatal(err)
					}
					time.Sleep(20 * time.Millisecond) // until what is made ahead is there
					started, first, from := once(b, d, of)
					if n < 4 {
						continue
					}
					starts[i], firsts[i] = append(starts[i], started), append(firsts[i], first)
					if from == want {
						hits++
					}
				}
			}
			for i, m := range modes {
				percentiles(b, m.name+"/exec", starts[i])
				percentiles(b, m.name+"/byte", firsts[i])
			}
			b.ReportMetric(float64(hits)/float64(b.N*len(modes)), "hits")
		})
	}
}
