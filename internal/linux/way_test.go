package linux

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWhoUsesAProcessorForLongMakesWay(t *testing.T) {
	c := fakeV2(t, "cpu memory pids")
	const round = 100 * time.Millisecond
	used := map[string]time.Duration{}
	made := map[string]*Cgroup{}
	at := func(name, file string) string { return filepath.Join(c.mounts["cpu"], name, file) }
	var w way
	// turn lets a round pass in which each uses so much, and shows who makes way after it.
	turn := func(uses map[string]time.Duration, gone ...string) string {
		t.Helper()
		var running []*Cgroup
		for _, name := range []string{"a", "b", "c"} {
			if made[name] == nil {
				g, err := c.Make(name)
				if err != nil {
					t.Fatal(err)
				}
				made[name] = g
				write(t, at(name, cpuIdle), "0")
			}
			used[name] += uses[name]
			write(t, at(name, "cpu.stat"), fmt.Sprintf("usage_usec %d\n", used[name].Microseconds()))
			if len(gone) == 0 || gone[0] != name {
				running = append(running, made[name])
			}
		}
		w = w.look(running, round)
		said := ""
		for _, name := range []string{"a", "b", "c"} {
			if text, err := os.ReadFile(at(name, cpuIdle)); err != nil {
				t.Fatal(err)
			} else if string(text) == "1" {
				said += name
			}
		}
		if w.givers != len(said) {
			t.Errorf("%d are said to make way, and %q do", w.givers, said)
		}
		return said
	}
	type uses = map[string]time.Duration
	for i, step := range []struct {
		uses uses
		gone string
		want string
	}{
		{uses{"a": time.Hour, "b": time.Minute}, "", ""}, // before the first look: nobody knows when
		{uses{"a": round, "b": round / 3}, "", "a"},
		{uses{"a": round / 2, "b": 2 * round}, "", "ab"},
		{uses{"a": round / 10, "b": round / 30}, "", "a"}, // b has ended its work, or starves
		{uses{"a": round / 10, "c": 2 * round}, "", "ac"},
		{uses{"a": 0, "b": round / 10, "c": 2 * round}, "", "c"},
		{uses{"a": round / 8, "b": round / 7, "c": round / 9}, "", "abc"}, // on a busy machine nobody gets more
		{uses{"a": round / 30, "c": round}, "b", "c"},                     // b stands still
		{uses{"b": round, "c": round}, "", "c"},                           // and is new when it goes on
		{uses{"b": round / 30, "c": round / 30}, "", ""},
		{uses{"b": round, "c": round}, "", "bc"},
	} {
		var gone []string
		if step.gone != "" {
			gone = append(gone, step.gone)
		}
		if got := turn(step.uses, gone...); got != step.want {
			t.Errorf("round %d: %q make way, want %q", i, got, step.want)
		}
	}
	os.RemoveAll(filepath.Join(c.mounts["cpu"], "b"))
	if w = w.look([]*Cgroup{made["b"], made["c"]}, round); w.givers != 0 || len(w.accounts) != 1 {
		t.Errorf("with one that has ended and one at rest: %d make way, %d are known", w.givers, len(w.accounts))
	}
}
