package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// selectTrigger is what triggerOf reads.
const selectTrigger = `SELECT t.id, t.app, t.function, t.name, t.type, t.source, t.revision, t.created, t.updated, t.definition
	FROM "trigger" t `

// triggerOf reads a row of selectTrigger; definition is its JSON as it is stored.
func triggerOf(r row) (t faas.Trigger, definition string, err error) {
	var j triggerJSON
	if err := json.Unmarshal([]byte(r.text(9)), &j); err != nil {
		return faas.Trigger{}, "", damagedRow("trigger", r.text(3), err)
	}
	return faas.Trigger{
		ID: r.text(0), App: r.text(1), Function: r.text(2), Name: r.text(3), Type: r.text(4), Source: r.text(5),
		Async: j.Async, Header: j.Header, Key: j.Key, Convention: j.Convention,
		Annotations: j.Annotations, Revision: r.num(6), Created: at(r.num(7)), Updated: at(r.num(8)),
	}, r.text(9), nil
}

// Trigger implements store.Definitions.
func (s *Store) Trigger(ctx context.Context, id string) (faas.Trigger, error) {
	return get(ctx, s, triggerOf, noTrigger(id), selectTrigger+"WHERE t.id = ?", id)
}

func noTrigger(id string) error { return faas.Errorf(faas.NotFound, "no trigger with the ID %q", id) }

// Triggers implements store.Definitions.
func (s *Store) Triggers(ctx context.Context, appID string) ([]faas.Trigger, error) {
	if appID == "" {
		return list(ctx, s, triggerOf, selectTrigger+"JOIN app ON app.id = t.app ORDER BY app.name, t.name, t.id")
	}
	return list(ctx, s, triggerOf, selectTrigger+"WHERE t.app = ? ORDER BY t.name, t.id", appID)
}

// PutTrigger implements store.Definitions.
func (s *Store) PutTrigger(ctx context.Context, t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	return put(ctx, s, t,
		func(t faas.Trigger) (faas.Trigger, error) { return s.putTrigger(t, ifRevision) },
		func(t *faas.Trigger) store.Change { return store.Change{Trigger: t} })
}

// putTrigger is PutTrigger inside a transaction.
func (s *Store) putTrigger(t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	app, _, err := one(s.w, appOf, selectApp+"WHERE id = ?", t.App)
	if err != nil {
		return faas.Trigger{}, err
	}
	fn, _, err := one(s.w, functionOf, selectFunction+"WHERE f.id = ?", t.Function)
	if err != nil {
		return faas.Trigger{}, err
	}
	old, stored, err := one(s.w, triggerOf, selectTrigger+"WHERE t.id = ?", t.ID)
	if err != nil {
		return faas.Trigger{}, err
	}
	namesake, _, err := one(s.w, triggerOf, selectTrigger+"WHERE t.function = ? AND t.name = ?", t.Function, t.Name)
	if err != nil {
		return faas.Trigger{}, err
	}
	rival, _, err := one(s.w, triggerOf, selectTrigger+"WHERE t.app = ? AND t.type = ? AND t.source = ?", t.App, t.Type, t.Source)
	if err != nil {
		return faas.Trigger{}, err
	}
	if t, err = store.NextTrigger(t, ifRevision, app, fn, old, namesake, rival, time.Now()); err != nil {
		return faas.Trigger{}, err
	}
	definition, err := merged(triggerJSON{Async: t.Async, Header: t.Header, Key: t.Key, Convention: t.Convention, Annotations: t.Annotations}, stored)
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
	return s.write(ctx, 0, func() ([]store.Change, error) {
		n, err := s.w.exec(`DELETE FROM "trigger" WHERE id = ?`, id)
		if n == 0 && err == nil {
			err = noTrigger(id)
		}
		return []store.Change{{Deleted: id}}, err
	})
}
