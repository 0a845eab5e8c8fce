package linux

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked says that a living process holds a lock.
var ErrLocked = errors.New("locked by a living process")

// LockFile opens or makes a file and takes its lock, which the kernel releases
// when the file is closed or this process ends, however it ends. If another has
// it the error is ErrLocked and the file is open for reading all the same: the
// caller closes it in either case.
func LockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err {
	case nil:
		return f, nil
	case unix.EWOULDBLOCK:
		return f, ErrLocked
	default:
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
}
