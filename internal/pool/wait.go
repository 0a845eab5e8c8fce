package pool

import (
	"cmp"
	"slices"

	"hob/faas"
)

// A wait is why a caller waits and who is before it.
type wait struct {
	caller string
	place  int // 1 is next; 0: it is being served
	reason waitReason
	pool   *pool
}

type waitReason uint8

const (
	_          waitReason = iota
	waitStart             // its sandbox starts
	waitTurn              // a sandbox of its function is expected to be free sooner than another could start
	waitLimit             // its function is at its own limit
	waitApp               // its app is
	waitNode              // the node is
	waitMemory            // for memory
	waitCPU               // for processors
	waitBehind            // for nothing but those before it, who wait for one of the two
)

// reasonOf is what caller i of a pool waits for.
func (p *plan) reasonOf(l *pool, i int) waitReason {
	switch reason := p.full(l); {
	case i < l.covered():
		return waitStart
	case reason != 0:
		return reason
	case len(l.free) == 0 && !p.worthStarting(l):
		return waitTurn
	}
	switch free := p.capacity.Free(); {
	case l.fn.Memory > free.Memory:
		return waitMemory
	case l.fn.CPU > free.CPU:
		return waitCPU
	}
	return waitBehind
}

// line is what callers with these reasons stand in together.
func (r waitReason) line() waitReason {
	switch r {
	case waitCPU, waitBehind:
		return waitMemory
	}
	return r
}

// same reports whether two callers stand in the same line: for their function,
// their app, or something of the node.
func same(a, b *pool, reason waitReason) bool {
	switch reason {
	case waitTurn, waitLimit:
		return a.fn.ID == b.fn.ID
	case waitApp:
		return a.fn.App == b.fn.App
	}
	return true
}

// waitOf tells about one caller; false if it does not wait.
func (p *plan) waitOf(id string, l *pool) (wait, bool) {
	i := -1
	if l != nil {
		i = l.find(id)
	}
	if i < 0 {
		return wait{}, false
	}
	w := wait{caller: id, reason: p.reasonOf(l, i), pool: l}
	if w.reason == waitStart {
		return w, true
	}
	w.place = 1
	for other := range p.lines {
		if !same(l, other, w.reason) {
			continue
		}
		for k := other.covered(); k < len(other.waiting) && other.waiting[k].order < l.waiting[i].order; k++ {
			if p.reasonOf(other, k).line() == w.reason.line() {
				w.place++
			}
		}
	}
	return w, true
}

// waits lists everybody who waits, oldest first.
func (p *plan) waits() []wait {
	type entry struct {
		order int64
		wait
	}
	var all []entry
	for l := range p.lines {
		covered := l.covered()
		uncovered := waitReason(0)
		for i, c := range l.waiting {
			if i == covered {
				uncovered = p.reasonOf(l, i)
			}
			w := wait{caller: c.id, reason: uncovered, pool: l}
			if i < covered {
				w.reason = waitStart
			}
			all = append(all, entry{c.order, w})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.order, b.order) })

	type line struct {
		reason waitReason
		whose  string
	}
	places := make(map[line]int)
	out := make([]wait, len(all))
	for i, e := range all {
		out[i] = e.wait
		at := line{reason: e.reason.line()}
		switch e.reason {
		case waitStart:
			continue
		case waitTurn, waitLimit:
			at.whose = e.pool.fn.ID
		case waitApp:
			at.whose = e.pool.fn.App
		}
		places[at]++
		out[i].place = places[at]
	}
	return out
}

// tooMany reports whether more synchronous callers wait than may, for the function
// of l or on the node.
func (p *plan) tooMany(l *pool) bool {
	function, node := 0, 0
	for other := range p.lines {
		n := other.waiters()
		node += n
		if other.fn.ID == l.fn.ID {
			function += n
		}
	}
	return function > l.fn.Line || p.waiters > 0 && node > p.waiters
}

// waiters counts the synchronous callers that nothing is started for.
func (l *pool) waiters() (n int) {
	for _, c := range l.waiting[l.covered():] {
		if !c.async {
			n++
		}
	}
	return n
}

// lacks is what capacity has too little of for a function.
func lacks(fn *faas.Function, total faas.Resources) (what string, need, all any) {
	if fn.Memory > total.Memory {
		return "memory", fn.Memory, total.Memory
	}
	if fn.CPU > total.CPU {
		return "processors", fn.CPU, total.CPU
	}
	return "", nil, nil
}
