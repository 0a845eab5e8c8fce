package daemon_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
	"hob/internal/daemon"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

// Who answers in a World of package sandboxtest.
const (
	onInternet = "8.8.8.8:443"
	onPrivate  = "10.1.2.3:5432"
	onNode     = "9.9.9.2:443"
	byName     = "api.example.com:443" // is onInternet
)

// inWorld is a daemon whose functions are connected to a World.
func inWorld(t *testing.T, change ...func(*config.Config)) *node {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups, testenv.NetNS)
	testenv.NothingLeft(t)
	return runWith(t, []daemon.Option{daemon.WithNetwork(sandboxtest.NewWorld(t).Place)}, change...)
}

// asked calls a function that asks everybody, and returns who answered.
func (n *node) asked(function string) string {
	n.t.Helper()
	out, err := n.call(function, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	var who []string
	for line := range strings.Lines(out) {
		if addr, word, _ := strings.Cut(strings.TrimSpace(line), " "); !strings.HasPrefix(word, "error") {
			who = append(who, addr+" "+word)
		}
	}
	return strings.Join(who, ", ")
}

func TestFunctionsReachWhatTheyMayAndNothingElse(t *testing.T) {
	n := inWorld(t, func(cfg *config.Config) {
		cfg.Networks, cfg.FnNetworks = []string{"db=allow " + onPrivate}, nil
		cfg.Allow = []string{"10.7.7.7:1"}
	})
	image := n.prog()
	everybody := []string{"ask", onInternet, onPrivate, onNode, byName}
	for i, c := range []struct {
		network string
		allow   []string
		want    string
	}{
		{"", nil, "8.8.8.8:443 internet, api.example.com:443 internet"},
		{"open", nil, "8.8.8.8:443 internet, api.example.com:443 internet"},
		{"open", []string{onPrivate}, "8.8.8.8:443 internet, 10.1.2.3:5432 private, api.example.com:443 internet"},
		{"open", []string{"10.0.0.0/8:5432"}, "8.8.8.8:443 internet, 10.1.2.3:5432 private, api.example.com:443 internet"},
		{"open", []string{"0.0.0.0/0:*"}, "8.8.8.8:443 internet, api.example.com:443 internet"},
		{"open", []string{onNode}, "8.8.8.8:443 internet, 9.9.9.2:443 node, api.example.com:443 internet"},
		{"allow", nil, ""},
		{"allow", []string{byName}, "8.8.8.8:443 internet, api.example.com:443 internet"}, // the name is its address, once it was looked up
		{"db", nil, "10.1.2.3:5432 private"},
		{"none", nil, ""},
	} {
		name := fmt.Sprint("f", i)
		n.function(name, image, func(s *client.Settings) { s.Network, s.Allow = &c.network, &c.allow }, everybody...)
		for range 3 { // on demand, from a bare blank, from a prepared one
			got := n.asked(name)
			if c.network == "allow" && c.allow != nil {
				got = strings.TrimPrefix(got, "8.8.8.8:443 internet, ")
				c.want = "api.example.com:443 internet" // whether before or after is chance
			}
			if got != c.want {
				t.Errorf("network %q, allow %v: it reached %q, want %q", c.network, c.allow, got, c.want)
			}
		}
	}
}

func TestRefusedConnectionIsOpenedByTheCommandThatTheLogNames(t *testing.T) {
	n := inWorld(t)
	n.function("report", n.prog(), nil, "ask", onPrivate)
	if got := n.asked("report"); got != "" {
		t.Fatalf("it reached %q", got)
	}
	line := "refused: tcp connection to 10.1.2.3:5432; this opens it: hob update report --allow 10.1.2.3:5432"
	n.logged("report", line)
	status, err := n.Status(t.Context(), faas.DefaultApp, "report")
	if err != nil || status.Refused == 0 {
		t.Errorf("status %+v, %v; want some refused", status, err)
	}
	if _, err := n.UpdateFunction(t.Context(), faas.DefaultApp, "report", client.Settings{Allow: &[]string{onPrivate}}, ""); err != nil {
		t.Fatal(err)
	}
	if got := n.asked("report"); got != "10.1.2.3:5432 private" {
		t.Errorf("after the command it reached %q", got)
	}
}

// logged waits until the log of a function has a line.
func (n *node) logged(function, line string) {
	n.t.Helper()
	until(n.t, fmt.Sprintf("the log of %s has %q", function, line), func() bool { return strings.Contains(n.said(function), line) })
}

func TestAppsAndAnnotationsOpenForTheirFunctions(t *testing.T) {
	n := inWorld(t, func(cfg *config.Config) { cfg.Network = "none" })
	image := n.prog()
	for _, request := range []struct{ method, path, body string }{
		{"POST", "/v2/apps", `{"name":"shop","annotations":{"hob/network":"allow","hob/allow":["10.1.2.3:5432"]}}`},
		{"POST", "/v1/apps/legacy/routes", `{"route":{"path":"/r","image":"` + image + `","annotations":{"hob/allow":["10.1.2.3:5432"]}}}`},
	} {
		req, _ := http.NewRequestWithContext(t.Context(), request.method, "http://"+n.addr+request.path, strings.NewReader(request.body))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", request.path, res.Status)
		}
	}
	command := []string{"ask", onInternet, onPrivate}
	if _, err := n.CreateFunction(t.Context(), "shop", "f", client.Settings{Image: &image, Command: &command}, ""); err != nil {
		t.Fatal(err)
	}
	for app, function := range map[string]string{"shop": "f", "legacy": "r"} {
		if app == "legacy" { // a route has no command: the function behind it gets one
			if _, err := n.UpdateFunction(t.Context(), app, function, client.Settings{Command: &command}, ""); err != nil {
				t.Fatal(err)
			}
		}
		a, err := n.Call(t.Context(), client.CallRequest{App: app, Function: function})
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(a.Body) // it comes in pieces if it takes long
		if err != nil {
			t.Error(err)
		}
		a.Body.Close()
		if text := string(out); !strings.Contains(text, "10.1.2.3:5432 private") || strings.Contains(text, "internet\n") {
			t.Errorf("%s: %q, want the private one alone", app, text)
		}
	}
	n.function("closed", image, nil, command...)
	if got := n.asked("closed"); got != "" {
		t.Errorf("with the node's none it reached %q", got)
	}
}
