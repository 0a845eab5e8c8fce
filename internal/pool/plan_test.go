package pool

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hob/faas"
)

var update = flag.Bool("update", false, "rewrite testdata with what the code does now")

// TestPlan replays the scripts in testdata/plan. A script is a list of events;
// the indented lines under each are the actions it must cause.
//
//	memory 100               the node's, in MB; first; also: cpus 2
//	node calls=2 waiters=10 freeze=50ms processors=2 share=50
//	app A 3                  functions of app A may have 3 calls at once
//	function F 10 2 5 [hot] [idle=30s] [each=2] [min=1] [max=3] [cpus=0.5] [app=A] [never-frozen]
//	                         needs 10 MB, at most 2 at once (0: no limit), 5 may wait
//	at 5ms                   it is so long after the beginning
//	want a F | want a F@2    caller a wants function F, of a revision; async for an asynchronous call
//	gone a, ready 1, failed 1, done 1, broken 1 (done, and not to be used again),
//	died 1, frozen 1 2 (and holds 2 MB), restless 1, stopped 1, renew F@2, forget F, close
//	tick                     what is due; shows when the next one is
//	line                     shows who waits, and why
//	slots                    shows every slot and what is reserved
//	welcome F                shows how many asynchronous calls of F and its app are welcome
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

// ledger is a Capacity without a lock.
type ledger struct{ total, reserved faas.Resources }

func (l *ledger) TryReserve(r faas.Resources) bool {
	if free := l.Free(); r.Memory > free.Memory || r.CPU > free.CPU {
		return false
	}
	l.reserved = l.reserved.Plus(r)
	return true
}
func (l *ledger) Release(r faas.Resources) { l.reserved = l.reserved.Minus(r) }
func (l *ledger) Total() faas.Resources    { return l.total }
func (l *ledger) Free() faas.Resources     { return l.total.Minus(l.reserved) }

type replayer struct {
	capacity ledger
	fns      map[string]faas.Function
	apps     map[string]faas.App
	plan     plan
	async    map[string]bool // callers of asynchronous calls
	asyncs   map[*slot]int   // such calls that run
}

var (
	stateNames  = []string{"starting", "idle", "frozen", "busy", "leaving"}
	reasonNames = []string{"", "starting", "turn", "limit", "app", "node", "memory", "cpus", "behind"}
)

func replay(t *testing.T, script string) string {
	r := &replayer{fns: make(map[string]faas.Function), apps: make(map[string]faas.App), async: make(map[string]bool), asyncs: make(map[*slot]int)}
	r.plan = newPlan(&r.capacity)
	r.capacity.total.CPU = 1000
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
		switch words[0] {
		case "line":
			for _, w := range r.plan.waits() {
				fmt.Fprintf(&out, "\t%s of %s: %s", w.caller, w.pool.fn.ID, reasonNames[w.reason])
				if w.place > 0 {
					fmt.Fprintf(&out, ", place %d", w.place)
				}
				out.WriteByte('\n')
				if one, ok := r.plan.waitOf(w.caller, w.pool); !ok || one != w {
					t.Errorf("%s: waitOf says %+v, waits %+v", w.caller, one, w)
				}
			}
			continue
		case "welcome":
			app, fn := r.function(t, words[1])
			of, ofApp := r.plan.welcome(app, fn)
			fmt.Fprintf(&out, "\t%d", of)
			if ofApp != noLimit {
				fmt.Fprintf(&out, ", of the app %d", ofApp)
			}
			out.WriteByte('\n')
			continue
		case "slots":
			for _, s := range r.plan.sorted() {
				fmt.Fprintf(&out, "\t%d of %s@%d: %s", s.n, s.pool.fn.ID, s.pool.revision, stateNames[s.state])
				if s.uses > 1 {
					fmt.Fprintf(&out, " with %d calls", s.uses)
				}
				fmt.Fprintf(&out, ", %v\n", s.charge.Memory)
			}
			fmt.Fprintf(&out, "\treserved %v, %v cpus\n", r.capacity.reserved.Memory, r.capacity.reserved.CPU)
			continue
		}
		for _, a := range r.apply(t, words) {
			fmt.Fprintf(&out, "\t%s", a.Do)
			if a.Slot != nil {
				fmt.Fprintf(&out, " %d", a.Slot.n)
			}
			if a.Do == "start" {
				fmt.Fprintf(&out, " of %s", a.Slot.pool.fn.ID)
			}
			if a.Caller != "" {
				fmt.Fprintf(&out, " to %s", a.Caller)
			}
			if a.Slot != nil && r.async[a.Caller] && a.Do != "fail" {
				r.asyncs[a.Slot]++
			}
			out.WriteByte('\n')
		}
		if words[0] == "tick" {
			due := "never"
			if r.plan.due != never {
				due = "at " + r.plan.due.String()
			}
			fmt.Fprintf(&out, "\tnext %s\n", due)
		}
		r.check(t, text)
	}
	return out.String()
}

// check compares what the plan counts with what there is.
func (r *replayer) check(t *testing.T, after string) {
	t.Helper()
	var charge, going faas.Resources
	running, async, functions := 0, 0, make(map[string]int)
	for _, s := range r.plan.slots {
		async += r.asyncs[s]
		charge = charge.Plus(s.charge)
		n := s.uses
		switch s.state {
		case slotLeaving:
			going = going.Plus(s.charge)
		case slotStarting:
			n = 1
		}
		running += n
		functions[s.pool.fn.ID] += n
	}
	if charge != r.capacity.reserved || going != r.plan.going {
		t.Errorf("after %sslots hold %v, of that %v are going; the plan has %v and %v", after, charge, going, r.capacity.reserved, r.plan.going)
	}
	if async != r.plan.async {
		t.Errorf("after %s%d asynchronous calls run, the plan counts %d", after, async, r.plan.async)
	}
	if running != r.plan.running {
		t.Errorf("after %s%d calls run or start, the plan counts %d", after, running, r.plan.running)
	}
	for id, n := range functions {
		if r.plan.counter(id).active != n && r.plan.current[id] != nil {
			t.Errorf("after %s%d calls of %s run or start, the plan counts %d", after, n, id, r.plan.counter(id).active)
		}
	}
}

// function is a function as a script names it.
func (r *replayer) function(t *testing.T, text string) (*faas.App, *faas.Function) {
	t.Helper()
	name, revision, later := strings.Cut(text, "@")
	fn, known := r.fns[name]
	if !known {
		t.Fatalf("%s: no such function", text)
	}
	if later {
		fn.Revision, _ = strconv.ParseInt(revision, 10, 64)
	}
	app := r.apps[fn.App]
	return &app, &fn
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
	duration := func(text string) time.Duration {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("%v: %v", words, err)
		}
		return d
	}
	slot := func() *slot {
		s := r.plan.slots[number(1)]
		if s == nil {
			t.Fatalf("%v: no such slot", words)
		}
		return s
	}
	function := func(text string) (*faas.App, *faas.Function) { return r.function(t, text) }
	switch words[0] {
	case "memory":
		r.capacity.total.Memory = faas.Bytes(number(1)) * faas.MB
	case "cpus":
		r.capacity.total.CPU = faas.CPU(number(1) * 1000)
	case "node":
		for _, option := range words[1:] {
			switch name, value, _ := strings.Cut(option, "="); name {
			case "calls":
				r.plan.calls, _ = strconv.Atoi(value)
			case "waiters":
				r.plan.waiters, _ = strconv.Atoi(value)
			case "processors":
				r.plan.processors, _ = strconv.Atoi(value)
			case "share":
				r.plan.asyncShare, _ = strconv.Atoi(value)
			case "freeze":
				r.plan.freezeAfter = duration(value)
			default:
				t.Fatalf("unknown option %v", words)
			}
		}
	case "app":
		r.apps[words[1]] = faas.App{ID: words[1], Name: words[1], Revision: 1, MaxConcurrency: number(2)}
	case "function":
		fn := faas.Function{ID: words[1], Revision: 1, Format: faas.FormatDefault, Idle: 30 * time.Second,
			Memory: faas.Bytes(number(2)) * faas.MB, MaxConcurrency: number(3), Line: number(4)}
		for _, option := range words[5:] {
			switch name, value, _ := strings.Cut(option, "="); name {
			case "hot":
				fn.Format = faas.FormatHTTP
			case "idle":
				fn.Idle = duration(value)
			case "each":
				fn.Format = faas.FormatPort
				fn.Concurrency, _ = strconv.Atoi(value)
			case "min":
				fn.Min, _ = strconv.Atoi(value)
			case "max":
				fn.MaxCalls, _ = strconv.Atoi(value)
			case "cpus":
				fn.CPU, _ = faas.ParseCPU(value)
			case "app":
				fn.App = value
			case "never-frozen":
				fn.Freeze = faas.FreezeNever
			default:
				t.Fatalf("unknown option %v", words)
			}
		}
		r.fns[words[1]] = fn
	case "at":
		r.plan.now = duration(words[1])
	case "want":
		app, fn := function(words[2])
		async := len(words) > 3 && words[3] == "async"
		r.async[words[1]] = async
		if s := r.plan.take(app, fn, async); s != nil {
			return []action{{"take", s, words[1]}}
		}
		return r.plan.want(words[1], app, fn, async)
	case "gone":
		for l := range r.plan.lines {
			if l.find(words[1]) >= 0 {
				return r.plan.gone(words[1], l)
			}
		}
		t.Fatalf("%v: it does not wait", words)
	case "ready":
		return r.plan.ready(slot())
	case "failed":
		return r.plan.failed(slot())
	case "done", "broken":
		async := r.asyncs[slot()] > 0
		if async {
			r.asyncs[slot()]--
		}
		return r.plan.done(slot(), async, words[0] == "done" && slot().pool.fn.Format.Hot())
	case "died":
		return r.plan.died(slot())
	case "frozen":
		return r.plan.frozen(slot(), faas.Bytes(number(2))*faas.MB)
	case "restless":
		return r.plan.restless(slot())
	case "stopped":
		return r.plan.stopped(slot())
	case "renew":
		return r.plan.renew(function(words[1]))
	case "forget":
		return r.plan.forget(words[1])
	case "tick":
		return r.plan.tick()
	case "close":
		return r.plan.close()
	default:
		t.Fatalf("unknown event %v", words)
	}
	return nil
}
