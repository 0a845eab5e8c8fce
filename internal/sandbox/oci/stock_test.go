package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/network"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

// ready returns how many blanks of a Spec wait.
func ready(d *Driver, s sandbox.Spec) int {
	s, err := d.complete(s)
	if err != nil {
		return -1
	}
	d.stock.mu.Lock()
	defer d.stock.mu.Unlock()
	if h := d.stock.byKey[keyOf(s)]; h != nil {
		return len(h.ready)
	}
	return 0
}

func TestWhatIsStartedAgainIsCreatedAhead(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		testenv.NothingLeft(t, testenv.Mark())
		d := open(t, program, func(c *Config) { c.Blanks = 2 })
		s := spec(t, "prog", "env")
		s.Hostname, s.Sockets = "", "/tmp/s"
		hosts := make(map[string]bool)
		for i, want := range []faas.Start{faas.StartOnDemand, faas.StartPrepared, faas.StartPrepared} {
			if i > 0 {
				until(t, "no blank is made", func() bool { return ready(d, s) > 0 })
			}
			s.ID = fmt.Sprint("box-", i)
			b, err := d.Start(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			out, _ := io.ReadAll(b.Stdio().Stdout)
			if b.Start() != want || b.ID() != s.ID || !strings.Contains(string(out), "HOSTNAME=") || hosts[string(out)] {
				t.Errorf("start %d: from %s, want %s; %s says %q", i, b.Start(), want, b.ID(), out)
			}
			hosts[string(out)] = true
			if exit, err := b.Wait(t.Context()); exit != (faas.Exit{}) || err != nil {
				t.Errorf("ended %+v, %v", exit, err)
			}
			if err := b.Stop(t.Context(), 0); err != nil {
				t.Error(err)
			}
		}

		for i := range 3 { // for others there is room made
			other := s
			other.PIDs = 100 + i
			run(t, d, other)
			until(t, "no blank is made for another", func() bool { return ready(d, other) > 0 })
			run(t, d, s)
		}
		until(t, "no blank is made", func() bool { return ready(d, s) > 0 })
		d.stock.mu.Lock() // killed while it waits, it is not used
		for _, h := range d.stock.byKey {
			for _, b := range h.ready {
				b.process.Signal(9)
				<-b.ended
			}
		}
		d.stock.mu.Unlock()
		if r := run(t, d, s); r.exit != (faas.Exit{}) || !strings.Contains(r.out, "HOSTNAME=") {
			t.Errorf("after its blanks were killed: %+v", r)
		}
		for i := range 3 { // one fits whatever arguments and environment a call has
			until(t, "no blank is made", func() bool { return ready(d, s) > 0 })
			s.ID, s.Args, s.Env = fmt.Sprint("call-", i), []string{"/bin/sh", "-c", "echo $0 $CALL", fmt.Sprint("name-", i)}, []string{fmt.Sprint("CALL=", i)}
			b, err := d.Start(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			out, _ := io.ReadAll(b.Stdio().Stdout)
			if want := fmt.Sprintf("name-%d %d\n", i, i); string(out) != want || b.Start() != faas.StartPrepared {
				t.Errorf("got %q from %s, want %q from a blank", out, b.Start(), want)
			}
			if err := b.Stop(t.Context(), 0); err != nil {
				t.Error(err)
			}
		}
		until(t, "no blank is made", func() bool { return ready(d, s) > 0 })
		s.Args = []string{"no-such-program"}
		if _, err := d.Start(t.Context(), s); faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), "no-such-program") {
			t.Errorf("no such program, from a blank: %v, want Invalid", err)
		}
	})
}

// TestLayersThatAreUnpackedAgainAreSeen removes the layer of an image while a blank of it waits, and
// makes it again under the same name.
func TestLayersThatAreUnpackedAgainAreSeen(t *testing.T) {
	testenv.NothingLeft(t, testenv.Mark())
	d := open(t, "runc", func(c *Config) { c.Blanks = 1 })
	s := spec(t, "prog", "env")
	whole := s.Root.Layers[0]
	dir := filepath.Join(t.TempDir(), "layer")
	s.Root.Layers = []string{dir}
	for i := range 3 {
		if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(whole))); err != nil {
			t.Fatal(err)
		}
		s.ID = fmt.Sprint("box-", i)
		if r := run(t, d, s); r.exit != (faas.Exit{}) {
			t.Errorf("run %d: %+v", i, r)
		}
		until(t, "no blank is made", func() bool { return ready(d, s) > 0 })
	}
}

// TestBlanksDoNotWaitForSlots has a router without slots: who needs one asks again and
// again, and who needs none has its blank.
func TestBlanksDoNotWaitForSlots(t *testing.T) {
	runc := testenv.NeedTool(t, "runc")
	w := sandboxtest.NewWorld(t)
	d := open(t, runc, func(c *Config) { c.Blanks, c.Router = 2, w.Router })
	own, none := spec(t, "true"), spec(t, "true")
	own.Network = faas.Egress{Mode: faas.NetworkOpen}
	if err := w.Router.Close(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := w.Router.Spare(own.Network, ""); errors.Is(err, network.ErrFew) {
			break
		}
	}
	own, err := d.complete(own)
	if err != nil {
		t.Fatal(err)
	}
	tried := d.last.Load()
	d.stock.started(keyOf(own), own, faas.StartOnDemand)
	until(t, "no slot is asked for again", func() bool { return d.last.Load() >= tried+2 })
	run(t, d, none)
	until(t, "no blank is made", func() bool { return ready(d, none) > 0 })
	if n := ready(d, own); n > 0 {
		t.Errorf("%d blanks without a slot", n)
	}
}
