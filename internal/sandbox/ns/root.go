package ns

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/sandbox"
)

// Where things are in the vault, the private mount namespace of the driver's
// threads. Names are short because a sandbox can read them in its mountinfo.
const (
	vaultRoots = "/r" // prepared roots
	vaultLayer = "/l" // layers, while a root is made of them
	vaultSkel  = "/s" // lowest layers: the directories that every root needs
	vaultNames = "/n" // topmost layers: the name server
	vaultUpper = "/u" // uppers, while a writable root is made
)

// The lobby is the mount namespace where processes begin. A new sandbox's mount namespace
// is a copy of it, so a process that waits keeps no image.
const (
	lobbyDev  = "/dev"  // what every sandbox without devices of the machine gets as /dev, read-only
	lobbyRoot = "/root" // where a sandbox mounts its root in its own copy of the lobby
)

// openVault is the setup of the vault's thread.
func (d *Driver) openVault() error {
	if err := linux.PrivateRoot(d.cfg.LockDir); err != nil {
		return err
	}
	for _, dir := range []string{vaultRoots, vaultLayer, vaultSkel, vaultNames, vaultUpper} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// openLobby makes the lobby, with the /dev of all sandboxes. Each shows it as its root's.
func (d *Driver) openLobby() error {
	dev, err := d.makeDev(nil, 0)
	if err != nil {
		return fmt.Errorf("make the devices of sandboxes: %w", err)
	}
	d.lobby, err = linux.NewThread(func() error {
		if err := linux.PrivateRoot(d.cfg.LockDir); err != nil {
			return err
		}
		for _, dir := range []string{lobbyDev, lobbyRoot} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
		}
		return linux.Attach(dev, lobbyDev)
	})
	if err != nil {
		return fmt.Errorf("make the place where sandboxes begin: %w", err)
	}
	d.lobbyNS, err = linux.OpenNamespace(d.lobby.TID(), "mnt")
	return err
}

// hidden is an empty directory in /dev that is shown in the place of others: a file
// system of its own for each would cost the kernel some 30 KB.
const hidden = ".hidden"

// makeDev returns a detached /dev, read-only, that also has devices of the machine. It
// is called on a thread that sees the machine's files.
func (d *Driver) makeDev(devices []string, owner int) (fd int, err error) {
	fd, err = linux.Tmpfs(map[string]string{"mode": "755", "size": "64k", "uid": strconv.Itoa(owner), "gid": strconv.Itoa(owner)})
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := fillDev("/proc/self/fd/"+strconv.Itoa(fd), devices, owner); err != nil {
		return -1, err
	}
	// The mount must let devices be opened, or /dev/null would be of no use; it
	// holds no others than these.
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_clr: unix.MOUNT_ATTR_NODEV, Attr_set: unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_RDONLY,
	}); err != nil {
		return -1, err
	}
	return fd, nil
}

func fillDev(at string, devices []string, owner int) error {
	for _, dev := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		if err := linux.MakeDevice(path.Join(at, dev.name), unix.S_IFCHR, unix.Mkdev(dev.major, dev.minor), owner); err != nil {
			return err
		}
	}
	for _, dir := range []string{"pts", "shm", "mqueue", hidden} {
		if err := makeDir(path.Join(at, dir), owner); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, path.Join(at, name)); err != nil {
			return err
		}
	}
	for _, device := range devices {
		kind, number, ok := linux.FindDevice(device)
		if !ok {
			return faas.Errorf(faas.Unsupported, "this node has no device %s", device)
		}
		name := strings.TrimPrefix(device, "/dev/")
		if err := makeDirs(at, path.Dir(name), owner); err != nil {
			return err
		}
		if err := linux.MakeDevice(path.Join(at, name), kind, number, owner); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// tryMappedRoot finds out whether this kernel can show files under other owners
// in an overlay, which a user namespace needs.
func (d *Driver) tryMappedRoot() error {
	dir, err := os.MkdirTemp("", "hob")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := &root{path: path.Join(vaultRoots, "try")}
	if r.users, err = d.newUsers(); err != nil {
		return err
	}
	defer r.users.close()
	if err := d.mountRoot(r, sandbox.Root{Layers: []string{dir}}, nil, ""); err != nil {
		return err
	}
	d.vault.Do(func() { err = d.unmountRoot(r) })
	return err
}

// roots are the prepared roots: read-only overlays in the vault, one for all
// sandboxes of an image. A root that no sandbox uses is kept for idleRoot.
type roots struct {
	d *Driver

	mu    sync.Mutex
	byKey map[string]*root // guarded by mu, as all below
	last  int              // last number given to a root
}

// idleRoot is how long a root is kept ready without use. While it is, the disk
// space of an image that was removed is not free.
const idleRoot = time.Minute

type root struct {
	key   string
	path  string        // in the vault
	made  chan struct{} // closed when err is set and, without one, users are and the root is mounted
	err   error
	users *users // of its sandboxes

	uses  int         // guarded by roots.mu
	timer *time.Timer // ends the idle time; guarded by roots.mu
}

// get returns a mounted root and counts a user. dirs must exist in it, and with
// resolvConf it has that.
func (rs *roots) get(of sandbox.Root, dirs []string, resolvConf string) (*root, error) {
	key := of.Key + "\x00" + resolvConf + "\x00" + strings.Join(dirs, "\x00")
	rs.mu.Lock()
	r := rs.byKey[key]
	maker := r == nil
	if maker {
		rs.last++
		r = &root{key: key, path: path.Join(vaultRoots, strconv.Itoa(rs.last)), made: make(chan struct{})}
		rs.byKey[key] = r
	}
	r.uses++
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	rs.mu.Unlock()

	if maker {
		r.err = rs.d.makeRoot(r, of, dirs, resolvConf)
		close(r.made)
	}
	<-r.made
	if r.err != nil {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		if rs.byKey[key] == r {
			delete(rs.byKey, key)
		}
		return nil, r.err
	}
	return r, nil
}

// put ends one use of r.
func (rs *roots) put(r *root) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r.uses--; r.uses == 0 {
		r.timer = time.AfterFunc(idleRoot, func() { rs.expire(r) })
	}
}

// expire unmounts r unless somebody uses it again.
func (rs *roots) expire(r *root) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r.uses > 0 || rs.byKey[r.key] != r {
		return
	}
	delete(rs.byKey, r.key)
	var err error
	rs.d.vault.Do(func() { err = rs.d.unmountRoot(r) })
	if err != nil {
		rs.d.cfg.Log.Error("a root stays mounted", "err", err)
	}
	r.users.close()
}

// close forgets all roots; the vault's namespace ends with its threads.
func (rs *roots) close() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range rs.byKey {
		if r.timer != nil {
			r.timer.Stop()
		}
		if r.users != nil {
			r.users.close()
		}
	}
	clear(rs.byKey)
}

// makeRoot mounts a root and takes users for its sandboxes.
func (d *Driver) makeRoot(r *root, of sandbox.Root, dirs []string, resolvConf string) error {
	us, err := d.newUsers()
	if err != nil {
		return err
	}
	r.users = us
	if err := d.mountRoot(r, of, dirs, resolvConf); err != nil {
		us.close()
		return err
	}
	return nil
}

// mountRoot mounts the layers of a root at r.path. dirs and resolvConf are as get has
// them.
func (d *Driver) mountRoot(r *root, of sandbox.Root, dirs []string, resolvConf string) error {
	// The layers are seen in the machine's mount namespace, on any thread but the vault's.
	var layers []int
	defer func() {
		for _, fd := range layers {
			unix.Close(fd)
		}
	}()
	for _, dir := range of.Layers {
		fd, err := linux.CloneTree(dir)
		if err != nil {
			return fmt.Errorf("root filesystem: %w", err)
		}
		layers = append(layers, fd)
		if err := linux.SetReadOnly(fd, r.users.shown); err != nil {
			return fmt.Errorf("root filesystem: layer %s: %w", dir, err)
		}
	}
	var top []string
	names, can := of.NameLayer()
	var err error
	d.vault.Do(func() {
		if resolvConf != "" && can {
			top = []string{path.Join(vaultNames, path.Base(r.path))}
			err = names.Make(top[0], []byte(resolvConf), r.users.base)
		}
		if err == nil {
			err = d.overlay(r, top, layers, dirs)
			layers = nil // overlay has closed them
		}
		if err != nil {
			d.unmountRoot(r)
		}
	})
	if err != nil {
		return fmt.Errorf("root filesystem: %w", err)
	}
	return nil
}

// overlay is mountRoot on the vault's thread: of layers, which it closes, and the
// directories top above them.
func (d *Driver) overlay(r *root, top []string, layers []int, dirs []string) error {
	name := path.Base(r.path)
	lower := top
	defer func() {
		for _, dir := range lower[len(top):] {
			linux.Unmount(dir)
			os.Remove(dir)
		}
	}()
	for i, fd := range layers {
		dir := path.Join(vaultLayer, name+"."+strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		lower = append(lower, dir)
		if err := linux.Attach(fd, dir); err != nil {
			return err
		}
	}
	skel := path.Join(vaultSkel, name)
	if err := makeSkeleton(skel, dirs, r.users.base); err != nil {
		return err
	}
	fd, err := linux.Overlay(append(lower[:len(lower):len(lower)], skel), "", "")
	if err != nil {
		return err
	}
	if err := os.Mkdir(r.path, 0o700); err != nil {
		unix.Close(fd)
		return err
	}
	return linux.Attach(fd, r.path)
}

// unmountRoot undoes overlay, on the vault's thread.
func (d *Driver) unmountRoot(r *root) error {
	err := linux.Unmount(r.path)
	os.Remove(r.path)
	for _, dir := range []string{vaultSkel, vaultNames} {
		os.RemoveAll(path.Join(dir, path.Base(r.path)))
	}
	return err
}

// makeSkeleton makes the lowest layer of a root: the directories that a sandbox
// mounts on and that the function asks for, and /etc/hosts, in case the image lacks
// them.
func makeSkeleton(dir string, dirs []string, owner int) error {
	if err := makeDir(dir, owner); err != nil {
		return err
	}
	for _, sub := range append([]string{"/proc", "/sys", "/dev", "/tmp", "/etc"}, dirs...) {
		if err := makeDirs(dir, sub, owner); err != nil {
			return err
		}
	}
	hosts := path.Join(dir, "etc/hosts")
	if err := errors.Join(os.WriteFile(hosts, []byte(sandbox.Hosts), 0o644), os.Chmod(hosts, 0o644), os.Chown(hosts, owner, owner)); err != nil {
		return err
	}
	return os.Chmod(path.Join(dir, "tmp"), 0o777|os.ModeSticky)
}

// makeDirs makes what is missing of the path sub below dir.
func makeDirs(dir, sub string, owner int) error {
	for part := range strings.SplitSeq(strings.Trim(sub, "/"), "/") {
		dir = path.Join(dir, part)
		if err := makeDir(dir, owner); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

func makeDir(dir string, owner int) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chown(dir, owner, owner)
}

// writableRoot returns a detached overlay of r with an upper on a tmpfs of its
// own, which ends with it. It is called on the vault's thread.
func (d *Driver) writableRoot(r *root, id string, size faas.Bytes, inodes int) (int, error) {
	at := path.Join(vaultUpper, id)
	if err := os.Mkdir(at, 0o700); err != nil {
		return -1, err
	}
	defer os.Remove(at)
	fd, err := linux.Tmpfs(map[string]string{"mode": "700", "size": strconv.FormatInt(int64(size), 10), "nr_inodes": strconv.Itoa(inodes)})
	if err != nil {
		return -1, err
	}
	if err := linux.Attach(fd, at); err != nil {
		return -1, err
	}
	defer linux.Unmount(at)
	upper, work := path.Join(at, "u"), path.Join(at, "w")
	if err := makeDir(upper, r.users.base); err != nil {
		return -1, err
	}
	if err := makeDir(work, r.users.base); err != nil {
		return -1, err
	}
	return linux.Overlay([]string{r.path}, upper, work)
}
