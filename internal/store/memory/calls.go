package memory

import (
	"cmp"
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"hob/faas"
	"hob/internal/store"
)

var _ store.Calls = (*Store)(nil)

// calls is what Store keeps of calls. Nothing here is quick; all of it is meant
// to be obviously right, as other engines are compared with it.
type calls struct {
	limits store.Limits
	opened time.Time // the clock counts from here, and so never goes back

	byID       map[string]*row
	rows       []*row             // in the order of acceptance
	line       map[*row]bool      // those that are queued
	keys       map[store.Key]*row // without their hash
	deliveries []*delivery        // in the order in which they were made
	accepted   int                // calls, ever
	settled    int                // calls that are over, ever
}

// row is a call with all that is kept of it.
type row struct {
	call     faas.Call
	accepted int    // its number
	owner    string // while it runs

	request faas.Request
	payload []byte
	repeats bool // the payload is kept

	result *result   // nil: none, or none any more
	key    store.Key // zero: none, or forgotten

	over    chan struct{} // closed when it is
	ended   time.Time     // by the clock of the store
	settled int           // its number among those that are over
}

func newCalls(limits store.Limits) calls {
	return calls{
		limits: limits, opened: time.Now(),
		byID: make(map[string]*row), line: make(map[*row]bool), keys: make(map[store.Key]*row),
	}
}

// now is the store's clock.
func (c *calls) now() time.Time {
	return c.opened.Add(time.Since(c.opened)).UTC().Truncate(time.Microsecond)
}

// Now implements store.Calls.
func (m *Store) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls.now()
}

// Accept implements store.Calls.
func (m *Store) Accept(ctx context.Context, a store.Acceptance) (faas.Call, bool, error) {
	payload, err := used(a.Body)
	if err := cmp.Or(context.Cause(ctx), err); err != nil {
		return faas.Call{}, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.calls.now()
	if a.Key != nil {
		if r := m.keyed(*a.Key, now); r != nil {
			if r.key.Hash != a.Key.Hash {
				return faas.Call{}, false, store.KeyReused(a.Key.Key)
			}
			return cloneCall(r.call), true, nil
		}
	}
	if m.calls.byID[a.Call.ID] != nil {
		return faas.Call{}, false, store.AcceptedBefore(a.Call.ID)
	}
	call, err := store.NewCall(a, now)
	if err != nil {
		return faas.Call{}, false, err
	}
	r := &row{
		request: cloneRequest(store.KeptRequest(a.Request)), payload: payload, repeats: true,
		over: make(chan struct{}),
	}
	var ofFunction, total int64
	for _, other := range m.calls.rows {
		if !other.call.State.Final() {
			total += int64(len(other.payload))
			if other.call.FuncID == call.FuncID {
				ofFunction += int64(len(other.payload))
			}
		}
	}
	if err := m.calls.limits.CheckQueue(call, int64(len(payload)), ofFunction, total); err != nil {
		return faas.Call{}, false, err
	}
	if call.State == faas.CallRunning {
		r.owner = a.Owner
	}
	if a.Key != nil {
		r.key = *a.Key
		m.calls.keys[scope(*a.Key)] = r
	}
	m.calls.accepted++
	r.accepted = m.calls.accepted
	m.calls.byID[call.ID] = r
	m.calls.rows = append(m.calls.rows, r)
	m.become(r, call, now)
	return cloneCall(call), false, nil
}

// Take implements store.Calls.
func (m *Store) Take(ctx context.Context, owner string, lanes []store.Lane) (taken []faas.Call, due time.Duration, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.calls.now()
	for _, lane := range lanes {
		room := lane.Limit
		for _, r := range m.inLine(lane.Functions, now) {
			if room <= 0 {
				break
			}
			if wait := r.call.Due.Sub(now); wait > 0 { // as are all behind it
				if due == 0 || wait < due {
					due = wait
				}
				break
			}
			r.owner = owner
			m.become(r, store.TakenCall(r.call, now), now)
			taken = append(taken, cloneCall(r.call))
			room--
		}
	}
	return taken, due, nil
}

// Request implements store.Calls.
func (m *Store) Request(ctx context.Context, id string) (*faas.Request, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.calls.byID[id]
	switch {
	case r == nil:
		return nil, store.NoCall(id)
	case !r.repeats:
		return nil, store.NoPayload(id)
	}
	request := cloneRequest(r.request)
	request.Body, request.Size = store.BytesReader(r.payload), int64(len(r.payload))
	return &request, nil
}

// Settle implements store.Calls.
func (m *Store) Settle(ctx context.Context, s store.Settlement) error {
	var answer *result
	var err error
	if s.Result != nil {
		answer = &result{status: s.Result.Status, header: http.Header(s.Result.Header).Clone()}
		answer.body, err = used(s.Result.Body)
	}
	if err := cmp.Or(context.Cause(ctx), err); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.calls.now()
	r := m.calls.byID[s.Call.ID]
	var old *faas.Call
	if r != nil {
		old = &r.call
	}
	call, err := store.SettledCall(old, s, now)
	if err != nil {
		return err
	}
	if s.ForgetKey {
		m.forgetKey(r)
	}
	m.become(r, call, now)
	if !call.State.Final() {
		return nil
	}
	r.result, r.repeats = answer, s.KeepPayload
	if !r.repeats {
		r.payload = nil
	}
	for _, d := range s.Deliveries {
		d.Call, d.Tries, d.Since = call.ID, 0, call.Finished
		m.calls.deliveries = append(m.calls.deliveries, &delivery{d, now})
	}
	if r.weight() == 0 {
		return nil // it takes no room
	}
	m.rotate(r, m.calls.limits.ResultsPerFunction, now, func(other *row) bool { return other.call.FuncID == call.FuncID })
	m.rotate(r, m.calls.limits.ResultsTotal, now, func(*row) bool { return true })
	return nil
}

// Cancel implements store.Calls.
func (m *Store) Cancel(ctx context.Context, id, reason string) (faas.Call, error) {
	if err := context.Cause(ctx); err != nil {
		return faas.Call{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.calls.byID[id]
	if r == nil {
		return faas.Call{}, store.NoCall(id)
	}
	err := m.cancel(r, reason)
	return cloneCall(r.call), err
}

// CancelQueued implements store.Calls.
func (m *Store) CancelQueued(ctx context.Context, function, reason string) (int, error) {
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, r := range m.calls.rows {
		if r.call.FuncID == function && m.cancel(r, reason) == nil {
			n++
		}
	}
	return n, nil
}

// cancel ends a call that is queued. Precondition: m.mu is held.
func (m *Store) cancel(r *row, reason string) error {
	now := m.calls.now()
	call, err := store.CanceledCall(r.call, reason, now)
	if err != nil {
		return err
	}
	m.forgetKey(r)
	m.become(r, call, now)
	r.repeats, r.payload = false, nil
	return nil
}

// Lost implements store.Calls.
func (m *Store) Lost(ctx context.Context, owner string) ([]faas.Call, error) {
	return m.owned(ctx, func(by string) bool { return by != owner })
}

// Held implements store.Calls.
func (m *Store) Held(ctx context.Context, owner string) ([]faas.Call, error) {
	return m.owned(ctx, func(by string) bool { return by == owner })
}

// owned returns the calls that run for owners that are asked for.
func (m *Store) owned(ctx context.Context, by func(owner string) bool) (calls []faas.Call, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.calls.rows {
		if r.call.State == faas.CallRunning && by(r.owner) {
			calls = append(calls, cloneCall(r.call))
		}
	}
	return calls, nil
}

// NewBody implements store.Calls.
func (m *Store) NewBody() *store.Body { return store.NewBody("") }

// Sweep implements store.Calls.
func (m *Store) Sweep(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.calls.now()
	newer, tooMany := make(map[string]int), make(map[string]int) // calls that are over, by function
	over := make(map[*row]bool)
	for _, r := range slices.Backward(m.calls.rows) {
		if limit := m.calls.limits.CallsPerFunction; limit > 0 && r.call.State.Final() {
			newer[r.call.FuncID]++
			tooMany[r.call.FuncID] = newer[r.call.FuncID] - limit
		}
	}
	for _, r := range m.calls.rows {
		delivering := slices.ContainsFunc(m.calls.deliveries, func(d *delivery) bool { return d.Call == r.call.ID })
		if r.call.State.Final() && tooMany[r.call.FuncID] > 0 && !delivering && !m.hasKey(r, now) {
			over[r] = true
			tooMany[r.call.FuncID]--
		}
	}
	gone := func(r *row) bool {
		return over[r] || m.calls.limits.Age > 0 && r.call.State.Final() && now.Sub(r.ended) > m.calls.limits.Age
	}
	m.calls.deliveries = slices.DeleteFunc(m.calls.deliveries, func(d *delivery) bool { return gone(m.calls.byID[d.Call]) })
	maps.DeleteFunc(m.calls.keys, func(_ store.Key, r *row) bool { return gone(r) || !m.hasKey(r, now) })
	maps.DeleteFunc(m.calls.byID, func(_ string, r *row) bool { return gone(r) })
	m.calls.rows = slices.DeleteFunc(m.calls.rows, gone)
	return nil
}

// become is the only way a call gets another state. Precondition: m.mu is held.
func (m *Store) become(r *row, call faas.Call, now time.Time) {
	r.call = call
	delete(m.calls.line, r)
	switch {
	case call.State == faas.CallQueued:
		m.calls.line[r] = true
	case call.State.Final():
		m.calls.settled++
		r.ended, r.settled = now, m.calls.settled
		close(r.over)
	}
}

// keyed returns the call that a key stands for, nil if there is none. Precondition: m.mu is held.
func (m *Store) keyed(key store.Key, now time.Time) *row {
	r := m.calls.keys[scope(key)]
	if r == nil || !m.hasKey(r, now) {
		return nil
	}
	return r
}

// hasKey reports whether a key stands for r. Precondition: m.mu is held.
func (m *Store) hasKey(r *row, now time.Time) bool {
	age := m.calls.limits.KeyAge
	return m.calls.keys[scope(r.key)] == r && (age == 0 || now.Sub(r.call.Queued) <= age)
}

// forgetKey makes the key of r, if it has one, free. Precondition: m.mu is held.
func (m *Store) forgetKey(r *row) {
	if m.calls.keys[scope(r.key)] == r {
		delete(m.calls.keys, scope(r.key))
	}
}

// scope is a key without its hash.
func scope(key store.Key) store.Key {
	key.Hash = ""
	return key
}

// used returns what is in a body and discards it.
func used(b *store.Body) ([]byte, error) {
	defer b.Discard()
	return io.ReadAll(b.Reader())
}

// cloneCall copies what a call refers to.
func cloneCall(c faas.Call) faas.Call {
	if exit := c.Outcome.Exit; exit != nil {
		exit := *exit
		c.Outcome.Exit = &exit
	}
	return c
}

// cloneRequest copies what a request refers to.
func cloneRequest(r faas.Request) faas.Request {
	r.Header, r.Params, r.Env = r.Header.Clone(), maps.Clone(r.Params), slices.Clone(r.Env)
	return r
}
