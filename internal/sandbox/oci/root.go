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

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/sandbox"
)

// mountRoot returns a detached overlay of the layers of spec, over a skeleton in
// the bundle, with an upper of its own if it is to be writable and the runtime program makes none. It ends with its last user.
func (b *box) mountRoot(spec sandbox.Spec) (root int, err error) {
	skeleton := filepath.Join(b.dir, "skeleton")
	if err := b.makeSkeleton(skeleton, directories(spec)); err != nil {
		return -1, fmt.Errorf("root filesystem: %w", err)
	}
	over, err := b.makeNames(spec)
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
		if err := linux.SetReadOnly(fd, b.users.namespace); err != nil {
			return -1, fmt.Errorf("root filesystem: layer %s: %w", layer, err)
		}
	}
	b.d.hall.Do(func() {
		root, err = b.overlay(layers, over, skeleton, spec)
		layers = nil // overlay has closed them
	})
	if err != nil {
		return -1, fmt.Errorf("root filesystem: %w", err)
	}
	return root, nil
}

// makeNames makes the layer with the name server of spec, if it has one; over is "" without.
func (b *box) makeNames(spec sandbox.Spec) (over string, err error) {
	var conf []byte
	switch {
	case spec.OwnDevice():
		conf = b.d.cfg.Router.ResolvConf()
	case spec.HostNetwork():
		conf, _ = os.ReadFile("/etc/resolv.conf") // the node may have none
	}
	names, can := spec.Root.NameLayer()
	if conf == nil || !can {
		return "", nil
	}
	over = filepath.Join(b.dir, "names")
	return over, names.Make(over, conf, b.users.base)
}

// overlay is mountRoot on the hall's thread, with the directories over and skeleton as
// the topmost ("": none) and the lowest layer. It closes layers.
func (b *box) overlay(layers []int, over, skeleton string, spec sandbox.Spec) (root int, err error) {
	var mounted []string
	defer func() {
		for _, at := range mounted {
			if uerr := linux.Unmount(at); err == nil {
				err = uerr
			}
		}
	}()
	attach := func(fd int, name string) (string, error) {
		at := filepath.Join(b.dir, name)
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
	if spec.Writable && !b.d.kind.ownKernel {
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
			if err := b.makeDir(sub); err != nil {
				return -1, err
			}
		}
	}
	return linux.Overlay(append(lower, skeleton), upper, work)
}

// makeSkeleton makes the lowest layer of a root: the directories that a sandbox
// mounts on and that the function asks for, and /etc/hosts, in case the image lacks them.
func (b *box) makeSkeleton(dir string, dirs []string) error {
	if err := b.makeDir(dir); err != nil {
		return err
	}
	for _, sub := range append([]string{"/proc", "/sys", "/dev", "/tmp", "/etc"}, dirs...) {
		at := dir
		for part := range strings.SplitSeq(strings.Trim(sub, "/"), "/") {
			at = path.Join(at, part)
			if err := b.makeDir(at); err != nil && !os.IsExist(err) {
				return err
			}
		}
	}
	hosts := path.Join(dir, "etc/hosts")
	return errors.Join(
		os.Chmod(path.Join(dir, "tmp"), 0o777|os.ModeSticky),
		os.WriteFile(hosts, []byte(sandbox.Hosts), 0o644), os.Chmod(hosts, 0o644), os.Chown(hosts, b.users.base, b.users.base),
	)
}

func (b *box) makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chown(dir, b.users.base, b.users.base)
}

// devices makes a detached tmpfs with the devices of spec: the machine's files belong to
// others, and not everybody may open them.
func (b *box) devices(spec sandbox.Spec) (fd int, err error) {
	if fd, err = linux.Tmpfs(map[string]string{"mode": "755", "size": "64k"}); err != nil {
		return -1, err
	}
	for i, device := range spec.Devices {
		kind, number, ok := linux.FindDevice(device)
		if !ok {
			unix.Close(fd)
			return -1, faas.Errorf(faas.Unsupported, "this node has no device %s", device)
		}
		if err := linux.MakeDevice(filepath.Join("/proc/self/fd", strconv.Itoa(fd), strconv.Itoa(i)), kind, number, b.users.base); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NODEV, Attr_set: unix.MOUNT_ATTR_NOEXEC}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
