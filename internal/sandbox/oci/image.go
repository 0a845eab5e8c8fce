package oci

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/sandbox"
)

// defaultPath is where programs are looked for if the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// examine finds the program of spec in its root and says what is wrong with it, or
// with a directory that it needs: what a runtime program says of it differs, and
// comes late. It returns the arguments with which the program is found.
func (d *Driver) examine(root int, spec sandbox.Spec) ([]string, error) {
	if err := places(root, spec); err != nil {
		return nil, err
	}
	program := spec.Args[0]
	files, dirs := candidates(spec)
	worst := error(unix.ENOENT)
	for _, file := range files {
		err := d.executable(root, spec, file)
		if err == nil {
			if dirs != nil && !hasPath(spec.Env) { // the runtime would not look there
				return append([]string{file}, spec.Args[1:]...), nil
			}
			return spec.Args, nil
		}
		if !errors.Is(err, unix.ENOENT) {
			worst = err
		}
	}
	switch {
	case errors.Is(worst, unix.ENOENT):
		where := ""
		if dirs != nil {
			where = " (looked in " + strings.Join(dirs, ", ") + ")"
		}
		return nil, faas.Errorf(faas.Invalid, "the image has no program %q%s, or the interpreter or loader it names is missing", program, where)
	case errors.Is(worst, unix.EACCES):
		return nil, faas.Errorf(faas.Invalid, "the program %q is not executable for user %d", program, spec.User.UID)
	case errors.Is(worst, unix.ENOEXEC):
		return nil, faas.Errorf(faas.Invalid, "the program %q is not for this CPU (%s), or a script without #! in its first line", program, runtime.GOARCH)
	}
	return nil, faas.Errorf(faas.Invalid, "the program %q cannot be found in the image: %w", program, worst)
}

// places looks at all that must be a directory of a root.
func places(root int, spec sandbox.Spec) error {
	look := func(dir string, flags uint64) error {
		fd, err := openIn(root, dir, unix.O_PATH|unix.O_DIRECTORY|flags)
		if err != nil {
			return faas.Errorf(faas.Invalid, "the image cannot be used: enter %s: %w (is there something else than a directory in its place?)", dir, err)
		}
		return unix.Close(fd)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} { // where no program follows a link
		if err := look(dir, unix.O_NOFOLLOW); err != nil {
			return err
		}
	}
	for _, dir := range append(directories(spec), "/tmp") {
		if inScratch(sandbox.Spec{}, dir) && dir != "/tmp" {
			continue // it will be made there
		}
		if err := look(dir, 0); err != nil {
			return err
		}
	}
	return nil
}

func hasPath(env []string) bool {
	return slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") })
}

// candidates returns the files that the program of spec may be, in order, and the
// directories that they are looked for in; none if it is a path.
func candidates(spec sandbox.Spec) (files, dirs []string) {
	program := spec.Args[0]
	if strings.Contains(program, "/") {
		if !path.IsAbs(program) {
			program = spec.Dir + "/" + program
		}
		return []string{program}, nil
	}
	list := defaultPath
	for _, e := range spec.Env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			list = value
		}
	}
	dirs = []string{}
	for dir := range strings.SplitSeq(list, ":") {
		if dir != "" { // which would mean the working directory
			dirs = append(dirs, dir)
			files = append(files, dir+"/"+program)
		}
	}
	return files, dirs
}

// openIn opens a path of a root, whose links lead nowhere else.
func openIn(root int, file string, flags uint64) (int, error) {
	return unix.Openat2(root, file, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// isEmpty reports whether a directory of a root has nothing in it.
func isEmpty(root int, dir string) bool {
	fd, err := openIn(root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	_, err = f.Readdirnames(1)
	return err == io.EOF
}

// executable returns why the user of spec cannot execute a file of the root.
func (d *Driver) executable(root int, spec sandbox.Spec, file string) error {
	if inScratch(spec, file) {
		return unix.ENOENT
	}
	fd, err := openIn(root, file, unix.O_PATH)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	unix.Close(fd)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || !mayExecute(st, d.ids, spec.User) {
		return unix.EACCES
	}
	if fd, err = openIn(root, file, unix.O_RDONLY|unix.O_NONBLOCK); err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	head := make([]byte, 256)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	loader, err := loaderOf(f, head[:n])
	if err != nil || loader == "" || inScratch(spec, loader) {
		return err
	}
	if fd, err = openIn(root, loader, unix.O_PATH); err != nil {
		return err
	}
	return unix.Close(fd)
}

// mayExecute is the kernel's look at the mode of a file, for one without capabilities.
func mayExecute(st unix.Stat_t, ids int, user sandbox.User) bool {
	bit := uint32(0o001)
	switch {
	case int(st.Uid) == ids+int(user.UID):
		bit = 0o100
	case slices.ContainsFunc(append([]uint32{user.GID}, user.Groups...), func(g uint32) bool { return int(st.Gid) == ids+int(g) }):
		bit = 0o010
	}
	return st.Mode&bit != 0
}

// loaderOf returns the absolute path of the program that executes a file which
// begins with head; "" if the kernel does itself.
func loaderOf(f io.ReaderAt, head []byte) (string, error) {
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		words := strings.Fields(string(line))
		if len(words) == 0 {
			return "", unix.ENOEXEC
		}
		if !path.IsAbs(words[0]) {
			return "", nil
		}
		return words[0], nil
	}
	if len(head) < 20 || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return "", unix.ENOEXEC
	}
	if m := elf.Machine(binary.LittleEndian.Uint16(head[18:])); !slices.Contains(machines[runtime.GOARCH], m) {
		return "", unix.ENOEXEC
	}
	file, err := elf.NewFile(f)
	if err != nil {
		return "", nil // the kernel reads less of it
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < unix.PathMax {
			name, err := io.ReadAll(p.Open())
			return strings.TrimRight(string(name), "\x00"), err
		}
	}
	return "", nil
}

// machines are the processors whose programs ours may execute.
var machines = map[string][]elf.Machine{"amd64": {elf.EM_X86_64, elf.EM_386}, "arm64": {elf.EM_AARCH64, elf.EM_ARM}}

// endProgram is the smallest program that Probe can run: it ends with status 0.
func endProgram() []byte {
	code := []byte{0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // mov eax, 60; xor edi, edi; syscall
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		code = []byte{0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4} // mov x0, 0; mov x8, 93; svc 0
		machine = elf.EM_AARCH64
	}
	const base, heads = 0x400000, 64 + 56
	var b bytes.Buffer
	head := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Entry: base + heads, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	copy(head.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	size := uint64(heads + len(code))
	for _, part := range []any{head, elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x1000,
	}, code} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(fmt.Sprintf("a structure of package elf has no fixed size: %v", err))
		}
	}
	return b.Bytes()
}
