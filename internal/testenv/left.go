package testenv

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long things that a test made may take to go after it ended:
// the kernel removes mounts and reaps processes a little later than it says, on a busy
// machine much later.
const patience = 10 * time.Second

// NothingLeft compares the machine at the end of the test, after the cleanups
// that are registered later, with the machine now. The test fails with the name
// of each process, mount, cgroup, network device, packet filter table and held
// namespace of ours that was not there before.
//
// "Of ours" are the descendants of this process and what they left to init;
// mounts below the temporary directory of the test; and cgroups below one called
// "hob" and tables, except those of a generation that somebody else's daemon holds. Tests that
// call NothingLeft so run one at a time on the machine, so that they do not see
// each other's sandboxes.
//
// With marks, which nobody else's names hold (see Mark), those mounts, cgroups,
// network devices and tables count whose names hold one. Such a test waits for no other.
func NothingLeft(t testing.TB, marks ...string) {
	t.Helper()
	release := func() {}
	look := func() []string { return Look(marks...) }
	if len(marks) == 0 {
		var err error
		if release, err = alone(); err != nil {
			t.Fatalf("waiting for other leak checks: %v", err)
		}
		// The test's own directories, and those of its subtests: /tmp/TestName…
		own := strings.TrimRight(filepath.Dir(t.TempDir()), "0123456789")
		look = func() []string {
			return everything(func(dir string) bool { return strings.HasPrefix(dir, own) }, ofHob, func(dev string) bool { return strings.HasPrefix(dev, "hob") })
		}
	}
	before := make(map[string]bool)
	every := func(string) bool { return true }
	for _, thing := range slices.Concat(look(), tables(every, true), devices(every, true)) { // somebody's that lives may die meanwhile
		before[identity(thing)] = true
	}
	t.Cleanup(func() {
		defer release()
		var left []string
		for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			left = left[:0]
			for _, thing := range look() {
				if !before[identity(thing)] {
					left = append(left, thing)
				}
			}
			if len(left) == 0 || time.Now().After(end) {
				break
			}
		}
		for _, thing := range left {
			t.Errorf("left behind: %s", thing)
		}
	})
}

// identity is what does not change in the sentence of a thing: a process has other states
// later, and another name when it has executed a program.
func identity(thing string) string {
	if strings.HasPrefix(thing, "process ") {
		thing, _, _ = strings.Cut(thing, ", now ")
	}
	return thing
}

// Mark is for names of what the tests of this process make: no other's have it.
func Mark() string { return fmt.Sprintf("hobtest-%d-", os.Getpid()) }

// alone waits until no other leak check runs on this machine.
func alone() (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "hob-testenv.lock"), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != syscall.EINTR {
			f.Close()
			return nil, err
		}
	}
}

// Look lists the processes, mounts, cgroups, network devices, packet filter tables and held
// network namespaces of ours that exist now, a sentence each, sorted. Mounts, cgroups, devices
// and tables are those whose names hold one of the marks.
func Look(marks ...string) []string {
	marked := func(name string) bool {
		return slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(name, m) })
	}
	return everything(marked, marked, marked)
}

// everything is Look with a choice of mounts, of cgroups and of network devices.
func everything(mount, cgroup, device func(name string) bool) []string {
	all := slices.Concat(processes(), mounts(mount), cgroups(cgroup), devices(device, false), tables(device, false), namespaces())
	slices.Sort(all)
	return slices.Compact(all)
}

// ofHob reports whether a cgroup is one that a daemon of this test made: it lies
// below "hob", and no other living process holds its generation. The cgroup
// "hob" itself is shared by all daemons of a machine.
func ofHob(cgroup string) bool {
	_, below, ok := strings.Cut(cgroup, "/hob/")
	if !ok {
		return false
	}
	generation, _, _ := strings.Cut(below, "/")
	info, err := os.Stat(filepath.Join("/run/hob", generation+".lock"))
	if err != nil {
		return true // nobody's: its daemon has ended
	}
	inode := fmt.Sprintf(":%d", info.Sys().(*syscall.Stat_t).Ino)
	all := running()
	locks, _ := os.ReadFile("/proc/locks")
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  WRITE 10051 fe:00:9986293 0 EOF
		if f := strings.Fields(line); len(f) > 5 && f[1] == "FLOCK" && strings.HasSuffix(f[5], inode) {
			pid, _ := strconv.Atoi(f[4])
			return pid == os.Getpid() || descends(all, pid)
		}
	}
	return true
}

// Descriptors lists the open descriptors of this process by what they are open
// on, sorted, for tests that compare two moments.
func Descriptors() []string {
	var open []string
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			open = append(open, target)
		}
	}
	slices.Sort(open)
	return open
}

type process struct {
	pid, parent, group int
	state, name, start string
}

// running returns every process of the machine, by its number.
func running() map[int]process {
	all := make(map[int]process)
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range dirs {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		if p, ok := parseStat(string(data)); ok {
			all[p.pid] = p
		}
	}
	return all
}

// descends reports whether a process comes from this one.
func descends(all map[int]process, pid int) bool {
	self := os.Getpid()
	for p, ok := all[pid]; ok; p, ok = all[p.parent] {
		if p.parent == self {
			return true
		}
	}
	return false
}

// processes lists the living descendants of this process, and those of its
// process group that were left to init.
func processes() []string {
	all := running()
	group := syscall.Getpgrp()
	var found []string
	for _, p := range all {
		// What has ended and waits for init is init's, which may take its time.
		orphan := p.parent == 1 && p.group == group && p.state != "Z"
		if p.state != "X" && (orphan || descends(all, p.pid)) {
			// The start time tells a process from a later one with the same number.
			found = append(found, fmt.Sprintf("process %d of tick %s, now %s in state %s", p.pid, p.start, p.name, p.state))
		}
	}
	return found
}

// parseStat reads /proc/PID/stat, in which the name may hold anything.
func parseStat(stat string) (process, bool) {
	before, after, ok := cutLast(stat, ")")
	pid, name, ok2 := strings.Cut(before, " (")
	f := strings.Fields(after)
	if !ok || !ok2 || len(f) < 20 {
		return process{}, false
	}
	p := process{name: name, state: f[0], start: f[19]}
	p.pid, _ = strconv.Atoi(pid)
	p.parent, _ = strconv.Atoi(f[1])
	p.group, _ = strconv.Atoi(f[2])
	return p, true
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func mounts(counts func(dir string) bool) []string {
	var found []string
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && counts(f[4]) {
			found = append(found, "mount "+f[4])
		}
	}
	return found
}

func cgroups(counts func(dir string) bool) []string {
	var found []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // a cgroup that went while we looked
		}
		if d.IsDir() && counts(path) {
			found = append(found, "cgroup "+path)
		}
		return nil
	})
	return found
}

// namespaces lists network namespaces that this process holds open.
func namespaces() []string {
	var found []string
	for _, target := range Descriptors() {
		if strings.HasPrefix(target, "net:[") {
			found = append(found, "open network namespace "+target)
		}
	}
	return found
}
