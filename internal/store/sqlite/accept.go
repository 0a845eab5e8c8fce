package sqlite

import (
	"cmp"
	"context"
	"time"

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
		a.Body.Discard()
		return faas.Call{}, false, s.explain(err)
	}
	err = s.write(ctx, len(in.body.bytes), func() (_ []store.Change, err error) {
		call, known, err = s.accept(in)
		return nil, err
	})
	if err != nil {
		s.bodies.abandon(a.Body, err)
		return faas.Call{}, false, err
	}
	if known {
		a.Body.Discard()
	}
	a.Body.Release()
	return call, known, nil
}

// incoming is an Acceptance made ready for the database, as far as that needs no
// transaction.
type incoming struct {
	store.Acceptance
	record  string
	request string
	body    placed
}

func (s *Store) incoming(a store.Acceptance) (*incoming, error) {
	call, err := store.NewCall(a, time.Now())
	if err != nil {
		return nil, err
	}
	in := &incoming{Acceptance: a}
	if in.record, err = recordOf(call); err != nil {
		return nil, err
	}
	in.request, err = requestOf(a.Request)
	return in, err
}

// accept is Accept inside a transaction.
func (s *Store) accept(in *incoming) (call faas.Call, known bool, err error) {
	now := s.clock.now()
	if in.Key != nil {
		if call, known, err = s.known(now, *in.Key); known || err != nil {
			return call, known, err
		}
	}
	if call, err = store.NewCall(in.Acceptance, at(now)); err != nil {
		return faas.Call{}, false, err
	}
	ofFunction := int64(0)
	for _, b := range s.books.of(call.FuncID) {
		ofFunction += b.next.payload
	}
	if full := s.limits.CheckQueue(call, in.body.size, ofFunction, s.books.total.payload); full != nil {
		r, err := s.w.one("SELECT 1 FROM call WHERE id = ?", call.ID)
		if err == nil && r != nil {
			err = store.AcceptedBefore(call.ID) // which waiting does not change
		}
		return faas.Call{}, false, cmp.Or(err, full)
	}
	return call, false, s.insertCall(call, in, now)
}

// insertCall adds a call with its payload and its key.
func (s *Store) insertCall(call faas.Call, in *incoming, now int64) error {
	b, err := s.bookOf(call)
	if err != nil {
		return err
	}
	seq, state, owner := s.lastCall+1, stateNumber(call.State), in.Owner
	if state != running {
		owner = ""
	}
	_, err = s.w.exec(`INSERT INTO call (seq, id, called, state, priority, due, attempt, queued, started, finished, ended, owner, payload, keyed, result, kept, record)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, 0, 0, ?)`,
		seq, call.ID, b.n, state, call.Priority, micros(call.Due), call.Attempt, now, micros(call.Started), owner, in.body.size, number(in.Key != nil), in.record)
	if isDuplicate(err) {
		return store.AcceptedBefore(call.ID)
	}
	if err != nil {
		return err
	}
	s.lastCall = seq // a rollback leaves a gap: no harm
	if _, err := s.w.exec("INSERT INTO payload (call, request, body, file) VALUES (?, ?, ?, ?)", seq, in.request, in.body.bytes, in.body.name()); err != nil {
		return err
	}
	if k := in.Key; k != nil {
		if _, err := s.w.exec("INSERT INTO key (function, caller, key, hash, call, made) VALUES (?, ?, ?, ?, ?, ?)", k.Function, k.Caller, k.Key, k.Hash, seq, now); err != nil {
			return err
		}
	}
	s.books.move(b, call.Priority, -1, state)
	s.books.payload(b, in.body.size)
	if in.body.file == "" {
		s.tx.accepted = append(s.tx.accepted, freshRequest{call.ID, in.request, in.body.bytes})
	}
	return nil
}

// number is how a bool is kept.
func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
