package linux

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PrivateRoot gives the calling thread a mount namespace of its own whose root is
// an empty tmpfs: no mount of the machine is left in it. dir is any directory
// that exists. It is called on a Thread. A process that the thread makes with a
// new mount namespace copies these few mounts and not the machine's.
func PrivateRoot(dir string) error {
	const old = "old"
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"leave the machine's mount namespace", func() error { return unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS) }},
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"mount a root", func() error {
			return unix.Mount("hob", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=16m")
		}},
		{"enter it", func() error { return unix.Chdir(dir) }},
		{"make the old root's place", func() error { return unix.Mkdir(old, 0o700) }},
		{"change roots", func() error { return unix.PivotRoot(".", old) }},
		{"enter the new root", func() error { return unix.Chdir("/") }},
		{"leave the old root", func() error { return unix.Unmount("/"+old, unix.MNT_DETACH) }},
		{"remove its place", func() error { return unix.Rmdir("/" + old) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("private root: %s: %w", step.name, err)
		}
	}
	return nil
}

// OpenNamespace opens a namespace ("mnt", "net") of one of this process's threads.
// The calling thread must see /proc.
func OpenNamespace(tid int, kind string) (int, error) {
	path := "/proc/self/task/" + strconv.Itoa(tid) + "/ns/" + kind
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a thread's %s namespace: %w", kind, err)
	}
	return fd, nil
}

// HoldMounts opens the mount namespace of a process. As long as it is open the
// mounts stay when the process ends: to take them down, the kernel waits for a
// grace period before it tells anybody of the end.
func HoldMounts(pid int) (*os.File, error) {
	return os.Open("/proc/" + strconv.Itoa(pid) + "/ns/mnt")
}

// JoinMounts moves the calling thread into the mount namespace open as fd. It is
// called on a Thread.
func JoinMounts(fd int) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare file system attributes: %w", err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("join the mount namespace: %w", err)
	}
	return nil
}

// CloneTree returns a detached copy of what is mounted at path: an open mount
// that Attach puts somewhere and that is gone when it is closed before.
func CloneTree(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("clone the mount at %s: %w", path, err)
	}
	return fd, nil
}

// SetReadOnly makes the detached mount fd read-only, and with a userns at or
// above zero shows the owners of its files as that user namespace maps them.
func SetReadOnly(fd, userns int) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if userns >= 0 {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(userns)
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("make a mount read-only with mapped owners: %w", err)
	}
	return nil
}

// Attach mounts the detached mount fd at path and closes fd.
func Attach(fd int, path string) error {
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %s: %w", path, err)
	}
	return nil
}

// Overlay returns a detached overlay of the directories lower, topmost first; at
// least two without an upper. With upper and work it can be written to.
func Overlay(lower []string, upper, work string) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open an overlay: %w", err)
	}
	defer unix.Close(fs)
	set := func(key, value string) {
		if err == nil {
			if err = unix.FsconfigSetString(fs, key, value); err != nil {
				err = fmt.Errorf("overlay: set %s to %s: %w%s", key, value, err, kernelWords(fs))
			}
		}
	}
	set("source", "hob")
	for _, dir := range lower {
		set("lowerdir+", dir) // Linux 6.7; before, one string of at most 255 bytes
		if errors.Is(err, unix.EINVAL) && dir == lower[0] {
			err = nil
			set("lowerdir", strings.Join(lower, ":"))
			break
		}
	}
	attrs := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if upper != "" {
		set("upperdir", upper)
		set("workdir", work)
	} else {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("make an overlay of %d layers: %w%s", len(lower), err, kernelWords(fs))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, fmt.Errorf("mount an overlay of %d layers: %w%s", len(lower), err, kernelWords(fs))
	}
	return fd, nil
}

// kernelWords returns what the kernel says about a failed step on a file system context.
func kernelWords(fs int) string {
	buf := make([]byte, 1024)
	var words strings.Builder
	for {
		n, err := unix.Read(fs, buf)
		if n <= 0 || err != nil {
			break
		}
		words.WriteString("; " + strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "e ")))
	}
	return words.String()
}

// Tmpfs returns a detached tmpfs. options are as of mount(8): "size=…", "mode=…".
func Tmpfs(options map[string]string) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open a tmpfs: %w", err)
	}
	defer unix.Close(fs)
	for key, value := range options {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return -1, fmt.Errorf("tmpfs: set %s to %s: %w%s", key, value, err, kernelWords(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("make a tmpfs: %w%s", err, kernelWords(fs))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, fmt.Errorf("mount a tmpfs: %w", err)
	}
	return fd, nil
}

// Unmount takes away what is mounted at path, at once for those who look, and in
// fact when its last user is gone. Nothing mounted there is no error.
func Unmount(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// MakeDevice makes a device file that everybody may read and write. kind is S_IFCHR or
// S_IFBLK.
func MakeDevice(path string, kind uint32, dev uint64, owner int) error {
	if err := unix.Mknod(path, kind|0o666, int(dev)); err != nil {
		return fmt.Errorf("make device %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o666); err != nil { // whatever the umask
		return err
	}
	return os.Chown(path, owner, owner)
}

// FindDevice returns kind and number of a device file of the machine. It reports false if
// there is none.
func FindDevice(path string) (kind uint32, dev uint64, ok bool) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	kind = st.Mode & unix.S_IFMT
	return kind, st.Rdev, err == nil && (kind == unix.S_IFCHR || kind == unix.S_IFBLK)
}
