package memory

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// Call implements store.Calls.
func (m *Store) Call(ctx context.Context, id string) (faas.Call, error) {
	if err := context.Cause(ctx); err != nil {
		return faas.Call{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.calls.byID[id]; r != nil {
		return cloneCall(r.call), nil
	}
	return faas.Call{}, store.NoCall(id)
}

// List implements store.Calls.
func (m *Store) List(ctx context.Context, f store.CallFilter) (found []faas.Call, next string, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := math.MaxInt
	if f.After != "" {
		r := m.calls.byID[f.After]
		if r == nil {
			return nil, "", store.NoCall(f.After)
		}
		before = r.accepted
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	for _, r := range slices.Backward(m.calls.rows) {
		c := r.call
		switch {
		case r.accepted >= before,
			f.App != "" && f.App != c.App,
			f.Function != "" && f.Function != c.Function,
			f.FuncID != "" && f.FuncID != c.FuncID,
			len(f.States) > 0 && !slices.Contains(f.States, c.State):
			continue
		}
		if len(found) == limit {
			return found, found[limit-1].ID, nil
		}
		found = append(found, cloneCall(c))
	}
	return found, "", nil
}

// Line implements store.Calls.
func (m *Store) Line(ctx context.Context, functions []string, limit int) ([]faas.Call, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var line []faas.Call
	for _, r := range m.inLine(functions, m.calls.now()) {
		if len(line) >= limit {
			break
		}
		line = append(line, cloneCall(r.call))
	}
	return line, nil
}

// Place implements store.Calls. It is exact however long the line is.
func (m *Store) Place(ctx context.Context, id string, functions []string) (place int, about bool, err error) {
	if err := context.Cause(ctx); err != nil {
		return 0, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.calls.byID[id]
	if r == nil || r.call.State != faas.CallQueued {
		return 0, false, nil
	}
	line := m.inLine(append(slices.Clone(functions), r.call.FuncID), m.calls.now())
	place = 1
	for _, other := range line[:slices.Index(line, r)] {
		if slices.Contains(functions, other.call.FuncID) {
			place++
		}
	}
	return place, false, nil
}

// Tally implements store.Calls.
func (m *Store) Tally(ctx context.Context, function string) (store.Tally, error) {
	tallies, err := m.Tallies(ctx)
	return tallies[function], err
}

// Known implements store.Calls.
func (m *Store) Known(function string) store.Tally {
	t, _ := m.Tally(context.Background(), function) // only an end of its context is an error
	return t
}

// Has implements store.Calls.
func (m *Store) Has(ctx context.Context, ids []string) (map[string]bool, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	has := make(map[string]bool)
	for _, id := range ids {
		if m.calls.byID[id] != nil {
			has[id] = true
		}
	}
	return has, nil
}

// Tallies implements store.Calls.
func (m *Store) Tallies(ctx context.Context) (map[string]store.Tally, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	tallies := make(map[string]store.Tally)
	for _, r := range m.calls.rows {
		t := tallies[r.call.FuncID]
		switch r.call.State {
		case faas.CallQueued:
			t.Queued++
		case faas.CallRunning:
			t.Running++
		case faas.CallSucceeded:
			t.Succeeded++
		default:
			t.Failed++
		}
		tallies[r.call.FuncID] = t
	}
	return tallies, nil
}

// inLine returns the queued calls of these functions, in the order in which they
// are to be taken: those that are due by priority, due time and acceptance, then
// the others, by the time at which they become due. Precondition: m.mu is held.
func (m *Store) inLine(functions []string, now time.Time) []*row {
	var line []*row
	for r := range m.calls.line {
		if slices.Contains(functions, r.call.FuncID) {
			line = append(line, r)
		}
	}
	slices.SortFunc(line, func(a, b *row) int {
		early := compareBool(a.call.Due.After(now), b.call.Due.After(now))
		priority, due := cmp.Compare(b.call.Priority, a.call.Priority), a.call.Due.Compare(b.call.Due)
		if a.call.Due.After(now) {
			priority, due = due, priority
		}
		return cmp.Or(early, priority, due, cmp.Compare(a.accepted, b.accepted))
	})
	return line
}

// compareBool puts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
