package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// selectTrigger is read by triggerOf.
const selectTrigger = `SELECT t.id, t.app, t.function, t.name, t.type, t.source, t.revision, t.created, t.updated, t.definition
	FROM "trigger" t `

// triggerOf reads a row of selectTrigger; definition is its JSON as it is stored.
func triggerOf(r row) (t faas.Trigger, definition string, err error) {
	t = faas.Trigger{
		ID: r.text(0), App: r.text(1), Function: r.text(2), Name: r.text(3), Type: r.text(4), Source: r.text(5),
		Revision: r.num(6), Created: time.UnixMicro(r.num(7)).UTC(), Updated: time.UnixMicro(r.num(8)).UTC(),
	}
	definition = r.text(9)
	var j triggerJSON
	if err := json.Unmarshal([]byte(definition), &j); err != nil {
		return faas.Trigger{}, "", damagedRow("trigger", t.Name, err)
	}
	t.Annotations = j.Annotations
	return t, definition, nil
}

// oneTrigger returns the trigger that a condition is about, nil if there is none.
func oneTrigger(d *db, where string, args ...any) (*faas.Trigger, string, error) {
	r, err := d.one(selectTrigger+where, args...)
	if r == nil || err != nil {
		return nil, "", err
	}
	t, definition, err := triggerOf(r)
	return &t, definition, err
}

// Trigger implements store.Definitions.
func (s *Store) Trigger(ctx context.Context, id string) (faas.Trigger, error) {
	var t *faas.Trigger
	err := s.read(ctx, func(d *db) (err error) {
		t, _, err = oneTrigger(d, "WHERE t.id = ?", id)
		return err
	})
	switch {
	case err != nil:
		return faas.Trigger{}, err
	case t == nil:
		return faas.Trigger{}, noTrigger(id)
	}
	return *t, nil
}

// Triggers implements store.Definitions.
func (s *Store) Triggers(ctx context.Context, appID string) ([]faas.Trigger, error) {
	query, args := selectTrigger+"JOIN app ON app.id = t.app ORDER BY app.name, t.name, t.id", []any(nil)
	if appID != "" {
		query, args = selectTrigger+"WHERE t.app = ? ORDER BY t.name, t.id", []any{appID}
	}
	var all []faas.Trigger
	err := s.read(ctx, func(d *db) error {
		return d.each(query, func(r row) error {
			t, _, err := triggerOf(r)
			all = append(all, t)
			return err
		}, args...)
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// PutTrigger implements store.Definitions.
func (s *Store) PutTrigger(ctx context.Context, t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	t = t.Clone()
	var put faas.Trigger
	err := s.write(ctx, 0, func(context.Context) ([]store.Change, error) {
		var err error
		put, err = s.putTrigger(t, ifRevision)
		changed := put.Clone()
		return []store.Change{{Trigger: &changed}}, err
	})
	if err != nil {
		return faas.Trigger{}, err
	}
	return put, nil
}

// putTrigger is PutTrigger inside a transaction.
func (s *Store) putTrigger(t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	var app *faas.App
	if r, err := s.w.one("SELECT name FROM app WHERE id = ?", t.App); err != nil {
		return faas.Trigger{}, err
	} else if r != nil {
		app = &faas.App{ID: t.App, Name: r.text(0)}
	}
	var fn *faas.Function
	if r, err := s.w.one("SELECT app, name FROM function WHERE id = ?", t.Function); err != nil {
		return faas.Trigger{}, err
	} else if r != nil {
		fn = &faas.Function{ID: t.Function, App: r.text(0), Name: r.text(1)}
	}
	old, stored, err := oneTrigger(s.w, "WHERE t.id = ?", t.ID)
	if err != nil {
		return faas.Trigger{}, err
	}
	namesake, _, err := oneTrigger(s.w, "WHERE t.function = ? AND t.name = ?", t.Function, t.Name)
	if err != nil {
		return faas.Trigger{}, err
	}
	rival, _, err := oneTrigger(s.w, "WHERE t.app = ? AND t.type = ? AND t.source = ?", t.App, t.Type, t.Source)
	if err != nil {
		return faas.Trigger{}, err
	}
	if t, err = store.NextTrigger(t, ifRevision, app, fn, old, namesake, rival, time.Now()); err != nil {
		return faas.Trigger{}, err
	}
	definition, err := merged(triggerJSON{Annotations: t.Annotations}, stored)
	if err != nil {
		return faas.Trigger{}, fmt.Errorf("write trigger %q: %w", t.Name, err)
	}
	_, err = s.w.exec(`INSERT INTO "trigger" (id, app, function, name, type, source, revision, created, updated, definition)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET function = excluded.function, name = excluded.name, source = excluded.source,
			revision = excluded.revision, updated = excluded.updated, definition = excluded.definition`,
		t.ID, t.App, t.Function, t.Name, t.Type, t.Source, t.Revision, t.Created.UnixMicro(), t.Updated.UnixMicro(), definition)
	return t, err
}

// DeleteTrigger implements store.Definitions.
func (s *Store) DeleteTrigger(ctx context.Context, id string) error {
	return s.write(ctx, 0, func(context.Context) ([]store.Change, error) {
		n, err := s.w.exec(`DELETE FROM "trigger" WHERE id = ?`, id)
		if n == 0 && err == nil {
			err = noTrigger(id)
		}
		return []store.Change{{Deleted: id}}, err
	})
}

// dropFunction removes a function after its triggers, inside a transaction, and
// returns these changes; none if there is no such function.
func (s *Store) dropFunction(id string) (changes []store.Change, err error) {
	err = s.w.each(`SELECT id FROM "trigger" WHERE function = ? ORDER BY name`, func(r row) error {
		changes = append(changes, store.Change{Deleted: r.text(0)})
		return nil
	}, id)
	if err != nil {
		return nil, err
	}
	if len(changes) > 0 {
		if _, err := s.w.exec(`DELETE FROM "trigger" WHERE function = ?`, id); err != nil {
			return nil, err
		}
	}
	n, err := s.w.exec("DELETE FROM function WHERE id = ?", id)
	if n == 0 || err != nil {
		return nil, err
	}
	return append(changes, store.Change{Deleted: id}), nil
}

func noTrigger(id string) error { return faas.Errorf(faas.NotFound, "no trigger with the ID %q", id) }
