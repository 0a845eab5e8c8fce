package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"hob/faas"
	"hob/internal/store"
)

func concurrentPuts(t *testing.T, s store.Store) {
	const workers, each = 8, 25
	app := mustPutApp(t, s, "photos")
	fn := mustPut(t, s, Function(app, "count"), store.IfNew)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				for { // as a client that reads, changes and puts
					got, err := s.Function(t.Context(), app.ID, "count")
					if err != nil {
						t.Error(err)
						return
					}
					got.MaxConcurrency++
					_, err = s.PutFunction(t.Context(), got, got.Revision)
					if err == nil {
						break
					}
					if faas.KindOf(err) != faas.Conflict {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	got, err := s.Function(t.Context(), app.ID, "count")
	if err != nil {
		t.Fatal(err)
	}
	if want := fn.MaxConcurrency + workers*each; got.MaxConcurrency != want || got.Revision != int64(1+workers*each) {
		t.Errorf("count %d at revision %d, want %d at %d", got.MaxConcurrency, got.Revision, want, 1+workers*each)
	}
}

func concurrentNames(t *testing.T, s store.Store) {
	const makers = 16
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		made int
	)
	for range makers {
		wg.Go(func() {
			_, err := s.PutApp(t.Context(), faas.App{ID: faas.NewID(), Name: "photos"}, store.IfNew)
			if err != nil && faas.KindOf(err) != faas.Conflict {
				t.Error(fmt.Errorf("PutApp: %w", err))
			}
			if err == nil {
				mu.Lock()
				made++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("%d makers of one name succeeded, want 1", made)
	}
}

func concurrentSources(t *testing.T, s store.Store) {
	const makers = 16
	app := defaultApp(t, s)
	var made atomic.Int64
	var wg sync.WaitGroup
	for i := range makers {
		fn := mustPut(t, s, Function(app, fmt.Sprint("fn", i)), store.IfNew)
		wg.Go(func() {
			trigger := Trigger(fn, "web")
			trigger.Source = "/photos"
			_, err := s.PutTrigger(t.Context(), trigger, store.IfNew)
			if err == nil {
				made.Add(1)
			} else if !errors.Is(err, faas.ErrSourceTaken) {
				t.Errorf("PutTrigger = %v, want one that wraps ErrSourceTaken", err)
			}
		})
	}
	wg.Wait()
	if all, err := s.Triggers(t.Context(), ""); made.Load() != 1 || len(all) != 1 || err != nil {
		t.Errorf("%d takers of one source succeeded, and %d triggers are there, %v; want 1", made.Load(), len(all), err)
	}
}

func noOrphans(t *testing.T, s store.Store) {
	app := mustPutApp(t, s, "photos")
	var wg sync.WaitGroup
	for i := range 16 {
		fn := mustPut(t, s, Function(app, fmt.Sprint("fn", i)), store.IfNew)
		for j := range 3 {
			wg.Go(func() {
				_, err := s.PutTrigger(t.Context(), Trigger(fn, fmt.Sprint(j)), store.IfNew)
				if kind := faas.KindOf(err); err != nil && kind != faas.NotFound {
					t.Error(err)
				}
			})
		}
		if i%4 == 0 {
			continue
		}
		wg.Go(func() {
			if err := s.DeleteFunction(t.Context(), fn.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	left, err := s.Triggers(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 4*3 {
		t.Errorf("%d triggers are left, want 3 of each of 4 functions", len(left))
	}
	if err := s.DeleteApp(t.Context(), app.ID); err != nil {
		t.Error(err)
	}
	wantTriggers(t, s, "")
}
