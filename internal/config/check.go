package config

import (
	"encoding/json"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"hob/faas"
)

// A complaint makes the error of a setting that can never work.
type complaint func(name, format string, args ...any) error

// Check reports the first value that can never work, as Invalid, or that is not
// allowed without insecure, as Denied, with the place it came from.
func (c Config) Check() error {
	bad := func(name, format string, args ...any) error {
		args = append([]any{name, c.Origin(name)}, args...)
		return faas.Errorf(faas.Invalid, "%s (from %s): "+format, args...)
	}
	if c.Data == "" || !filepath.IsAbs(c.Data) || strings.ContainsAny(c.Data, ":,\n\\") {
		return bad("data", "%q is not an absolute directory name without ':', ',' and '\\', which the overlay file system cannot take", c.Data)
	}
	if strings.Contains(c.CgroupParent, "..") {
		return bad("cgroup-parent", "%q holds '..'", c.CgroupParent)
	}
	for _, check := range []func(complaint) error{
		c.checkServers, c.checkWords, c.checkNumbers, c.checkSizes, c.checkWeb, c.checkRegistries, c.checkFn, c.checkHyper, c.checkIsolation, c.checkNetworks,
	} {
		if err := check(bad); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) checkServers(bad complaint) error {
	if err := c.checkListen("listen", c.Listen); err != nil {
		return err
	}
	if c.TLSListen != "" {
		if err := c.checkListen("tls-listen", c.TLSListen); err != nil {
			return err
		}
		if c.TLSListen == c.Listen && !strings.HasSuffix(c.Listen, ":0") {
			return bad("tls-listen", "%q is the address of listen: give it another port", c.TLSListen)
		}
	}
	switch {
	case c.TLSCert != "" && c.TLSKey == "":
		return bad("tls-cert", "%s needs its key: give tls-key too", c.TLSCert)
	case c.TLSKey != "" && c.TLSCert == "":
		return bad("tls-key", "%s needs its certificate: give tls-cert too", c.TLSKey)
	case c.TLSCert != "" && c.TLSListen == "":
		return bad("tls-cert", "%s would not be used: give tls-listen, the address of the HTTPS server", c.TLSCert)
	}
	return nil
}

func (c Config) checkWords(bad complaint) error {
	for _, one := range []struct {
		name, value string
		of          []string
	}{
		{"driver", c.Driver, []string{"ns", "fake"}},
		{"node-type", c.NodeType, []string{"full", "api"}},
		{"log-level", c.LogLevel, []string{"debug", "info", "warn", "error"}},
		{"log-format", c.LogFormat, []string{"text", "json"}},
	} {
		if !slices.Contains(one.of, one.value) {
			return bad(one.name, "%q is not one of: %s", one.value, strings.Join(one.of, ", "))
		}
	}
	if c.LogDest != "stderr" {
		u, err := url.Parse(c.LogDest)
		switch {
		case err == nil && u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path):
		case err == nil && (u.Scheme == "udp" || u.Scheme == "tcp") && u.Hostname() != "" && u.Port() != "" && u.Path == "":
		default:
			return bad("log-dest", "%q is not one of: stderr, file:///PATH, udp://HOST:PORT, tcp://HOST:PORT", c.LogDest)
		}
	}
	for _, line := range []struct{ name, value string }{{"label", c.Label}, {"log-prefix", c.LogPrefix}} {
		if len(line.value) > maxWord || strings.ContainsFunc(line.value, unicode.IsControl) {
			return bad(line.name, "%q is longer than %d bytes, or holds control characters", line.value, maxWord)
		}
	}
	return nil
}

// maxWord is the most bytes of a label or prefix: it is in each line.
const maxWord = 256

func (c Config) checkNumbers(bad complaint) error {
	if c.PullTimeout <= 0 {
		return bad("pull-timeout", "%v leaves no time", c.PullTimeout)
	}
	if c.KeyAge <= 0 {
		return bad("key-age", "%v leaves no time for a repetition", c.KeyAge)
	}
	if c.FnStartTimeout <= 0 {
		return bad("fn-start-timeout", "%v leaves no time", c.FnStartTimeout)
	}
	for _, count := range []struct {
		name         string
		value, least int
	}{
		{"max-concurrency", c.MaxConcurrency, 0}, {"max-waiting", c.MaxWaiting, 0}, {"hyper-quota", c.HyperQuota, 0},
		{"fn-max-pids", c.MaxPIDs, 1}, {"fn-max-open-files", c.MaxFiles, 16},
		{"fn-max-pending-signals", c.MaxPendingSignals, 1}, {"fn-max-tmp-inodes", c.MaxTmpInodes, 0},
	} {
		switch {
		case count.value < 0:
			return bad(count.name, "%d is negative", count.value)
		case count.value < count.least:
			return bad(count.name, "%d is under the least of %d", count.value, count.least)
		}
	}
	if c.AsyncShare < 0 || c.AsyncShare > 100 {
		return bad("async-share", "%d is not a percentage between 0 and 100", c.AsyncShare)
	}
	return nil
}

func (c Config) checkSizes(bad complaint) error {
	for _, size := range []struct {
		name       string
		value, min faas.Bytes
		zero       string // what 0 means; "": it is too small, too
	}{
		{"memory", c.Memory, faas.MinMemory, "80 % of the machine"},
		{"max-image", c.MaxImage, faas.MB, ""},
		{"log-per-function", c.LogPerFunction, faas.MB, ""},
		{"log-total", c.LogTotal, faas.MB, ""},
		{"journal-bytes", c.JournalBytes, faas.MB, ""},
		{"result-per-function", c.ResultPerFunction, faas.MB, "no limit"},
		{"result-total", c.ResultTotal, faas.MB, "no limit"},
		{"queue-per-function", c.QueuePerFunction, faas.MB, "no limit"},
		{"queue-total", c.QueueTotal, faas.MB, "no limit"},
		{"max-request-header", c.MaxRequestHeader, 4 * faas.KB, ""},
		{"fn-max-fs-size", c.FnMaxFS, faas.MB, "no limit"},
		{"fn-max-locked-memory", c.MaxLockedMemory, 1, ""},
		{"fn-max-message-queues", c.MaxMessageQueues, 1, ""},
	} {
		switch {
		case size.value >= size.min || size.value == 0 && size.zero != "":
		case size.zero != "":
			return bad(size.name, "%v is under the least of %v; 0 is %s", size.value, size.min, size.zero)
		default:
			return bad(size.name, "%v is under the least of %v", size.value, size.min)
		}
	}
	if c.MaxRequestHeader > maxHead {
		return bad("max-request-header", "%v is over the most of %v", c.MaxRequestHeader, maxHead)
	}
	return nil
}

// maxHead is the most that the head of a request may be allowed to have: each
// caller can make the daemon keep as much.
const maxHead = 16 * faas.MB

// KeyLength is how many bytes a key of tokens should have: as many as what it signs
// them with (RFC 7518, 3.2). One that is shorter can be found by trying.
const KeyLength = 32

// checkWeb looks at what the world sees of the node.
func (c Config) checkWeb(bad complaint) error {
	if c.JWTAuthKey == masked {
		return bad("jwt-auth-key", "the key is left out, as hob config prints it: put it in its place")
	}
	if c.PublicURL != "" {
		if u, err := url.Parse(c.PublicURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return bad("public-url", "%q is not of the form http://host[:port][/path]", c.PublicURL)
		}
	}
	for _, origin := range c.CORSOrigins {
		if origin == "*" {
			continue
		}
		if u, err := url.Parse(origin); err != nil || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			return bad("cors-origins", "%q is neither * nor of the form scheme://host[:port]", origin)
		}
	}
	for _, name := range c.CORSHeaders {
		if !token(name) {
			return bad("cors-headers", "%q is not the name of a header", name)
		}
	}
	if c.RequestIDHeader != "" && !token(c.RequestIDHeader) {
		return bad("request-id-header", "%q is not the name of a header", c.RequestIDHeader)
	}
	if c.Domain != "" && !domain(c.Domain) {
		return bad("domain", "%q is not a domain such as functions.example.org, in lower case and without a port", c.Domain)
	}
	return nil
}

// token reports whether s may be the name of a header.
func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	})
}

func domain(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		odd := func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, odd) || strings.Trim(label, "-") != label {
			return false
		}
	}
	return len(s) <= 253
}

func (c Config) checkRegistries(bad complaint) error {
	for name, list := range map[string][]string{"plain-http": c.PlainHTTP, "registries": c.Registries} {
		for _, registry := range list {
			if !hostPort(registry) {
				return bad(name, "%q is not of the form host or host:port, such as registry.lan:5000", registry)
			}
		}
	}
	return nil
}

// checkFn looks at what functions of the API of Fn get.
func (c Config) checkFn(bad complaint) error {
	if c.FnPrivileged && !c.Insecure {
		return faas.Errorf(faas.Denied, "fn-privileged (from %s): an image may name user 0, as whoever makes functions likes: give --insecure too", c.Origin("fn-privileged"))
	}
	switch auth := strings.TrimSpace(c.RegistryAuth); { // nothing of it is printed
	case auth == "" || filepath.IsAbs(auth):
	case auth == masked:
		return bad("registry-auth", "the credentials are left out, as hob config prints them: put them in their place")
	case !json.Valid([]byte(auth)) || auth[0] != '{':
		return bad("registry-auth", "it is neither a JSON object, such as ~/.docker/config.json holds, nor an absolute file name")
	}
	return nil
}

// checkListen reports what is wrong with the address of a server.
func (c Config) checkListen(name, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return faas.Errorf(faas.Invalid, "%s (from %s): %q is not an address such as 127.0.0.1:8080", name, c.Origin(name), addr)
	}
	if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
		return faas.Errorf(faas.Invalid, "%s (from %s): %q has no port between 0 and 65535", name, c.Origin(name), addr)
	}
	if !c.Insecure && len(c.JWTAuthKey) < KeyLength && !loopback(host) {
		return faas.Errorf(faas.Denied, "%s (from %s): %q can be reached from other machines, and nothing asks who they are: listen on 127.0.0.1, set jwt-auth-key (%d bytes or more), or give --insecure", name, c.Origin(name), addr, KeyLength)
	}
	return nil
}

func (c Config) checkHyper(bad complaint) error {
	var names []string
	for i, pair := range c.HyperKeys {
		access, secret, _ := strings.Cut(pair, ":")
		switch { // what is printed is never more than the access key
		case access == "" || secret == "":
			return bad("hyper-keys", "entry %d is not of the form ACCESS:SECRET", i+1)
		case strings.ContainsAny(access, "/= \t"):
			return bad("hyper-keys", "access key %q holds a slash, an equals sign or a space, which a signature cannot name", access)
		case secret == masked:
			return bad("hyper-keys", "the secret of %q is left out, as hob config prints it: put the secret in its place", access)
		case slices.Contains(names, access):
			return bad("hyper-keys", "access key %q is given twice", access)
		}
		names = append(names, access)
	}
	if c.HyperRegion == "" || strings.ContainsAny(c.HyperRegion, "/, \t") {
		return bad("hyper-region", "%q is not a name such as us-west-1", c.HyperRegion)
	}
	if c.HyperHost != "" && !hostPort(c.HyperHost) {
		return bad("hyper-host", "%q is not of the form host or host:port", c.HyperHost)
	}
	return nil
}

// hostPort reports whether s is host or host:port; an IPv6 address stands in brackets.
func hostPort(s string) bool {
	u, err := url.Parse("//" + s)
	return err == nil && u.Host == s && u.Hostname() != ""
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
