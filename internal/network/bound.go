package network

import "sync"

// A bound is how much of something slots may have in work: each so much, all together
// so much. The less is left, the less one may have, so that a few do not keep it from the others.
type bound struct {
	each, all int

	mu    sync.Mutex // guards what follows
	of    map[*Slot]int
	total int
}

func newBound(each, all int) *bound { return &bound{each: each, all: all, of: map[*Slot]int{}} }

// enter reports whether a slot may have one more. If so, leave ends it.
func (b *bound) enter(s *Slot) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, left := b.of[s], b.all-b.total
	if left == 0 || n >= b.each || n*b.all > left*b.each {
		return false
	}
	b.of[s]++
	b.total++
	return true
}

func (b *bound) leave(s *Slot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total--
	if b.of[s]--; b.of[s] == 0 {
		delete(b.of, s)
	}
}
