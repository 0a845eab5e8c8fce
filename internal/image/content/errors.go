package content

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrLeased is why a blob was not removed.
var ErrLeased = errors.New("it is in use")

// DigestError is a digest that the store cannot hold.
type DigestError struct{ Digest string }

func (e *DigestError) Error() string {
	return fmt.Sprintf("bad digest %q: it must be sha256: and 64 hexadecimal digits", e.Digest)
}

// MismatchError is content that is not what its digest promised.
type MismatchError struct{ Want, Got string }

func (e *MismatchError) Error() string {
	return fmt.Sprintf("digest mismatch: the bytes of %s hash to %s", e.Want, e.Got)
}

// SizeError is content shorter or longer than promised.
type SizeError struct {
	Digest    string
	Want, Got int64 // bytes; Got is where reading stopped
}

func (e *SizeError) Error() string {
	if e.Got > e.Want {
		return fmt.Sprintf("blob %s is longer than the %d bytes it was announced with", e.Digest, e.Want)
	}
	return fmt.Sprintf("blob %s ends after %d of %d bytes", e.Digest, e.Got, e.Want)
}

// SpaceError is a disk that is full.
type SpaceError struct {
	Dir  string // that could not take more
	Need int64  // bytes still to be written; -1: unknown
	err  error
}

func (e *SpaceError) Error() string {
	if e.Need < 0 {
		return fmt.Sprintf("no space left on the disk of %s", e.Dir)
	}
	return fmt.Sprintf("no space left on the disk of %s: %d more bytes are needed", e.Dir, e.Need)
}

func (e *SpaceError) Unwrap() error { return e.err }

// NoSpace returns err, as a SpaceError if it says that a disk or a quota is full.
func NoSpace(err error, dir string, need int64) error {
	if _, ok := errors.AsType[*SpaceError](err); ok || err == nil {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &SpaceError{Dir: dir, Need: need, err: err}
	}
	return err
}
