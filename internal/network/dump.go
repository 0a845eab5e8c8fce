package network

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// whole is what list returns. It lists again if somebody has changed what is listed
// meanwhile, a hundred times at most: the kernel says that it may have left something out.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 100 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
