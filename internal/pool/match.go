package pool

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"hob/faas"
)

// match gives what is free to the callers who have waited longest, and starts
// slots for them, as far as limits and capacity allow.
func (p *plan) match() {
	if p.closed {
		return
	}
	for l := range p.lines {
		l.skipped = false
	}
	blocked := false           // somebody waits for capacity: nobody after it may reserve any
	var missing faas.Resources // what they all wait for
	for {
		l := p.next()
		if l == nil {
			break
		}
		var s *slot
		if n := len(l.free); n > 0 {
			s = l.free[n-1]
		}
		switch {
		case p.full(l) != 0:
			l.skipped = true
		case s != nil && s.state == slotIdle:
			p.give(l, s)
		case s == nil && !p.worthStarting(l):
			l.skipped = true
			p.wake(p.now + l.starts()) // then it is known better
		case s != nil && !blocked && p.capacity.TryReserve(needs(&l.fn).Minus(s.charge)):
			s.charge = needs(&l.fn)
			p.give(l, s)
		case s == nil && !blocked && p.capacity.TryReserve(needs(&l.fn)):
			p.startOne(l)
		case s != nil:
			blocked, l.skipped = true, true
			missing = missing.Plus(needs(&l.fn).Minus(s.charge))
			p.makeRoom(missing, s)
		default:
			blocked = true
			missing = missing.Plus(p.skipStarts())
			p.makeRoom(missing, nil)
		}
	}
	if !blocked && len(p.warm) > 0 {
		p.keepWarm()
	}
}

// skipStarts skips all pools that need to have a slot started, as there is no room
// for the first of them, and returns what they need: one slot each.
func (p *plan) skipStarts() (missing faas.Resources) {
	for l := range p.lines {
		if l.skipped || len(l.free) > 0 || l.covered() >= len(l.waiting) || p.full(l) != 0 {
			continue
		}
		l.skipped = true
		if p.worthStarting(l) {
			missing = missing.Plus(needs(&l.fn))
		} else {
			p.wake(p.now + l.starts()) // then it is known better
		}
	}
	return missing
}

// keepWarm starts slots for functions that want some ready, as far as there is
// room: nobody makes room for them.
func (p *plan) keepWarm() {
	for _, l := range slices.SortedFunc(maps.Keys(p.warm), func(a, b *pool) int { return cmp.Compare(a.function, b.function) }) {
		if p.now < l.retryAt {
			p.wake(l.retryAt)
		}
		for l.started+l.begun < l.fn.Min && p.now >= l.retryAt && p.full(l) == 0 && p.capacity.TryReserve(needs(&l.fn)) {
			p.startOne(l)
		}
	}
}

// next returns the pool of the caller who has waited longest among those that can
// be served or started for and were not skipped: of the synchronous ones, if the
// others have their share.
func (p *plan) next() *pool {
	var first, sync *pool
	var oldest, oldestSync int64
	for l := range p.lines {
		i := 0
		if len(l.free) == 0 {
			i = l.covered()
		}
		if l.skipped || i >= len(l.waiting) {
			continue
		}
		if p.overShare(l.ofFunction.async, l.ofFunction.active) {
			syncFirst(l.waiting[i:])
		}
		c := l.waiting[i]
		if first == nil || c.order < oldest {
			first, oldest = l, c.order
		}
		if !c.async && (sync == nil || c.order < oldestSync) {
			sync, oldestSync = l, c.order
		}
	}
	if sync != nil && p.overShare(p.async, p.running) {
		return sync
	}
	return first
}

// overShare reports whether asynchronous calls that run have their share of all
// that do.
func (p *plan) overShare(async, running int) bool {
	return async > 0 && 100*async >= p.asyncShare*running
}

// syncFirst moves synchronous callers before the others, each in their order: they
// change places in the line of the node, too.
func syncFirst(callers []caller) {
	if len(callers) < 2 || !callers[0].async {
		return
	}
	orders := make([]int64, len(callers))
	for i, c := range callers {
		orders[i] = c.order
	}
	slices.SortStableFunc(callers, func(a, b caller) int {
		switch {
		case a.async == b.async:
			return 0
		case b.async:
			return -1
		}
		return 1
	})
	for i := range callers {
		callers[i].order = orders[i]
	}
}

// starts is how long a start is expected to take.
func (l *pool) starts() time.Duration { return cmp.Or(l.start, firstStart) + l.warmUp }

// firstStart is what is taken for the length of a start before one was measured:
// who comes at the same moment as the first caller waits so long to see how
// quickly that one is served.
const firstStart = 10 * time.Millisecond

// give gives a free slot to the first caller of its pool.
func (p *plan) give(l *pool, s *slot) {
	what := "give"
	if s.state == slotFrozen || s.freezing {
		what = "thaw"
	}
	p.use(s, l.waiting[0].async)
	p.do(what, s, l.waiting[0].id)
	p.remove(l, 0)
}

func (p *plan) startOne(l *pool) {
	p.last++
	s := &slot{n: p.last, pool: l, state: slotStarting, charge: needs(&l.fn), since: p.now}
	p.slots[s.n] = s
	l.begun++
	l.extra = max(0, l.extra-1)
	p.count(l, 1)
	p.do("start", s, "")
}

// worthStarting reports whether the callers that nothing is started for are
// expected to wait longer than a start takes. When the first of them has waited
// as long, calls take longer than they did, and tick has let some start. And when
// the line has not been empty for as long, one slot for each processor is of use.
func (p *plan) worthStarting(l *pool) bool {
	serving := (l.started + l.begun) * l.each()
	if serving == 0 || !l.fn.Format.Hot() {
		return true
	}
	return l.extra > 0 || l.started+l.begun < p.processors && p.now-l.queued >= l.starts() || l.run*time.Duration(len(l.waiting)-l.covered())/time.Duration(serving) > l.starts()
}

// hurry lets more slots of a pool start when its first caller has waited as long
// as a start takes, and no call has ended meanwhile: one, the next time two, then
// four. While calls do end, their mean is to be trusted.
func (p *plan) hurry(l *pool) {
	if i := l.covered(); i < len(l.waiting) && p.now >= max(l.waiting[i].since, l.ended)+l.starts() {
		l.pace = max(1, 2*l.pace)
		l.extra = l.pace
	}
}

// makeRoom stops idle slots, the longest idle first, until there will be so much
// that nobody has. thaws is a slot that somebody waits for.
func (p *plan) makeRoom(missing faas.Resources, thaws *slot) {
	short := missing.Minus(p.capacity.Free()).Minus(p.going)
	if short.Memory <= 0 && short.CPU <= 0 {
		return // it comes
	}
	idle := p.sorted()
	slices.SortStableFunc(idle, func(a, b *slot) int { return cmp.Compare(a.since, b.since) })
	for _, s := range idle {
		if s.state != slotIdle && s.state != slotFrozen || s == thaws || p.kept(s) {
			continue
		}
		if short.Memory > 0 && s.charge.Memory > 0 || short.CPU > 0 && s.charge.CPU > 0 {
			p.leave(s)
			if short = short.Minus(s.charge); short.Memory <= 0 && short.CPU <= 0 {
				return
			}
		}
	}
}

// sorted returns the slots in the order they were started.
func (p *plan) sorted() []*slot {
	all := make([]*slot, 0, len(p.slots))
	for _, s := range p.slots {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *slot) int { return cmp.Compare(a.n, b.n) })
	return all
}

// measure moves a mean towards a new value by one part of weight.
func measure(mean *time.Duration, value time.Duration, weight time.Duration) {
	value = max(value, 1)
	if *mean == 0 {
		*mean = value
		return
	}
	*mean += (value - *mean) / weight
}
