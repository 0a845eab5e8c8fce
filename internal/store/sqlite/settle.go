package sqlite

import (
	"context"

	"hob/faas"
	"hob/internal/store"
)

// maxError is how much is kept of the reason why a call failed.
const maxError = 16 << 10

// Settle implements store.Calls.
func (s *Store) Settle(ctx context.Context, settled store.Settlement) error {
	out, err := s.outgoing(settled)
	if err != nil {
		if settled.Result != nil {
			settled.Result.Body.Discard()
		}
		return err
	}
	if settled.Result != nil {
		if out.body, err = s.bodies.keep(settled.Result.Body); err != nil {
			return s.explain(err)
		}
	}
	err = s.write(ctx, out.body.size, func(context.Context) ([]store.Change, error) { return nil, s.settle(out) })
	if err != nil {
		s.bodies.abandon(out.body, err)
	}
	return err
}

// outgoing is a Settlement made ready for the database, as far as that needs no
// transaction.
type outgoing struct {
	store.Settlement
	header string // of the result
	body   kept
}

func (s *Store) outgoing(settled store.Settlement) (out *outgoing, err error) {
	out = &outgoing{Settlement: settled}
	state := settled.Call.State
	switch {
	case state != faas.CallQueued && !state.Final():
		return nil, faas.Errorf(faas.Invalid, "an attempt of call %s cannot end as %q", settled.Call.ID, state)
	case state == faas.CallQueued && settled.Result != nil:
		return nil, faas.Errorf(faas.Invalid, "call %s goes back in line and has no result yet", settled.Call.ID)
	}
	out.Call.Error = cut(out.Call.Error, maxError)
	if settled.Result != nil {
		out.header, err = headerText(settled.Result.Header)
	}
	return out, err
}

// settle is Settle inside a transaction.
func (s *Store) settle(out *outgoing) error {
	c, err := s.byID(s.w, out.Call.ID)
	if err != nil {
		return err
	}
	if c.call.State != faas.CallRunning {
		return faas.Errorf(faas.Conflict, "call %s is %s: this attempt of it does not count", c.call.ID, c.call.State)
	}
	if c.call.Attempt != out.Call.Attempt {
		return faas.Errorf(faas.Conflict, "call %s is at attempt %d: attempt %d does not count", c.call.ID, c.call.Attempt, out.Call.Attempt)
	}
	c.call = ended(c.call, out.Call)
	if out.Call.State == faas.CallQueued {
		return s.requeue(c, out)
	}
	return s.finish(c, out)
}

// ended is the call old with what its attempt changed.
func ended(old, now faas.Call) faas.Call {
	old.Losses, old.Waiting = now.Losses, now.Waiting
	old.Queue, old.Image, old.Sandbox, old.Run = now.Queue, now.Image, now.Sandbox, now.Run
	old.Outcome, old.Error, old.ErrKind, old.Delivery = now.Outcome, now.Error, now.ErrKind, now.Delivery
	return old
}

// requeue puts a running call back in line.
func (s *Store) requeue(c callRow, out *outgoing) error {
	due := c.due
	if !out.Stay {
		due = s.clock.now() + max(0, out.Delay.Microseconds())
	}
	record, err := recordOf(c.call)
	if err != nil {
		return err
	}
	if _, err := s.w.exec("UPDATE call SET state = 0, due = ?, started = 0, owner = '', record = ? WHERE seq = ?", due, record, c.seq); err != nil {
		return err
	}
	if out.ForgetKey && c.keyed {
		if err := s.forgetKey(c.seq); err != nil {
			return err
		}
	}
	s.books.move(c.book, c.call.Priority, running, queued)
	return s.insertDeliveries(c, out.Deliveries)
}

// finish ends a call that is running or queued, with what out says.
func (s *Store) finish(c callRow, out *outgoing) error {
	now := s.clock.now()
	from, to := stateNumber(c.call.State), stateNumber(out.Call.State)
	c.call.State, c.call.Finished = out.Call.State, at(now)
	if out.ForgetKey && c.keyed {
		if err := s.forgetKey(c.seq); err != nil {
			return err
		}
		c.keyed = false
	}
	s.books.payload(c.book, -max(0, c.payload))
	if !out.KeepPayload {
		if err := s.dropPayload(&c); err != nil {
			return err
		}
	}
	if out.Result != nil {
		if err := s.insertResult(&c, out); err != nil {
			return err
		}
	}
	record, err := recordOf(c.call)
	if err != nil {
		return err
	}
	var payload any
	if c.payload >= 0 {
		payload = c.payload
	}
	if _, err := s.w.exec("UPDATE call SET state = ?, finished = ?, owner = '', payload = ?, result = ?, record = ? WHERE seq = ?",
		to, now, payload, c.result, record, c.seq); err != nil {
		return err
	}
	s.books.move(c.book, c.call.Priority, from, to)
	s.tx.over = append(s.tx.over, c.call)
	if err := s.insertDeliveries(c, out.Deliveries); err != nil || out.Result == nil {
		return err
	}
	return s.rotate(now, c)
}

// dropPayload removes the payload of a call, whose row its caller changes.
func (s *Store) dropPayload(c *callRow) error {
	if c.payload > store.InMemory { // it may be a file
		r, err := s.w.one("SELECT file FROM payload WHERE call = ?", c.seq)
		if err != nil {
			return err
		}
		if r != nil {
			s.tx.remove(r.text(0))
		}
	}
	c.payload = -1
	_, err := s.w.exec("DELETE FROM payload WHERE call = ?", c.seq)
	return err
}

// Cancel implements store.Calls.
func (s *Store) Cancel(ctx context.Context, id, reason string) (call faas.Call, err error) {
	err = s.write(ctx, 0, func(context.Context) ([]store.Change, error) {
		c, err := s.byID(s.w, id)
		if err != nil {
			return nil, err
		}
		if call = c.call; call.State != faas.CallQueued {
			return nil, faas.Errorf(faas.Conflict, "call %s is %s and not in line any more", id, call.State)
		}
		call, err = s.cancel(c, reason)
		return nil, err
	})
	if err != nil && faas.KindOf(err) != faas.Conflict {
		call = faas.Call{}
	}
	return call, err
}

// cancel ends a queued call. The key that stood for it stands for nothing any
// more: a call that was canceled is no answer.
func (s *Store) cancel(c callRow, reason string) (faas.Call, error) {
	out := &outgoing{Settlement: store.Settlement{ForgetKey: true}}
	out.Call.State = faas.CallCanceled
	c.call.Error, c.call.ErrKind = cut(reason, maxError), faas.Canceled
	if err := s.finish(c, out); err != nil {
		return faas.Call{}, err
	}
	return s.tx.over[len(s.tx.over)-1], nil
}

// portion is how many calls one transaction of those that touch many changes.
const portion = 200

// CancelQueued implements store.Calls.
func (s *Store) CancelQueued(ctx context.Context, function, reason string) (n int, err error) {
	for {
		done := 0
		err := s.write(ctx, 0, func(context.Context) ([]store.Change, error) {
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
