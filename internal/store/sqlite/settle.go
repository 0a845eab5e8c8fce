package sqlite

import (
	"context"

	"hob/faas"
	"hob/internal/store"
)

// Settle implements store.Calls.
func (s *Store) Settle(ctx context.Context, settled store.Settlement) error {
	out := &outgoing{Settlement: settled}
	if result := settled.Result; result != nil {
		var err error
		if out.header, err = headerText(result.Header); err != nil {
			result.Body.Discard()
			return err
		}
		if out.body, err = s.bodies.keep(result.Body); err != nil {
			if err = s.explain(err); faas.KindOf(err) != faas.Busy {
				result.Body.Discard()
			}
			return err
		}
	}
	err := s.write(ctx, len(out.body.bytes), func() ([]store.Change, error) { return nil, s.settle(out) })
	switch {
	case settled.Result == nil, faas.KindOf(err) == faas.Busy: // which is tried again with the same body
	case err != nil:
		s.bodies.abandon(settled.Result.Body, err)
	default:
		settled.Result.Body.Release()
	}
	return err
}

// outgoing is a Settlement made ready for the database, as far as that needs no
// transaction.
type outgoing struct {
	store.Settlement
	header string // of the result
	body   placed
}

// settle is Settle inside a transaction.
func (s *Store) settle(out *outgoing) error {
	c, ok := s.running[out.Call.ID]
	if !ok {
		r, err := s.w.one(callByID, out.Call.ID)
		if err != nil {
			return err
		}
		if ok = r != nil; ok {
			if c, err = s.readCall(r); err != nil {
				return err
			}
		}
	}
	var old *faas.Call
	if ok {
		old = &c.call
	}
	now := s.clock.now()
	call, err := store.SettledCall(old, out.Settlement, at(now))
	if err != nil {
		return err
	}
	delete(s.running, call.ID)
	if out.ForgetKey && c.keyed {
		if err := s.forgetKey(c.seq); err != nil {
			return err
		}
		c.keyed = false
	}
	if call.State == faas.CallQueued {
		return s.requeue(c, call)
	}
	if err := s.finish(c, call, out, now); err != nil {
		return err
	}
	if out.Result == nil && !out.KeepPayload {
		return nil // it takes no room
	}
	return s.rotate(now, c.book)
}

// requeue puts a running call back in line.
func (s *Store) requeue(c callRow, call faas.Call) error {
	record, err := recordOf(call)
	if err != nil {
		return err
	}
	_, err = s.w.exec("UPDATE call SET state = 0, due = ?, started = 0, owner = '', record = ? WHERE seq = ?", micros(call.Due), record, c.seq)
	s.books.move(c.book, call.Priority, running, queued)
	return err
}

// finish ends the call c, which becomes call.
func (s *Store) finish(c callRow, call faas.Call, out *outgoing, now int64) error {
	record, err := recordOf(call)
	if err != nil {
		return err
	}
	s.books.payload(c.book, -c.payload)
	var payload any = c.payload
	if !out.KeepPayload {
		payload = nil
		if err := s.dropPayload(c); err != nil {
			return err
		}
	}
	n, err := s.insertKept(c, out)
	if err != nil {
		return err
	}
	to := stateNumber(call.State)
	if _, err := s.w.exec("UPDATE call SET state = ?, started = ?, finished = ?, ended = ?, owner = '', payload = ?, result = ?, kept = ?, record = ? WHERE seq = ?",
		to, micros(call.Started), micros(call.Finished), now, payload, number(out.Result != nil), n, record, c.seq); err != nil {
		return err
	}
	s.books.move(c.book, call.Priority, stateNumber(c.call.State), to)
	s.tx.over = append(s.tx.over, call)
	return s.insertDeliveries(c.seq, call, out.Deliveries, now)
}

// dropPayload removes the payload of a call, whose row its caller changes.
func (s *Store) dropPayload(c callRow) error {
	if c.payload > store.InMemory { // it may be a file
		r, err := s.w.one("SELECT file FROM payload WHERE call = ?", c.seq)
		if err != nil {
			return err
		}
		if r != nil {
			s.tx.remove(r.text(0))
		}
	}
	_, err := s.w.exec("DELETE FROM payload WHERE call = ?", c.seq)
	return err
}

// Cancel implements store.Calls.
func (s *Store) Cancel(ctx context.Context, id, reason string) (call faas.Call, err error) {
	err = s.write(ctx, 0, func() ([]store.Change, error) {
		c, err := s.byID(s.w, id)
		if err != nil {
			return nil, err
		}
		call, err = s.cancel(c, reason)
		return nil, err
	})
	if err != nil && faas.KindOf(err) != faas.Conflict {
		call = faas.Call{}
	}
	return call, err
}

// cancel ends a queued call. No key stands for it any more: that it was canceled
// is no answer.
func (s *Store) cancel(c callRow, reason string) (faas.Call, error) {
	now := s.clock.now()
	call, err := store.CanceledCall(c.call, store.Text(reason), at(now))
	if err != nil {
		return call, err
	}
	if c.keyed {
		if err := s.forgetKey(c.seq); err != nil {
			return faas.Call{}, err
		}
	}
	return call, s.finish(c, call, &outgoing{}, now)
}

// portion is how many calls one transaction of those that touch many changes.
const portion = 200

// CancelQueued implements store.Calls.
func (s *Store) CancelQueued(ctx context.Context, function, reason string) (n int, err error) {
	for {
		done := 0
		err := s.write(ctx, 0, func() ([]store.Change, error) {
			places, err := s.lines(s.w, s.books.of(function), func(b *book) counts { return b.next }).due(1<<62, portion)
			if err != nil {
				return nil, err
			}
			for _, p := range places {
				c, err := s.bySeq(s.w, p.seq)
				if err != nil {
					return nil, err
				}
				if _, err := s.cancel(c, reason); err != nil {
					return nil, err
				}
			}
			done = len(places)
			return nil, nil
		})
		if err != nil {
			return n, err
		}
		if n += done; done < portion {
			return n, nil
		}
	}
}
