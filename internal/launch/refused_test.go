package launch_test

import (
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/launch"
)

func TestRefusedConnectionIsALineOfTheCallAndCounts(t *testing.T) {
	r := newRig(t, serve)
	app := faas.App{Name: "shop"}
	fn := r.hot(t)
	c, err := r.Start(t.Context(), app, fn, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	id := r.Live()[0].ID
	r.Refused(id, "tcp connection to 10.1.2.3:5432", "10.1.2.3:5432")
	r.Refused(id, "17 to 255.255.255.255; nobody reaches it", "")
	r.Refused("somebody", "tcp connection to 10.1.2.3:5432", "10.1.2.3:5432")
	if n := r.Refusals(fn.ID); n != 2 {
		t.Errorf("%d are counted, want 2", n)
	}
	lines := r.logs.peek(fn.ID + "//hob")
	for _, want := range []string{
		"refused: tcp connection to 10.1.2.3:5432; this opens it: hob update shop/" + fn.Name + " --allow 10.1.2.3:5432\n",
		"refused: 17 to 255.255.255.255; nobody reaches it\n",
	} {
		if !strings.Contains(lines, want) {
			t.Errorf("the log is %q, want %q in it", lines, want)
		}
	}
}

func TestProposedCommandsHoldNothingThatAShellHeeds(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.2.3:5432":     "10.1.2.3:5432",
		"db.lan:443/tcp":    "db.lan:443/tcp",
		"*.example.com:443": "'*.example.com:443'",
		"[fd00::1]:80":      "'[fd00::1]:80'",
		"":                  "''",
		"a;curl evil|sh:80": "'a;curl evil|sh:80'",
		"$(id)`id`:80":      "'$(id)`id`:80'",
		"it's:80":           `'it'\''s:80'`,
		"a\nb\x1b[2J:80":    "'a?b?[2J:80'",
	} {
		if got := launch.Quote(text); got != want {
			t.Errorf("%q is quoted %s, want %s", text, got, want)
		}
	}
}

func TestRefusalsAreToldBehindTheEndOfASandboxUntilItsFunctionIsNoMore(t *testing.T) {
	r := newRig(t, serve)
	fn := r.hot(t)
	c, err := r.Start(t.Context(), faas.App{}, fn, func() {})
	if err != nil {
		t.Fatal(err)
	}
	other, err := r.Start(t.Context(), faas.App{}, fn, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ids := make(map[string]bool)
	for _, s := range r.Live() {
		ids[s.ID] = true
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for id := range ids { // of one that lives and one that has ended
		r.Refused(id, "tcp connection to 10.1.2.3:5432", "10.1.2.3:5432")
	}
	if n := r.Refusals(fn.ID); len(ids) != 2 || n != 2 {
		t.Errorf("%d refusals of %d sandboxes are counted, want one of each", n, len(ids))
	}
	live := r.Live()[0].ID
	r.Forget(fn.ID)
	if n := r.Refusals(fn.ID); n != 0 {
		t.Errorf("%d are counted of a function that is no more", n)
	}
	for id := range ids {
		if id != live {
			r.Refused(id, "tcp connection to 10.1.2.3:5432", "10.1.2.3:5432")
		}
	}
	if n := r.Refusals(fn.ID); n != 0 {
		t.Errorf("%d are counted of a function that is no more, and a sandbox that has ended", n)
	}
}
