package oci

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/sandbox"
)

// The seed is the program that a runtime executes in each sandbox, with the rights and
// limits of the function: some 250 bytes that read from their standard input what to
// execute, and do. So a sandbox can be complete before it is known for which call
// it is, no runtime has a say in arguments and environment, and the kernel tells
// in one way what is wrong with a program.
//
// What it reads (see order) lies at seedBase in its memory when it has, so that all
// addresses in it are right. It lowers its limits and executes the first of the paths that can be executed. It
// has two descriptors more than a function: seedStatus, that the execution closes and that
// an errno is written to if there was none, and seedFile, its own program, that it closes.

const (
	seedBase   = 0x10000000 // known to the assembly
	seedRoom   = 8 << 20    // bytes that an order may have: more than any kernel takes
	seedStatus = 3          // known to the assembly
	seedFile   = 4          // known to the assembly
)

// Addresses of its first instruction, and behind its last one.
var seedFrom, seedTo uintptr

// seedProgram returns the seed as an ELF program.
func seedProgram() []byte {
	code := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&seedFrom))), seedTo-seedFrom)
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	const base, heads = 0x400000, 64 + 3*56
	head := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Entry: base + heads, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3, Shentsize: 64,
	}
	copy(head.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	size := uint64(heads + len(code))
	var b bytes.Buffer
	for _, part := range []any{
		head,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x10000},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Vaddr: seedBase, Paddr: seedBase, Memsz: seedRoom, Align: 0x10000},
		elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16},
		code,
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(fmt.Sprintf("a structure of package elf has no fixed size: %v", err))
		}
	}
	return b.Bytes()
}

// openSeed returns the seed as a file in memory that can be executed, with a number
// above those that sandboxes have.
func openSeed() (*os.File, error) {
	fd, err := unix.MemfdCreate("seed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|mfdExec)
	if err == unix.EINVAL { // before Linux 6.3 all can be executed
		fd, err = unix.MemfdCreate("seed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "seed")
	defer f.Close()
	if _, err := f.Write(seedProgram()); err != nil {
		return nil, err
	}
	if err := f.Chmod(0o555); err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		return nil, err
	}
	// Opened again, it is for reading only.
	read, err := os.Open(fmt.Sprint("/proc/self/fd/", f.Fd()))
	if err != nil {
		return nil, err
	}
	defer read.Close()
	return above(read)
}

const mfdExec = 0x10 // MFD_EXEC

// above returns a copy of f whose number is above those that sandboxes have.
func above(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, seedFile+1)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// A rlimit is a limit of a process, by its number.
type rlimit struct {
	resource int
	most     uint64
}

// order is what a seed reads. It begins with where it ends, and with the addresses of argv and
// envp. Then come limits, each the address of a struct rlimit and its number, and a zero;
// the paths and a zero; argv and envp; the limits' numbers; the words.
func order(limits []rlimit, paths, argv, env []string) ([]byte, error) {
	argvAt := 3 + 2*len(limits) + 1 + len(paths) + 1
	envAt := argvAt + len(argv) + 1
	limitsAt := envAt + len(env) + 1
	heads := limitsAt + 2*len(limits)
	size := 8 * heads
	for _, s := range slices.Concat(paths, argv, env) {
		if strings.IndexByte(s, 0) >= 0 {
			return nil, faas.Errorf(faas.Invalid, "there is a zero byte in %q, which no program can be given", s)
		}
		size += len(s) + 1
	}
	if size > seedRoom {
		return nil, unix.E2BIG
	}
	var table, words []byte
	number := func(list ...uint64) {
		for _, n := range list {
			table = binary.LittleEndian.AppendUint64(table, n)
		}
	}
	at := func(item int) uint64 { return seedBase + 8*uint64(item) }
	number(seedBase+uint64(size), at(argvAt), at(envAt))
	for i, l := range limits {
		number(at(limitsAt+2*i), uint64(l.resource))
	}
	number(0)
	for _, list := range [][]string{paths, argv, env} {
		for _, s := range list {
			number(at(heads) + uint64(len(words)))
			words = append(append(words, s...), 0)
		}
		number(0)
	}
	for _, l := range limits {
		number(l.most, l.most)
	}
	return append(table, words...), nil
}

// errUnused says that a sandbox had ended before it could execute anything.
var errUnused = errors.New("it had ended before its program was executed")

// begin has a sandbox execute the program of spec. After an error it is of no use.
func (b *box) begin(ctx context.Context, spec sandbox.Spec) error {
	what, err := order(b.rlimits(spec), spec.Programs(), spec.Args, spec.Told(b.host))
	if err != nil {
		return wrong(spec, err)
	}
	b.id = spec.ID
	if b.slot != nil {
		b.slot.Assign(spec.ID) // before it can be refused anything
	}
	stop := context.AfterFunc(ctx, func() {
		b.input.SetWriteDeadline(time.Unix(1, 0))
		b.status.SetReadDeadline(time.Unix(1, 0))
	})
	_, err = b.input.Write(what)
	var errno [8]byte
	n := 0
	if err == nil {
		n, err = io.ReadFull(b.status, errno[:])
	}
	b.status.Close()
	switch {
	case !stop():
		return faas.Errorf(faas.Busy, "the program was not executed in time: %w", context.Cause(ctx))
	case n == len(errno):
		return wrong(spec, unix.Errno(-int64(binary.LittleEndian.Uint64(errno[:]))))
	case err != io.EOF: // which the execution leaves, or the end of who was killed in it
		return fmt.Errorf("%w: %w", errUnused, err)
	}
	return nil
}

// rlimits are those that the seed sets: a runtime that sets them from outside needs rights in
// the user namespace that the daemon may lack. Those of gVisor are told to it.
func (b *box) rlimits(spec sandbox.Spec) []rlimit {
	if b.d.kind.ownKernel {
		return nil
	}
	return []rlimit{
		limit(unix.RLIMIT_NOFILE, uint64(spec.Files)), limit(unix.RLIMIT_MEMLOCK, uint64(spec.LockedMemory)),
		limit(unix.RLIMIT_SIGPENDING, uint64(spec.PendingSignals)), limit(unix.RLIMIT_MSGQUEUE, uint64(spec.MessageQueues)),
	}
}

// limit is a limit of a process. More than the daemon's own needs a capability that
// it may lack.
func limit(resource int, most uint64) rlimit {
	var own unix.Rlimit
	if err := unix.Getrlimit(resource, &own); err == nil {
		most = min(most, own.Max)
	}
	return rlimit{resource, most}
}

// wrong says in words why a program could not be executed.
func wrong(spec sandbox.Spec, err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		if said := spec.NotExecuted(errno); said != nil {
			return said
		}
	}
	switch err {
	case unix.ENOMEM, unix.EAGAIN, unix.EMFILE, unix.ENFILE:
		return faas.Errorf(faas.Busy, "this node cannot execute %q now: %w", spec.Args[0], err)
	}
	return faas.Errorf(faas.Invalid, "the program %q cannot be executed: %w", spec.Args[0], err)
}
