package pool

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"hob/faas"
)

// TestPlanKeepsItsPromisesWhateverHappens lets things happen at random, and looks
// after each whether what the plan has is what it may have.
func TestPlanKeepsItsPromisesWhateverHappens(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := &world{t: t, r: r, capacity: ledger{total: faas.Resources{Memory: 100 * faas.MB, CPU: 2000}}, waiting: make(map[string]*pool), async: make(map[string]bool), asyncs: make(map[*slot]int)}
		w.plan = newPlan(&w.capacity)
		w.plan.calls, w.plan.waiters, w.plan.freezeAfter, w.plan.asyncShare = 12, 20, 5*time.Millisecond, 50
		for i := range 6 {
			fn := faas.Function{ID: fmt.Sprint("f", i), App: fmt.Sprint("a", i%2), Revision: 1, Format: faas.FormatHTTP,
				Memory: faas.Bytes(5+r.IntN(40)) * faas.MB, Line: 5, Idle: 20 * time.Millisecond}
			switch i {
			case 0:
				fn.Format = faas.FormatDefault
			case 1:
				fn.Format, fn.Concurrency = faas.FormatPort, 3
			case 2:
				fn.MaxConcurrency, fn.CPU = 2, 700
			case 3:
				fn.Min, fn.MaxCalls = 1, 3
			}
			w.fns = append(w.fns, fn)
		}
		for step := range 400 {
			what := w.happen()
			if t.Failed() {
				t.Fatalf("seed %d, step %d: %s", seed, step, what)
			}
		}
		w.settle()
		if t.Failed() {
			t.Fatalf("seed %d, at the end", seed)
		}
	}
}

// world is everything that a plan does not know: who carries its actions out.
type world struct {
	t        *testing.T
	r        *rand.Rand
	plan     plan
	capacity ledger
	fns      []faas.Function
	waiting  map[string]*pool // callers in line
	async    map[string]bool  // callers of asynchronous calls
	asyncs   map[*slot]int    // such calls that run
	starting []*slot
	busy     []*slot // once for each call
	freezing []*slot
	stopping []*slot
	calls    int
}

func (w *world) app(fn *faas.Function) *faas.App {
	return &faas.App{ID: fn.App, Revision: 1, MaxConcurrency: 9}
}

// pick takes one out at random.
func (w *world) pick(from *[]*slot) *slot {
	if len(*from) == 0 {
		return nil
	}
	i := w.r.IntN(len(*from))
	s := (*from)[i]
	*from = append((*from)[:i:i], (*from)[i+1:]...)
	return s
}

// happen lets one thing happen and says what.
func (w *world) happen() string {
	p := &w.plan
	p.now += time.Duration(w.r.IntN(2000)) * time.Microsecond
	switch n := w.r.IntN(20); {
	case n < 7:
		fn := w.fns[w.r.IntN(len(w.fns))]
		if fn.Revision > 1 && w.r.IntN(4) == 0 {
			fn.Revision-- // read before the change
		}
		w.calls++
		id := fmt.Sprint("c", w.calls)
		async := w.r.IntN(3) == 0
		w.async[id] = async
		if s := p.take(w.app(&fn), &fn, async); s != nil {
			w.begin(s, id)
			w.check()
			return "take " + fn.ID
		}
		acts := p.want(id, w.app(&fn), &fn, async)
		w.waiting[id] = p.pools[keyOf(w.app(&fn), &fn)]
		w.do(acts)
		return "want " + fn.ID
	case n < 9:
		if s := w.pick(&w.starting); s != nil {
			if w.r.IntN(8) == 0 {
				w.do(p.failed(s))
				return "failed"
			}
			w.do(p.ready(s))
			return "ready"
		}
	case n < 13:
		if s := w.pick(&w.busy); s != nil {
			w.do(p.done(s, w.end(s), s.pool.fn.Format.Hot() && w.r.IntN(6) > 0))
			return "done"
		}
	case n < 15:
		if s := w.pick(&w.stopping); s != nil {
			w.do(p.stopped(s))
			return "stopped"
		}
	case n < 16:
		if s := w.pick(&w.freezing); s != nil {
			if w.r.IntN(4) == 0 {
				w.do(p.restless(s))
				return "restless"
			}
			w.do(p.frozen(s, faas.MB))
			return "frozen"
		}
	case n < 17:
		for id, l := range w.waiting {
			delete(w.waiting, id)
			w.do(p.gone(id, l))
			return "gone"
		}
	case n < 18:
		i := w.r.IntN(len(w.fns))
		w.fns[i].Revision++
		w.do(p.renew(w.app(&w.fns[i]), &w.fns[i]))
		return "renew " + w.fns[i].ID
	case n < 19:
		for _, s := range p.slots {
			if s.state != slotLeaving {
				w.do(p.died(s))
				return "died"
			}
		}
	}
	if p.now >= p.due {
		w.do(p.tick())
	}
	return "tick"
}

// begin and end note which calls run.
func (w *world) begin(s *slot, id string) {
	w.busy = append(w.busy, s)
	if w.async[id] {
		w.asyncs[s]++
	}
}

func (w *world) end(s *slot) (async bool) {
	if w.asyncs[s] == 0 {
		return false
	}
	w.asyncs[s]--
	return true
}

// do carries actions out.
func (w *world) do(acts []action) {
	for _, a := range acts {
		switch a.Do {
		case "start":
			w.starting = append(w.starting, a.Slot)
		case "give", "thaw":
			if _, waits := w.waiting[a.Caller]; !waits {
				w.t.Errorf("%s does not wait and gets a slot", a.Caller)
			}
			delete(w.waiting, a.Caller)
			w.begin(a.Slot, a.Caller)
		case "fail", "refuse":
			if _, waits := w.waiting[a.Caller]; !waits {
				w.t.Errorf("%s does not wait and is refused", a.Caller)
			}
			if a.Do == "refuse" && w.async[a.Caller] {
				w.t.Errorf("%s is asynchronous and refused", a.Caller)
			}
			delete(w.waiting, a.Caller)
		case "freeze":
			w.freezing = append(w.freezing, a.Slot)
		case "stop":
			w.stopping = append(w.stopping, a.Slot)
		}
	}
	w.check()
}

func (w *world) check() {
	p := &w.plan
	var charge, going faas.Resources
	running, waiting, async := 0, 0, 0
	for _, s := range p.slots {
		charge = charge.Plus(s.charge)
		running += s.uses
		async += w.asyncs[s]
		switch s.state {
		case slotStarting:
			running++
		case slotLeaving:
			going = going.Plus(s.charge)
			if !slices.Contains(w.stopping, s) {
				w.t.Errorf("slot %d leaves and nobody was told to stop it", s.n)
			}
			if s.uses > 0 {
				w.t.Errorf("slot %d leaves in the middle of %d calls", s.n, s.uses)
			}
		case slotIdle, slotFrozen:
			if s.pool.retired && len(s.pool.waiting) == 0 {
				w.t.Errorf("slot %d of a revision that is no more is idle", s.n)
			}
			if len(s.pool.waiting) > 0 && p.full(s.pool) == 0 && s.state == slotIdle {
				w.t.Errorf("slot %d is idle and %d callers wait for it", s.n, len(s.pool.waiting))
			}
			if s.broken {
				w.t.Errorf("slot %d is broken and idle", s.n)
			}
		}
	}
	for l := range p.lines {
		waiting += len(l.waiting)
		if len(l.waiting) == 0 {
			w.t.Errorf("a line of %s without callers", l.fn.ID)
		}
	}
	if async != p.async {
		w.t.Errorf("%d asynchronous calls run, the plan counts %d", async, p.async)
	}
	if charge != w.capacity.reserved || going != p.going || running != p.running || waiting != len(w.waiting) {
		w.t.Errorf("reserved %v for %v, going %v for %v, running %d for %d, waiting %d for %d",
			w.capacity.reserved, charge, p.going, going, p.running, running, waiting, len(w.waiting))
	}
	if w.capacity.reserved.Memory > w.capacity.total.Memory || w.capacity.reserved.CPU > w.capacity.total.CPU {
		w.t.Errorf("%v are reserved of %v", w.capacity.reserved, w.capacity.total)
	}
	if running > p.calls {
		w.t.Errorf("%d calls run or start, and %d may", running, p.calls)
	}
}

// settle lets everything end: nobody may wait for ever.
func (w *world) settle() {
	p := &w.plan
	for range 10_000 {
		p.now += time.Millisecond
		switch s := w.pick(&w.starting); {
		case s != nil:
			w.do(p.ready(s))
			continue
		}
		if s := w.pick(&w.busy); s != nil {
			w.do(p.done(s, w.end(s), s.pool.fn.Format.Hot()))
		} else if s := w.pick(&w.stopping); s != nil {
			w.do(p.stopped(s))
		} else if s := w.pick(&w.freezing); s != nil {
			w.do(p.frozen(s, faas.MB))
		} else if p.now >= p.due {
			w.do(p.tick())
		} else if len(w.waiting) == 0 {
			return
		}
	}
	w.t.Errorf("%d callers wait for ever: %+v", len(w.waiting), p.waits())
}
