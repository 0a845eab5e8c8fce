package image_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/image"
)

// net of a node on which only the addresses in open are not closed, but to who may
// reach all of it.
type nodeNet struct {
	mu     sync.Mutex
	open   []string
	asked  []string // guarded by mu
	checks []string // guarded by mu
}

var all = image.Owner{App: faas.Reach{Allow: []string{"0.0.0.0/0:*"}}}

func (n *nodeNet) policy(of image.Owner, address string) error {
	if slices.Contains(n.open, address) || len(of.App.Allow) > 0 {
		return nil
	}
	return faas.Errorf(faas.Denied, "connect to %s: closed", address)
}

// with is the configuration of a store in this network.
func (n *nodeNet) with(c *image.Config) {
	c.Dial = func(ctx context.Context, of image.Owner, network, address string) (net.Conn, error) {
		n.mu.Lock()
		n.asked = append(n.asked, address)
		n.mu.Unlock()
		if err := n.policy(of, address); err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	c.Check = func(_ context.Context, of image.Owner, address string) error {
		n.mu.Lock()
		n.checks = append(n.checks, address)
		n.mu.Unlock()
		return n.policy(of, address)
	}
}

func TestRegistryIsDialledForItsOwner(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	for name, c := range map[string]struct {
		of   image.Owner
		open []string
		want bool
	}{
		"anybody":               {},
		"who may":               {of: all, want: true},
		"the operator":          {of: image.Owner{Operator: true}, want: true},
		"anybody, when open":    {open: []string{reg.host}, want: true},
		"a function that may":   {of: image.Owner{App: all.App, Function: faas.Reach{Network: "none"}}, want: true},
		"a function of its own": {of: image.Owner{Function: faas.Reach{Network: "open"}}},
	} {
		n := &nodeNet{open: c.open}
		_, err := open(t, n.with).Pull(t.Context(), ref, image.PullOptions{Owner: c.of})
		if c.want && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !c.want {
			fails(t, err, faas.Denied, "pull "+ref+": connect to "+reg.host+": closed")
			if len(n.asked) > 2 { // by TLS, and without
				t.Errorf("%s: what policy closes is tried again: %q", name, n.asked)
			}
		}
	}
}

// TestRegistryCannotSendTheNodeElsewhereInItsNetwork has one that leads the node's
// operator, whose registry may be anywhere, to a blob and to a token elsewhere.
func TestRegistryCannotSendTheNodeElsewhereInItsNetwork(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("asked for %s", r.URL)
	}))
	defer elsewhere.Close()
	_, port, _ := net.SplitHostPort(elsewhere.Listener.Addr().String())
	for name, spoil := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"blob": func(w http.ResponseWriter, r *http.Request) bool {
			_, ok := blobRequest(r)
			if ok {
				http.Redirect(w, r, elsewhere.URL+"/blob", http.StatusTemporaryRedirect)
			}
			return ok
		},
		"manifest": func(w http.ResponseWriter, r *http.Request) bool {
			ok := strings.Contains(r.URL.Path, "/manifests/")
			if ok {
				http.Redirect(w, r, elsewhere.URL+"/manifest", http.StatusFound)
			}
			return ok
		},
		"token": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, "http://localhost:"+port)) // a name: addresses are refused before
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg := serve(t)
			ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
			reg.spoil = spoil
			_, err := open(t, new(nodeNet).with).Pull(t.Context(), ref, image.PullOptions{Owner: image.Owner{Operator: true}})
			fails(t, err, faas.Denied, port+": closed")
		})
	}
}

// TestProxyIsNotAskedForWhatIsClosed has a proxy at an address that is closed itself.
func TestProxyIsNotAskedForWhatIsClosed(t *testing.T) {
	asked := make(chan string, 10)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Host
		http.Error(w, "no", http.StatusNotFound)
	}))
	defer proxy.Close()
	n := &nodeNet{open: []string{"open.example:5000"}}
	s := open(t, n.with, func(c *image.Config) { c.Proxy = proxy.URL })
	_, err := s.Pull(t.Context(), "closed.example:5000/app", image.PullOptions{})
	fails(t, err, faas.Denied, "connect to closed.example:5000: closed")
	if len(asked) != 0 {
		t.Errorf("the proxy was asked for %s", <-asked)
	}
	if _, err := s.Pull(t.Context(), "open.example:5000/app", image.PullOptions{}); err == nil || faas.KindOf(err) == faas.Denied {
		t.Errorf("an open one: %v", err)
	}
	if host := <-asked; host != "open.example:5000" {
		t.Errorf("the proxy was asked for %s", host)
	}
	if u, _ := url.Parse(proxy.URL); slices.Contains(n.asked, u.Host) {
		t.Error("whether the proxy may be reached was asked")
	}
}
