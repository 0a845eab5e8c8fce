package sqlite_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/sqlite"
	"hob/internal/store/storetest"
)

func TestThousandFunctionsAreThereAfterAStart(t *testing.T) { // how fast is told by BenchmarkLoad
	path := filepath.Join(t.TempDir(), "hob.db")
	s := open(t, path)
	fillFunctions(t, s, 1000)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	loadAll(t, path, 1000)
}

// What a change of one definition costs does not depend on how many there are.
func TestNothingScansDefinitions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hob.db")
	s := open(t, path)
	app, err := s.PutApp(t.Context(), faas.App{ID: faas.NewID(), Name: "photos"}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	fn := storetest.Function(app, "resize")
	for range 2 {
		_, errFunction := s.PutFunction(t.Context(), fn, store.AnyRevision)
		_, errTrigger := s.PutTrigger(t.Context(), storetest.Trigger(fn, "t"), store.AnyRevision)
		_, errGet := s.Function(t.Context(), app.ID, fn.Name)
		_, errList := s.Functions(t.Context(), app.ID)
		_, errTriggers := s.Triggers(t.Context(), app.ID)
		err := errors.Join(errFunction, errTrigger, errGet, errList, errTriggers, s.DeleteFunction(t.Context(), fn.ID))
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"", "absent"} {
		if err := s.DeleteTrigger(t.Context(), id); faas.KindOf(err) != faas.NotFound {
			t.Error(err)
		}
	}
	if err := s.DeleteApp(t.Context(), app.ID); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for query := range s.Queries() {
		if !strings.Contains(query, "?") {
			continue
		}
		checked++
		if plan := planOf(t, path, query); strings.Contains(plan, "SCAN") && !strings.HasSuffix(plan, "SCAN clock") { // which has one row
			t.Errorf("%s\nis answered by:%s", query, plan)
		}
	}
	if checked < 15 {
		t.Errorf("checked %d statements only", checked)
	}
}

func planOf(t *testing.T, path, query string) (plan string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan += "\n" + detail
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan
}

// loadAll does with the database what a start of the daemon does.
func loadAll(t testing.TB, path string, n int) {
	s, err := sqlite.Open(t.Context(), path, store.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	byName := func(a, b faas.Function) int { return strings.Compare(a.Name, b.Name) }
	if all, err := s.Functions(t.Context(), ""); err != nil || len(all) != n || !slices.IsSortedFunc(all, byName) {
		t.Fatalf("%d functions, %v; want %d, by name", len(all), err, n)
	}
	if all, err := s.Triggers(t.Context(), ""); err != nil || len(all) != n {
		t.Fatalf("%d triggers, %v; want %d", len(all), err, n)
	}
}

// fillFunctions makes n functions, each with a trigger, in the default app.
func fillFunctions(t testing.TB, s *sqlite.Store, n int) {
	app := defaultApp(t, s)
	var wg sync.WaitGroup
	for worker := range 50 {
		wg.Go(func() {
			for i := worker; i < n; i += 50 {
				fn, err := s.PutFunction(t.Context(), storetest.Function(app, fmt.Sprint("fn", i)), store.IfNew)
				if err == nil {
					_, err = s.PutTrigger(t.Context(), storetest.Trigger(fn, "t"), store.IfNew)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func defaultApp(t testing.TB, s *sqlite.Store) faas.App {
	t.Helper()
	app, err := s.App(t.Context(), faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	return app
}

// BenchmarkLoad is what a start of the daemon pays: open, and read 10,000 functions
// with a trigger each.
func BenchmarkLoad(b *testing.B) {
	const n = 10_000
	path := filepath.Join(b.TempDir(), "hob.db")
	s, err := sqlite.Open(b.Context(), path, store.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	fillFunctions(b, s, n)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		loadAll(b, path, n)
	}
}

// BenchmarkPut shows what group commit gains: compare the callers of one run; and
// what the functions that are there cost: nothing.
func BenchmarkPut(b *testing.B) {
	for _, there := range []int{0, 10_000} {
		s := openFor(b, store.Limits{})
		fillFunctions(b, s, there)
		app := defaultApp(b, s)
		for _, callers := range []int{1, 32} {
			b.Run(fmt.Sprintf("functions=%d/callers=%d", there, callers), func(b *testing.B) {
				each(b, callers, func() error {
					_, err := s.PutFunction(b.Context(), storetest.Function(app, faas.NewID()), store.IfNew)
					return err
				})
			})
		}
		b.Run(fmt.Sprintf("functions=%d/callers=32/triggers", there), func(b *testing.B) {
			fn, err := s.PutFunction(b.Context(), storetest.Function(app, faas.NewID()), store.IfNew)
			if err != nil {
				b.Fatal(err)
			}
			each(b, 32, func() error {
				_, err := s.PutTrigger(b.Context(), storetest.Trigger(fn, faas.NewID()), store.IfNew)
				return err
			})
		})
	}
}
