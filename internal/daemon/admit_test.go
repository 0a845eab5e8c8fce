package daemon_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
	"hob/internal/testenv"
)

// TestWhatThisNodeCannotGiveIsRefusedWhenItIsPut asks for what is not there.
func TestWhatThisNodeCannotGiveIsRefusedWhenItIsPut(t *testing.T) {
	n := run(t, func(cfg *config.Config) {
		cfg.Driver = "fake"
		cfg.Networks, cfg.Allow = []string{"db=allow 10.1.2.0/24:5432", "lan=open 192.168.0.0/16:*"}, []string{"10.9.9.9:1"}
		cfg.Devices = []string{"/dev/fuse"}
	})
	image := n.prog()
	for _, c := range []struct {
		name   string
		change func(*client.Settings)
		kind   faas.Kind
		want   []string
	}{
		{"isolation", func(s *client.Settings) { s.Isolation = ptr("gvisor") }, faas.Unsupported, []string{"gvisor"}},
		{"unknown isolation", func(s *client.Settings) { s.Isolation = ptr("kata") }, faas.Invalid, []string{"native, gvisor, runc, crun"}},
		{"unknown network", func(s *client.Settings) { s.Network = ptr("dbs") }, faas.Invalid, []string{"none, open, allow, db, lan"}},
		{"rule", func(s *client.Settings) { s.Allow = ptr([]string{"10.0.0.1"}) }, faas.Invalid, []string{"names no port", "api.example.com:443"}},
		{"rule beside none", func(s *client.Settings) { s.Network, s.Allow = ptr("none"), ptr([]string{"10.0.0.1:1"}) }, faas.Invalid, []string{"none"}},
		{"too many rules", func(s *client.Settings) { s.Allow = ptr(strings.Fields(strings.Repeat("10.0.0.1:1 ", 64))) }, faas.Invalid, []string{"65", "64"}},
		{"devices of this driver", func(s *client.Settings) { s.Devices = ptr([]string{"/dev/fuse"}) }, faas.Unsupported, []string{"fake"}},
		{"device that is none", func(s *client.Settings) { s.Devices = ptr([]string{"/etc/passwd"}) }, faas.Invalid, []string{"below /dev"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := client.Settings{Image: &image}
			c.change(&s)
			_, err := n.CreateFunction(t.Context(), faas.DefaultApp, "f", s, "")
			if faas.KindOf(err) != c.kind {
				t.Fatalf("%s %v, want %s", faas.KindOf(err), err, c.kind)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: want %q in it", err, want)
				}
			}
		})
	}
	n.function("fine", image, func(s *client.Settings) { s.Network, s.Allow = ptr("db"), ptr([]string{"api.example.com:443"}) })

	// The same through another API, in its own words.
	res, err := http.Post("http://"+n.addr+"/v1/apps/a/routes", "application/json",
		strings.NewReader(`{"route":{"path":"/r","image":"`+image+`","annotations":{"hob/isolation":"gvisor"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode < 400 || res.StatusCode == http.StatusInternalServerError {
		t.Errorf("a route with an isolation that is not there: %s", res.Status)
	}
}

// TestWhatTheOperatorTakesAwayIsGone has a function whose device, and one whose network, were
// allowed when they were made.
func TestWhatTheOperatorTakesAwayIsGone(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	n := run(t, func(cfg *config.Config) { cfg.Data, cfg.Insecure, cfg.Devices = data, true, []string{"/dev/zero"} })
	image := n.prog()
	n.function("device", image, func(s *client.Settings) { s.Devices = &[]string{"/dev/zero"} }, "exit", "0")
	n.function("host", image, func(s *client.Settings) { s.Network = ptr("host") }, "exit", "0")
	for _, name := range []string{"device", "host"} {
		if _, err := n.call(name, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	n.stop()
	n = run(t, func(cfg *config.Config) { cfg.Data = data })
	for name, want := range map[string]string{"device": "allows none", "host": "--insecure"} {
		if _, err := n.call(name, nil); faas.KindOf(err) != faas.Denied || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want that it is denied, with %q", name, err, want)
		}
	}
}

func TestRulesOfAnAppAreJudgedWithThoseOfItsFunctions(t *testing.T) {
	n := run(t, func(cfg *config.Config) { cfg.Driver = "fake" })
	many := func(n int) []string { return strings.Fields(strings.Repeat("10.0.0.1:1 ", n)) }
	n.function("f", n.prog(), func(s *client.Settings) { s.Allow = ptr(many(30)) })
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{Allow: ptr(many(40))}); faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), "function f is allowed 70") {
		t.Errorf("%v; want that function f has too many", err)
	}
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{Allow: ptr(many(34))}); err != nil {
		t.Error(err)
	}
}
