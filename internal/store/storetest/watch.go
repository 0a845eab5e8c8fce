package storetest

import (
	"context"
	"iter"
	"sync"
	"testing"

	"hob/internal/store"
)

// take returns the next n changes.
func take(t *testing.T, changes iter.Seq[store.Change], n int) []store.Change {
	t.Helper()
	var got []store.Change
	for c := range changes {
		if got = append(got, c); len(got) == n {
			return got
		}
	}
	t.Fatalf("Watch ended after %d changes, want %d", len(got), n)
	return nil
}

func watchOrder(t *testing.T, s store.Store) {
	watch := s.Watch(t.Context())
	app := mustPutApp(t, s, "photos")
	fn := mustPut(t, s, Function(app, "resize"), store.IfNew)
	changed := mustPut(t, s, fn, 1)
	if err := s.DeleteFunction(t.Context(), fn.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteApp(t.Context(), app.ID); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "changes", take(t, watch, 5), []store.Change{
		{App: &app}, {Function: &fn}, {Function: &changed}, {Deleted: fn.ID}, {Deleted: app.ID},
	})
}

func watchBegins(t *testing.T, s store.Store) {
	mustPutApp(t, s, "before")
	watch := s.Watch(t.Context())
	app := mustPutApp(t, s, "after")
	wantEqual(t, "first change", take(t, watch, 1), []store.Change{{App: &app}})

	next := make(chan store.Change)
	watch = s.Watch(t.Context())
	go func() {
		for c := range watch {
			next <- c
			return
		}
	}()
	app = mustPutApp(t, s, "while someone waits")
	wantEqual(t, "change that was waited for", <-next, store.Change{App: &app})
}

func watchEnds(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	watch := s.Watch(ctx)
	ended := make(chan struct{})
	go func() {
		for range watch {
		}
		close(ended)
	}()
	cancel()
	<-ended
}

func watchGoesOn(t *testing.T, s store.Store) {
	watch := s.Watch(t.Context())
	a, b := mustPutApp(t, s, "a"), mustPutApp(t, s, "b")
	wantEqual(t, "first change", take(t, watch, 1), []store.Change{{App: &a}})
	wantEqual(t, "second change", take(t, watch, 1), []store.Change{{App: &b}})
}

func watchReload(t *testing.T, s store.Store) {
	const many = 3000 // more than any engine keeps for a slow consumer
	watch := s.Watch(t.Context())
	fn := Function(defaultApp(t, s), "resize")
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range many / 10 {
				if _, err := s.PutFunction(t.Context(), fn, store.AnyRevision); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	last := mustPut(t, s, fn, store.AnyRevision)
	var revision int64
	for c := range watch {
		switch {
		case c.Reload:
			all, err := s.Functions(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			revision = all[0].Revision
		case c.Function.Revision != revision+1:
			t.Fatalf("revision %d after %d without a word to reload", c.Function.Revision, revision)
		default:
			revision = c.Function.Revision
		}
		if revision == last.Revision {
			return
		}
	}
}
