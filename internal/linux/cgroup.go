package linux

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroups is the machine's cgroup file system: version 2, or the hierarchies of
// version 1. A hybrid machine counts as version 1, because its controllers are
// there. Its value does not change after FindCgroups.
type Cgroups struct {
	Version int               // 1 or 2
	mounts  map[string]string // controller → mount point; in version 2 all have the same
	freezer string            // mount point of version 1's freezer; "": none. Few cgroups are ever in it
	others  []string          // mount points of version 1's other hierarchies, where only programs of others make cgroups
}

// Controllers that limits and accounting need. cpuacct is only in version 1.
var (
	controllersV1 = []string{"memory", "pids", "cpu", "cpuacct"}
	controllersV2 = []string{"memory", "pids", "cpu"}
)

// FindCgroups looks for the cgroup file system in the mounts of this process.
func FindCgroups() (*Cgroups, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return findCgroups(string(info))
}

// findCgroups is FindCgroups over the text of a mountinfo file.
func findCgroups(mountinfo string) (*Cgroups, error) {
	v1 := make(map[string]string)
	var v2, freezer string
	var others []string
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		dir := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(left[4])
		switch right[0] {
		case "cgroup2":
			if v2 == "" {
				v2 = dir
			}
		case "cgroup":
			ours := false
			for _, opt := range strings.Split(right[2], ",") {
				if slices.Contains(controllersV1, opt) {
					ours, v1[opt] = true, cmp.Or(v1[opt], dir)
				}
				if opt == "freezer" {
					ours, freezer = true, cmp.Or(freezer, dir)
				}
			}
			if !ours {
				others = append(others, dir)
			}
		}
	}
	if missing := missingOf(v1, controllersV1); len(missing) == 0 {
		return &Cgroups{Version: 1, mounts: v1, freezer: freezer, others: others}, nil
	} else if len(v1) > 0 {
		return nil, fmt.Errorf("cgroup version 1 lacks the controllers %s", strings.Join(missing, ", "))
	}
	if v2 == "" {
		return nil, errors.New("no cgroup file system is mounted")
	}
	c := &Cgroups{Version: 2, mounts: make(map[string]string)}
	for _, name := range controllersV2 {
		c.mounts[name] = v2
	}
	return c, nil
}

func missingOf(have map[string]string, want []string) (missing []string) {
	for _, name := range want {
		if have[name] == "" {
			missing = append(missing, name)
		}
	}
	return missing
}

// dirs returns the directory of the cgroup called name in each hierarchy, once each.
func (c *Cgroups) dirs(name string) []string {
	var dirs []string
	for _, mount := range c.mounts {
		if dir := filepath.Join(mount, name); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return dirs
}

// dirsOfOthers is dirs for the hierarchies that are not ours.
func (c *Cgroups) dirsOfOthers(name string) []string {
	var dirs []string
	for _, mount := range c.others {
		dirs = append(dirs, filepath.Join(mount, name))
	}
	return dirs
}

// Prepare makes the cgroup called parent ready to hold others: in version 2 it
// hands the controllers down to its children, from the root on.
func (c *Cgroups) Prepare(parent string) error {
	for _, dir := range c.dirs(parent) {
		err := os.MkdirAll(dir, 0o755)
		for try := 0; errors.Is(err, fs.ErrNotExist) && try < 10; try++ { // somebody removed an empty parent in between
			err = os.MkdirAll(dir, 0o755)
		}
		if err != nil {
			return fmt.Errorf("make cgroup %s: %w", parent, err)
		}
	}
	if c.Version == 1 {
		return nil
	}
	root := c.mounts["memory"]
	available, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, name := range controllersV2 {
		if !slices.Contains(strings.Fields(string(available)), name) {
			return fmt.Errorf("cgroup version 2 lacks the controller %s", name)
		}
	}
	dir := root
	for _, part := range append([]string{""}, strings.Split(strings.Trim(parent, "/"), "/")...) {
		dir = filepath.Join(dir, part)
		if err := writeFile(filepath.Join(dir, "cgroup.subtree_control"), "+memory +pids +cpu"); err != nil {
			return fmt.Errorf("hand the cgroup controllers down from %s: %w", dir, err)
		}
	}
	return nil
}

// Children returns the names of the cgroups directly below parent.
func (c *Cgroups) Children(parent string) ([]string, error) {
	var names []string
	dirs := append(c.dirs(parent), c.dirsOfOthers(parent)...)
	if c.freezer != "" {
		dirs = append(dirs, filepath.Join(c.freezer, parent))
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(names, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}

// A Cgroup is one cgroup, in every hierarchy that matters.
type Cgroup struct {
	Name string
	fs   *Cgroups
	fd   int // version 2: the directory, for Program.Spawn; else -1

	opened   bool   // by Open: others may have made it in hierarchies that are not ours
	frozen   string // its directory in version 1's freezer; "": it has none yet, or never
	gathered bool   // they can be frozen: in version 1 Freeze has moved them there
}

// Make makes the cgroup called name, whose parent exists.
func (c *Cgroups) Make(name string) (*Cgroup, error) {
	g := &Cgroup{Name: name, fs: c, fd: -1}
	for _, dir := range c.dirs(name) {
		if err := os.Mkdir(dir, 0o755); err != nil {
			g.Remove()
			return nil, fmt.Errorf("make cgroup: %w", err)
		}
	}
	if c.Version == 2 {
		fd, err := unix.Open(c.dirs(name)[0], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			g.Remove()
			return nil, fmt.Errorf("open cgroup %s: %w", name, err)
		}
		g.fd = fd
	}
	return g, nil
}

// Open returns the cgroup called name without making it.
func (c *Cgroups) Open(name string) *Cgroup {
	g := &Cgroup{Name: name, fs: c, fd: -1, opened: true}
	if c.freezer != "" {
		g.frozen = filepath.Join(c.freezer, name) // if anybody has made it
	}
	return g
}

// FD is what Program.Spawn takes to begin a process in this cgroup: -1 in
// version 1, which cannot do that. There a Thread is moved in first (Seat) and
// its children follow.
func (g *Cgroup) FD() int { return g.fd }

// Seat moves one thread of this process into the cgroup, in version 1. The kernel
// waits for a grace period of several milliseconds if nobody has done the like for a while.
func (g *Cgroup) Seat(tid int) error {
	if g.fs.Version == 2 {
		return nil
	}
	for _, dir := range g.fs.dirs(g.Name) {
		if err := writeFile(filepath.Join(dir, "tasks"), strconv.Itoa(tid)); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// Limits of a cgroup.
type Limits struct {
	Memory int64 // bytes, swap off
	CPU    int64 // thousandths of a processor; 0: no limit
	PIDs   int   // processes and threads
}

// Limit sets the limits of an empty cgroup.
func (g *Cgroup) Limit(l Limits) error {
	memory := strconv.FormatInt(l.Memory, 10)
	if g.fs.Version == 2 {
		if err := g.write("memory", "memory.max", memory); err != nil {
			return err
		}
		if err := g.write("memory", "memory.swap.max", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if l.CPU > 0 {
			if err := g.write("cpu", "cpu.max", fmt.Sprintf("%d %d", l.CPU*cpuPeriod/1000, cpuPeriod)); err != nil {
				return err
			}
		}
		return g.write("pids", "pids.max", strconv.Itoa(l.PIDs))
	}
	if err := g.write("memory", "memory.limit_in_bytes", memory); err != nil {
		return err
	}
	err := g.write("memory", "memory.memsw.limit_in_bytes", memory)
	if errors.Is(err, fs.ErrNotExist) { // the kernel does not account swap
		err = g.write("memory", "memory.swappiness", "0")
	}
	if err != nil {
		return err
	}
	if l.CPU > 0 {
		if err := g.write("cpu", "cpu.cfs_quota_us", strconv.FormatInt(l.CPU*cpuPeriod/1000, 10)); err != nil {
			return err
		}
	}
	return g.write("pids", "pids.max", strconv.Itoa(l.PIDs+1)) // the seated thread counts until it moves on
}

const cpuPeriod = 100_000 // microseconds, the kernel's default

// CgroupUsage is what the processes of a cgroup have used.
type CgroupUsage struct {
	Memory, PeakMemory int64 // bytes
	CPUTime            time.Duration
	Processes          int
	OOMKills           int // processes killed for being over the memory limit
}

// Usage reads what the kernel says. What a kernel does not tell is zero.
func (g *Cgroup) Usage() CgroupUsage {
	var u CgroupUsage
	if g.fs.Version == 2 {
		u.Memory = g.number("memory", "memory.current")
		u.PeakMemory = g.number("memory", "memory.peak") // Linux 5.19
	} else {
		u.Memory = g.number("memory", "memory.usage_in_bytes")
		u.PeakMemory = g.number("memory", "memory.max_usage_in_bytes")
	}
	u.CPUTime = g.CPUTime()
	u.OOMKills = g.OOMKills()
	u.PeakMemory = max(u.PeakMemory, u.Memory)
	u.Processes = int(g.number("pids", "pids.current"))
	return u
}

// CPUTime returns for how long the processes of the cgroup and those below it have used
// processors.
func (g *Cgroup) CPUTime() time.Duration {
	if g.fs.Version == 2 {
		return time.Duration(g.field("cpu", "cpu.stat", "usage_usec")) * time.Microsecond
	}
	return time.Duration(g.number("cpuacct", "cpuacct.usage"))
}

// canIdle reports whether idle works for the cgroups below this one: Linux 5.15.
func (g *Cgroup) canIdle() bool {
	_, err := os.Stat(g.path("cpu", cpuIdle))
	return err == nil
}

// idle has the processes of the cgroup run when none of its siblings wants the
// processor, and lose it at once to one that does; false undoes it.
func (g *Cgroup) idle(is bool) error {
	value := "0"
	if is {
		value = "1"
	}
	return g.write("cpu", cpuIdle, value)
}

const cpuIdle = "cpu.idle"

// Memory returns how many bytes the processes of the cgroup use, with what the
// kernel holds for them.
func (g *Cgroup) Memory() int64 {
	if g.fs.Version == 2 {
		return g.number("memory", "memory.current")
	}
	return g.number("memory", "memory.usage_in_bytes")
}

// OOMKills returns how many processes were killed for being over the memory limit.
func (g *Cgroup) OOMKills() int {
	if g.fs.Version == 2 {
		return int(g.field("memory", "memory.events", "oom_kill"))
	}
	return int(g.field("memory", "memory.oom_control", "oom_kill"))
}

// Processes returns the PIDs of the processes in the cgroup and those below it.
func (g *Cgroup) Processes() []int {
	var pids []int
	for _, dir := range g.fs.dirs(g.Name) {
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil
			}
			text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, f := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	return pids
}

// Remove removes the cgroup, which must have no processes and no children. For
// some microseconds after its last process was reaped the kernel still calls it
// busy: Remove tries again for two seconds. A cgroup that is gone is no error.
func (g *Cgroup) Remove() error {
	if g.fd >= 0 {
		unix.Close(g.fd)
		g.fd = -1
	}
	var failed error
	for _, dir := range g.everywhere() {
		err := unix.Rmdir(dir)
		for wait := 20 * time.Microsecond; err == unix.EBUSY && wait < time.Second; wait *= 2 {
			time.Sleep(wait)
			err = unix.Rmdir(dir)
		}
		if err != nil && err != unix.ENOENT {
			failed = fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return failed
}

// RemoveIfEmpty removes the cgroup if it has neither processes nor children.
func (g *Cgroup) RemoveIfEmpty() {
	for _, dir := range g.everywhere() {
		unix.Rmdir(dir)
	}
}

// everywhere returns the directories that the cgroup may have.
func (g *Cgroup) everywhere() []string {
	dirs := g.fs.dirs(g.Name)
	if g.opened {
		dirs = append(dirs, g.fs.dirsOfOthers(g.Name)...)
	}
	if g.frozen != "" {
		dirs = append(dirs, g.frozen)
	}
	return dirs
}

// RemoveTree thaws and kills every process in the cgroup and below and removes
// them all.
func (g *Cgroup) RemoveTree() error {
	if g.frozen != "" { // version 1, where the killed do not end before they are thawed
		filepath.WalkDir(g.frozen, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				writeFile(filepath.Join(path, "freezer.state"), "THAWED")
			}
			return nil
		})
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		pids := g.Processes()
		for _, pid := range pids {
			if pid != os.Getpid() {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if len(pids) == 0 || time.Now().After(deadline) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	children, err := g.fs.Children(g.Name)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := g.fs.Open(filepath.Join(g.Name, child)).RemoveTree(); err != nil {
			return err
		}
	}
	return g.Remove()
}

func (g *Cgroup) path(controller, file string) string {
	return filepath.Join(g.fs.mounts[controller], g.Name, file)
}

func (g *Cgroup) write(controller, file, value string) error {
	if err := writeFile(g.path(controller, file), value); err != nil {
		return fmt.Errorf("set %s of cgroup %s to %s: %w", file, g.Name, value, err)
	}
	return nil
}

// number reads a file that holds one number; 0 if it cannot.
func (g *Cgroup) number(controller, file string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(readFile(g.path(controller, file))), 10, 64)
	return n
}

// field reads the number behind name in a file of lines "name number".
func (g *Cgroup) field(controller, file, name string) int64 {
	for line := range strings.Lines(readFile(g.path(controller, file))) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}

// readFile reads a control file of at most a few lines, in three system calls:
// this is done for each call of a function. It is empty if that fails.
func readFile(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var buf [2048]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// writeFile writes value in one system call, as the kernel's control files want
// it. It does not make the file.
func writeFile(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	for err == unix.EINTR { // a limit of memory, while the runtime of Go has a signal for the thread
		_, err = unix.Write(fd, []byte(value))
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
