package sqlite

import (
	"context"
	"net/http"

	"hob/faas"
	"hob/internal/store"
)

// What the column result says.
const (
	resultNone = iota
	resultKept
	resultFetched
	resultRotated
)

// insertKept adds what is kept of the call c, which ends, and returns its
// number; 0 if that is nothing.
func (s *Store) insertKept(c callRow, out *outgoing) (n int64, err error) {
	if out.Result == nil && !out.KeepPayload {
		return 0, nil
	}
	var status, text any
	var header http.Header
	if out.Result != nil {
		status, text, header = out.Result.Status, out.header, out.Result.Header
	}
	payload := int64(0)
	if out.KeepPayload {
		payload = c.payload
	}
	weight := store.ResultWeight(header, out.body.size, payload)
	s.lastKept++ // a rollback leaves a gap: no harm
	s.books.keep(c.book, weight)
	_, err = s.w.exec("INSERT INTO kept (n, call, called, keyed, weight, status, header, body, file) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		s.lastKept, c.seq, c.book.n, number(c.keyed), weight, status, text, out.body.bytes, out.body.name())
	return s.lastKept, err
}

// rotate removes what is kept of old calls while it is too much: of the function
// of b, and of the node, but not the newest. What a key stands for goes last.
func (s *Store) rotate(now int64, b *book) error {
	of := s.books.of(b.function)
	over := func() bool {
		limit, kept := int64(s.limits.ResultsPerFunction), int64(0)
		for _, o := range of {
			kept += o.next.kept
		}
		return limit > 0 && kept > limit
	}
	if !over() && !s.keepsTooMuch() {
		return nil
	}
	if err := s.expireKeys(now); err != nil {
		return err
	}
	for over() {
		n, err := s.oldestKept(of)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := s.removeKept(n); err != nil {
			return err
		}
	}
	return s.rotateAll(s.lastKept, 1<<30)
}

// keepsTooMuch reports whether the node is over its cap.
func (s *Store) keepsTooMuch() bool {
	limit := int64(s.limits.ResultsTotal)
	return limit > 0 && s.books.total.kept > limit
}

// rotateAll removes what is kept of the oldest calls of the node, at most so
// many and not that with the number but, while it is too much.
func (s *Store) rotateAll(but int64, most int) error {
	for range most {
		if !s.keepsTooMuch() {
			return nil
		}
		r, err := s.w.one("SELECT n FROM kept INDEXED BY kept_age WHERE n <> ? ORDER BY keyed, n LIMIT 1", but)
		if err != nil || r == nil {
			return err
		}
		if err := s.removeKept(r.num(0)); err != nil {
			return err
		}
	}
	return nil
}

// oldestKept returns the number of what is to be removed first of what is kept
// of the calls of books, but the newest; 0 if there is nothing.
func (s *Store) oldestKept(of []*book) (int64, error) {
	var first row
	for _, b := range of {
		r, err := s.w.one("SELECT keyed, n FROM kept INDEXED BY kept_of WHERE called = ? AND n <> ? ORDER BY keyed, n LIMIT 1", b.n, s.lastKept)
		if err != nil {
			return 0, err
		}
		if r != nil && (first == nil || r.num(0) < first.num(0) || r.num(0) == first.num(0) && r.num(1) < first.num(1)) {
			first = r
		}
	}
	if first == nil {
		return 0, nil
	}
	return first.num(1), nil
}

// removeKept removes all that is kept of a call that is over.
func (s *Store) removeKept(n int64) error {
	r, err := s.w.one("SELECT call, file FROM kept WHERE n = ?", n)
	if err != nil {
		return err
	}
	if r == nil {
		return damagedNumber("kept", n)
	}
	s.tx.remove(r.text(1))
	c, err := s.bySeq(s.w, r.num(0))
	if err != nil {
		return err
	}
	if c.payload >= 0 {
		if err := s.dropPayload(c); err != nil {
			return err
		}
	}
	if err := s.deleteKept(c); err != nil {
		return err
	}
	_, err = s.w.exec("UPDATE call SET kept = 0, payload = NULL, result = ? WHERE seq = ?", after(c.result, resultRotated), c.seq)
	return err
}

// deleteKept removes the row of what is kept of c.
func (s *Store) deleteKept(c callRow) error {
	r, err := s.w.one("DELETE FROM kept WHERE n = ? RETURNING weight", c.kept)
	if err != nil {
		return err
	}
	if r == nil {
		return damagedNumber("kept", c.kept)
	}
	s.books.keep(c.book, -r.num(0))
	return nil
}

// after is what becomes of the column result when what is kept is removed.
func after(result, removed int64) int64 {
	if result == resultKept {
		return removed
	}
	return result
}

// Result implements store.Calls.
func (s *Store) Result(ctx context.Context, id string) (result faas.Result, body store.Reader, err error) {
	err = s.readFile(ctx, func(d *db) error {
		c, err := s.byID(d, id)
		if err != nil {
			return err
		}
		if c.result != resultKept {
			return store.NoResult(c.call)
		}
		r, err := d.one("SELECT status, header, body, file, weight FROM kept WHERE n = ?", c.kept)
		if err != nil {
			return err
		}
		if r == nil {
			return damagedNumber("kept", c.kept)
		}
		if result.Header, err = readHeader(id, r.text(1)); err != nil {
			return err
		}
		size := r.num(4) - store.ResultWeight(result.Header, 0, max(0, c.payload)) // all that it weighs but the body
		if body, err = s.bodies.reader(r.bytes(2), r.text(3), size); err == nil {
			result.Status, result.Size = int(r.num(0)), body.Size()
		}
		return err
	})
	if err != nil {
		return faas.Result{}, nil, err
	}
	return result, body, nil
}

// Fetched implements store.Calls.
func (s *Store) Fetched(ctx context.Context, id string) error {
	return s.write(ctx, 0, func() ([]store.Change, error) {
		r, err := s.w.one(callByID, id)
		if err != nil || r == nil {
			return nil, err
		}
		c, err := s.readCall(r)
		if err != nil || !c.call.State.Final() || c.result == resultRotated {
			return nil, err
		}
		return nil, s.fetched(c)
	})
}

// fetched removes the result of c, and leaves its payload if that is kept.
func (s *Store) fetched(c callRow) error {
	if c.kept == 0 {
		_, err := s.w.exec("UPDATE call SET result = ? WHERE seq = ?", resultFetched, c.seq)
		return err
	}
	r, err := s.w.one("SELECT file, weight FROM kept WHERE n = ?", c.kept)
	if err != nil {
		return err
	}
	if r == nil {
		return damagedNumber("kept", c.kept)
	}
	s.tx.remove(r.text(0))
	n := c.kept
	if c.payload >= 0 {
		weight := store.ResultWeight(nil, 0, c.payload)
		s.books.keep(c.book, weight-r.num(1))
		_, err = s.w.exec("UPDATE kept SET weight = ?, status = NULL, header = NULL, body = NULL, file = NULL WHERE n = ?", weight, n)
	} else {
		n, err = 0, s.deleteKept(c)
	}
	if err != nil {
		return err
	}
	_, err = s.w.exec("UPDATE call SET kept = ?, result = ? WHERE seq = ?", n, resultFetched, c.seq)
	return err
}
