package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bomb takes memory in one of its kinds, in steps of a megabyte, and prints how many
// it has, until it is killed, refused or has most.
func bomb(kind string, most int) error {
	step, ok := bombs[kind]
	if !ok {
		return fmt.Errorf("what is %q?", kind)
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i)
	}
	take := step()
	for n := 0; n < most; {
		got, err := take(block)
		if err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
		n += got
		fmt.Println(n >> 20)
	}
	return nil
}

// bombs has for each kind what makes a function that takes some bytes more, and says
// how many.
var bombs = map[string]func() func([]byte) (int, error){
	"anonymous": func() func([]byte) (int, error) {
		var held [][]byte
		return func(block []byte) (int, error) {
			held = append(held, append([]byte{}, block...))
			return len(block), nil
		}
	},
	"tmpfs": func() func([]byte) (int, error) { return fill("/tmp", "/data", "/dev/shm") },
	"root":  func() func([]byte) (int, error) { return fill("/tmp") },
	"memfd": memfds,
	"shm":   segments,
	"pipes": pipesFull,
	"unix":  func() func([]byte) (int, error) { return pairs(unixPair) },
	"tcp":   func() func([]byte) (int, error) { return pairs(tcpPair) },
	"udp":   func() func([]byte) (int, error) { return pairs(udpPair) },
	"files": openFiles,
}

// fill writes files of a megabyte into one directory after the other.
func fill(dirs ...string) func([]byte) (int, error) {
	i := 0
	return func(block []byte) (int, error) {
		i++
		err := os.WriteFile(filepath.Join(dirs[0], strconv.Itoa(i)), block, 0o600)
		if err != nil && len(dirs) > 1 {
			dirs = dirs[1:]
			return 0, nil
		}
		return len(block), err
	}
}

func memfds() func([]byte) (int, error) {
	return func(block []byte) (int, error) {
		fd, err := unix.MemfdCreate("x", 0)
		if err != nil {
			return 0, err
		}
		return unix.Write(fd, block)
	}
}

// segments are of System V: nobody has to have them attached.
func segments() func([]byte) (int, error) {
	return func(block []byte) (int, error) {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, len(block), 0o1600)
		if err != nil {
			return 0, err
		}
		memory, err := unix.SysvShmAttach(id, 0, 0)
		if err != nil {
			return 0, err
		}
		copy(memory, block)
		return len(block), unix.SysvShmDetach(memory)
	}
}

func pipesFull() func([]byte) (int, error) {
	return func(block []byte) (int, error) {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_NONBLOCK); err != nil {
			return 0, err
		}
		unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, len(block))
		return unix.Write(p[1], block)
	}
}

// pairs fills connections that nobody reads from. Where one takes next to nothing
// there is no room for more of them.
func pairs(pair func() (int, int, error)) func([]byte) (int, error) {
	return func(block []byte) (int, error) {
		from, to, err := pair()
		if err != nil {
			return 0, err
		}
		for _, fd := range []int{from, to} {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<20)
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
			unix.SetNonblock(fd, true)
		}
		for quiet, sent := 0, 0; quiet < 3 && sent < 256; sent++ { // what is on its way gives room
			if n, err := unix.Write(from, block[:60_000]); err != nil || n <= 0 {
				quiet++
				time.Sleep(time.Millisecond)
			}
			if held(from)+held(to) >= 8<<20 {
				break
			}
		}
		if n := held(from) + held(to); n > 32<<10 {
			return n, nil
		}
		return 0, errors.New("no room for more")
	}
}

// held is how many bytes the kernel holds for a socket, to be sent or read.
func held(socket int) int {
	var info [9]uint32
	size := uint32(len(info) * 4)
	if err := try(unix.SYS_GETSOCKOPT, uintptr(socket), unix.SOL_SOCKET, unix.SO_MEMINFO, at(&info), at(&size)); err != nil {
		return 0
	}
	const received, sent, queued = 0, 2, 5 // SK_MEMINFO_…
	return int(info[received] + max(info[sent], info[queued]))
}

func unixPair() (int, int, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	return p[0], p[1], err
}

// tcpPair makes a connection of the sandbox with itself.
func tcpPair() (int, int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, 0, err
	}
	b, err := l.Accept()
	if err != nil {
		return 0, 0, err
	}
	return descriptor(a), descriptor(b), nil
}

// udpPair makes a socket that sends to another, which drops what it has no room for.
func udpPair() (int, int, error) {
	to, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, 0, err
	}
	if err := unix.Bind(to, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, 0, err
	}
	addr, err := unix.Getsockname(to)
	if err != nil {
		return 0, 0, err
	}
	from, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, 0, err
	}
	return from, to, unix.Connect(from, addr)
}

// descriptor is c's own, which stays open.
func descriptor(c net.Conn) int {
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return -1
	}
	c.Close()
	fd, _ := unix.Dup(int(f.Fd()))
	f.Close()
	return fd
}

// openFiles takes descriptors, which are memory of the kernel.
func openFiles() func([]byte) (int, error) {
	return func([]byte) (int, error) {
		for range 4096 {
			if _, err := unix.Open("/proc/self/status", unix.O_RDONLY, 0); err != nil {
				return 0, err
			}
		}
		return 1 << 20, nil
	}
}

// storm does something for ever that keeps a machine busy.
func storm(kind string) error {
	self := func(args ...string) error { return exec.Command("/proc/self/exe", args...).Start() }
	fmt.Println("ready")
	switch kind {
	case "forks":
		for {
			self("storm", "forks")
		}
	case "zombies":
		for {
			if err := self("exit", "0"); err != nil {
				fmt.Println(err)
				time.Sleep(time.Hour)
			}
		}
	case "processors":
		for range 16 {
			self("spin", "1h")
		}
		time.Sleep(time.Hour)
	case "log":
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = "a line of nothing but letters\n"[i%30]
		}
		for {
			os.Stderr.Write(block)
		}
	case "signals":
		for range 8 {
			self("storm", "signal")
		}
		time.Sleep(time.Hour)
	case "signal": // to all others
		syscall.Kill(os.Getppid(), syscall.SIGSTOP)
		for {
			syscall.Kill(-1, syscall.SIGCONT)
		}
	case "timers":
		for i := 0; ; i++ {
			var id int32
			event := [16]uint64{0, uint64(unix.SIGURG)} // which the Go runtime ignores
			if err := try(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, at(&event), uintptr(unsafe.Pointer(&id))); err != nil {
				fmt.Println(i, err)
				time.Sleep(time.Hour)
			}
			often := unix.ItimerSpec{Interval: unix.Timespec{Nsec: 1000}, Value: unix.Timespec{Nsec: 1000}}
			try(unix.SYS_TIMER_SETTIME, uintptr(id), 0, at(&often))
		}
	case "inotify":
		for i := 0; ; i++ {
			if _, err := unix.InotifyInit1(0); err != nil {
				fmt.Println(i, err)
				time.Sleep(time.Hour)
			}
		}
	}
	return fmt.Errorf("what is %q?", kind)
}
