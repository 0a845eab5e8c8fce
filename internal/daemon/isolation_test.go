package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/linux"
	"hob/internal/testenv"
)

// formatsOfAll are those that every isolation has.
var formatsOfAll = []faas.Format{faas.FormatDefault, faas.FormatHTTP, faas.FormatHTTPStream}

// eachIsolation runs a test with every isolation but the native one. Runsc has no
// package, and may be missing even where tests must run.
func eachIsolation(t *testing.T, test func(t *testing.T, of faas.Isolation)) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups, testenv.NetNS)
	for of, program := range map[faas.Isolation]string{faas.IsolationRunc: "runc", faas.IsolationCrun: "crun", faas.IsolationGVisor: "runsc"} {
		if _, err := exec.LookPath(program); err != nil && of == faas.IsolationGVisor {
			t.Log("left out for runsc, which is not installed: make runsc builds it")
			continue
		}
		t.Run(string(of), func(t *testing.T) {
			testenv.NeedTool(t, program)
			test(t, of)
		})
	}
}

// isolated makes a function of each format, and returns their names.
func (n *node) isolated(of faas.Isolation, prefix string, change func(*client.Settings)) (names []string) {
	n.t.Helper()
	image := n.image("isolated")
	for _, format := range formatsOfAll {
		name := prefix + string(format)
		n.hot(name, image, func(s *client.Settings) {
			s.Format, s.Isolation = ptr(string(format)), ptr(string(of))
			if change != nil {
				change(s)
			}
		})
		names = append(names, name)
	}
	return names
}

func TestFunctionsOfEveryIsolationAreServed(t *testing.T) {
	eachIsolation(t, func(t *testing.T, of faas.Isolation) {
		n := inWorld(t)
		open := n.isolated(of, "open-", func(s *client.Settings) { s.Network = ptr("open") })
		for _, name := range open {
			for i := range 2 { // a cold one, and a hot one or a blank
				word := fmt.Sprintf("word %d of %s", i, name)
				if out, err := n.say(name, word); out != word || err != nil {
					t.Errorf("%s: %q, %v; want %q", name, out, err, word)
				}
				n.logged(name, "told to "+word)
			}
			if out, err := n.result(n.enqueue(name, "later").ID); out != "later" || err != nil {
				t.Errorf("%s: asynchronous: %q, %v", name, out, err)
			}
			want := "8.8.8.8:443 internet, api.example.com:443 internet"
			if out, err := n.say(name, strings.Join([]string{"ask", onInternet, onPrivate, onNode, byName}, " ")); out != want || err != nil {
				t.Errorf("%s reached %q, %v; want %q", name, out, err, want)
			}
		}
		second := client.Duration(time.Second)
		for _, name := range n.isolated(of, "brief-", func(s *client.Settings) { s.Network, s.Timeout = ptr("none"), &second }) {
			if out, err := n.say(name, "hang"); faas.KindOf(err) != faas.TimedOut || !strings.Contains(err.Error(), "1s") {
				t.Errorf("%s that hangs: %q, %v; want a timeout of 1s", name, out, err)
			}
		}
		n.stop()
	})
}

// TestKilledDaemonLeavesNothingOfAnyIsolation kills a daemon with functions that were
// called, and stand still, and one that runs. Nothing is left of them when the next one
// has started.
func TestKilledDaemonLeavesNothingOfAnyIsolation(t *testing.T) {
	eachIsolation(t, func(t *testing.T, of faas.Isolation) {
		testenv.NothingLeft(t)
		dir := filepath.Join(t.TempDir(), "data")
		v := victimOn(t, dir, "ns")
		n := &node{Client: v.Client, t: t, addr: v.addr}
		names := n.isolated(of, "", nil)
		for _, name := range names {
			if out, err := n.say(name, "word"); out != "word" || err != nil {
				t.Errorf("%s: %q, %v", name, out, err)
			}
		}
		id := n.enqueue(names[0], "hang").ID
		n.logged(names[0], "told to hang")
		pids, made := traces(v.cmd.Process.Pid)
		v.kill()
		if len(pids) == 0 || len(made) == 0 {
			t.Errorf("processes %v in cgroups %v: the test shows nothing", pids, made)
		}
		v = victimOn(t, dir, "ns")
		defer v.end(t)
		for _, pid := range pids { // one that stood still ended only now
			until(t, "the processes of sandboxes end", func() bool { return linux.HasEnded(pid) })
		}
		for name := range made {
			for _, pattern := range []string{"/run" + name, "/run" + name + ".lock", "/sys/fs/cgroup" + name, "/sys/fs/cgroup/*" + name} {
				if left, _ := filepath.Glob(pattern); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			}
		}
		n = &node{Client: v.Client, t: t, addr: v.addr}
		if out, err := n.say(names[1], "again"); out != "again" || err != nil {
			t.Errorf("after the kill: %q, %v", out, err)
		}
		if _, err := n.CancelCall(t.Context(), id); err != nil { // which has begun again
			t.Error(err)
		}
	})
}

// traces returns the processes in sandboxes of other runtimes that descend from a daemon,
// and the cgroups of its generation that they are in.
func traces(daemon int) (pids []int, made map[string]bool) {
	made = make(map[string]bool)
	parents := make(map[int]int)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, _ := os.ReadFile(file)
		var pid, parent int
		_, rest, _ := strings.Cut(string(text), ") ")
		fmt.Sscan(string(text), &pid)
		fmt.Sscanf(rest, "%1s %d", new(string), &parent)
		parents[pid] = parent
	}
	for pid := range parents {
		up := pid
		for up > 1 && up != daemon {
			up = parents[up]
		}
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		_, name, found := strings.Cut(string(text), ":/hob-")
		if words := strings.SplitN(name, "/", 3); up == daemon && found && len(words) == 3 {
			pids, made["/hob-"+words[0]+"/"+words[1]] = append(pids, pid), true
		}
	}
	return pids, made
}
