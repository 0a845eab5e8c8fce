package logs

import (
	"maps"
	"slices"
	"time"

	"hob/faas"
)

const (
	// rateWindow is how many seconds a Rate looks back.
	rateWindow = 10
	// rateSamples is how many run times of a function are kept for its median.
	rateSamples = 128
	// rateFunctions is how many functions are counted before those that have gone
	// quiet are looked for, the first time.
	rateFunctions = 1024
)

// A Rate is how often a function's calls have ended in the last seconds.
type Rate struct {
	PerSecond float64 // calls that ended
	Failed    float64 // of them, those that did not succeed
	P50       time.Duration
}

// Rates returns, by the ID of the function, how often calls ended in the last 10
// seconds. P50 is of the latest calls that
// succeeded, at most 128, from the moment they were accepted; 0 if there are
// none. A function without calls in that time is not in it.
func (s *Store) Rates() map[string]Rate {
	j := s.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	rates := make(map[string]Rate)
	for id, m := range j.meters {
		if r := m.rate(now); r.PerSecond > 0 {
			rates[id] = r
		}
	}
	return rates
}

// meter counts the calls of one function that ended.
type meter struct {
	seconds [rateWindow + 1]struct { // by the second modulo its length: the present one and those before it
		at            int64 // Unix seconds
		calls, failed int
	}
	samples [rateSamples]struct {
		at   int64
		took time.Duration
	}
	next int   // of samples
	last int64 // second of a call
}

// meter counts a call.
// Precondition: j.mu is held.
func (j *journal) meter(call faas.Call) {
	now := time.Now()
	m := j.meters[call.FuncID]
	if m == nil {
		if len(j.meters) >= max(j.sweepMeters, rateFunctions) {
			maps.DeleteFunc(j.meters, func(_ string, m *meter) bool { return now.Unix()-m.last > rateWindow })
			j.sweepMeters = 2 * len(j.meters)
		}
		if j.meters == nil {
			j.meters = make(map[string]*meter)
		}
		m = new(meter)
		j.meters[call.FuncID] = m
	}
	m.count(now, call)
}

func (m *meter) count(now time.Time, call faas.Call) {
	second := now.Unix()
	at := &m.seconds[second%int64(len(m.seconds))]
	if at.at != second {
		at.at, at.calls, at.failed = second, 0, 0
	}
	at.calls++
	m.last = second
	if call.ErrKind != faas.OK {
		at.failed++
		return
	}
	s := &m.samples[m.next]
	s.at, s.took = second, call.Finished.Sub(call.Queued)
	m.next = (m.next + 1) % len(m.samples)
}

func (m *meter) rate(now time.Time) Rate {
	second := now.Unix()
	within := func(at int64) bool { return second-at <= rateWindow }
	var calls, failed int
	for _, s := range m.seconds {
		if within(s.at) {
			calls += s.calls
			failed += s.failed
		}
	}
	var took []time.Duration
	for _, s := range m.samples {
		if within(s.at) {
			took = append(took, s.took)
		}
	}
	seconds := rateWindow + float64(now.Nanosecond())/1e9 // the present one has only begun
	r := Rate{PerSecond: float64(calls) / seconds, Failed: float64(failed) / seconds}
	if len(took) > 0 {
		slices.Sort(took)
		r.P50 = took[len(took)/2]
	}
	return r
}
