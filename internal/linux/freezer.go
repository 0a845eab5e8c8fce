package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CanFreeze reports whether the processes of cgroups below parent, which is
// prepared, can be made to stand still.
func (c *Cgroups) CanFreeze(parent string) bool {
	if c.Version == 1 {
		return c.freezer != ""
	}
	_, err := os.Stat(filepath.Join(c.mounts["pids"], parent, "cgroup.freeze")) // Linux 5.2
	return err == nil
}

// freezePatience bounds a Freeze: a process that waits for a disk does not stand still.
const freezePatience = 500 * time.Millisecond

// errStopped says that a Freeze was given up because stop was closed.
var errStopped = errors.New("the sandbox is being stopped")

// Freeze makes all processes of the cgroup stand still and returns when they do.
// If that takes longer than half a second or stop is closed before, they go on
// and the error says so. In version 1 the first Freeze moves them into the
// freezer's hierarchy, where cgroups are made only when needed: no thread of this
// process may be seated in the cgroup by then. Freeze and Thaw of one Cgroup are
// called by one goroutine at a time.
func (g *Cgroup) Freeze(stop <-chan struct{}) error {
	deadline := time.Now().Add(freezePatience)
	err := g.gather(stop, deadline)
	if err == nil {
		err = g.setFrozen(true)
	}
	// The kernel needs some microseconds for each process that runs.
	for wait := 10 * time.Microsecond; err == nil && !g.standsStill(); wait = min(2*wait, 10*time.Millisecond) {
		err = pause(stop, deadline, wait)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("freeze cgroup %s: %w", g.Name, err), g.Thaw())
	}
	return nil
}

// Thaw lets the processes of the cgroup go on.
func (g *Cgroup) Thaw() error {
	if !g.gathered {
		return nil // never frozen
	}
	if err := g.setFrozen(false); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("thaw cgroup %s: %w", g.Name, err)
	}
	return nil
}

func (g *Cgroup) setFrozen(yes bool) error {
	if g.fs.Version == 1 {
		return writeFile(filepath.Join(g.frozen, "freezer.state"), map[bool]string{true: "FROZEN", false: "THAWED"}[yes])
	}
	return writeFile(g.path("pids", "cgroup.freeze"), map[bool]string{true: "1", false: "0"}[yes])
}

func (g *Cgroup) standsStill() bool {
	if g.fs.Version == 1 {
		return readFile(filepath.Join(g.frozen, "freezer.state")) == "FROZEN\n"
	}
	return g.field("pids", "cgroup.events", "frozen") == 1
}

// gather moves the processes of a cgroup of version 1 into the freezer's
// hierarchy. They may fork meanwhile: it ends when a look finds nobody outside.
// From then on children are born inside.
func (g *Cgroup) gather(stop <-chan struct{}, deadline time.Time) error {
	if g.fs.Version == 2 {
		g.gathered = true
	}
	if g.gathered {
		return nil
	}
	dir := filepath.Join(g.fs.freezer, g.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	g.frozen = dir
	inside := filepath.Join(dir, "cgroup.procs")
	for {
		in, err := os.ReadFile(inside)
		if err != nil {
			return err
		}
		all, err := os.ReadFile(g.path("pids", "cgroup.procs"))
		if err != nil {
			return err
		}
		moved, done := strings.Fields(string(in)), true
		for _, pid := range strings.Fields(string(all)) {
			if slices.Contains(moved, pid) || pid == strconv.Itoa(os.Getpid()) {
				continue
			}
			if err := writeFile(inside, pid); err == nil {
				done = false
			} else if !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if done {
			g.gathered = true
			return nil
		}
		if err := pause(stop, deadline, 0); err != nil {
			return err
		}
	}
}

// pause waits for d unless stop is closed or the deadline has passed.
func pause(stop <-chan struct{}, deadline time.Time, d time.Duration) error {
	if time.Now().After(deadline) {
		return fmt.Errorf("it does not stand still after %v", freezePatience)
	}
	select {
	case <-stop:
		return errStopped
	case <-time.After(d):
		return nil
	}
}
