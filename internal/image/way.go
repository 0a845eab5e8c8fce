package image

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
)

// A way is how one pull connects: as its owner may, by a proxy if there is one. The
// proxy is the operator's choice and may be anywhere.
type way struct {
	*Store
	registry name.Registry
	owner    Owner
	proxies  sync.Map // addresses that proxy has returned
}

// proxy returns that of a request, as http.Transport wants it. Once it is used it
// decides itself what a name stands for.
func (w *way) proxy(req *http.Request) (*url.URL, error) {
	find := http.ProxyFromEnvironment
	if w.Store.proxy != nil {
		find = http.ProxyURL(w.Store.proxy)
	}
	proxy, err := find(req)
	if proxy == nil || err != nil {
		return nil, err
	}
	if to := addressOf(req.URL); w.cfg.Check != nil && !w.free(to) {
		if err := w.cfg.Check(req.Context(), w.owner, to); err != nil {
			return nil, err
		}
	}
	w.proxies.Store(addressOf(proxy), true)
	return proxy, nil
}

func (w *way) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, proxy := w.proxies.Load(address); proxy || w.cfg.Dial == nil || w.free(address) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return w.cfg.Dial(ctx, w.owner, network, address)
}

// free reports whether an address may be connected to wherever it is.
func (w *way) free(address string) bool {
	host := w.registry.RegistryStr()
	return w.owner.Operator && (strings.EqualFold(address, host) || strings.EqualFold(address, host+":443") || strings.EqualFold(address, host+":80"))
}

// addressOf is what is dialled for a URL.
func addressOf(u *url.URL) string {
	port := map[string]string{"http": "80", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port, "443"))
}
