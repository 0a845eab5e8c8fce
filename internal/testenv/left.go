package testenv

import (
	"fmt"
	"io/fs"
	"net"
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
// the kernel removes mounts and reaps processes a little later than it says.
const patience = 3 * time.Second

// NothingLeft compares the machine at the end of the test, after the cleanups
// that are registered later, with the machine now. The test fails with the name
// of each process, mount, cgroup, network device and held namespace of ours
// that was not there before.
//
// "Of ours" are the descendants of this process and what they left to init;
// mounts, cgroups and devices with "hob" in their names; and mounts below the
// temporary directory. With marks, only names that hold one of the marks count:
// pass the data directory when other daemons run on the machine. Tests that
// call NothingLeft run one at a time on the machine, so that they do not see
// each other's sandboxes.
func NothingLeft(t testing.TB, marks ...string) {
	t.Helper()
	release, err := alone()
	if err != nil {
		t.Fatalf("waiting for other leak checks: %v", err)
	}
	before := Look(marks...)
	t.Cleanup(func() {
		defer release()
		var left []string
		for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			left = left[:0]
			for _, thing := range Look(marks...) {
				if !slices.Contains(before, thing) {
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

// Look lists the processes, mounts, cgroups, network devices and held network
// namespaces of ours that exist now, a sentence each, sorted. marks are those of
// NothingLeft.
func Look(marks ...string) []string {
	all := slices.Concat(processes(), mounts(marks), cgroups(marks), devices(), namespaces())
	slices.Sort(all)
	return slices.Compact(all)
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

func marked(name string, marks []string) bool {
	if len(marks) == 0 {
		return strings.Contains(name, "hob") || strings.HasPrefix(name, os.TempDir()+"/Test") || strings.HasPrefix(name, os.TempDir()+"/Benchmark")
	}
	return slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(name, m) })
}

type process struct {
	pid, parent, group int
	state, name, start string
}

// processes lists the living descendants of this process, and those of its
// process group that were left to init.
func processes() []string {
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
	self, group := os.Getpid(), syscall.Getpgrp()
	var found []string
	for _, p := range all {
		if p.pid == self || p.state == "X" {
			continue
		}
		ours := p.parent == 1 && p.group == group
		for at, ok := p, true; ok && !ours; at, ok = all[at.parent] {
			ours = at.parent == self
		}
		if ours {
			// The start time tells a process from a later one with the same number.
			found = append(found, fmt.Sprintf("process %d (%s, state %s, started at tick %s)", p.pid, p.name, p.state, p.start))
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

func mounts(marks []string) []string {
	var found []string
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && marked(f[4], marks) {
			found = append(found, "mount "+f[4])
		}
	}
	return found
}

func cgroups(marks []string) []string {
	var found []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // a cgroup that went while we looked
		}
		if d.IsDir() && path != "/sys/fs/cgroup" && marked(path, marks) {
			found = append(found, "cgroup "+path)
		}
		return nil
	})
	return found
}

func devices() []string {
	var found []string
	all, _ := net.Interfaces()
	for _, dev := range all {
		if strings.HasPrefix(dev.Name, "hob") {
			found = append(found, "network device "+dev.Name)
		}
	}
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
