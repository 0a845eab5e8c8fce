package sandbox

import (
	"path"
	"runtime"
	"strings"
	"syscall"

	"hob/faas"
)

// defaultPath is where programs are looked for if the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Programs returns the files that the program of s may be, in the order in which they are
// tried. It is for drivers.
func (s Spec) Programs() (files []string) {
	program := s.Args[0]
	if strings.Contains(program, "/") {
		return []string{program}
	}
	dirs := defaultPath
	for _, e := range s.Env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			dirs = value
		}
	}
	for dir := range strings.SplitSeq(dirs, ":") {
		if dir != "" { // which would mean the working directory
			files = append(files, path.Join(dir, program))
		}
	}
	return files
}

// NotExecuted says in words why none of Programs could be executed, as Invalid; nil: that
// is not the fault of the image or the function. errno 0 is that there was none to try. It
// is for drivers.
func (s Spec) NotExecuted(errno syscall.Errno) error {
	program := s.Args[0]
	switch errno {
	case syscall.ENOENT, 0:
		where := ""
		if !strings.Contains(program, "/") {
			var dirs []string
			for _, file := range s.Programs() {
				dirs = append(dirs, path.Dir(file))
			}
			where = " (looked in " + strings.Join(dirs, ", ") + ")"
		}
		return faas.Errorf(faas.Invalid, "the image has no program %q%s, or the interpreter or loader it names is missing", program, where)
	case syscall.EACCES:
		return faas.Errorf(faas.Invalid, "the program %q is not executable for user %d", program, s.User.UID)
	case syscall.ENOEXEC, syscall.ELIBBAD:
		return faas.Errorf(faas.Invalid, "the program %q is not for this CPU (%s), or a script without #! in its first line", program, runtime.GOARCH)
	case syscall.E2BIG:
		return faas.Errorf(faas.Invalid, "the arguments and environment of %q are too large for the kernel", program)
	case syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EISDIR:
		return faas.Errorf(faas.Invalid, "the program %q cannot be found in the image: %w", program, errno)
	}
	return nil
}
