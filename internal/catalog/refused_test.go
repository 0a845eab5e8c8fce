package catalog_test

import (
	"context"
	"testing"

	"hob/faas"
	"hob/internal/store/memory"
)

// late holds a put back when it is stored, until it may be known.
type late struct {
	*memory.Store
	stored, known, refused chan struct{}
}

func (l late) PutFunction(ctx context.Context, fn faas.Function, ifRevision int64) (faas.Function, error) {
	put, err := l.Store.PutFunction(ctx, fn, ifRevision)
	switch {
	case err != nil:
		close(l.refused)
	case put.Revision == 2:
		close(l.stored)
		<-l.known
	}
	return put, err
}

// TestWhoIsRefusedReadsWhatWasFirst is of two changes at once: whoever is second must
// not read again what made it the second.
func TestWhoIsRefusedReadsWhatWasFirst(t *testing.T) {
	s := late{memory.New(), make(chan struct{}), make(chan struct{}), make(chan struct{})}
	c := load(t, s)
	fn := mustPut(t, c, function(t, c, "f"), 0)
	first, second := make(chan error, 1), make(chan int64, 1)
	go func() {
		_, err := c.PutFunction(t.Context(), fn, 1)
		first <- err
	}()
	<-s.stored
	go func() {
		_, err := c.PutFunction(t.Context(), fn, 1)
		now, _ := c.FunctionByID(fn.ID)
		if faas.KindOf(err) != faas.Conflict {
			t.Errorf("the second put: %v, want a conflict", err)
		}
		second <- now.Revision
	}()
	<-s.refused
	close(s.known)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if got := <-second; got != 2 {
		t.Errorf("who was refused read revision %d, want 2", got)
	}
}
