package content

import (
	"maps"
	"slices"
	"sync"
)

// Lease keeps blobs from being removed while somebody works with them: first
// Add, then look whether the blob is there. It lives in memory only: after a
// crash nobody works any more.
type Lease struct {
	store *Store

	mu   sync.Mutex // guards held; taken before the store's
	held map[string]bool
}

// Lease returns an empty lease. The caller releases it.
func (s *Store) Lease() *Lease {
	return &Lease{store: s, held: make(map[string]bool)}
}

// Add puts a blob, there or not yet, under the lease.
func (l *Lease) Add(digest string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil || l.held[digest] {
		return
	}
	l.held[digest] = true
	l.store.mu.Lock()
	l.store.leases[digest]++
	l.store.mu.Unlock()
}

// Digests returns what is under the lease.
func (l *Lease) Digests() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.held))
}

// Release ends the lease. It may be called again and then does nothing; so does
// an Add after it.
func (l *Lease) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.store.mu.Lock()
	for digest := range l.held {
		if l.store.leases[digest]--; l.store.leases[digest] == 0 {
			delete(l.store.leases, digest)
		}
	}
	l.store.mu.Unlock()
	l.held = nil
}
