package memory

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// result is what a function answered.
type result struct {
	status int
	header http.Header
	body   []byte
}

// delivery is one that is still to be made.
type delivery struct {
	store.Delivery
	due time.Time
}

// rotate removes results, and the payloads kept with them, until those of the
// calls that are asked for weigh no more than limit. Precondition: m.mu is held.
func (m *Store) rotate(last *row, limit faas.Bytes, now time.Time, of func(*row) bool) {
	if limit == 0 {
		return
	}
	var sum int64
	var rest []*row
	for _, r := range m.calls.rows {
		if r.call.State.Final() && of(r) {
			sum += r.weight()
			if r != last && r.weight() > 0 {
				rest = append(rest, r)
			}
		}
	}
	slices.SortFunc(rest, func(a, b *row) int {
		return cmp.Or(compareBool(m.hasKey(a, now), m.hasKey(b, now)), cmp.Compare(a.settled, b.settled))
	})
	for _, r := range rest {
		if sum <= int64(limit) {
			return
		}
		sum -= r.weight()
		if r.result != nil {
			r.call.Result = faas.ResultRotated
		}
		r.result, r.repeats, r.payload = nil, false, nil
	}
}

// Wait implements store.Calls.
func (m *Store) Wait(ctx context.Context, id string) (faas.Call, error) {
	if err := context.Cause(ctx); err != nil {
		return faas.Call{}, err
	}
	m.mu.Lock()
	r := m.calls.byID[id]
	m.mu.Unlock()
	if r == nil {
		return faas.Call{}, store.NoCall(id)
	}
	select {
	case <-r.over:
	case <-ctx.Done():
		return faas.Call{}, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return cloneCall(r.call), nil
}

// Result implements store.Calls.
func (m *Store) Result(ctx context.Context, id string) (faas.Result, store.Reader, error) {
	if err := context.Cause(ctx); err != nil {
		return faas.Result{}, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.calls.byID[id]
	switch {
	case r == nil:
		return faas.Result{}, nil, store.NoCall(id)
	case r.result == nil:
		return faas.Result{}, nil, store.NoResult(r.call)
	}
	kept := faas.Result{Status: r.result.status, Header: r.result.header.Clone(), Size: int64(len(r.result.body))}
	return kept, store.BytesReader(r.result.body), nil
}

// Fetched implements store.Calls.
func (m *Store) Fetched(ctx context.Context, id string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.calls.byID[id]; r != nil && r.call.State.Final() && r.call.Result != faas.ResultRotated {
		r.result, r.call.Result = nil, faas.ResultFetched
	}
	return nil
}

// Deliveries implements store.Calls.
func (m *Store) Deliveries(ctx context.Context, limit int) (due []store.Delivery, next time.Duration, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.calls.now()
	for _, d := range m.calls.deliveries {
		if wait := d.due.Sub(now); wait <= 0 {
			due = append(due, d.Delivery)
		} else if next == 0 || wait < next {
			next = wait
		}
	}
	slices.SortStableFunc(due, func(a, b store.Delivery) int { return a.Since.Compare(b.Since) })
	return due[:min(len(due), limit)], next, nil
}

// Delivered implements store.Calls.
func (m *Store) Delivered(ctx context.Context, id string, done bool, retry time.Duration, outcome string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.calls.deliveries, func(d *delivery) bool { return d.ID == id })
	if i < 0 {
		return store.NoDelivery(id)
	}
	d := m.calls.deliveries[i]
	m.calls.byID[d.Call].call.Delivery = store.Text(outcome)
	if done {
		m.calls.deliveries = slices.Delete(m.calls.deliveries, i, i+1)
		return nil
	}
	d.Tries++
	d.due = m.calls.now().Add(retry)
	return nil
}

// weight is what is kept of a call that is over counts for.
func (r *row) weight() int64 {
	switch {
	case r.result != nil:
		return store.ResultWeight(r.result.header, int64(len(r.result.body)), int64(len(r.payload)))
	case r.repeats:
		return store.ResultWeight(nil, 0, int64(len(r.payload)))
	}
	return 0
}
