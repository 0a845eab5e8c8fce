package ns

import (
	"fmt"

	"hob/faas"
	"hob/internal/sandbox"
)

var _ sandbox.Freezer = (*box)(nil)

// Freeze implements sandbox.Freezer. Freeze and Thaw are called by one goroutine
// at a time; Stop may come at any time. The first Freeze takes some milliseconds
// on machines with cgroups of version 1, the next ones microseconds.
func (b *box) Freeze() error {
	if !b.d.caps.Freezer {
		return faas.Errorf(faas.Unsupported, "sandboxes cannot be frozen on this node")
	}
	<-b.vacated // the thread that made the process must not be frozen with it
	b.freezing.Lock()
	defer b.freezing.Unlock()
	select {
	case <-b.ending:
		return fmt.Errorf("sandbox %s is being stopped", b.id)
	default:
	}
	if err := b.cgroup.Freeze(b.ending); err != nil {
		return err
	}
	b.process.Guarded(false) // in version 1 it would not end; who stands still reads nothing
	b.still.Store(true)
	return nil
}

// Thaw implements sandbox.Freezer.
func (b *box) Thaw() error {
	b.freezing.Lock()
	defer b.freezing.Unlock()
	select {
	case <-b.ending:
		return nil // Stop has thawed it or is about to
	default:
		b.still.Store(false)
		b.process.Guarded(true)
		return b.cgroup.Thaw()
	}
}

// lastThaw lets the processes of a sandbox that is being stopped go on: in
// version 1 of cgroups not even SIGKILL reaches those who stand still.
func (b *box) lastThaw() error {
	b.freezing.Lock()
	defer b.freezing.Unlock()
	b.process.Guarded(true)
	return b.cgroup.Thaw()
}
