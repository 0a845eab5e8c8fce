package sqlite

import (
	"slices"
	"sync"

	"hob/faas"
)

// waiters are those who wait for the end of a call.
type waiters struct {
	mu sync.Mutex
	by map[string][]chan faas.Call // guarded by mu; by ID of the call; each has room for one
}

func (w *waiters) add(id string) chan faas.Call {
	over := make(chan faas.Call, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = make(map[string][]chan faas.Call)
	}
	w.by[id] = append(w.by[id], over)
	return over
}

func (w *waiters) remove(id string, over chan faas.Call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rest := slices.DeleteFunc(w.by[id], func(o chan faas.Call) bool { return o == over })
	if w.by[id] = rest; len(rest) == 0 {
		delete(w.by, id)
	}
}

// wake tells those who wait for calls that these are over.
func (w *waiters) wake(calls []faas.Call) {
	if len(calls) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, call := range calls {
		for _, over := range w.by[call.ID] {
			select {
			case over <- call:
			default: // it was told before
			}
		}
	}
}
