package daemon_test

import (
	"strings"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
)

func TestFunctionRemovedWithCallsInLineCancelsThem(t *testing.T) {
	n, g := start(t, withGate), openGate(t)
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	runs := n.enqueue("f", "runs")
	v := g.next()
	var waits []client.Call
	for range 3 {
		waits = append(waits, n.enqueue("f", "waits"))
	}
	delay := time.Hour
	waits = append(waits, n.enqueue("f", "later", func(r *client.CallRequest) { r.Delay = &delay }))
	if err := n.DeleteFunction(t.Context(), faas.DefaultApp, "f", false); faas.KindOf(err) != faas.Conflict || !strings.Contains(err.Error(), runs.ID) {
		t.Errorf("removed while a call runs: %v, want Conflict with the call", err)
	}
	if err := n.DeleteFunction(t.Context(), faas.DefaultApp, "f", true); err != nil {
		t.Fatal(err)
	}
	for _, w := range waits {
		c := n.ended(w.ID)
		if c.State != faas.CallCanceled || c.Error == nil || !strings.Contains(c.Error.Message, "the function was removed") {
			t.Errorf("the call in line: %+v", c)
		}
	}
	v.say("cat")
	if c := n.ended(runs.ID); !c.State.Final() {
		t.Errorf("the call that ran: %+v", c)
	}
	n.gated(g, "f", nil) // another one
	if s, err := n.Status(t.Context(), faas.DefaultApp, "f"); err != nil || s.Total != 0 {
		t.Errorf("a function of the same name has %+v, %v", s, err)
	}
	if _, err := n.RetryCall(t.Context(), waits[0].ID); faas.KindOf(err) != faas.NotFound {
		t.Errorf("retry of a call of a function that is gone: %v", err)
	}
	g.none()
}

func TestQueuedAndRunningCallsAreCanceled(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	for _, name := range []string{"hears", "deaf"} {
		n.gated(g, name, func(s *client.Settings) {
			s.MaxConcurrency, s.Retries = ptr(1), ptr(3)
			if name == "deaf" {
				s.Env["DEAF"] = ptr("1")
			}
		})
		runs := n.enqueue(name, "runs")
		v := g.next()
		waits, last := n.enqueue(name, "waits"), n.enqueue(name, "last")
		if c, err := n.CancelCall(t.Context(), waits.ID); err != nil || c.State != faas.CallCanceled {
			t.Errorf("cancel of one in line: %+v, %v", c, err)
		}
		if a := n.ask("POST", "/api/calls/"+runs.ID+"/cancel", ""); a.status != 202 {
			t.Errorf("cancel of one that runs: %+v, want 202", a)
		}
		v.gone(t)
		if c := n.ended(runs.ID); c.State != faas.CallCanceled || c.Error == nil || c.Error.Kind != faas.Canceled {
			t.Errorf("canceled: %+v", c)
		}
		if _, err := n.CancelCall(t.Context(), runs.ID); faas.KindOf(err) != faas.Conflict {
			t.Errorf("canceled twice: %v", err)
		}
		if v = g.next(); v.Call != last.ID {
			t.Errorf("next began %+v", v)
		}
		v.say("cat")
		n.ended(last.ID)
		again, err := n.RetryCall(t.Context(), runs.ID)
		if err != nil {
			t.Errorf("retry of one that was canceled while it ran: %v", err)
			continue
		}
		if v = g.next(); v.Call != again.ID || v.Payload != "runs" {
			t.Errorf("the repetition: %+v", v)
		}
		v.say("cat")
		n.ended(again.ID)
	}
	g.none()
	n.settled()
}

func TestSynchronousCallIsCanceledByItsID(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	n.gated(g, "f", nil)
	answers := make(chan answer, 1)
	for _, key := range []string{"X-None: x", "Idempotency-Key: k"} {
		go func() { answers <- n.ask("POST", async("f"), "x", key) }()
		v := g.next()
		if a := n.ask("POST", "/api/calls/"+v.Call+"/cancel", ""); a.status != 202 {
			t.Errorf("cancel: %+v", a)
		}
		v.gone(t)
		if a := <-answers; a.status < 400 || a.header.Get("Hob-Fault") != "canceled" {
			t.Errorf("the caller is told %+v", a)
		}
		until(t, "it is over", func() bool { return n.record(v.Call).State == faas.CallCanceled })
	}
	go func() { answers <- n.ask("POST", async("f"), "x", "Idempotency-Key: k") }()
	g.next().say("say again") // a canceled call has freed its key
	if a := <-answers; a.status != 200 || a.body != "again" {
		t.Errorf("again: %+v", a)
	}
}

func TestAppRemovedWithCallsInLineCancelsThem(t *testing.T) {
	n := start(t)
	n.gateImage()
	if _, err := n.CreateApp(t.Context(), "doomed", client.AppSettings{}); err != nil {
		t.Fatal(err)
	}
	image := gateImage
	if _, err := n.CreateFunction(t.Context(), "doomed", "f", client.Settings{Image: &image, Command: &[]string{"cat"}, Delay: ptr(client.Duration(time.Hour))}, ""); err != nil {
		t.Fatal(err)
	}
	call := n.enqueue("f", "x", func(r *client.CallRequest) { r.App = "doomed" })
	if err := n.DeleteApp(t.Context(), "doomed", true); err != nil {
		t.Fatal(err)
	}
	if c := n.ended(call.ID); c.State != faas.CallCanceled || c.Error == nil || !strings.Contains(c.Error.Message, "removed") {
		t.Errorf("its call: %+v", c)
	}
}
