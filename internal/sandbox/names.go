package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Hosts is the /etc/hosts of a root whose image has none.
const Hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"

// A NameLayer is the layer on top of an image's that holds /etc/resolv.conf and nothing
// else. It is for drivers.
type NameLayer struct{ root, etc directory }

// A directory is what is seen of one that layers share: that of the topmost.
type directory struct {
	mode     fs.FileMode
	uid, gid int
}

// NameLayer looks at the layers of r. It reports false if /etc is no directory but a
// link or a file, into which nothing can be put.
func (r Root) NameLayer() (NameLayer, bool) {
	root, _ := r.directory(".")
	etc, ok := r.directory("etc")
	return NameLayer{root, etc}, ok
}

// directory reports false if there is something else in its place.
func (r Root) directory(name string) (directory, bool) {
	for _, layer := range r.Layers {
		info, err := os.Lstat(filepath.Join(layer, name))
		if err != nil {
			continue
		}
		if info.Mode().Type() == fs.ModeDevice|fs.ModeCharDevice {
			break // the mark that it is removed
		}
		st := info.Sys().(*syscall.Stat_t)
		return directory{info.Mode(), int(st.Uid), int(st.Gid)}, info.IsDir()
	}
	return directory{mode: 0o755}, true
}

// Make makes dir the layer. Its file stands for whatever the image has in that place,
// also if that is a link. ids is the machine's ID of a sandbox's root.
func (l NameLayer) Make(dir string, resolvConf []byte, ids int) error {
	etc := filepath.Join(dir, "etc")
	file := filepath.Join(etc, "resolv.conf")
	for _, step := range []func() error{
		func() error { return os.Mkdir(dir, 0o700) },
		func() error { return os.Mkdir(etc, 0o700) },
		func() error { return os.WriteFile(file, resolvConf, 0o644) },
		func() error { return directory{0o644, 0, 0}.set(file, ids) },
		func() error { return l.etc.set(etc, ids) },
		func() error { return l.root.set(dir, ids) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("make the layer with the name server: %w", err)
		}
	}
	return nil
}

// set gives a file owner and mode, whatever the umask.
func (d directory) set(name string, ids int) error {
	if err := os.Chown(name, ids+d.uid, ids+d.gid); err != nil {
		return err
	}
	return os.Chmod(name, d.mode)
}
