package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// What appOf and functionOf read.
const (
	selectApp      = "SELECT id, name, revision, created, updated, definition FROM app "
	selectFunction = "SELECT f.id, f.app, f.name, f.revision, f.created, f.updated, f.definition FROM function f "
)

// appOf reads a row of selectApp; definition is its JSON as it is stored.
func appOf(r row) (app faas.App, definition string, err error) {
	var j appJSON
	if err := json.Unmarshal([]byte(r.text(5)), &j); err != nil {
		return faas.App{}, "", damagedRow("app", r.text(1), err)
	}
	app = j.app()
	app.ID, app.Name, app.Revision = r.text(0), r.text(1), r.num(2)
	app.Created, app.Updated = at(r.num(3)), at(r.num(4))
	return app, r.text(5), nil
}

// functionOf reads a row of selectFunction; definition is its JSON as it is stored.
func functionOf(r row) (fn faas.Function, definition string, err error) {
	j := defaultJSON()
	if err := json.Unmarshal([]byte(r.text(6)), &j); err != nil {
		return faas.Function{}, "", damagedRow("function", r.text(2), err)
	}
	fn = j.function()
	fn.ID, fn.App, fn.Name, fn.Revision = r.text(0), r.text(1), r.text(2), r.num(3)
	fn.Created, fn.Updated = at(r.num(4)), at(r.num(5))
	return fn, r.text(6), nil
}

// one reads the first row of an answer, nil if it has none; definition is its JSON
// as it is stored.
func one[T any](d *db, of func(row) (T, string, error), query string, args ...any) (v *T, definition string, err error) {
	r, err := d.one(query, args...)
	if r == nil || err != nil {
		return nil, "", err
	}
	read, definition, err := of(r)
	return &read, definition, err
}

// get reads one definition, or returns what says that there is none.
func get[T any](ctx context.Context, s *Store, of func(row) (T, string, error), none error, query string, args ...any) (T, error) {
	var v *T
	err := s.read(ctx, func(d *db) (err error) {
		v, _, err = one(d, of, query, args...)
		return err
	})
	if v == nil && err == nil {
		err = none
	}
	if err != nil {
		return *new(T), err
	}
	return *v, nil
}

// list reads all rows of an answer. To read the JSON of a row takes longer than to
// get the row: the rows are read in parts, beside each other.
func list[T any](ctx context.Context, s *Store, of func(row) (T, string, error), query string, args ...any) ([]T, error) {
	const part = 256 // rows
	type parts struct {
		rows []row
		read []T
		err  error
	}
	var all []*parts
	var wg sync.WaitGroup
	start := func(p *parts) {
		wg.Go(func() {
			p.read = make([]T, len(p.rows))
			for i, r := range p.rows {
				if p.read[i], _, p.err = of(r); p.err != nil {
					return
				}
			}
		})
	}
	err := s.read(ctx, func(d *db) error {
		defer wg.Wait()
		var p *parts
		err := d.each(query, func(r row) error {
			if p == nil {
				p = &parts{rows: make([]row, 0, part)}
				all = append(all, p)
			}
			if p.rows = append(p.rows, slices.Clone(r)); len(p.rows) == part {
				start(p)
				p = nil
			}
			return nil
		}, args...)
		if p != nil {
			start(p)
		}
		return err
	})
	var read [][]T
	for _, p := range all {
		err = cmp.Or(err, p.err)
		read = append(read, p.read)
	}
	if err != nil {
		return nil, s.explain(err)
	}
	return slices.Concat(read...), nil
}

// put makes one definition durable: next decides what is to be stored and stores
// it, inside a transaction.
func put[T interface{ Clone() T }](ctx context.Context, s *Store, v T, next func(T) (T, error), change func(*T) store.Change) (T, error) {
	v = v.Clone()
	var stored T
	err := s.write(ctx, 0, func() ([]store.Change, error) {
		var err error
		stored, err = next(v)
		changed := stored.Clone()
		return []store.Change{change(&changed)}, err
	})
	if err != nil {
		return *new(T), err
	}
	return stored, nil
}

// App implements store.Definitions.
func (s *Store) App(ctx context.Context, name string) (faas.App, error) {
	return get(ctx, s, appOf, faas.Errorf(faas.NotFound, "no app %q", name), selectApp+"WHERE name = ?", name)
}

// Apps implements store.Definitions.
func (s *Store) Apps(ctx context.Context) ([]faas.App, error) {
	return list(ctx, s, appOf, selectApp+"ORDER BY name")
}

// PutApp implements store.Definitions.
func (s *Store) PutApp(ctx context.Context, app faas.App, ifRevision int64) (faas.App, error) {
	return put(ctx, s, app,
		func(app faas.App) (faas.App, error) { return s.putApp(app, ifRevision) },
		func(app *faas.App) store.Change { return store.Change{App: app} })
}

// putApp is PutApp inside a transaction.
func (s *Store) putApp(app faas.App, ifRevision int64) (faas.App, error) {
	old, stored, err := one(s.w, appOf, selectApp+"WHERE id = ?", app.ID)
	if err != nil {
		return faas.App{}, err
	}
	namesake, _, err := one(s.w, appOf, selectApp+"WHERE name = ?", app.Name)
	if err != nil {
		return faas.App{}, err
	}
	if app, err = store.NextApp(app, ifRevision, old, namesake, time.Now()); err != nil {
		return faas.App{}, err
	}
	definition, err := merged(appToJSON(app), stored)
	if err != nil {
		return faas.App{}, fmt.Errorf("write app %q: %w", app.Name, err)
	}
	_, err = s.w.exec(`INSERT INTO app (id, name, revision, created, updated, definition) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, updated = excluded.updated, definition = excluded.definition`,
		app.ID, app.Name, app.Revision, app.Created.UnixMicro(), app.Updated.UnixMicro(), definition)
	return app, err
}

// DeleteApp implements store.Definitions.
func (s *Store) DeleteApp(ctx context.Context, id string) error {
	return s.write(ctx, 0, func() ([]store.Change, error) {
		app, err := s.w.one("SELECT name FROM app WHERE id = ?", id)
		switch {
		case err != nil:
			return nil, err
		case app == nil:
			return nil, faas.Errorf(faas.NotFound, "no app with the ID %q", id)
		case app.text(0) == faas.DefaultApp:
			return nil, store.KeepsDefaultApp()
		}
		changes, err := s.contents("f.app = ?", id)
		if err != nil {
			return nil, err
		}
		for _, query := range []string{`DELETE FROM "trigger" WHERE app = ?`, "DELETE FROM function WHERE app = ?", "DELETE FROM app WHERE id = ?"} {
			if _, err := s.w.exec(query, id); err != nil {
				return nil, err
			}
		}
		return append(changes, store.Change{Deleted: id}), nil
	})
}

// contents returns what is to be said when functions go: the triggers of each, and
// then itself.
func (s *Store) contents(where, id string) (changes []store.Change, err error) {
	var fn string
	err = s.w.each(`SELECT f.id, t.id FROM function f LEFT JOIN "trigger" t ON t.function = f.id
		WHERE `+where+` ORDER BY f.name, t.name`, func(r row) error {
		if next := r.text(0); next != fn {
			if fn != "" {
				changes = append(changes, store.Change{Deleted: fn})
			}
			fn = next
		}
		if t := r.text(1); t != "" {
			changes = append(changes, store.Change{Deleted: t})
		}
		return nil
	}, id)
	if fn != "" {
		changes = append(changes, store.Change{Deleted: fn})
	}
	return changes, err
}

// Function implements store.Definitions.
func (s *Store) Function(ctx context.Context, appID, name string) (faas.Function, error) {
	return get(ctx, s, functionOf, faas.Errorf(faas.NotFound, "no function %q in the app with the ID %q", name, appID),
		selectFunction+"WHERE f.app = ? AND f.name = ?", appID, name)
}

// Functions implements store.Definitions.
func (s *Store) Functions(ctx context.Context, appID string) ([]faas.Function, error) {
	if appID == "" {
		return list(ctx, s, functionOf, selectFunction+"JOIN app ON app.id = f.app ORDER BY app.name, f.name")
	}
	return list(ctx, s, functionOf, selectFunction+"WHERE f.app = ? ORDER BY f.name", appID)
}

// PutFunction implements store.Definitions.
func (s *Store) PutFunction(ctx context.Context, fn faas.Function, ifRevision int64) (faas.Function, error) {
	return put(ctx, s, fn,
		func(fn faas.Function) (faas.Function, error) { return s.putFunction(fn, ifRevision) },
		func(fn *faas.Function) store.Change { return store.Change{Function: fn} })
}

// putFunction is PutFunction inside a transaction.
func (s *Store) putFunction(fn faas.Function, ifRevision int64) (faas.Function, error) {
	app, _, err := one(s.w, appOf, selectApp+"WHERE id = ?", fn.App)
	if err != nil {
		return faas.Function{}, err
	}
	old, stored, err := one(s.w, functionOf, selectFunction+"WHERE f.id = ?", fn.ID)
	if err != nil {
		return faas.Function{}, err
	}
	namesake, _, err := one(s.w, functionOf, selectFunction+"WHERE f.app = ? AND f.name = ?", fn.App, fn.Name)
	if err != nil {
		return faas.Function{}, err
	}
	if fn, err = store.NextFunction(fn, ifRevision, app, old, namesake, time.Now()); err != nil {
		return faas.Function{}, err
	}
	definition, err := merged(functionToJSON(fn), stored)
	if err != nil {
		return faas.Function{}, fmt.Errorf("write function %q: %w", fn.Name, err)
	}
	_, err = s.w.exec(`INSERT INTO function (id, app, name, revision, created, updated, definition) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, updated = excluded.updated, definition = excluded.definition`,
		fn.ID, fn.App, fn.Name, fn.Revision, fn.Created.UnixMicro(), fn.Updated.UnixMicro(), definition)
	return fn, err
}

// DeleteFunction implements store.Definitions.
func (s *Store) DeleteFunction(ctx context.Context, id string) error {
	return s.write(ctx, 0, func() ([]store.Change, error) {
		changes, err := s.contents("f.id = ?", id)
		switch {
		case err != nil:
			return nil, err
		case len(changes) == 0:
			return nil, faas.Errorf(faas.NotFound, "no function with the ID %q", id)
		}
		for _, query := range []string{`DELETE FROM "trigger" WHERE function = ?`, "DELETE FROM function WHERE id = ?"} {
			if _, err := s.w.exec(query, id); err != nil {
				return nil, err
			}
		}
		return changes, nil
	})
}
