package sandboxtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/sandbox"
)

// testLimits has a program take as much as it gets of each thing that is counted.
func (s *suite) testLimits(t *testing.T) {
	caps, err := s.Driver.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if caps.CgroupVersion == 0 {
		return // it enforces none
	}
	for _, tt := range []struct {
		what        string
		limits      sandbox.Limits
		row         string // of /proc/self/limits; "": the kernel counts it elsewhere
		least, most int    // what the program gets
	}{
		{what: "processes", limits: sandbox.Limits{PIDs: 40}, least: 2, most: 39}, // each has threads, which count
		{what: "files", limits: sandbox.Limits{Files: 40}, row: "Max open files 40 40 files", least: 25, most: 37},
		{what: "locked-memory", limits: sandbox.Limits{LockedMemory: 64 * faas.KB}, row: "Max locked memory 65536 65536 bytes", least: 65536, most: 65536},
		{what: "signals", limits: sandbox.Limits{PendingSignals: 50}, row: "Max pending signals 50 50 signals", least: 40, most: 50},
		{what: "queues", limits: sandbox.Limits{MessageQueues: 40 * faas.KB}, row: "Max msgqueue size 40960 40960 bytes", least: 20, most: 40}, // of one kilobyte and a bit
		{what: "inodes", limits: sandbox.Limits{TmpInodes: 60}, least: 50, most: 60},
	} {
		if s.Counted != nil && !slices.Contains(s.Counted, tt.what) {
			continue
		}
		t.Run(tt.what, func(t *testing.T) {
			for range 2 { // with limits of its own, and without
				spec := s.Spec("take", tt.what)
				spec.Limits, spec.Memory = tt.limits, 256*faas.MB
				out := read(t, s.startSpec(t, spec).Stdio().Stdout)
				var got int
				fmt.Sscan(out, &got)
				said := strings.Join(strings.Fields(out), " ")
				limited := got >= tt.least && got <= tt.most && strings.Contains(said, tt.row)
				if limited != (tt.limits != sandbox.Limits{}) {
					t.Errorf("limits %+v: it got %d, which should be %d to %d, and %q, of %s", tt.limits, got, tt.least, tt.most, tt.row, out)
				}
				tt.limits = sandbox.Limits{}
			}
		})
	}
}
