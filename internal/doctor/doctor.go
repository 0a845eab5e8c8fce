// Package doctor says what this machine lacks to run functions, in plain words
// and with the way to get it. "hob doctor" prints its list and "hob serve"
// refuses to start with the same words.
//
// It looks and leaves everything as it is: it reads files of /proc and /sys, asks for
// the free space of one directory and, of what is to be offered to functions, asks the
// kernel in a network of its own, the name servers, and programs of isolations for a sandbox.
// Of the rest, that a feature is there does not prove that it works; the driver's own Probe tries.
package doctor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"hob/faas"
)

// A Check is one thing that was looked at.
type Check struct {
	Name   string // "kernel", "overlay"
	OK     bool
	Fatal  bool   // without it the daemon cannot work; meaningful if not OK
	Choice bool   // it is one of several
	Found  string // what there is
	Need   string // what is needed, and what for
	Fix    string // how to get it; empty if OK
}

// String prints c in one line.
func (c Check) String() string {
	if c.OK {
		return c.Name + ": " + c.Found
	}
	return fmt.Sprintf("%s: %s. Needed: %s. To get it: %s", c.Name, c.Found, c.Need, c.Fix)
}

// Machine is what is looked at.
type Machine struct {
	Root   string     // directory that holds proc, sys and lib; "" is "/". Tests pass another
	Data   string     // the daemon's data directory, which need not exist yet
	Driver string     // "fake" needs no more of the machine than a data directory
	Least  faas.Bytes // free space wanted in Data; 0: 1 GB

	// Free returns the free space of an existing directory; nil is FreeDisk.
	Free func(dir string) (faas.Bytes, error)

	Offer *Offer // nil: only what the daemon itself needs is looked at
}

// Offer is what functions are to be offered.
type Offer struct {
	Network   string                    // of functions that choose none; with "none" they can do without any
	Bandwidth faas.Bytes                // that each of them gets in a second; 0: what there is
	Programs  map[faas.Isolation]string // path, or name in PATH, of all but native
	Needed    map[faas.Isolation]string // the setting that asks for it

	Ask func(servers []netip.Addr) Answers // nil is Ask
	Try func(program string) error         // nil is Try; called only as root
}

func (o *Offer) try(program string) error {
	if o.Try != nil {
		return o.Try(program)
	}
	return Try(program)
}

// FreeDisk returns the space that root can still use in the file system of dir.
func FreeDisk(dir string) (faas.Bytes, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return faas.Bytes(st.Bavail) * faas.Bytes(st.Bsize), nil
}

// Look looks at everything, in an order that a reader can follow: without /proc
// the answers after it mean little.
func Look(m Machine) []Check {
	if m.Root == "" {
		m.Root = "/"
	}
	if m.Free == nil {
		m.Free = FreeDisk
	}
	if m.Least == 0 {
		m.Least = faas.GB
	}
	checks := []Check{
		m.proc(), m.kernel(), m.root(), m.namespaces(), m.userNamespaces(),
		m.overlay(), m.cgroups(), m.seccomp(), m.dataDir(), m.space(),
	}
	if m.Offer != nil && m.Driver != "fake" { // which offers neither
		checks = append(checks, m.offers(checks)...)
	}
	for i := range checks {
		c := &checks[i]
		if m.Driver == "fake" && c.Name != "data directory" {
			c.Fatal = false
		}
		if c.OK {
			c.Fix = ""
		}
	}
	return checks
}

// offers looks at what functions are offered, after what the daemon needs.
func (m Machine) offers(looked []Check) []Check {
	ask := m.Offer.Ask
	if ask == nil {
		ask = Ask
	}
	var isolations []Check
	var work sync.WaitGroup
	work.Go(func() { isolations = m.isolations(looked) })
	servers := m.servers()
	answers := ask(servers)
	work.Wait()
	return slices.Concat([]Check{landlock(answers)}, m.networks(answers, servers), isolations)
}

// Refusal returns nil if a daemon can work with what was found, else an error of
// kind Unsupported with the lines of what is missing.
func Refusal(checks []Check) error {
	var lines []string
	for _, c := range checks {
		if !c.OK && c.Fatal {
			lines = append(lines, c.String())
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return faas.Errorf(faas.Unsupported, "this machine cannot run functions:\n  %s", strings.Join(lines, "\n  "))
}

// Print writes the list for a reader: a line for each check, what is needed and
// how to get it below those that are not met. Of a choice that nobody
// needs the way is in its line.
func Print(w io.Writer, checks []Check) error {
	var b strings.Builder
	for _, c := range checks {
		word := "ok"
		switch {
		case c.Choice && c.OK:
			word = "yes"
		case c.Choice && !c.Fatal:
			fmt.Fprintf(&b, "%-8s %-16s %s: %s\n", "no", c.Name, c.Found, c.Fix)
			continue
		case !c.OK && c.Fatal:
			word = "missing"
		case !c.OK:
			word = "weak"
		}
		fmt.Fprintf(&b, "%-8s %-16s %s\n", word, c.Name, c.Found)
		if !c.OK {
			fmt.Fprintf(&b, "%-25s needed: %s\n%-25s to get it: %s\n", "", c.Need, "", c.Fix)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// read returns a file below the root, and "" if it cannot be read.
func (m Machine) read(name string) string {
	data, _ := os.ReadFile(filepath.Join(m.Root, name))
	return string(data)
}

func (m Machine) exists(name string) bool {
	_, err := os.Stat(filepath.Join(m.Root, name))
	return err == nil
}

func (m Machine) proc() Check {
	c := Check{Name: "/proc", Fatal: true, Found: "mounted",
		Need: "the proc file system at /proc, to look at the machine and at sandboxes",
		Fix:  "mount -t proc proc /proc"}
	if c.OK = m.read("proc/self/mountinfo") != ""; !c.OK {
		c.Found = "not mounted"
	}
	return c
}

// The least kernels. 5.12 has mount_setattr, after clone3 into a cgroup (5.7)
// and close_range (5.9); overlays of layers with mapped owners came with 5.19.
var (
	leastKernel = version{5, 12}
	mapsOwners  = version{5, 19}
)

type version struct{ major, minor int }

func (v version) less(than version) bool {
	return v.major < than.major || v.major == than.major && v.minor < than.minor
}
func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

// parseVersion reads the beginning of a kernel release: "6.1.0-13-amd64".
func parseVersion(release string) (version, bool) {
	major, rest, _ := strings.Cut(release, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		rest = rest[:end]
	}
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(rest)
	return version{a, b}, err1 == nil && err2 == nil
}

func (m Machine) release() string { return strings.TrimSpace(m.read("proc/sys/kernel/osrelease")) }

func (m Machine) kernel() Check {
	release := m.release()
	v, known := parseVersion(release)
	c := Check{Name: "kernel", Fatal: true, Found: "Linux " + release, OK: known && !v.less(leastKernel),
		Need: "Linux " + leastKernel.String() + " or newer",
		Fix:  "install a newer kernel; Debian 12, Ubuntu 22.04 and Fedora 35 have one"}
	if release == "" {
		c.Found = "the version cannot be read"
	}
	return c
}

func (m Machine) root() Check {
	c := Check{Name: "root", Fatal: true, Need: "to run as root, which makes namespaces and mounts; functions do not run as root",
		Fix: "sudo hob serve, or a system service"}
	for line := range strings.Lines(m.read("proc/self/status")) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "Uid:" {
			c.OK = f[2] == "0" // the effective one
			c.Found = "runs as user " + f[2]
		}
	}
	if c.Found == "" {
		c.Found = "the user cannot be read"
	}
	return c
}

func (m Machine) namespaces() Check {
	var missing []string
	kinds := []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"}
	for _, kind := range kinds {
		if !m.exists("proc/self/ns/" + kind) {
			missing = append(missing, kind)
		}
	}
	c := Check{Name: "namespaces", Fatal: true, OK: len(missing) == 0, Found: strings.Join(kinds, ", "),
		Need: "namespaces of every kind, so that a function sees nothing but itself",
		Fix:  "a kernel with CONFIG_NAMESPACES and what is below it, as every distribution's has"}
	if !c.OK {
		c.Found = "the kernel has none of: " + strings.Join(missing, ", ")
	}
	return c
}

func (m Machine) userNamespaces() Check {
	c := Check{Name: "user namespaces", OK: true, Found: "root in an image is not root on this machine",
		Need: "user namespaces, without which root in an image would be root of the machine; functions then always run as another user",
		Fix:  "a kernel with CONFIG_USER_NS"}
	v, _ := parseVersion(m.release())
	switch {
	case !m.exists("proc/self/ns/user"):
		c.OK, c.Found = false, "the kernel has none"
	case strings.TrimSpace(m.read("proc/sys/user/max_user_namespaces")) == "0":
		c.OK, c.Found, c.Fix = false, "turned off: user.max_user_namespaces is 0", "sysctl user.max_user_namespaces=15000"
	case v.less(mapsOwners):
		c.OK, c.Found, c.Fix = false, "there, but this kernel cannot map the owners of an image's files", "Linux "+mapsOwners.String()+" or newer"
	}
	return c
}

func (m Machine) overlay() Check {
	c := Check{Name: "overlay", Fatal: true, OK: true, Found: "in the kernel",
		Need: "the overlay file system, which puts the layers of an image together",
		Fix:  "modprobe overlay; if there is no such module, a kernel with CONFIG_OVERLAY_FS"}
	if slices.Contains(strings.Fields(m.read("proc/filesystems")), "overlay") {
		return c
	}
	if strings.Contains(m.read("lib/modules/"+m.release()+"/modules.dep"), "/overlay.ko") {
		c.Found = "a module, which is loaded when it is needed"
		return c
	}
	c.OK, c.Found = false, "the kernel does not have it"
	return c
}

// controllers are those that limits and accounting need. Version 1 has the
// accounting of CPU time apart.
var controllers = []string{"memory", "pids", "cpu"}

func (m Machine) cgroups() Check {
	c := Check{Name: "cgroups", Fatal: true,
		Need: "the controllers memory, pids and cpu of control groups, version 1 or 2: without them no limit holds",
		Fix:  "mount -t cgroup2 cgroup2 /sys/fs/cgroup (systemd and OpenRC do); in a container: --privileged --cgroupns=host"}
	v1 := make(map[string]mount)
	var v2 *mount
	for _, mt := range m.mounts() {
		switch mt.fstype {
		case "cgroup2":
			if v2 == nil {
				v2 = &mt
			}
		case "cgroup":
			for opt := range strings.SplitSeq(mt.super, ",") {
				if slices.Contains(controllers, opt) || opt == "cpuacct" {
					v1[opt] = mt
				}
			}
		}
	}
	switch {
	case len(v1) > 0:
		var missing []string
		for _, name := range append([]string{"cpuacct"}, controllers...) {
			if _, ok := v1[name]; !ok {
				missing = append(missing, name)
			}
		}
		c.OK, c.Found = len(missing) == 0, "version 1"
		if !c.OK {
			c.Found = "version 1, without: " + strings.Join(missing, ", ")
			c.Fix = "mount -t cgroup -o " + missing[0] + " none /sys/fs/cgroup/" + missing[0] + " (make the directory first); if the kernel has it turned off, boot with cgroup_enable=" + missing[0]
		}
		for _, name := range slices.Sorted(maps.Keys(v1)) {
			if c.OK && v1[name].readOnly {
				c.OK, c.Found = false, "version 1, mounted read-only at "+v1[name].dir
				c.Fix = "mount -o remount,rw " + v1[name].dir
			}
		}
	case v2 != nil:
		have := strings.Fields(m.read(filepath.Join(v2.dir, "cgroup.controllers")))
		var missing []string
		for _, name := range controllers {
			if !slices.Contains(have, name) {
				missing = append(missing, name)
			}
		}
		c.OK, c.Found = len(missing) == 0, "version 2"
		switch {
		case !c.OK:
			c.Found = "version 2, without: " + strings.Join(missing, ", ")
			c.Fix = "boot with cgroup_enable=" + missing[0] + "; in a container or a service, have the controllers delegated (Delegate=yes)"
		case v2.readOnly:
			c.OK, c.Found, c.Fix = false, "version 2, mounted read-only at "+v2.dir, "mount -o remount,rw "+v2.dir
		}
	default:
		c.Found = "no control groups are mounted"
	}
	return c
}

func (m Machine) seccomp() Check {
	c := Check{Name: "seccomp", Fatal: true, OK: m.exists("proc/sys/kernel/seccomp/actions_avail"), Found: "system calls can be filtered",
		Need: "filters of system calls, which close most of the kernel to functions",
		Fix:  "a kernel with CONFIG_SECCOMP_FILTER, as every distribution's has"}
	if !c.OK {
		c.Found = "the kernel has no filters of system calls"
	}
	return c
}

// unfit has the file systems that cannot hold layers, and why. FUSE file systems
// are found by their prefix.
var unfit = map[string]string{
	"overlay":  "an overlay cannot keep the marks of deleted files that another overlay reads",
	"nfs":      "a network file system cannot keep owners and marks of deleted files safely",
	"nfs4":     "a network file system cannot keep owners and marks of deleted files safely",
	"cifs":     "a network file system cannot keep owners and marks of deleted files",
	"smb3":     "a network file system cannot keep owners and marks of deleted files",
	"9p":       "a shared folder cannot keep owners and marks of deleted files",
	"virtiofs": "a shared folder cannot keep owners and marks of deleted files safely",
	"vfat":     "it has no owners and no links",
	"exfat":    "it has no owners and no links",
	"ecryptfs": "an overlay cannot read it",
	"ramfs":    "it has no extended attributes",
	"fuse":     "the kernel cannot trust it with owners",
}

func (m Machine) dataDir() Check {
	c := Check{Name: "data directory", Fatal: true,
		Need: "a file system such as ext4, xfs, btrfs or tmpfs, writable and without noexec, for images and their layers",
		Fix:  "name a directory on another file system with --data"}
	if m.Data == "" {
		c.Found = "none is named"
		return c
	}
	dir, err := m.existing()
	if err != nil {
		c.Found = err.Error()
		return c
	}
	mt := m.mountOf(dir)
	kind, _, _ := strings.Cut(mt.fstype, ".")
	c.OK = true
	c.Found = m.Data + " on " + mt.fstype
	if why, bad := unfit[kind]; bad {
		c.OK, c.Found = false, fmt.Sprintf("%s is on %s: %s", m.Data, mt.fstype, why)
	} else if mt.readOnly {
		c.OK, c.Found = false, fmt.Sprintf("%s is on a read-only %s", m.Data, mt.fstype)
	} else if mt.noExec {
		c.OK, c.Found = false, fmt.Sprintf("%s is on a %s mounted with noexec: no program of an image could run", m.Data, mt.fstype)
	}
	return c
}

func (m Machine) space() Check {
	c := Check{Name: "disk space", Need: m.Least.String() + " free for images and logs", Fix: "remove images (hob image prune), or move the data directory with --data"}
	dir, err := m.existing()
	if err != nil {
		c.Found = err.Error()
		return c
	}
	free, err := m.Free(filepath.Join(m.Root, dir))
	if err != nil {
		c.Found = err.Error()
		return c
	}
	c.OK, c.Found = free >= m.Least, free.String()+" free in "+m.Data
	return c
}

// existing returns the data directory, or the nearest directory above it that
// exists, with links followed.
func (m Machine) existing() (string, error) {
	for dir := filepath.Clean("/" + m.Data); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(filepath.Join(m.Root, dir))
		switch {
		case err == nil && !info.IsDir():
			return "", fmt.Errorf("%s is not a directory", dir)
		case err == nil && m.Root == "/":
			return filepath.EvalSymlinks(dir)
		case err == nil:
			return dir, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		case dir == "/":
			return "", err
		}
	}
}

// mount is a line of mountinfo.
type mount struct {
	dir, fstype      string
	super            string // options of the file system: the controllers of a cgroup hierarchy
	readOnly, noExec bool
}

func (m Machine) mounts() []mount {
	var all []mount
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(m.read("proc/self/mountinfo")) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		opts := strings.Split(left[5], ",")
		all = append(all, mount{
			dir: unescape.Replace(left[4]), fstype: right[0], super: right[2],
			readOnly: slices.Contains(opts, "ro") || slices.Contains(strings.Split(right[2], ","), "ro"),
			noExec:   slices.Contains(opts, "noexec"),
		})
	}
	return all
}

// mountOf returns the mount that holds dir: the longest that is above it, and
// of those the last made.
func (m Machine) mountOf(dir string) mount {
	best := mount{fstype: "an unknown file system"}
	for _, mt := range m.mounts() {
		inside := mt.dir == "/" || dir == mt.dir || strings.HasPrefix(dir, mt.dir+"/")
		if inside && len(mt.dir) >= len(best.dir) {
			best = mt
		}
	}
	return best
}
