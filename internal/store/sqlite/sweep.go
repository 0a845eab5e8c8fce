package sqlite

import (
	"context"

	"hob/internal/store"
)

// Sweep implements store.Calls.
func (s *Store) Sweep(ctx context.Context) error {
	if err := s.sweepKeys(ctx); err != nil {
		return err
	}
	for _, sweep := range []func(context.Context) error{s.sweepCalls, s.sweepMany, s.sweepBooks} {
		if err := sweep(ctx); err != nil {
			return err
		}
	}
	return s.sweepResults(ctx)
}

// sweepMany removes calls that are over while a function has too many of them, those
// that were accepted first.
func (s *Store) sweepMany(ctx context.Context) error {
	limit := s.limits.CallsPerFunction
	tooMany := func(c counts) int {
		return c.states[succeeded] + c.states[failed] + c.states[timedOut] + c.states[canceled] - limit
	}
	if limit <= 0 {
		return nil
	}
	for _, b := range s.books.all(func(b *book) bool { return tooMany(b.counts) > 0 }) {
		for over := 1; over > 0; {
			if err := s.write(ctx, 0, func() ([]store.Change, error) {
				over = tooMany(b.next)
				old, err := s.oldestOver(b, max(0, min(over, portion)))
				if err != nil {
					return nil, err
				}
				if over -= len(old); len(old) == 0 {
					over = 0
				}
				return nil, s.removeCalls(old)
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepCalls removes calls that were over for longer than they are kept. It
// walks from the oldest up to the first that was accepted later than that.
func (s *Store) sweepCalls(ctx context.Context) error {
	if s.limits.Age <= 0 {
		return nil
	}
	limit := s.clock.now() - s.limits.Age.Microseconds()
	for last := int64(0); ; {
		var old []int64
		seen := 0
		if err := s.read(ctx, func(d *db) error {
			return d.each("SELECT seq, state, queued, ended FROM call WHERE seq > ? ORDER BY seq LIMIT ?", func(r row) error {
				if r.num(2) > limit {
					return nil
				}
				last, seen = r.num(0), seen+1
				if r.num(1) > running && r.num(3) < limit {
					old = append(old, last)
				}
				return nil
			}, last, portion)
		}); err != nil {
			return err
		}
		if len(old) > 0 {
			if err := s.write(ctx, 0, func() ([]store.Change, error) { return nil, s.removeCalls(old) }); err != nil {
				return err
			}
		}
		if seen < portion {
			return nil
		}
	}
}

// oldestOver returns the calls of b that were accepted first, at most so many, of
// those that are over and that no key stands for and no delivery needs.
func (s *Store) oldestOver(b *book, most int) (old []int64, err error) {
	err = s.w.each("SELECT seq FROM call INDEXED BY call_over WHERE called = ? AND state > 1 AND keyed = 0 AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.call = seq) ORDER BY seq LIMIT ?", func(r row) error {
		old = append(old, r.num(0))
		return nil
	}, b.n, most)
	return old, err
}

// removeCalls removes calls that are over with all that is kept of them.
func (s *Store) removeCalls(seqs []int64) error {
	for _, seq := range seqs {
		r, err := s.w.one("SELECT "+callColumns+" FROM call WHERE seq = ?", seq)
		if err != nil {
			return err
		}
		if r == nil {
			continue // somebody else swept
		}
		c, err := s.readCall(r)
		if err != nil {
			return err
		}
		if c.keyed {
			if err := s.forgetKey(seq); err != nil {
				return err
			}
		}
		if c.kept > 0 {
			if err := s.removeKept(c.kept); err != nil {
				return err
			}
		}
		for _, query := range []string{"DELETE FROM delivery WHERE call = ?", "DELETE FROM call WHERE seq = ?"} {
			if _, err := s.w.exec(query, seq); err != nil {
				return err
			}
		}
		s.books.move(c.book, c.call.Priority, stateNumber(c.call.State), -1)
	}
	return nil
}

// sweepBooks removes the books of functions of which no call is kept.
func (s *Store) sweepBooks(ctx context.Context) error {
	none := func(b *book) bool { return b.counts.empty() }
	if len(s.books.all(none)) == 0 {
		return nil
	}
	return s.write(ctx, 0, func() ([]store.Change, error) {
		for _, b := range s.books.all(none) {
			if !b.next.empty() {
				continue
			}
			if _, err := s.w.exec("DELETE FROM called WHERE n = ?", b.n); err != nil {
				return nil, err
			}
			s.books.drop(b)
			s.books.dropped = append(s.books.dropped, b)
		}
		return nil, nil
	})
}

// sweepResults removes what is kept of the oldest calls while it is over the cap
// of the node, which may have been lowered.
func (s *Store) sweepResults(ctx context.Context) error {
	for more := true; more; {
		if err := s.write(ctx, 0, func() ([]store.Change, error) {
			before := s.books.total.kept
			err := s.rotateAll(0, portion)
			more = s.keepsTooMuch() && s.books.total.kept < before
			return nil, err
		}); err != nil {
			return err
		}
	}
	return nil
}
