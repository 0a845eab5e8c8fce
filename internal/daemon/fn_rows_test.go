package daemon_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestFnContainerIsReusedFrozenAndEnded is the life of a container between calls.
func TestFnContainerIsReusedFrozenAndEnded(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", `,"idle_timeout":3`)
	n.invoke(fn, "count")
	first := n.live()
	if len(first) != 1 {
		t.Fatalf("after a call: %+v", first)
	}
	until(t, "it is frozen", func() bool {
		live := n.live()
		return len(live) == 0 || live[0].State == "frozen"
	})
	if a := n.invoke(fn, "count"); a.status != 200 || a.body != "2" && a.body != "1" {
		t.Errorf("the second call: %+v", a)
	}
	until(t, "it has ended", func() bool { return len(n.live()) == 0 })
	if a := n.invoke(fn, "count"); a.body != "1" {
		t.Errorf("the call after idle_timeout: %+v", a)
	}
	if live := n.live(); len(live) != 1 || live[0].ID == first[0].ID {
		t.Errorf("after idle_timeout: %+v, was %+v", live, first)
	}
}

// TestFnCallsAtTheIdleTimeout makes calls just when containers are given up: none of
// them meets one that is about to end.
func TestFnCallsAtTheIdleTimeout(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	n.trigger(fn, "t", "/s")
	if a := n.ask("PATCH", "/api/apps/a/functions/f", `{"idle_timeout":"20ms"}`); a.status != 200 {
		t.Fatalf("idle timeout: %+v", a)
	}
	fresh := 0
	for i := range 100 {
		path := "/invoke/" + fn
		if i%2 == 1 {
			path = "/t/a/s"
		}
		a := n.ask("POST", path, "count")
		if a.status != 200 {
			t.Fatalf("call %d: %+v", i, a)
		}
		if a.body == "1" {
			fresh++
		}
		time.Sleep(18*time.Millisecond + rand.N(3*time.Millisecond))
	}
	t.Logf("%d of 100 calls found a new container", fresh)
}

// TestFnCallsAtOnceHaveAContainerEach is five calls that all run before one is
// answered.
func TestFnCallsAtOnceHaveAContainerEach(t *testing.T) {
	g := openGate(t)
	n := startFn(t, withGate)
	fn := n.gateFn(g, "f", "")
	var calls sync.WaitGroup
	for i := range 5 {
		calls.Go(func() {
			if a := n.invoke(fn, fmt.Sprint(i)); a.status != 200 || a.body != fmt.Sprint("it was ", i) {
				t.Errorf("call %d: %+v", i, a)
			}
		})
	}
	var running []*visit
	for range 5 {
		running = append(running, g.next())
	}
	for _, v := range running {
		v.say("say it was " + v.Payload)
	}
	calls.Wait()
}
