package sqlite

import (
	"sync"

	"hob/faas"
	"hob/internal/store"
)

// fresh holds requests that were accepted a moment ago, for most of them start
// at once and to read one back from the database costs as much as to accept it.
// Each is given out once. When a generation is full the one before it is dropped.
type fresh struct {
	mu         sync.Mutex
	young, old map[string]freshRequest // guarded by mu, as size; by ID of the call
	size       int                     // of young, in bytes
}

type freshRequest struct {
	id, text string // text is the column request
	body     []byte
}

const (
	freshGeneration = 4 << 20
	freshBody       = 64 << 10 // larger ones are not held
)

func (f *fresh) add(all []freshRequest) {
	if len(all) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range all {
		if len(r.body) > freshBody {
			continue
		}
		if f.young == nil || f.size > freshGeneration {
			f.young, f.old, f.size = make(map[string]freshRequest), f.young, 0
		}
		f.young[r.id] = r
		f.size += len(r.text) + len(r.body) + 128
	}
}

// remove returns what is held for a call, and holds it no longer.
func (f *fresh) remove(id string) (r freshRequest, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r, ok = f.young[id]; !ok {
		r, ok = f.old[id]
	}
	delete(f.young, id)
	delete(f.old, id)
	return r, ok
}

// request returns the request of a call if it is held.
func (f *fresh) request(id string) (*faas.Request, error) {
	r, ok := f.remove(id)
	if !ok {
		return nil, nil
	}
	req, err := readRequest(id, r.text)
	if err == nil {
		req.Body, req.Size = store.BytesReader(r.body), int64(len(r.body))
	}
	return req, err
}
