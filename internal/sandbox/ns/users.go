package ns

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/sandbox"
)

// The machine's user and group IDs that stand for those of sandboxes. They lie above what
// systemd gives to containers and below 2^31, where some programs stop. The last of them
// own the user namespaces: each its own, since what the kernel counts for a user it counts
// for the owner of the namespace, too.
const (
	idBase   = 1_900_000_000
	idCount  = sandbox.IDs
	idOwners = 1<<31 - idCount
	idRanges = (idOwners - idBase) / idCount
)

// ranges are the ranges of the machine's IDs that are in use.
type ranges struct {
	mu    sync.Mutex
	inUse [idRanges]bool // guarded by mu, as all below
	last  int            // that was taken
	owner int            // of the last user namespace
}

// begin has a generation begin where others do not: two daemons on one machine
// have users in common only when they have come around.
func (rs *ranges) begin(generation string) {
	seed := sandbox.Scatter(generation)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.last, rs.owner = int(seed%idRanges), int(seed>>32%idCount)
}

// take takes the range that was used least lately.
func (rs *ranges) take() (number int, err error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for range idRanges {
		if rs.last = (rs.last + 1) % idRanges; !rs.inUse[rs.last] {
			rs.inUse[rs.last] = true
			return rs.last, nil
		}
	}
	return -1, faas.Errorf(faas.Busy, "sandboxes of %d images have all ranges of users that there are", idRanges)
}

func (rs *ranges) put(number int) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.inUse[number] = false
}

// newOwner returns an owner for a user namespace.
func (rs *ranges) newOwner() uint32 {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.owner = (rs.owner + 1) % idCount
	return uint32(idOwners + rs.owner)
}

// users are the users of the sandboxes of one root: a range of the machine's IDs, and
// for each sandbox a user namespace of its own over them. Namespaces are made ahead of
// need and used again: nothing of a sandbox that has ended is left in them.
type users struct {
	d      *Driver
	number int // of the range
	base   int // machine's ID of ID 0: 0 without user namespaces
	shown  int // the namespace by which the owners of files are shown; negative: there are no namespaces

	mu     sync.Mutex
	free   []int // namespaces that no sandbox uses, the longest first, no more than berths that are ready; guarded by mu, as all below
	closed bool
}

// newUsers takes a range, if sandboxes have user namespaces.
func (d *Driver) newUsers() (*users, error) {
	us := &users{d: d, shown: -1}
	if !d.caps.UserNamespaces {
		return us, nil
	}
	var err error
	if us.number, err = d.ranges.take(); err != nil {
		return nil, err
	}
	us.base = idBase + us.number*idCount
	if us.shown, err = us.newNamespace(); err != nil {
		d.ranges.put(us.number)
		return nil, err
	}
	return us, nil
}

func (us *users) newNamespace() (int, error) {
	return linux.NewOwnedUserNamespace(uint32(us.base), idCount, us.d.ranges.newOwner())
}

// take returns a user namespace for a sandbox, negative if there are none, and has
// another made in the background if it was the last. The caller has entered the driver.
func (us *users) take() (fd int, err error) {
	if us.shown < 0 {
		return -1, nil
	}
	us.mu.Lock()
	fd = -1
	if len(us.free) > 0 {
		fd = us.free[0]
		us.free = us.free[1:]
	}
	last := len(us.free) == 0
	us.mu.Unlock()
	if last {
		us.d.work.Go(func() {
			if another, err := us.newNamespace(); err == nil { // else the next who takes one says why
				us.put(another)
			}
		})
	}
	if fd >= 0 {
		return fd, nil
	}
	if fd, err = us.newNamespace(); err != nil {
		return -1, fmt.Errorf("users of a sandbox: %w", err)
	}
	return fd, nil
}

// put takes the namespace of a sandbox that has ended back.
func (us *users) put(fd int) {
	if fd < 0 {
		return
	}
	us.mu.Lock()
	defer us.mu.Unlock()
	if us.closed || len(us.free) >= us.d.base {
		unix.Close(fd)
		return
	}
	us.free = append(us.free, fd)
}

// close gives the range back, which no sandbox uses.
func (us *users) close() {
	if us.shown < 0 {
		return
	}
	us.mu.Lock()
	defer us.mu.Unlock()
	us.closed = true
	for _, fd := range append(us.free, us.shown) {
		unix.Close(fd)
	}
	us.free = nil
	us.d.ranges.put(us.number)
}
