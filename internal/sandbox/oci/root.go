package oci

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hob/internal/linux"
	"hob/internal/sandbox"
)

// mountRoot returns a detached overlay of the layers of spec, over a skeleton in
// dir, with an upper of its own if it is to be writable and the runtime program makes none. It ends with its last user.
func (d *Driver) mountRoot(dir string, spec sandbox.Spec) (root int, err error) {
	skeleton := filepath.Join(dir, "skeleton")
	if err := d.makeSkeleton(skeleton, directories(spec)); err != nil {
		return -1, fmt.Errorf("root filesystem: %w", err)
	}
	over, err := d.makeNames(dir, spec)
	if err != nil {
		return -1, fmt.Errorf("root filesystem: %w", err)
	}
	// The layers are seen in the machine's mount namespace, on any thread but the hall's.
	var layers []int
	defer func() {
		for _, fd := range layers {
			unix.Close(fd)
		}
	}()
	for _, layer := range spec.Root.Layers {
		fd, err := linux.CloneTree(layer)
		if err != nil {
			return -1, fmt.Errorf("root filesystem: %w", err)
		}
		layers = append(layers, fd)
		if err := linux.SetReadOnly(fd, d.userns); err != nil {
			return -1, fmt.Errorf("root filesystem: layer %s: %w", layer, err)
		}
	}
	d.hall.Do(func() {
		root, err = d.overlay(dir, layers, over, skeleton, spec)
		layers = nil // overlay has closed them
	})
	if err != nil {
		return -1, fmt.Errorf("root filesystem: %w", err)
	}
	return root, nil
}

// makeNames makes the layer with the name server of spec, if it has one; over is "" without.
func (d *Driver) makeNames(dir string, spec sandbox.Spec) (over string, err error) {
	var conf []byte
	switch {
	case spec.OwnDevice():
		conf = d.cfg.Router.ResolvConf()
	case spec.HostNetwork():
		conf, _ = os.ReadFile("/etc/resolv.conf") // the node may have none
	}
	names, can := spec.Root.NameLayer()
	if conf == nil || !can {
		return "", nil
	}
	over = filepath.Join(dir, "names")
	return over, names.Make(over, conf, d.ids)
}

// overlay is mountRoot on the hall's thread, with the directories over and skeleton as
// the topmost ("": none) and the lowest layer. It closes layers.
func (d *Driver) overlay(dir string, layers []int, over, skeleton string, spec sandbox.Spec) (root int, err error) {
	var mounted []string
	defer func() {
		for _, at := range mounted {
			if uerr := linux.Unmount(at); err == nil {
				err = uerr
			}
		}
	}()
	attach := func(fd int, name string) (string, error) {
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o700); err != nil {
			unix.Close(fd)
			return "", err
		}
		mounted = append(mounted, at)
		return at, linux.Attach(fd, at)
	}
	var lower []string
	if over != "" {
		lower = append(lower, over)
	}
	for i, fd := range layers {
		at, aerr := attach(fd, "layer"+strconv.Itoa(i))
		if err == nil {
			err = aerr
		}
		lower = append(lower, at)
	}
	if err != nil {
		return -1, err
	}
	var upper, work string
	if spec.Writable && !d.kind.ownKernel {
		fd, err := linux.Tmpfs(map[string]string{"mode": "700", "size": strconv.FormatInt(int64(spec.TmpSize), 10), "nr_inodes": strconv.Itoa(spec.TmpInodes)})
		if err != nil {
			return -1, err
		}
		at, err := attach(fd, "upper")
		if err != nil {
			return -1, err
		}
		upper, work = filepath.Join(at, "u"), filepath.Join(at, "w")
		for _, sub := range []string{upper, work} {
			if err := d.makeDir(sub); err != nil {
				return -1, err
			}
		}
	}
	return linux.Overlay(append(lower, skeleton), upper, work)
}

// makeSkeleton makes the lowest layer of a root: the directories that a sandbox
// mounts on and that the function asks for, and /etc/hosts, in case the image lacks them.
func (d *Driver) makeSkeleton(dir string, dirs []string) error {
	if err := d.makeDir(dir); err != nil {
		return err
	}
	for _, sub := range append([]string{"/proc", "/sys", "/dev", "/tmp", "/etc"}, dirs...) {
		at := dir
		for part := range strings.SplitSeq(strings.Trim(sub, "/"), "/") {
			at = path.Join(at, part)
			if err := d.makeDir(at); err != nil && !os.IsExist(err) {
				return err
			}
		}
	}
	hosts := path.Join(dir, "etc/hosts")
	return errors.Join(
		os.Chmod(path.Join(dir, "tmp"), 0o777|os.ModeSticky),
		os.WriteFile(hosts, []byte(sandbox.Hosts), 0o644), os.Chmod(hosts, 0o644), os.Chown(hosts, d.ids, d.ids),
	)
}

func (d *Driver) makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chown(dir, d.ids, d.ids)
}

// socketDir makes the tmpfs that Spec.Sockets is. The driver keeps it open, so
// that it needs no path to it which a function could change.
func (d *Driver) socketDir(user sandbox.User) (*os.File, error) {
	fd, err := linux.Tmpfs(map[string]string{
		"mode": "755", "size": "64k", "nr_inodes": "32",
		"uid": strconv.Itoa(d.ids + int(user.UID)), "gid": strconv.Itoa(d.ids + int(user.GID)),
	})
	if err == nil {
		if err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOEXEC}); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make a directory for sockets: %w", err)
	}
	return os.NewFile(uintptr(fd), "sockets"), nil
}
