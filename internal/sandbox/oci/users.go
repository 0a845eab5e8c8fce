package oci

import (
	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/sandbox"
)

// usersRoom is how many of the machine's users are for the sandboxes of a kind, and
// userRanges for how many at once that is.
const (
	usersRoom  = 400_000_000
	userRanges = usersRoom / (sandbox.IDs + 1)
)

// users are those of one sandbox, sandbox.IDs of the machine's: what the kernel counts for
// a user, no sandbox takes from another.
type users struct {
	number    int // among those of the driver, from 1 on; 0: they are the machine's
	base      int // the machine's ID for the sandbox's ID 0; 0: they are the machine's
	namespace int // a user namespace with them; -1: none
}

// takeUsers returns users that no other sandbox of this driver has, and hardly one of another
// daemon's. The one behind them owns the namespace: what is counted for it is not counted for root.
func (d *Driver) takeUsers() (u users, err error) {
	u.namespace = -1
	if !d.caps.UserNamespaces || d.kind.ownKernel {
		return u, nil
	}
	d.mu.Lock()
	if n := len(d.freeUsers); n > 0 {
		u.number, d.freeUsers = d.freeUsers[n-1], d.freeUsers[:n-1]
	} else if d.lastUsers < userRanges {
		d.lastUsers++
		u.number = d.lastUsers
	}
	d.mu.Unlock()
	if u.number == 0 {
		return u, faas.Errorf(faas.Busy, "there are no users of the machine left for another sandbox of %s", d.kind.name)
	}
	first := sandbox.Scatter(d.cfg.Generation) % userRanges
	base := d.kind.users + (int(first)+u.number)%userRanges*(sandbox.IDs+1)
	if u.namespace, err = linux.NewUserNamespace(uint32(base), sandbox.IDs); err != nil {
		u.namespace = -1
		d.leaveUsers(u)
		return users{namespace: -1}, err
	}
	u.base = base
	return u, nil
}

// leaveUsers gives them back when nothing of the sandbox is left.
func (d *Driver) leaveUsers(u users) {
	if u.namespace >= 0 {
		unix.Close(u.namespace)
	}
	if u.number > 0 {
		d.mu.Lock()
		d.freeUsers = append(d.freeUsers, u.number)
		d.mu.Unlock()
	}
}
