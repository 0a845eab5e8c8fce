package linux

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// shortSlice is the shortest that the kernel knows, in nanoseconds.
const shortSlice = 100_000

// ShortSlices has all threads of this process, and those that they will make, take
// the processor for a tenth of a millisecond at a time: who wants it for so little
// gets it at once from whoever has had it for longer, and all get as much as before.
// Before Linux 6.12 it does nothing.
func ShortSlices() error {
	known := make(map[int]bool)
	for more := true; more; { // until a look finds nobody who was made meanwhile by one who had it not
		more = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || known[tid] {
				continue
			}
			known[tid], more = true, true
			if err := setSlice(tid, shortSlice); err != nil && err != unix.ESRCH {
				return fmt.Errorf("have a thread take the processor for short: %w", err)
			}
		}
	}
	return nil
}

// UsualSlice undoes ShortSlices for the calling thread, and for what it will make.
func UsualSlice() error {
	if err := setSlice(0, 0); err != nil {
		return fmt.Errorf("have a thread take the processor for as long as is usual: %w", err)
	}
	return nil
}

// setSlice sets the slice of a thread, 0 being the calling one, and nothing else.
func setSlice(tid int, nanoseconds uint64) error {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return err
	}
	if attr.Policy != unix.SCHED_NORMAL && attr.Policy != unix.SCHED_BATCH {
		return nil // somebody has chosen another way of sharing the processor for us
	}
	attr.Runtime = nanoseconds
	return unix.SchedSetAttr(tid, attr, 0)
}
