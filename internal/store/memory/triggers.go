package memory

import (
	"cmp"
	"context"
	"slices"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// Trigger implements store.Definitions.
func (m *Store) Trigger(ctx context.Context, id string) (faas.Trigger, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t, ok := m.triggers[id]; ok {
		return t.Clone(), context.Cause(ctx)
	}
	return faas.Trigger{}, faas.Errorf(faas.NotFound, "no trigger with the ID %q", id)
}

// Triggers implements store.Definitions.
func (m *Store) Triggers(ctx context.Context, appID string) ([]faas.Trigger, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.triggersWhere(func(t faas.Trigger) bool { return appID == "" || t.App == appID })
	slices.SortFunc(all, func(a, b faas.Trigger) int {
		return cmp.Or(cmp.Compare(m.apps[a.App].Name, m.apps[b.App].Name), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return all, context.Cause(ctx)
}

// PutTrigger implements store.Definitions.
func (m *Store) PutTrigger(ctx context.Context, t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	if err := context.Cause(ctx); err != nil {
		return faas.Trigger{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	namesake := m.triggerWhere(func(o faas.Trigger) bool { return o.Function == t.Function && o.Name == t.Name })
	rival := m.triggerWhere(func(o faas.Trigger) bool { return o.App == t.App && o.Type == t.Type && o.Source == t.Source })
	next, err := store.NextTrigger(t, ifRevision, stored(m.apps, t.App), stored(m.functions, t.Function),
		stored(m.triggers, t.ID), namesake, rival, time.Now())
	if err != nil {
		return faas.Trigger{}, err
	}
	m.triggers[next.ID] = next
	m.feed.Publish(store.Change{Trigger: &next})
	return next.Clone(), nil
}

// DeleteTrigger implements store.Definitions.
func (m *Store) DeleteTrigger(ctx context.Context, id string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.triggers[id]; !ok {
		return faas.Errorf(faas.NotFound, "no trigger with the ID %q", id)
	}
	delete(m.triggers, id)
	m.feed.Publish(store.Change{Deleted: id})
	return nil
}

// dropFunction removes a function after its triggers, and returns these changes.
// Precondition: m.mu is held.
func (m *Store) dropFunction(id string) (changes []store.Change) {
	triggers := m.triggersWhere(func(t faas.Trigger) bool { return t.Function == id })
	slices.SortFunc(triggers, func(a, b faas.Trigger) int { return cmp.Compare(a.Name, b.Name) })
	for _, t := range triggers {
		delete(m.triggers, t.ID)
		changes = append(changes, store.Change{Deleted: t.ID})
	}
	delete(m.functions, id)
	return append(changes, store.Change{Deleted: id})
}

// triggersWhere copies the triggers that fit, in no order. Precondition: m.mu is held.
func (m *Store) triggersWhere(fits func(faas.Trigger) bool) (all []faas.Trigger) {
	for _, t := range m.triggers {
		if fits(t) {
			all = append(all, t.Clone())
		}
	}
	return all
}

// triggerWhere finds a trigger that fits, nil if there is none. Precondition: m.mu is held.
func (m *Store) triggerWhere(fits func(faas.Trigger) bool) *faas.Trigger {
	for _, t := range m.triggersWhere(fits) {
		return &t
	}
	return nil
}

// stored returns what a map holds under an ID, nil if it holds nothing.
func stored[T any](of map[string]T, id string) *T {
	if v, ok := of[id]; ok {
		return &v
	}
	return nil
}
