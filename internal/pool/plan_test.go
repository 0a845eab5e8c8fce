package pool

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hob/faas"
)

var update = flag.Bool("update", false, "rewrite testdata with what the code does now")

// TestPlan replays the scripts in testdata/plan. A script is a list of events;
// the indented lines under each are the actions it must cause.
//
//	memory 100               the node's, in MB; first
//	function F 10 2 5        needs 10 MB, at most 2 at once (0: no limit), 5 may wait
//	want a F | want a F@2    caller a wants function F, of a revision
//	gone a, ready 1, failed 1, done 1, stopped 1, close
//	line                     shows who waits, and why
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(script))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got != string(script) {
				t.Errorf("%s: got\n%s\nwant\n%s", file, got, script)
			}
		})
	}
}

// ledger is a Memory without a lock.
type ledger struct{ total, reserved faas.Bytes }

func (l *ledger) TryReserve(n faas.Bytes) bool {
	if n > l.total-l.reserved {
		return false
	}
	l.reserved += n
	return true
}
func (l *ledger) Release(n faas.Bytes) { l.reserved -= n }
func (l *ledger) Total() faas.Bytes    { return l.total }
func (l *ledger) Reserved() faas.Bytes { return l.reserved }

type replayer struct {
	memory ledger
	fns    map[string]faas.Function
	plan   plan
}

func replay(t *testing.T, script string) string {
	r := &replayer{fns: make(map[string]faas.Function)}
	r.plan = newPlan(&r.memory)
	var out strings.Builder
	for text := range strings.Lines(script) {
		if strings.HasPrefix(text, "\t") {
			continue // what the script expects; out holds what happened
		}
		out.WriteString(text)
		words := strings.Fields(text)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		if words[0] == "line" {
			for _, w := range r.plan.waits() {
				fmt.Fprintf(&out, "\t%s of %s: %s", w.caller, w.fn.ID, []string{"starting", "limit", "memory"}[w.reason])
				if w.place > 0 {
					fmt.Fprintf(&out, ", place %d", w.place)
				}
				out.WriteByte('\n')
			}
			continue
		}
		for _, a := range r.apply(t, words) {
			fmt.Fprintf(&out, "\t%s", a.Do)
			if a.Slot != 0 {
				fmt.Fprintf(&out, " %d", a.Slot)
			}
			if a.Do == "start" {
				fmt.Fprintf(&out, " of %s", r.plan.slots[a.Slot].fn.ID)
			}
			if a.Caller != "" {
				fmt.Fprintf(&out, " to %s", a.Caller)
			}
			out.WriteByte('\n')
		}
	}
	if len(r.plan.slots) == 0 && (r.memory.reserved != 0 || len(r.plan.active) != 0) {
		t.Errorf("no slots are left, but %v reserved, %v active", r.memory.reserved, r.plan.active)
	}
	return out.String()
}

func (r *replayer) apply(t *testing.T, words []string) []action {
	t.Helper()
	number := func(i int) int {
		n, err := strconv.Atoi(words[i])
		if err != nil {
			t.Fatalf("%v: %v", words, err)
		}
		return n
	}
	switch words[0] {
	case "memory":
		r.memory.total = faas.Bytes(number(1)) * faas.MB
	case "function":
		r.fns[words[1]] = faas.Function{ID: words[1], Revision: 1,
			Memory: faas.Bytes(number(2)) * faas.MB, MaxConcurrency: number(3), Line: number(4)}
	case "want":
		name, revision, later := strings.Cut(words[2], "@")
		fn, known := r.fns[name]
		if !known {
			t.Fatalf("%v: no such function", words)
		}
		if later {
			fn.Revision, _ = strconv.ParseInt(revision, 10, 64)
		}
		return r.plan.want(words[1], fn)
	case "gone":
		return r.plan.gone(words[1])
	case "ready":
		return r.plan.ready(number(1))
	case "failed":
		return r.plan.failed(number(1))
	case "done":
		return r.plan.done(number(1))
	case "stopped":
		return r.plan.stopped(number(1))
	case "close":
		return r.plan.close()
	default:
		t.Fatalf("unknown event %v", words)
	}
	return nil
}
