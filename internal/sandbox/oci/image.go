package oci

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/sandbox"
)

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
