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
