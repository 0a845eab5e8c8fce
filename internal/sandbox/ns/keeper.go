package ns

import (
	"fmt"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	"hob/internal/linux"
)

// A keeper has a linux.Keeper's process run as long as the driver lives, in a
// cgroup of its own: who kills all in the daemon's does not kill it with it.
type keeper struct {
	*linux.Keeper
	d      *Driver
	cgroup *linux.Cgroup
	done   chan struct{} // closed when its process has ended for good

	mu      sync.Mutex
	process *linux.Process // guarded by mu
}

func (d *Driver) newKeeper() (*keeper, error) {
	memory, err := linux.NewKeeper(d.self)
	if err != nil {
		return nil, err
	}
	k := &keeper{Keeper: memory, d: d, done: make(chan struct{})}
	if k.cgroup, err = d.cgroups.Make(path.Join(d.cgroup(), "keeper")); err != nil {
		memory.Close()
		return nil, err
	}
	if err := k.spawn(); err != nil {
		k.cgroup.Remove()
		memory.Close()
		return nil, err
	}
	go k.watch()
	return k, nil
}

// spawn makes the process, unless the driver is closing.
func (k *keeper) spawn() error {
	t, err := linux.NewThread(func() error { return nil })
	if err != nil {
		return err
	}
	defer t.Close()
	if err := k.cgroup.Seat(t.TID()); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.d.isClosing() {
		return nil
	}
	var p *linux.Process
	t.Do(func() { p, err = k.Spawn(k.cgroup.FD()) })
	if err == nil {
		k.process = p
	}
	return err
}

// watch makes a new process if somebody kills it, until the driver closes.
func (k *keeper) watch() {
	defer close(k.done)
	for {
		_, err := k.process.Wait()
		for {
			if k.d.isClosing() {
				return
			}
			k.d.cfg.Log.Error("the keeper of descriptors has ended and is made again", "err", err)
			if err = k.spawn(); err == nil {
				break
			}
			k.d.pause()
		}
	}
}

// close ends the keeper. No process that it guards is left.
func (k *keeper) close() error {
	k.mu.Lock()
	err := k.process.Signal(unix.SIGKILL)
	k.mu.Unlock()
	if err != nil {
		return fmt.Errorf("end the keeper: %w", err)
	}
	<-k.done
	k.Keeper.Close()
	return k.cgroup.Remove()
}
