package network

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hob/faas"
)

// half reports the median of what an operation took, in microseconds.
func half(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "µs-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "µs-p99")
}

// Take when a slot is ready, as on the path of a call's start.
func BenchmarkTake(b *testing.B) {
	for _, rules := range []int{0, 1, 10} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			w := newWorld(b)
			r := w.router(func(c *Config) { c.Ready = 4 })
			var allow []string
			for i := range rules {
				allow = append(allow, fmt.Sprintf("10.1.%d.3:5432", i))
			}
			p, err := faas.ParseEgress("open", allow)
			w.check(err)
			var took []time.Duration
			for b.Loop() {
				for len(r.ready) == 0 {
					time.Sleep(time.Millisecond)
				}
				start := time.Now()
				s, err := r.Take(b.Context(), p, "sandbox")
				took = append(took, time.Since(start))
				w.check(err)
				s.Release()
			}
			half(b, took)
		})
	}
}

func BenchmarkMakeSlot(b *testing.B) {
	w := newWorld(b)
	r := w.router(func(c *Config) { c.Ready = 1 })
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		s, err := r.newSlot()
		took = append(took, time.Since(start))
		w.check(err)
		r.discard(s)
	}
	half(b, took)
}

// Renewing a slot, without what a round costs for all.
func BenchmarkRenewSlot(b *testing.B) {
	w := newWorld(b)
	r := w.router(func(c *Config) { c.Ready = 1 })
	s := w.take(r, "open")
	var took []time.Duration
	for b.Loop() {
		w.check(r.filter.shut(s))
		start := time.Now()
		w.check(r.renew(s))
		took = append(took, time.Since(start))
		select {
		case s = <-r.ready:
		case <-time.After(5 * time.Second):
			b.Fatal("no slot is ready")
		}
	}
	half(b, took)
}

// A thousand slots at once: what each costs in memory and time, and what it takes
// that all are gone.
func BenchmarkThousandSlots(b *testing.B) {
	for b.Loop() {
		thousandSlots(b, 1000)
	}
}

func thousandSlots(b *testing.B, count int) {
	w := newWorld(b)
	w.serve(w.internet, "8.8.8.8:443")
	r := w.router(func(c *Config) { c.Ready = 1 })
	runtime.GC()
	available, slab := memory()
	var slots []*Slot
	start := time.Now()
	for range count {
		s, err := r.newSlot()
		w.check(err)
		slots = append(slots, s)
	}
	b.ReportMetric(float64(time.Since(start).Milliseconds())/float64(count), "ms-made/slot")
	after, slabAfter := memory()
	b.ReportMetric(float64(available-after)/float64(count), "KB/slot")
	b.ReportMetric(float64(slabAfter-slab)/float64(count), "KB-slab/slot")
	start = time.Now()
	for _, s := range slots {
		w.check(w.try(s.FD(), func() error {
			c, err := net.DialTimeout("tcp", "8.8.8.8:443", time.Second)
			if err == nil {
				c.Close()
			}
			return err
		}))
	}
	b.ReportMetric(float64(time.Since(start).Microseconds())/float64(count), "µs-connect/slot")
	start = time.Now()
	w.check(r.Close())
	b.ReportMetric(time.Since(start).Seconds(), "s-close")
	for len(w.links()) > 3 { // lo, wan and lan
		time.Sleep(10 * time.Millisecond)
	}
}

// memory is what the kernel says is available, and in its slabs, in KB.
func memory() (available, slab int) {
	data, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		n, _ := strconv.Atoi(f[1])
		switch f[0] {
		case "MemAvailable:":
			available = n
		case "Slab:":
			slab = n
		}
	}
	return available, slab
}
