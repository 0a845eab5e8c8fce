package linux

import (
	"errors"
	"io/fs"
	"strconv"
)

// LimitSockets limits what the kernel holds for the TCP and UDP sockets of the
// cgroup, in bytes, in version 1: there it is no part of the limit of memory, and
// one cgroup could take all that the machine has for the connections of everybody.
// In version 2 it is a part of it.
func (g *Cgroup) LimitSockets(most int64) error {
	if g.fs.Version == 2 {
		return nil
	}
	err := g.write("memory", "memory.kmem.tcp.limit_in_bytes", strconv.FormatInt(most, 10))
	if errors.Is(err, fs.ErrNotExist) { // the kernel does not account it
		return nil
	}
	return err
}
