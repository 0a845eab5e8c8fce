// Package memory is the store of tests. It keeps every promise of package
// store but two: what it holds ends with the process, and what it does takes
// longer the more calls it holds.
package memory

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/store"
)

var _ store.Store = (*Store)(nil)

// Store implements store.Store and store.Calls. Make one with New.
type Store struct {
	mu        sync.Mutex
	apps      map[string]faas.App      // guarded by mu, as all below; by ID
	functions map[string]faas.Function // by ID
	triggers  map[string]faas.Trigger  // by ID
	feed      store.Feed               // published to with mu held, so that changes keep their order
	calls     calls
}

// New returns a store that holds the default app and keeps no more of calls than
// the first of limits says; without one all is kept.
func New(limits ...store.Limits) *Store {
	m := &Store{
		apps: make(map[string]faas.App), functions: make(map[string]faas.Function), triggers: make(map[string]faas.Trigger),
		calls: newCalls(append(limits, store.Limits{})[0]),
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	id := faas.NewID()
	m.apps[id] = faas.App{ID: id, Name: faas.DefaultApp, Revision: 1, Created: now, Updated: now}
	return m
}

// App implements store.Definitions.
func (m *Store) App(ctx context.Context, name string) (faas.App, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if app := m.appNamed(name); app != nil {
		return app.Clone(), context.Cause(ctx)
	}
	return faas.App{}, faas.Errorf(faas.NotFound, "no app %q", name)
}

// Apps implements store.Definitions.
func (m *Store) Apps(ctx context.Context) ([]faas.App, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []faas.App
	for _, app := range m.apps {
		all = append(all, app.Clone())
	}
	slices.SortFunc(all, func(a, b faas.App) int { return cmp.Compare(a.Name, b.Name) })
	return all, context.Cause(ctx)
}

// PutApp implements store.Definitions.
func (m *Store) PutApp(ctx context.Context, app faas.App, ifRevision int64) (faas.App, error) {
	if err := context.Cause(ctx); err != nil {
		return faas.App{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next, err := store.NextApp(app, ifRevision, stored(m.apps, app.ID), m.appNamed(app.Name), time.Now())
	if err != nil {
		return faas.App{}, err
	}
	m.apps[next.ID] = next
	m.feed.Publish(store.Change{App: &next})
	return next.Clone(), nil
}

// DeleteApp implements store.Definitions.
func (m *Store) DeleteApp(ctx context.Context, id string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	app, ok := m.apps[id]
	switch {
	case !ok:
		return faas.Errorf(faas.NotFound, "no app with the ID %q", id)
	case app.Name == faas.DefaultApp:
		return store.KeepsDefaultApp()
	}
	var changes []store.Change
	for _, fn := range m.functionsOf(id) {
		changes = append(changes, m.dropFunction(fn.ID)...)
	}
	delete(m.apps, id)
	m.feed.Publish(append(changes, store.Change{Deleted: id})...)
	return nil
}

// Function implements store.Definitions.
func (m *Store) Function(ctx context.Context, appID, name string) (faas.Function, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fn := m.functionNamed(appID, name); fn != nil {
		return fn.Clone(), context.Cause(ctx)
	}
	return faas.Function{}, faas.Errorf(faas.NotFound, "no function %q in the app with the ID %q", name, appID)
}

// Functions implements store.Definitions.
func (m *Store) Functions(ctx context.Context, appID string) ([]faas.Function, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.functionsOf(appID), context.Cause(ctx)
}

// PutFunction implements store.Definitions.
func (m *Store) PutFunction(ctx context.Context, fn faas.Function, ifRevision int64) (faas.Function, error) {
	if err := context.Cause(ctx); err != nil {
		return faas.Function{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next, err := store.NextFunction(fn, ifRevision, stored(m.apps, fn.App), stored(m.functions, fn.ID), m.functionNamed(fn.App, fn.Name), time.Now())
	if err != nil {
		return faas.Function{}, err
	}
	m.functions[next.ID] = next
	m.feed.Publish(store.Change{Function: &next})
	return next.Clone(), nil
}

// DeleteFunction implements store.Definitions.
func (m *Store) DeleteFunction(ctx context.Context, id string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.functions[id]; !ok {
		return faas.Errorf(faas.NotFound, "no function with the ID %q", id)
	}
	m.feed.Publish(m.dropFunction(id)...)
	return nil
}

// Watch implements store.Definitions.
func (m *Store) Watch(ctx context.Context) iter.Seq[store.Change] { return m.feed.Watch(ctx) }

// Close implements store.Store.
func (m *Store) Close() error {
	m.feed.Close()
	return nil
}

// appNamed finds an app by name, nil if there is none. Precondition: m.mu is held.
func (m *Store) appNamed(name string) *faas.App {
	for _, app := range m.apps {
		if app.Name == name {
			return &app
		}
	}
	return nil
}

// functionNamed finds a function by name, nil if there is none. Precondition: m.mu is held.
func (m *Store) functionNamed(appID, name string) *faas.Function {
	for _, fn := range m.functions {
		if fn.App == appID && fn.Name == name {
			return &fn
		}
	}
	return nil
}

// functionsOf copies the functions of an app, or of all, in their order.
// Precondition: m.mu is held.
func (m *Store) functionsOf(appID string) []faas.Function {
	var all []faas.Function
	for _, fn := range m.functions {
		if appID == "" || fn.App == appID {
			all = append(all, fn.Clone())
		}
	}
	slices.SortFunc(all, func(a, b faas.Function) int {
		return cmp.Or(cmp.Compare(m.apps[a.App].Name, m.apps[b.App].Name), cmp.Compare(a.Name, b.Name))
	})
	return all
}
