package daemon_test

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
	"hob/internal/image"
)

func faked(c *config.Config) { c.Driver = "fake" }

// said is the log of a function.
func (n *node) said(function string) string {
	n.t.Helper()
	var all []string
	for line, err := range n.Logs(n.t.Context(), client.LogSelection{App: faas.DefaultApp, Function: function, Tail: -1}) {
		if err != nil {
			n.t.Fatal(err)
		}
		all = append(all, line.Text)
	}
	return strings.Join(all, "\n")
}

func TestDestinationIsDialledAsItsFunctionMay(t *testing.T) {
	asked := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header.Get("Hob-Function") }))
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	n := run(t, faked)
	to := func(s *client.Settings) { s.OnSuccess = ptr(server.URL + "/done?secret=1") }
	image := n.gateImage()
	n.function("f", image, to, "cat")
	n.function("none", image, func(s *client.Settings) { to(s); s.Network = ptr("none") }, "cat")
	delivered := func(function string) (words string) {
		t.Helper()
		call := n.enqueue(function, "x")
		until(t, "the delivery is told of", func() bool {
			words = n.record(call.ID).Delivery
			return words != "" && !strings.HasPrefix(words, "on its way")
		})
		return words
	}
	for function, command := range map[string]string{"f": "hob update f", "none": "hob app update default"} {
		opens := "; this opens it: " + command + " --allow " + addr
		if words, want := delivered(function), "given up: connect to "+addr+": the network policy closes this address"+opens; words != want {
			t.Errorf("%s: %q, want %q", function, words, want)
		}
		until(t, "the refusal is in the log", func() bool { return strings.Contains(n.said(function), "refused: delivery of a result to "+addr+opens) })
	}
	if s, err := n.Status(t.Context(), faas.DefaultApp, "f"); err != nil || len(asked) != 0 {
		t.Errorf("%d were delivered; %+v, %v", len(asked), s, err)
	}

	if _, err := n.UpdateFunction(t.Context(), faas.DefaultApp, "f", client.Settings{Allow: ptr([]string{addr})}, ""); err != nil {
		t.Fatal(err)
	}
	if words := delivered("f"); words != "delivered to "+server.URL+"/done" || <-asked != "f" {
		t.Errorf("after the command: %q", words)
	}
	// The connection that f has left open is for f.
	if words := delivered("none"); !strings.HasPrefix(words, "given up") {
		t.Errorf("of another function: %q", words)
	}
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{Allow: ptr([]string{addr})}); err != nil {
		t.Fatal(err)
	}
	if words := delivered("none"); words != "delivered to "+server.URL+"/done" || <-asked != "none" {
		t.Errorf("after the command: %q", words)
	}
}

func TestSyslogServerIsDialledAsItsAppMay(t *testing.T) {
	addr, lines := syslogServer(t)
	n := run(t, faked)
	n.function("f", n.gateImage(), nil, "sleep") // it says how it is used
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{Syslog: ptr("tcp://" + addr)}); err != nil {
		t.Fatal(err)
	}
	n.call("f", nil)
	until(t, "the refusal is in the log", func() bool {
		return strings.Contains(n.said("f"), "lines wait for tcp://"+addr+": connect to "+addr+": the network policy closes this address; a rule of the app opens it, hob app update --allow "+addr)
	})
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, client.AppSettings{Allow: ptr([]string{addr})}); err != nil {
		t.Fatal(err)
	}
	n.call("f", nil)
	for range 2 { // of this call, and of the one whose lines wait
		if line := within(t, lines); !strings.Contains(line, "usage: sleep") {
			t.Errorf("the line %q", line)
		}
	}
}

func TestUnixSocketIsASyslogServerIfTheOperatorSaysSo(t *testing.T) {
	dir := t.TempDir()
	target := "unix://" + filepath.Join(dir, "log")
	l, err := net.Listen("unix", filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := run(t, faked, func(c *config.Config) { c.Data, c.UnixTargets = filepath.Join(dir, "data"), true })
	n.function("f", n.gateImage(), nil, "sleep")
	syslog := client.AppSettings{Syslog: &target}
	if _, err := n.UpdateApp(t.Context(), faas.DefaultApp, syslog); err != nil {
		t.Fatal(err)
	}
	n.call("f", nil)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	n.stop()

	n = run(t, faked, func(c *config.Config) { c.Data = filepath.Join(dir, "data") })
	n.call("f", nil)
	until(t, "the refusal is in the log", func() bool { return strings.Contains(n.said("f"), "(setting unix-targets)") })
	for _, target = range []string{"unix:///run/docker.sock", "UNIXGRAM:///run/systemd/notify"} {
		if _, err := n.CreateApp(t.Context(), "shop", syslog); faas.KindOf(err) != faas.Denied || !strings.Contains(err.Error(), "unix-targets") {
			t.Errorf("%s: %v", target, err)
		}
		if a := n.ask("POST", "/v2/apps", `{"name":"shop","syslog_url":"`+target+`"}`); a.status < 400 || a.status >= 500 || !strings.Contains(a.body, "unix-targets") {
			t.Errorf("%s by another API: %+v", target, a)
		}
	}
}

// serveImage has a registry on this machine, behind a handler, and pushes an image to it.
func serveImage(t *testing.T, behind func(http.Handler) http.Handler) (addr string) {
	t.Helper()
	server := httptest.NewServer(behind(registry.New(registry.Logger(log.New(io.Discard, "", 0)))))
	t.Cleanup(server.Close)
	addr = strings.TrimPrefix(server.URL, "http://")
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, repository := range []string{"a", "b"} {
		ref, err := name.ParseReference(addr + "/" + repository)
		if err == nil {
			err = remote.Write(ref, img)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return addr
}

func pull(t *testing.T, c *client.Client, ref string) error {
	t.Helper()
	_, err := c.Pull(t.Context(), client.PullRequest{Image: ref, Policy: string(image.PullAlways)}, nil)
	return err
}

func TestRegistryIsDialledAsWhoPullsMay(t *testing.T) {
	addr := serveImage(t, func(h http.Handler) http.Handler { return h })
	a, b := addr+"/a", addr+"/b"
	n := run(t, faked)
	if err := pull(t, n.Client, a); faas.KindOf(err) != faas.Denied || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "setting registries") {
		t.Errorf("by anybody: %v", err)
	}
	make := func(name string, change func(*client.Settings)) error {
		s := client.Settings{Image: &b, Command: ptr([]string{"cat"})}
		change(&s)
		_, err := n.CreateFunction(t.Context(), faas.DefaultApp, name, s, "")
		return err
	}
	if err := make("f", func(*client.Settings) {}); faas.KindOf(err) != faas.Denied {
		t.Errorf("for a function: %v", err)
	}
	if err := make("f", func(s *client.Settings) { s.Allow = ptr([]string{addr}) }); err != nil {
		t.Errorf("for a function that may: %v", err)
	}
	root, err := client.New("unix://" + n.daemon.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := pull(t, root, a); err != nil {
		t.Errorf("by root: %v", err)
	}
	for what, set := range map[string]func(*config.Config){
		"registries": func(c *config.Config) { c.Registries = []string{addr} },
		"plain-http": func(c *config.Config) { c.PlainHTTP = []string{addr} },
		"allow":      func(c *config.Config) { c.Allow = []string{addr} },
	} {
		if err := pull(t, run(t, faked, set).Client, a); err != nil {
			t.Errorf("with the setting %s: %v", what, err)
		}
	}
}

func TestRegistryNamedWithoutAPortIsNotItsWholeHost(t *testing.T) {
	addr := serveImage(t, func(h http.Handler) http.Handler { return h })
	for what, set := range map[string]func(*config.Config){
		"registries":    func(c *config.Config) { c.Registries = []string{"127.0.0.1"} },
		"plain-http":    func(c *config.Config) { c.PlainHTTP = []string{"127.0.0.1"} },
		"registry-auth": func(c *config.Config) { c.RegistryAuth = `{"auths":{"127.0.0.1":{"auth":"YWxpY2U6c2VjcmV0"}}}` },
	} {
		n := run(t, faked, set)
		if err := pull(t, n.Client, addr+"/a"); faas.KindOf(err) != faas.Denied || !strings.Contains(err.Error(), "connect to "+addr) {
			t.Errorf("with the setting %s, of another port: %v", what, err)
		}
		// Nobody has to listen there: it is tried.
		if err := pull(t, n.Client, "127.0.0.1/a"); err == nil || strings.Contains(err.Error(), "network policy") {
			t.Errorf("with the setting %s, without a port: %v", what, err)
		}
	}
}

func TestRegistryLeadsToOtherPortsOfItsHostOnlyIfTheyAreNamed(t *testing.T) {
	var asked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	defer elsewhere.Close()
	other := strings.TrimPrefix(elsewhere.URL, "http://")
	addr := serveImage(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	for _, c := range []struct {
		named   []string
		refused bool
	}{{[]string{addr}, true}, {[]string{addr, "127.0.0.1"}, true}, {[]string{addr, other}, false}} {
		asked.Store(0)
		err := pull(t, run(t, faked, func(cfg *config.Config) { cfg.Registries = c.named }).Client, addr+"/a")
		if refused := faas.KindOf(err) == faas.Denied && strings.Contains(err.Error(), "connect to "+other); err == nil || refused != c.refused || (asked.Load() == 0) != c.refused {
			t.Errorf("with the setting registries=%q: %v, the other port was asked %d times; want that it is refused: %v", c.named, err, asked.Load(), c.refused)
		}
	}
}
