package sqlite

import (
	"context"

	"hob/faas"
	"hob/internal/store"
)

// resultCost is what a result counts for beside its body and headers: its call.
const resultCost = 1 << 10

// insertResult adds the result of a call, whose row its caller changes.
func (s *Store) insertResult(c *callRow, out *outgoing) error {
	s.lastResult++ // one that is rolled back leaves a gap: no harm
	cost := out.body.size + headerSize(out.Result.Header) + resultCost
	_, err := s.w.exec("INSERT INTO result (n, call, called, keyed, cost, status, header, size, body, file) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		s.lastResult, c.seq, c.book.n, number(c.keyed), cost, out.Result.Status, out.header, out.body.size, out.body.bytes, out.body.name())
	if err != nil {
		return err
	}
	c.result, c.call.Result = s.lastResult, faas.ResultKept
	s.books.results(c.book, cost)
	return nil
}

// rotate removes old results while there are too many: of the function of c, and
// of the node, but never that of c. Those that a key stands for go last.
func (s *Store) rotate(now int64, c callRow) error {
	perFunction, total := int64(s.limits.ResultsPerFunction), int64(s.limits.ResultsTotal)
	over := func() bool { return perFunction > 0 && c.book.next.results > perFunction }
	overAll := func() bool { return total > 0 && s.books.total.results > total }
	if !over() && !overAll() {
		return nil
	}
	if err := s.expireKeys(now); err != nil {
		return err
	}
	for over() {
		more, err := s.removeOldest("SELECT n, call, called, cost, file FROM result WHERE called = ? AND n <> ? ORDER BY keyed, n LIMIT 1", c.book.n, c.result)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	for overAll() {
		if more, err := s.removeOldestOfAll(c.result); err != nil || !more {
			return err
		}
	}
	return nil
}

func (s *Store) removeOldestOfAll(but int64) (bool, error) {
	return s.removeOldest("SELECT n, call, called, cost, file FROM result INDEXED BY result_age WHERE n <> ? ORDER BY keyed, n LIMIT 1", but)
}

// removeOldest rotates out the result that a query finds, and reports whether it
// found one.
func (s *Store) removeOldest(query string, args ...any) (bool, error) {
	r, err := s.w.one(query, args...)
	if err != nil || r == nil {
		return false, err
	}
	if err := s.removeResult(r); err != nil {
		return false, err
	}
	_, err = s.w.exec("UPDATE call SET result = ? WHERE seq = ?", resultRotated, r.num(1))
	return true, err
}

// removeResult removes a result; r is n, call, called, cost and file of it.
func (s *Store) removeResult(r row) error {
	b := s.books.book(r.num(2))
	if b == nil {
		return damagedNumber("called", r.num(2))
	}
	if _, err := s.w.exec("DELETE FROM result WHERE n = ?", r.num(0)); err != nil {
		return err
	}
	s.tx.remove(r.text(4))
	s.books.results(b, -r.num(3))
	return nil
}

// Result implements store.Calls.
func (s *Store) Result(ctx context.Context, id string) (result faas.Result, body store.Reader, err error) {
	err = s.readFile(ctx, func(d *db) error {
		r, err := d.one("SELECT result, status, header, size, body, file, state FROM call LEFT JOIN result ON n = result WHERE id = ?", id)
		switch {
		case err != nil:
			return err
		case r == nil:
			return faas.Errorf(faas.NotFound, "no call %s", id)
		case r.num(0) == resultFetched:
			return faas.Errorf(faas.NotFound, "the result of call %s was fetched: %w", id, faas.ErrGone)
		case r.num(0) == resultRotated:
			return faas.Errorf(faas.NotFound, "the result of call %s made room for newer ones: %w", id, faas.ErrGone)
		case r.num(0) == resultNone && r.num(6) <= running:
			return faas.Errorf(faas.NotFound, "call %s is not over and has no result yet", id)
		case r.num(0) == resultNone:
			return faas.Errorf(faas.NotFound, "call %s ended without a result", id)
		case r[1] == nil:
			return damagedNumber("result", r.num(0))
		}
		if result.Header, err = readHeader(id, r.text(2)); err != nil {
			return err
		}
		result.Status, result.Size = int(r.num(1)), r.num(3)
		body, err = s.bodies.reader(r.bytes(4), r.text(5))
		return err
	})
	if err != nil {
		return faas.Result{}, nil, err
	}
	return result, body, nil
}

// Fetched implements store.Calls.
func (s *Store) Fetched(ctx context.Context, id string) error {
	return s.write(ctx, 0, func(context.Context) ([]store.Change, error) {
		r, err := s.w.one("SELECT n, call, result.called, cost, file FROM call JOIN result ON n = result WHERE id = ?", id)
		if err != nil || r == nil {
			return nil, err
		}
		if err := s.removeResult(r); err != nil {
			return nil, err
		}
		_, err = s.w.exec("UPDATE call SET result = ? WHERE seq = ?", resultFetched, r.num(1))
		return nil, err
	})
}
