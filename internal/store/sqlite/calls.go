package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"

	"hob/faas"
	"hob/internal/store"
)

var _ store.Calls = (*Store)(nil)

// callColumns are those that readCall takes, in order.
const callColumns = "seq, id, called, state, priority, due, attempt, queued, started, finished, owner, payload, keyed, result, kept, record"

// A callRow is a row of table call.
type callRow struct {
	seq     int64
	book    *book
	call    faas.Call
	due     int64
	payload int64 // bytes; -1: not kept any more
	keyed   bool
	result  int64 // resultNone and so on
	kept    int64
}

func (s *Store) readCall(r row) (callRow, error) {
	c := callRow{seq: r.num(0), book: s.books.book(r.num(2)), due: r.num(5), payload: -1, keyed: r.num(12) != 0, result: r.num(13), kept: r.num(14)}
	state := r.num(3)
	if c.book == nil {
		return callRow{}, damagedNumber("called", r.num(2))
	}
	if state < 0 || state >= states {
		return callRow{}, damagedNumber("state", state)
	}
	if r[11] != nil {
		c.payload = r.num(11)
	}
	c.call = faas.Call{
		ID: r.text(1), App: c.book.app, Function: c.book.name, FuncID: c.book.function,
		State: faas.CallStates()[state], Priority: int(r.num(4)), Due: at(c.due), Attempt: int(r.num(6)),
		Queued: at(r.num(7)), Started: at(r.num(8)), Finished: at(r.num(9)),
	}
	switch c.result {
	case resultKept:
		c.call.Result = faas.ResultKept
	case resultFetched:
		c.call.Result = faas.ResultFetched
	case resultRotated:
		c.call.Result = faas.ResultRotated
	}
	return c, readRecord(&c.call, r.text(15))
}

func (s *Store) bySeq(d *db, seq int64) (callRow, error) {
	r, err := d.one("SELECT "+callColumns+" FROM call WHERE seq = ?", seq)
	if err == nil && r == nil {
		err = damagedNumber("call", seq)
	}
	if err != nil {
		return callRow{}, err
	}
	return s.readCall(r)
}

const callByID = "SELECT " + callColumns + " FROM call WHERE id = ?"

// byID is NotFound if there is no such call.
func (s *Store) byID(d *db, id string) (callRow, error) {
	r, err := d.one(callByID, id)
	if err == nil && r == nil {
		err = store.NoCall(id)
	}
	if err != nil {
		return callRow{}, err
	}
	return s.readCall(r)
}

// Call implements store.Calls.
func (s *Store) Call(ctx context.Context, id string) (call faas.Call, err error) {
	err = s.read(ctx, func(d *db) error {
		r, err := s.byID(d, id)
		call = r.call
		return err
	})
	return call, err
}

// Request implements store.Calls.
func (s *Store) Request(ctx context.Context, id string) (req *faas.Request, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if req, err := s.fresh.request(id); req != nil || err != nil {
		return req, err
	}
	read := func(d *db) error {
		r, err := d.one("SELECT request, body, file, payload.call, call.payload FROM call LEFT JOIN payload ON payload.call = seq WHERE id = ?", id)
		switch {
		case err != nil:
			return err
		case r == nil:
			return store.NoCall(id)
		case r[3] == nil:
			return store.NoPayload(id)
		}
		if req, err = readRequest(id, r.text(0)); err != nil {
			return err
		}
		body, err := s.bodies.reader(r.bytes(1), r.text(2), r.num(4))
		if err == nil {
			req.Body, req.Size = body, body.Size()
		}
		return err
	}
	return req, s.readFile(ctx, read)
}

// readFile is read for what may open a file: one that was removed after its row
// was read is looked up again.
func (s *Store) readFile(ctx context.Context, do func(*db) error) error {
	return s.read(ctx, func(d *db) error {
		err := do(d)
		if errors.Is(err, fs.ErrNotExist) {
			err = do(d)
		}
		return err
	})
}

// List implements store.Calls.
func (s *Store) List(ctx context.Context, f store.CallFilter) (calls []faas.Call, next string, err error) {
	limit := cmp.Or(max(f.Limit, 0), 100)
	err = s.snapshot(ctx, func(d *db) error {
		before, err := seqBefore(d, f.After)
		if err != nil {
			return err
		}
		seqs, err := s.newest(d, f, before, limit+1)
		if err != nil {
			return err
		}
		for i, seq := range seqs {
			if i == limit {
				next = calls[limit-1].ID
				break
			}
			r, err := s.bySeq(d, seq)
			if err != nil {
				return err
			}
			calls = append(calls, r.call)
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return calls, next, nil
}

// seqBefore returns the number of the call id, and one beyond all for "".
func seqBefore(d *db, id string) (int64, error) {
	if id == "" {
		return 1 << 62, nil
	}
	r, err := d.one("SELECT seq FROM call WHERE id = ?", id)
	if err == nil && r == nil {
		err = store.NoCall(id)
	}
	if err != nil {
		return 0, err
	}
	return r.num(0), nil
}

// newest returns the numbers of the newest calls that f wants, newest first. It
// reads at most limit entries for each function and state, whatever else there is.
func (s *Store) newest(d *db, f store.CallFilter, before int64, limit int) (seqs []int64, err error) {
	take := func(r row) error {
		seqs = append(seqs, r.num(0))
		return nil
	}
	if f.App == "" && f.Function == "" && f.FuncID == "" && len(f.States) == 0 {
		return seqs, d.each("SELECT seq FROM call WHERE seq < ? ORDER BY seq DESC LIMIT ?", take, before, limit)
	}
	wanted := s.books.all(func(b *book) bool {
		return (f.App == "" || f.App == b.app) && (f.Function == "" || f.Function == b.name) && (f.FuncID == "" || f.FuncID == b.function)
	})
	for _, b := range wanted {
		if s.books.committed(b).empty() {
			continue
		}
		for state, name := range faas.CallStates() { // how many are in each may not be asked: that is of another moment than the snapshot
			if len(f.States) > 0 && !slices.Contains(f.States, name) {
				continue
			}
			if err := d.each("SELECT seq FROM call WHERE called = ? AND state = ? AND seq < ? ORDER BY seq DESC LIMIT ?", take, b.n, state, before, limit); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(seqs, func(a, b int64) int { return cmp.Compare(b, a) })
	return seqs[:min(limit, len(seqs))], nil
}

// Tally implements store.Calls.
func (s *Store) Tally(ctx context.Context, function string) (store.Tally, error) {
	s.counted(ctx)
	return s.Known(function), context.Cause(ctx)
}

// Known implements store.Calls.
func (s *Store) Known(function string) (t store.Tally) {
	for _, b := range s.books.of(function) {
		s.books.committed(b).addTo(&t)
	}
	return t
}

// Has implements store.Calls.
func (s *Store) Has(ctx context.Context, ids []string) (map[string]bool, error) {
	has := make(map[string]bool)
	all, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	return has, s.read(ctx, func(d *db) error {
		return d.each("SELECT id FROM call WHERE id IN (SELECT value FROM json_each(?))", func(r row) error {
			has[r.text(0)] = true
			return nil
		}, string(all))
	})
}

// Tallies implements store.Calls.
func (s *Store) Tallies(ctx context.Context) (map[string]store.Tally, error) {
	all := make(map[string]store.Tally)
	s.counted(ctx)
	for _, b := range s.books.all(func(b *book) bool { return !b.counts.empty() }) {
		t := all[b.function]
		s.books.committed(b).addTo(&t)
		all[b.function] = t
	}
	return all, context.Cause(ctx)
}

// Wait implements store.Calls.
func (s *Store) Wait(ctx context.Context, id string) (faas.Call, error) {
	over := s.waiters.add(id)
	defer s.waiters.remove(id, over)
	call, err := s.Call(ctx, id) // it may have ended before
	if err != nil || call.State.Final() {
		return call, err
	}
	select {
	case call = <-over:
		return call, nil
	case <-ctx.Done():
		return faas.Call{}, context.Cause(ctx)
	case <-s.ended:
		return faas.Call{}, s.isClosed()
	}
}
