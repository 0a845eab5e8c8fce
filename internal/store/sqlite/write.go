package sqlite

import (
	"context"
	"errors"
	"slices"

	"hob/faas"
	"hob/internal/store"
)

// A write is one change on its way into the database.
type write struct {
	// do makes the change inside the transaction that is open on the writer's
	// connection. An error with a Kind means that it has changed nothing; any
	// other ends the transaction, and the others of its batch are made again
	// without it.
	do      func() ([]store.Change, error)
	size    int // of the body that it writes, about
	changes []store.Change
	done    chan error // capacity 1: its outcome
}

// write makes one change durable. There is one writer at a time; what arrives
// while it waits for the disk collects, and whoever has the turn next commits
// all of it as one transaction with one sync. So n callers pay for far fewer
// than n syncs, and one caller alone waits for nothing but its own.
//
// The end of ctx takes back a change that is still waiting; one that has been
// taken into a transaction is waited for, as it cannot be taken back.
func (s *Store) write(ctx context.Context, size int, do func() ([]store.Change, error)) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	w := &write{do: do, size: size, done: make(chan error, 1)}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return s.isClosed()
	}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	select {
	case err := <-w.done:
		return err
	case s.turn <- struct{}{}:
		s.commitWaiting()
		<-s.turn
	case <-ctx.Done():
		if s.takeBack(w) {
			return context.Cause(ctx)
		}
	}
	return <-w.done
}

// takeBack removes w from those waiting, and reports whether it was there.
func (s *Store) takeBack(w *write) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, w)
	if i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	return i >= 0
}

// commitWaiting commits all that waits and tells each its outcome.
// Precondition: the caller has the turn.
func (s *Store) commitWaiting() {
	s.mu.Lock()
	batch := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	for len(batch) > 0 {
		s.tx.begin()
		refused, culprit, err := s.commit(batch)
		if err == nil {
			s.committed(batch, refused)
			return
		}
		s.books.rollback()
		clear(s.running)
		if culprit != nil { // the others do without it
			culprit.done <- s.explain(err)
			batch = slices.DeleteFunc(batch, func(w *write) bool { return w == culprit })
			continue
		}
		for _, w := range batch {
			w.done <- s.explain(err)
		}
		return
	}
}

// committed makes known what was committed.
func (s *Store) committed(batch []*write, refused []error) {
	s.books.commit()
	s.fresh.add(s.tx.accepted)
	for _, call := range s.tx.over {
		s.fresh.remove(call.ID)
	}
	s.waiters.wake(s.tx.over)
	for i, w := range batch {
		if refused[i] == nil {
			s.feed.Publish(w.changes...)
		}
	}
	for i, w := range batch {
		w.done <- refused[i]
	}
	s.bodies.remove(s.tx.files...)
	s.checkpoints.note(batch)
}

// counted returns when the books count all that anybody can have read by now, or
// ctx ends: what is committed is read a moment before it is counted.
func (s *Store) counted(ctx context.Context) {
	select {
	case s.turn <- struct{}{}:
		<-s.turn
	case <-ctx.Done():
	}
}

// A tx is what is to be done when the open transaction is committed.
type tx struct {
	accepted []freshRequest
	over     []faas.Call // calls that end with it
	files    []string    // that no row names any more
}

func (t *tx) begin() {
	clear(t.accepted) // the bodies
	t.accepted, t.over, t.files = t.accepted[:0], t.over[:0], t.files[:0]
}

func (t *tx) remove(file string) {
	if file != "" {
		t.files = append(t.files, file)
	}
}

// commit runs a batch as one transaction. It returns, for each write, why it
// was refused, or the error that kept all of them out of the database and the
// write that made it; nil if it was none of them.
func (s *Store) commit(batch []*write) (refused []error, culprit *write, err error) {
	refused = make([]error, len(batch))
	if _, err := s.w.exec("BEGIN IMMEDIATE"); err != nil {
		return nil, nil, err
	}
	for i, w := range batch {
		w.changes, err = w.do()
		if _, ok := errors.AsType[*faas.Error](err); ok {
			refused[i], err = err, nil
		}
		if err != nil {
			culprit = w
			break
		}
	}
	if err == nil {
		err = s.stamp()
	}
	if err == nil {
		_, err = s.w.exec("COMMIT")
	}
	if err != nil {
		_, _ = s.w.exec("ROLLBACK") // the engine may have done it already
	}
	return refused, culprit, err
}
