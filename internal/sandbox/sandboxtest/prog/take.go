package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// most is where take stops if nothing else stops it.
const most = 2000

// take takes as much of something as it gets, and says how much that was and why
// it was not more.
func take(what string) (n int, err error) {
	var one func(i int) error // takes one
	size := 1
	switch what {
	case "processes":
		one = func(int) error { return exec.Command(os.Args[0], "hang").Start() }
	case "files":
		one = func(int) error { _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); return err }
	case "inodes":
		one = func(i int) error { return os.WriteFile(fmt.Sprint("/tmp/", i), nil, 0o600) }
	case "locked-memory":
		size = os.Getpagesize()
		memory, err := unix.Mmap(-1, 0, most*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return 0, err
		}
		one = func(i int) error { return unix.Mlock(memory[i*size : (i+1)*size]) }
	case "signals":
		runtime.LockOSThread()
		const signal = 40 // one that is kept as often as it comes
		blocked := unix.Sigset_t{Val: [16]uint64{1 << (signal - 1)}}
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, nil); err != nil {
			return 0, err
		}
		info := [16]uint64{signal, 0xffffffff} // SI_QUEUE
		one = func(int) error {
			_, _, e := syscall.Syscall6(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(os.Getpid()), uintptr(unix.Gettid()), signal, uintptr(unsafe.Pointer(&info)), 0, 0)
			return refusal(e)
		}
	case "queues":
		attr := [8]int64{0, 1, 1 << 10} // for one message of a kilobyte
		one = func(i int) error {
			name, err := unix.BytePtrFromString(fmt.Sprint("q", i))
			if err != nil {
				return err
			}
			_, _, e := syscall.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_RDWR|unix.O_CREAT, 0o600, uintptr(unsafe.Pointer(&attr)), 0, 0)
			return refusal(e)
		}
	}
	for n = 0; n < most && err == nil; n++ {
		if err = one(n); err != nil {
			break
		}
	}
	return n * size, err
}

// refusal is an error number as an error: that of success is none.
func refusal(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
