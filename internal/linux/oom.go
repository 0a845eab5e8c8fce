package linux

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// An OOMCounter counts how often processes in a cgroup or below it were killed for
// being over its memory limit. In version 1 of cgroups the kernel counts them
// where the process was, in a cgroup that somebody else may have removed by now.
type OOMCounter struct {
	cgroup *Cgroup
	event  int // version 1: an eventfd that counts for us; else -1
	seen   int
}

// CountOOM begins to count. The caller closes the counter before the cgroup is
// removed. Its methods are called by one goroutine at a time.
func (g *Cgroup) CountOOM() (*OOMCounter, error) {
	c := &OOMCounter{cgroup: g, event: -1}
	if g.fs.Version == 2 {
		return c, nil // where the kernel counts for all that are above, too
	}
	control, err := unix.Open(g.path("memory", "memory.oom_control"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("watch the memory limit of cgroup %s: %w", g.Name, err)
	}
	defer unix.Close(control)
	if c.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("watch the memory limit of cgroup %s: %w", g.Name, err)
	}
	if err := g.write("memory", "cgroup.event_control", fmt.Sprintf("%d %d", c.event, control)); err != nil {
		unix.Close(c.event)
		return nil, err
	}
	return c, nil
}

// Kills returns how many there were.
func (c *OOMCounter) Kills() int {
	if c.cgroup.fs.Version == 2 {
		return c.cgroup.OOMKills()
	}
	var n [8]byte
	if _, err := unix.Read(c.event, n[:]); err == nil { // none: it would block
		c.seen += int(binary.NativeEndian.Uint64(n[:]))
	}
	return c.seen
}

// Close ends the counting.
func (c *OOMCounter) Close() {
	if c.event >= 0 {
		unix.Close(c.event)
	}
}
