package ns

import (
	"context"
	"slices"
	"testing"
	"time"
)

// BenchmarkStart measures a start on demand until the first process has ended,
// back to back and after a rest; the clean-up is off this path.
func BenchmarkStart(b *testing.B) {
	d := open(b)
	of := spec(b, "true")
	for _, rest := range []time.Duration{0, 60 * time.Millisecond} {
		b.Run("rest="+rest.String(), func(b *testing.B) {
			var starts, ends []time.Duration
			for range b.N {
				time.Sleep(rest)
				begin := time.Now()
				s, err := d.Start(context.Background(), of)
				if err != nil {
					b.Fatal(err)
				}
				starts = append(starts, time.Since(begin))
				s.Wait(context.Background())
				ends = append(ends, time.Since(begin))
				s.Stop(context.Background(), 0)
			}
			slices.Sort(starts)
			slices.Sort(ends)
			b.ReportMetric(float64(starts[len(starts)/2].Microseconds()), "us-p50/exec")
			b.ReportMetric(float64(ends[len(ends)/2].Microseconds()), "us-p50/end")
			b.ReportMetric(float64(ends[len(ends)*99/100].Microseconds()), "us-p99/end")
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
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), "us-p50")
	})
}
