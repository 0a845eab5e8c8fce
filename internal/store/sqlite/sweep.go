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
	if err := s.sweepCalls(ctx); err != nil {
		return err
	}
	return s.sweepResults(ctx)
}

func (s *Store) sweepKeys(ctx context.Context) error {
	if s.limits.KeyAge <= 0 {
		return nil
	}
	for more := true; more; {
		if err := s.write(ctx, 0, func(context.Context) (_ []store.Change, err error) {
			more, err = s.expireSome(s.clock.now())
			return nil, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// expireKeys removes all keys that are too old.
func (s *Store) expireKeys(now int64) error {
	for {
		if more, err := s.expireSome(now); err != nil || !more {
			return err
		}
	}
}

// expireSome removes a portion of the keys that are too old, and reports whether
// there may be more.
func (s *Store) expireSome(now int64) (more bool, err error) {
	if s.limits.KeyAge <= 0 {
		return false, nil
	}
	var calls []int64
	if err := s.w.each("SELECT call FROM key WHERE made <= ? ORDER BY made LIMIT ?", func(r row) error {
		calls = append(calls, r.num(0))
		return nil
	}, now-s.limits.KeyAge.Microseconds(), portion); err != nil {
		return false, err
	}
	for _, seq := range calls {
		if err := s.forgetKey(seq); err != nil {
			return false, err
		}
	}
	return len(calls) == portion, nil
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
			return d.each("SELECT seq, state, queued, finished FROM call WHERE seq > ? ORDER BY seq LIMIT ?", func(r row) error {
				if r.num(2) > limit {
					return nil
				}
				last, seen = r.num(0), seen+1
				if r.num(1) > running && r.num(3) <= limit {
					old = append(old, last)
				}
				return nil
			}, last, portion)
		}); err != nil {
			return err
		}
		if len(old) > 0 {
			if err := s.write(ctx, 0, func(context.Context) ([]store.Change, error) { return nil, s.removeCalls(old) }); err != nil {
				return err
			}
		}
		if seen < portion {
			return s.sweepBooks(ctx)
		}
	}
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
		if c.payload >= 0 {
			if err := s.dropPayload(&c); err != nil {
				return err
			}
		}
		if c.result > 0 {
			if _, err := s.removeOldest("SELECT n, call, called, cost, file FROM result WHERE n = ?", c.result); err != nil {
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
	return s.write(ctx, 0, func(context.Context) ([]store.Change, error) {
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

// sweepResults removes the oldest results while those of the node are over
// their cap, which may have been lowered.
func (s *Store) sweepResults(ctx context.Context) error {
	total := int64(s.limits.ResultsTotal)
	for more := total > 0; more; {
		if err := s.write(ctx, 0, func(context.Context) (_ []store.Change, err error) {
			for range portion {
				if more = s.books.total.results > total; !more {
					return nil, nil
				}
				if more, err = s.removeOldestOfAll(0); err != nil || !more {
					return nil, err
				}
			}
			return nil, nil
		}); err != nil {
			return err
		}
	}
	return nil
}
