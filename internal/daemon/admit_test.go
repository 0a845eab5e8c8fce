package daemon_test

import (
	"net/http"
	"strings"
	"testing"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
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
