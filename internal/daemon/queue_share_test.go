package daemon_test

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
)

// TestFunctionAtItsLimitBlocksNobodyElse has one app with a limit, too.
func TestFunctionAtItsLimitBlocksNobodyElse(t *testing.T) {
	n, g := start(t, withGate), openGate(t)
	n.gateImage()
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{MaxConcurrency: ptr(3)}); err != nil {
		t.Fatal(err)
	}
	n.gated(g, "one", func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	n.gated(g, "fails", func(s *client.Settings) {
		s.MaxConcurrency, s.Retries, s.RetryDelay = ptr(1), ptr(1), ptr(client.Duration(time.Hour))
	})
	n.gated(g, "free", nil)
	for range 5 {
		n.enqueue("one", "held")
	}
	held := g.next()
	again := n.enqueue("fails", "first")
	g.next().say("exit 1 not now")
	until(t, "the retry waits", func() bool { return n.record(again.ID).State == faas.CallQueued })
	if c := n.record(again.ID); c.Attempt != 1 || time.Until(c.Due) < 50*time.Minute || !strings.Contains(c.Waiting, "due in") || !strings.Contains(c.Waiting, "not now") {
		t.Errorf("the call that is to be retried: %+v", c)
	}
	second := n.enqueue("fails", "second")
	third := n.enqueue("free", "third")
	for range 2 {
		v := g.next()
		if v.Function == "one" {
			t.Errorf("a second call of a function that may run one: %+v", v)
		}
		v.say("cat")
	}
	for _, c := range []client.Call{second, third} {
		if out, err := n.result(c.ID); err != nil {
			t.Errorf("result %q, %v", out, err)
		}
	}
	held.say("cat")
	for range 4 {
		g.next().say("cat")
	}
	if _, err := n.CancelCall(t.Context(), again.ID); err != nil {
		t.Error(err)
	}
	if c := n.record(again.ID); c.State != faas.CallCanceled {
		t.Errorf("canceled: %+v", c)
	}
}

func TestSynchronousCallersAreServedDuringABacklog(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate, func(c *config.Config) { c.MaxConcurrency = 4 })
	image := n.gateImage()
	n.gated(g, "slow", nil)
	n.function("quick", image, nil, "cat")
	for range 40 {
		n.enqueue("slow", "x")
	}
	var held []*visit
	for range 4 {
		held = append(held, g.next())
	}
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			if out, err := n.say("quick", "now"); out != "now" || err != nil {
				t.Errorf("a synchronous call = %q, %v", out, err)
			}
		})
	}
	until(t, "all callers wait", func() bool {
		node, err := n.Node(t.Context())
		return err == nil && node.Waiting >= 20
	})
	held[0].say("cat")
	held[1].say("cat")
	callers.Wait() // while two calls of the backlog hold their slots
	held[2].say("cat")
	held[3].say("cat")
	for range 36 {
		g.next().say("cat")
	}
	until(t, "the backlog is worked off", func() bool {
		s, err := n.Status(t.Context(), faas.DefaultApp, "slow")
		return err == nil && s.Succeeded == 40
	})
	g.none()
}

// TestSynchronousCallersAreServedWhateverIsShort is as the one before, with each
// thing that calls may wait for.
func TestSynchronousCallersAreServedWhateverIsShort(t *testing.T) {
	for _, c := range []struct {
		name   string
		config func(*config.Config)
		app    int
		same   int // limit of the one function that both kinds call; 0: two functions
	}{
		{name: "memory", config: func(c *config.Config) { c.Memory = 128 * faas.MB }},
		{name: "the limit of the app", app: 4},
		{name: "the limit of the function", same: 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := openGate(t)
			n := start(t, withGate, func(cfg *config.Config) {
				if c.config != nil {
					c.config(cfg)
				}
			})
			n.gateImage()
			if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{MaxConcurrency: &c.app}); err != nil {
				t.Fatal(err)
			}
			n.gated(g, "slow", func(s *client.Settings) { s.MaxConcurrency = &c.same })
			quick := "slow"
			if c.same == 0 {
				quick = "quick"
				n.function(quick, gateImage, func(s *client.Settings) { s.Memory = ptr(32 * faas.MB) }, "cat")
			}
			for range 12 {
				n.enqueue("slow", "async")
			}
			var held []*visit
			for range 4 {
				held = append(held, g.next())
			}
			var callers sync.WaitGroup
			for range 10 {
				callers.Go(func() {
					if out, err := n.say(quick, "now"); out != "now" || err != nil {
						t.Errorf("a synchronous call = %q, %v", out, err)
					}
				})
			}
			until(t, "all callers wait", func() bool {
				top, err := n.Node(t.Context())
				return err == nil && top.Waiting >= 10
			})
			held[0].say("cat")
			held[1].say("cat")
			held = held[2:]
			done := make(chan struct{})
			go func() { callers.Wait(); close(done) }()
			served := false
			for !served {
				select {
				case v := <-g.visits:
					if v.Payload == "now" {
						v.say("cat")
					} else {
						held = append(held, v) // nobody waited just then
					}
				case <-done:
					served = true
				case <-time.After(long):
					t.Fatalf("synchronous callers wait, and the backlog holds %d slots", len(held))
				}
			}
			left := 12 - 2 - len(held)
			for _, v := range held {
				v.say("cat")
			}
			for range left {
				g.next().say("cat")
			}
			n.settled()
		})
	}
}

func TestBacklogIsSeenFromEverywhereOnce(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate, func(c *config.Config) { c.Memory = 128 * faas.MB })
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.Memory = ptr(64 * faas.MB) })
	var ids []string
	for range 6 {
		ids = append(ids, n.enqueue("f", "x").ID)
	}
	visits := []*visit{g.next(), g.next()}
	until(t, "two run, four wait", func() bool {
		s, err := n.Status(t.Context(), faas.DefaultApp, "f")
		return err == nil && s == (client.Status{Total: 6, Queued: 4, Running: 2})
	})
	made, err := n.Function(t.Context(), faas.DefaultApp, "f")
	if err != nil {
		t.Fatal(err)
	}
	if a := n.ask("GET", "/status/f/"+made.Address+"?list=1", ""); !strings.Contains(a.body, `"Pending":4,"Running":2,`) || strings.Count(a.body, `"PENDING"`) != 4 {
		t.Errorf("Hyper's status: %s", a.body)
	}
	for i, id := range ids {
		c := n.record(id)
		want := map[faas.CallState]int{faas.CallQueued: 202, faas.CallRunning: 201}[c.State]
		if a := n.ask("GET", "/output/f/"+made.Address+"/"+id, ""); a.status != want {
			t.Errorf("call %d is %s, and Hyper says %d %s", i, c.State, a.status, a.body)
		}
		runs := c.ID == visits[0].Call || c.ID == visits[1].Call
		if runs != (c.State == faas.CallRunning) {
			t.Errorf("call %d is %s: %+v", i, c.State, c)
		}
		if !runs && (!strings.Contains(c.Waiting, "memory") || !strings.Contains(c.Waiting, "place")) {
			t.Errorf("call %d waits for %q, want its place, and memory", i, c.Waiting)
		}
	}
	top, err := n.Top(t.Context())
	if err != nil || len(top.Functions) != 1 || top.Functions[0].Running != 2 || top.Functions[0].Queued != 4 {
		t.Errorf("top: %+v, %v; want 2 running and 4 queued", top.Functions, err)
	}
	if queued, err := n.QueuedCalls(t.Context(), faas.DefaultApp, "f", 0); err != nil || len(queued) != 4 {
		t.Errorf("queued: %d %+v, %v; want 4", len(queued), queued, err)
	} else {
		for i, c := range queued {
			if c.ID != ids[i+2] || c.Place != i+1 {
				t.Errorf("place %d has call %+v, want %s", i+1, c, ids[i+2])
			}
		}
	}
	count := func() map[string]int {
		seen := make(map[string]int)
		calls, _, err := n.Calls(t.Context(), client.CallFilter{App: faas.DefaultApp, Function: "f"})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			seen[c.ID]++
		}
		return seen
	}
	once := func(seen map[string]int) bool {
		for _, id := range ids {
			if seen[id] != 1 {
				return false
			}
		}
		return len(seen) == 6
	}
	if seen := count(); !once(seen) {
		t.Errorf("listed: %v", seen)
	}
	for _, v := range visits {
		v.say("cat")
	}
	for range 4 {
		g.next().say("cat")
	}
	for _, id := range ids {
		n.ended(id)
	}
	if seen := count(); !once(seen) {
		t.Errorf("listed when they are over: %v", seen)
	}
}

func TestCallThatWaitsForMemoryHasNotBegun(t *testing.T) {
	g := openGate(t)
	dir := filepath.Join(t.TempDir(), "data")
	small := func(c *config.Config) { c.Data, c.Memory = dir, 64*faas.MB }
	n := start(t, withGate, small)
	n.gateImage()
	n.gated(g, "once", func(s *client.Settings) { s.Memory, s.OnNodeLoss = ptr(64*faas.MB), ptr("fail") })
	runs := n.enqueue("once", "runs")
	v := g.next()
	first, second, third := n.enqueue("once", "first"), n.enqueue("once", "second"), n.enqueue("once", "third")
	for i, id := range []string{first.ID, second.ID, third.ID} {
		if c := n.record(id); c.State != faas.CallQueued || c.Place != i+1 {
			t.Errorf("call %d: %+v, want it queued at place %d", i+1, c, i+1)
		}
	}
	if c, err := n.CancelCall(t.Context(), first.ID); err != nil {
		t.Errorf("cancel of one that waits for memory: %+v, %v", c, err)
	}
	if c := n.ended(first.ID); c.State != faas.CallCanceled || !c.Started.IsZero() {
		t.Errorf("it was canceled: %+v", c)
	}
	until(t, "the next one has its place", func() bool { return n.record(second.ID).Place == 1 })
	n.stop()
	v.gone(t)
	n = run(t, withGate, small)
	if c := n.ended(runs.ID); c.State != faas.CallFailed || c.Error == nil || !strings.Contains(c.Error.Message, "must not run twice") {
		t.Errorf("the one that ran: %+v", c)
	}
	for _, id := range []string{second.ID, third.ID} {
		v := g.next()
		if v.Call != id {
			t.Errorf("began %+v, want %s", v, id)
		}
		v.say("cat")
		n.ended(id)
	}
	g.none()
}
