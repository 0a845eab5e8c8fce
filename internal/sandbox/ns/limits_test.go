package ns

import (
	"fmt"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/sandbox"
)

func TestForkBombIsContained(t *testing.T) {
	d := open(t)
	s := spec(t, "prog", "take", "processes")
	s.PIDs, s.Memory = 50, 512*faas.MB
	r := run(t, d, s)
	if !strings.Contains(r.out, "resource temporarily unavailable") {
		t.Errorf("got %q, %q; want the kernel's refusal", r.out, r.err)
	}
}

// TestFilesInMemoryAreCounted looks at each place that has files in memory.
func TestFilesInMemoryAreCounted(t *testing.T) {
	d := open(t)
	for _, tt := range []struct {
		dir      string
		writable bool
	}{{"/tmp", false}, {"/data", false}, {"/dev/shm", false}, {"/tmp", true}} {
		r := sh(t, d, `i=0; while echo > `+tt.dir+`/$i; do i=$((i+1)); done 2>&1; echo $i`, func(s *sandbox.Spec) {
			s.Writable, s.Volumes, s.Limits.TmpInodes, s.Sockets = tt.writable, []string{"/data"}, 30, "/tmp/iofs"
		})
		var n int
		lines := strings.Split(strings.TrimSpace(r.out), "\n")
		fmt.Sscan(lines[len(lines)-1], &n)
		if n < 20 || n > 30 || !strings.Contains(r.out, "No space left on device") {
			t.Errorf("%s, writable root %t: %d files, want 20 to 30: %s%s", tt.dir, tt.writable, n, r.out, r.err)
		}
	}
}

func TestLimitsThatNothingStartsWithAreRefused(t *testing.T) {
	d := open(t)
	for _, l := range []sandbox.Limits{{PIDs: -1}, {Files: 7}, {LockedMemory: -1}, {PendingSignals: -1}, {MessageQueues: -1}, {TmpInodes: 15}} {
		s := spec(t, "true")
		s.Limits = l
		if _, err := d.Start(t.Context(), s); faas.KindOf(err) != faas.Invalid {
			t.Errorf("%+v: %v, want Invalid", l, err)
		}
	}
	r := sh(t, d, "echo ok", func(s *sandbox.Spec) {
		s.Limits = sandbox.Limits{PIDs: 1, Files: 8, LockedMemory: 1, PendingSignals: 1, MessageQueues: 1, TmpInodes: 16}
		s.Sockets, s.Volumes = "/tmp/a/b/c", []string{"/data"}
	})
	if r.out != "ok\n" {
		t.Errorf("the least limits: %q, %s", r.out, r.err)
	}
}
