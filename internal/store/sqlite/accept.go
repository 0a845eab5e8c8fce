package sqlite

import (
	"context"

	"hob/faas"
	"hob/internal/store"
)

// Accept implements store.Calls.
func (s *Store) Accept(ctx context.Context, a store.Acceptance) (call faas.Call, known bool, err error) {
	in, err := s.incoming(a)
	if err != nil {
		a.Body.Discard()
		return faas.Call{}, false, err
	}
	if in.body, err = s.bodies.keep(a.Body); err != nil {
		return faas.Call{}, false, s.explain(err)
	}
	err = s.write(ctx, in.body.size, func(context.Context) (_ []store.Change, err error) {
		call, known, err = s.accept(in)
		return nil, err
	})
	if err != nil {
		s.bodies.abandon(in.body, err)
		return faas.Call{}, false, err
	}
	if known {
		s.bodies.remove(in.body.file)
	}
	return call, known, nil
}

// incoming is an Acceptance made ready for the database, as far as that needs no
// transaction.
type incoming struct {
	call    faas.Call
	state   int
	delay   int64 // microseconds
	owner   string
	key     *store.Key
	record  string
	request string
	body    kept
}

func (s *Store) incoming(a store.Acceptance) (in *incoming, err error) {
	c := a.Call
	switch {
	case c.ID == "":
		return nil, faas.Errorf(faas.Invalid, "a call needs an ID")
	case c.State != faas.CallQueued && c.State != faas.CallRunning:
		return nil, faas.Errorf(faas.Invalid, "call %s cannot be accepted as %q", c.ID, c.State)
	case c.Priority < 0 || c.Priority > faas.MaxPriority:
		return nil, faas.Errorf(faas.Invalid, "call %s has the priority %d, not one of 0 to %d", c.ID, c.Priority, faas.MaxPriority)
	case a.Request == nil:
		return nil, faas.Errorf(faas.Invalid, "call %s has no request", c.ID)
	}
	in = &incoming{
		call: faas.Call{
			ID: c.ID, App: c.App, Function: c.Function, FuncID: c.FuncID, Revision: c.Revision, Kind: c.Kind,
			State: c.State, Priority: c.Priority, RetryOf: c.RetryOf, Once: c.Once,
		},
		state: stateNumber(c.State), delay: max(0, a.Delay.Microseconds()), owner: a.Owner, key: a.Key,
	}
	if in.state == running {
		in.call.Attempt = 1
	} else {
		in.owner = ""
	}
	if in.record, err = recordOf(in.call); err != nil {
		return nil, err
	}
	in.request, err = requestOf(a.Request)
	return in, err
}

// accept is Accept inside a transaction.
func (s *Store) accept(in *incoming) (call faas.Call, known bool, err error) {
	now := s.clock.now()
	if in.key != nil {
		if call, known, err = s.known(now, *in.key); known || err != nil {
			return call, known, err
		}
	}
	b, err := s.bookOf(in.call)
	if err != nil {
		return faas.Call{}, false, err
	}
	if err := s.room(b, in.body.size); err != nil {
		return faas.Call{}, false, err
	}
	c, due, started := in.call, now+in.delay, int64(0)
	if in.state == running {
		due, started = now, now
	}
	c.Queued, c.Due, c.Started = at(now), at(due), at(started)
	seq := s.lastCall + 1
	_, err = s.w.exec(`INSERT INTO call (seq, id, called, state, priority, due, attempt, queued, started, finished, owner, payload, keyed, result, record)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, 0, ?)`,
		seq, c.ID, b.n, in.state, c.Priority, due, c.Attempt, now, started, in.owner, in.body.size, number(in.key != nil), in.record)
	if isDuplicate(err) {
		return faas.Call{}, false, faas.Errorf(faas.Conflict, "a call with the ID %s was accepted before", c.ID)
	}
	if err != nil {
		return faas.Call{}, false, err
	}
	s.lastCall = seq
	if _, err := s.w.exec("INSERT INTO payload (call, request, body, file) VALUES (?, ?, ?, ?)", seq, in.request, in.body.bytes, in.body.name()); err != nil {
		return faas.Call{}, false, err
	}
	if k := in.key; k != nil {
		if _, err := s.w.exec("INSERT INTO key (function, caller, key, hash, call, made) VALUES (?, ?, ?, ?, ?, ?)", k.Function, k.Caller, k.Key, k.Hash, seq, now); err != nil {
			return faas.Call{}, false, err
		}
	}
	s.books.move(b, c.Priority, -1, in.state)
	s.books.payload(b, in.body.size)
	return c, false, nil
}

// known returns the call that a key stands for. A key that is too old is
// forgotten.
func (s *Store) known(now int64, k store.Key) (call faas.Call, known bool, err error) {
	r, err := s.w.one("SELECT call, hash, made FROM key WHERE function = ? AND caller = ? AND key = ?", k.Function, k.Caller, k.Key)
	if err != nil || r == nil {
		return faas.Call{}, false, err
	}
	seq := r.num(0)
	if age := s.limits.KeyAge; age > 0 && r.num(2) <= now-age.Microseconds() {
		return faas.Call{}, false, s.forgetKey(seq)
	}
	if r.text(1) != k.Hash {
		return faas.Call{}, false, faas.Errorf(faas.Conflict, "the idempotency key %q came with another request before: %w", k.Key, faas.ErrKeyReused)
	}
	found, err := s.bySeq(s.w, seq)
	if err != nil {
		return faas.Call{}, false, err
	}
	return found.call, true, nil
}

// forgetKey removes the key of a call; nothing stands in the way of the removal
// of its result any more.
func (s *Store) forgetKey(seq int64) error {
	if _, err := s.w.exec("DELETE FROM key WHERE call = ?", seq); err != nil {
		return err
	}
	return s.unkey(seq)
}

// unkey notes that no key stands for a call any more.
func (s *Store) unkey(seq int64) error {
	if _, err := s.w.exec("UPDATE result SET keyed = 0 WHERE n = (SELECT result FROM call WHERE seq = ?)", seq); err != nil {
		return err
	}
	_, err := s.w.exec("UPDATE call SET keyed = 0 WHERE seq = ?", seq)
	return err
}

// room is an error if there is no room for another payload in the queue.
func (s *Store) room(b *book, size int64) error {
	if limit := s.limits.QueuePerFunction; limit > 0 {
		have := int64(0)
		for _, o := range s.books.of(b.function) {
			have += o.next.payload
		}
		if have+size > int64(limit) {
			return faas.Errorf(faas.Busy, "the queue of function %s is full: its calls may hold %v of payloads in all; try again when some are done, or raise queue-per-function", b.name, limit)
		}
	}
	if limit := s.limits.QueueTotal; limit > 0 && s.books.total.payload+size > int64(limit) {
		return faas.Errorf(faas.Busy, "the queue of this node is full: its calls may hold %v of payloads in all; try again when some are done, or raise queue-total", limit)
	}
	return nil
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
