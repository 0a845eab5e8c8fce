package sqlite

import (
	"cmp"
	"context"
	"slices"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// Take implements store.Calls.
func (s *Store) Take(ctx context.Context, owner string, lanes []store.Lane) (taken []faas.Call, due time.Duration, err error) {
	if !slices.ContainsFunc(s.booksOfLanes(lanes), func(b *book) bool { return s.books.committed(b).states[queued] > 0 }) {
		return nil, 0, context.Cause(ctx) // nothing is written for nothing
	}
	err = s.write(ctx, 0, func() (_ []store.Change, err error) {
		taken, due, err = s.take(owner, lanes)
		return nil, err
	})
	if err != nil {
		return nil, 0, err
	}
	return taken, due, nil
}

func (s *Store) booksOfLanes(lanes []store.Lane) (all []*book) {
	for _, lane := range lanes {
		all = append(all, s.books.of(lane.Functions...)...)
	}
	return all
}

// take is Take inside a transaction.
func (s *Store) take(owner string, lanes []store.Lane) (taken []faas.Call, due time.Duration, err error) {
	now := s.clock.now()
	next := int64(0)
	for _, lane := range lanes {
		lined := s.lines(s.w, s.books.of(lane.Functions...), func(b *book) counts { return b.next })
		places, err := lined.due(now, lane.Limit)
		if err != nil {
			return nil, 0, err
		}
		for _, p := range places {
			call, err := s.start(p.seq, owner, now)
			if err != nil {
				return nil, 0, err
			}
			taken = append(taken, call)
		}
		if len(places) < lane.Limit {
			first, err := lined.nextDue(now)
			if err != nil {
				return nil, 0, err
			}
			if first > 0 && (next == 0 || first < next) {
				next = first
			}
		}
	}
	if next > 0 {
		due = time.Duration(next-now) * time.Microsecond
	}
	return taken, due, nil
}

// start moves the queued call seq to running.
func (s *Store) start(seq int64, owner string, now int64) (faas.Call, error) {
	r, err := s.w.one("UPDATE call SET state = 1, attempt = attempt + 1, started = ?, owner = ? WHERE seq = ? RETURNING "+callColumns, now, owner, seq)
	if err == nil && r == nil {
		err = damagedNumber("call", seq)
	}
	if err != nil {
		return faas.Call{}, err
	}
	c, err := s.readCall(r)
	if err != nil {
		return faas.Call{}, err
	}
	s.books.move(c.book, c.call.Priority, queued, running)
	s.running[c.call.ID] = c
	return c.call, nil
}

// Lost implements store.Calls.
func (s *Store) Lost(ctx context.Context, owner string) ([]faas.Call, error) {
	return s.owned(ctx, "owner <> ?", owner)
}

// Held implements store.Calls.
func (s *Store) Held(ctx context.Context, owner string) ([]faas.Call, error) {
	return s.owned(ctx, "owner = ?", owner)
}

// owned returns the calls that run and are as condition says.
func (s *Store) owned(ctx context.Context, condition, owner string) (calls []faas.Call, err error) {
	var all []callRow
	err = s.snapshot(ctx, func(d *db) error {
		for _, b := range s.books.all(func(b *book) bool { return b.counts.states[running] > 0 }) {
			if err := d.each("SELECT "+callColumns+" FROM call WHERE called = ? AND state = 1 AND "+condition, func(r row) error {
				c, err := s.readCall(r)
				all = append(all, c)
				return err
			}, b.n, owner); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b callRow) int { return cmp.Compare(a.seq, b.seq) })
	for _, c := range all {
		calls = append(calls, c.call)
	}
	return calls, nil
}
