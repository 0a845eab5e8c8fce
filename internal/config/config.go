// Package config is the daemon's configuration: one struct, its defaults in one
// function, and the four places a value can come from, the later winning: the
// default, the configuration file, the environment (HOB_…), a flag. It knows
// where each value came from and says so.
//
// It reads and checks; it opens nothing that a value names and leaves it to the
// daemon to act on them.
package config

import (
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hob/faas"
)

// Config is every setting of a daemon. Begin with Default or Load; a Config
// made in any other way fails Check.
type Config struct {
	Data         string   // directory of everything that is kept
	Listen       string   // TCP address of the HTTP server, "host:port"; port 0 takes a free one
	Hosts        []string // names, besides loopback, that a Host header may have for management
	Insecure     bool     // allow what is refused while there is no access control
	Driver       string   // "ns" or "fake"
	Memory       faas.Bytes
	CPUs         faas.CPU // for functions that reserve some; 0: all of the machine
	CgroupParent string   // "": chosen by the driver
	Load         []string // image archives loaded at start

	FreezeAfter    time.Duration // idle time after which a hot sandbox is frozen; negative: never
	Blanks         int           // sandboxes made ahead of need; 0: what the driver thinks right; negative: none
	MaxConcurrency int           // calls at once on this node; 0: no limit
	MaxWaiting     int           // callers that may wait on this node; 0: no limit

	PlainHTTP   []string      // registries, "host[:port]", that may be spoken to without TLS
	PullTimeout time.Duration // of a whole pull
	MaxImage    faas.Bytes    // unpacked size of one image
	ImageBytes  faas.Bytes    // all images together, above which unused ones are removed; 0: never
	ImageKeep   []string      // references that automatic removal leaves alone

	MaxRequest     faas.Bytes    // body of one call; 0: no limit
	LogPerFunction faas.Bytes    // lines kept of one function
	LogTotal       faas.Bytes    // lines kept of all functions
	LogAge         time.Duration // of the oldest line kept; 0: no limit
	JournalBytes   faas.Bytes    // records of finished calls kept
	JournalAge     time.Duration // of the oldest record kept; 0: no limit

	// Of asynchronous calls; a size of 0 is no limit.
	ResultPerFunction faas.Bytes    // results kept of one function
	ResultTotal       faas.Bytes    // results kept of all functions
	ResultAge         time.Duration // of the oldest call, payload and result kept; 0: no limit
	QueuePerFunction  faas.Bytes    // payloads of the calls of one function that wait
	QueueTotal        faas.Bytes    // payloads of all calls that wait
	KeyAge            time.Duration // how long an idempotency key stands for its call
	AsyncShare        int           // percent of the slots, while synchronous callers wait
	MaxResult         faas.Bytes    // answer of one call that is kept

	TLSListen string // address of the HTTPS server, as Listen; "": none
	TLSCert   string // file with its certificate and those above it; "": one is made
	TLSKey    string // file with the key of TLSCert

	HyperKeys      []string // "ACCESS:SECRET"; none: signatures are not checked
	HyperRegion    string   // in signatures to hosts that name none
	HyperQuota     int      // calls of Hyper functions at once; 0: no limit
	HyperHost      string   // "host[:port]" of the addresses of functions; "": that of the request
	HyperIsolation string   // driver that Hyper functions must have; "": any

	Grace         time.Duration // for calls in flight when the daemon stops
	LeastFreeDisk faas.Bytes    // below it the node is not ready and takes no images; 0: not looked at
	LogLevel      string        // of the daemon's own log: "debug", "info", "warn", "error"
	LogFormat     string        // "text" or "json"

	origins map[string]string // by the name of the setting; a missing one is the default
}

// Default returns the settings of a daemon that was told nothing.
func Default() Config {
	return Config{
		Data:   "/var/lib/hob",
		Listen: "127.0.0.1:8080",
		Driver: "ns",

		FreezeAfter: 50 * time.Millisecond,
		MaxWaiting:  10_000,

		PullTimeout: 15 * time.Minute,
		MaxImage:    16 * faas.GB,
		ImageBytes:  32 * faas.GB,

		MaxRequest:     100 * faas.MB,
		LogPerFunction: 50 * faas.MB,
		LogTotal:       2 * faas.GB,
		LogAge:         7 * 24 * time.Hour,
		JournalBytes:   1 * faas.GB,
		JournalAge:     7 * 24 * time.Hour,

		ResultPerFunction: 50 * faas.MB, // down to KeyAge: as store.DefaultLimits
		ResultTotal:       2 * faas.GB,
		ResultAge:         7 * 24 * time.Hour,
		QueuePerFunction:  1 * faas.GB,
		QueueTotal:        8 * faas.GB,
		KeyAge:            24 * time.Hour,
		AsyncShare:        50,
		MaxResult:         100 * faas.MB,

		HyperRegion: "us-west-1",
		HyperQuota:  10,

		Grace:         30 * time.Second,
		LeastFreeDisk: 256 * faas.MB,
		LogLevel:      "info",
		LogFormat:     "text",
	}
}

// settings is the one list of names, help texts and fields: flags, environment,
// file, printing and the reference page are made from it.
func (c *Config) settings() []setting {
	return []setting{
		{"data", "directory of everything that is kept: images, definitions, logs", "", (*text)(&c.Data)},
		{"listen", "address of the HTTP server; port 0 takes a free one", "Off loopback it needs insecure, as there is no access control.", (*text)(&c.Listen)},
		{"hosts", "names besides loopback that the Host header of a management request may have", "A web page cannot drive the daemon through a name that is not in this list.", (*list)(&c.Hosts)},
		{"insecure", "allow listening off loopback, host networking and user 0 without access control", "Whoever reaches the address can then run any image on this machine.", (*boolean)(&c.Insecure)},
		{"driver", "what makes sandboxes: ns (Linux namespaces), or fake (no isolation, no images: for tests)", "", (*text)(&c.Driver)},
		{"memory", "memory for all sandboxes together; 0 is 80 % of the machine", "A call that does not fit waits until it does.", (*bytes)(&c.Memory)},
		{"cpus", "processors for functions that reserve some; 0 is all of the machine", "A function reserves what its own cpus says; one without reserves none.", (*cpus)(&c.CPUs)},
		{"cgroup-parent", "control group below which those of sandboxes are made; empty lets the driver choose", "", (*text)(&c.CgroupParent)},
		{"load", "image archives to load at start", "As `hob image load` reads them.", (*list)(&c.Load)},
		{"freeze-after", "idle time after which a hot sandbox is frozen; negative is never", "A frozen one uses no processor, and the next call thaws it.", (*signedDuration)(&c.FreezeAfter)},
		{"blanks", "sandboxes made ahead of need; 0 leaves it to the driver, negative is none", "They make the first call of a function, and every call of format default, quick.", (*number)(&c.Blanks)},
		{"max-concurrency", "calls at once on this node; 0 is no limit", "Those above it wait in line.", (*number)(&c.MaxConcurrency)},
		{"max-waiting", "callers that may wait on this node; 0 is no limit", "Those above it are answered at once with 503.", (*number)(&c.MaxWaiting)},
		{"plain-http", "registries, host[:port], that may be spoken to without TLS", "Those on loopback always may.", (*list)(&c.PlainHTTP)},
		{"pull-timeout", "longest time a pull may take", "", (*duration)(&c.PullTimeout)},
		{"max-image", "largest unpacked size of one image", "The guard against archives made to fill the disk.", (*bytes)(&c.MaxImage)},
		{"image-bytes", "size of all images above which unused ones are removed, the least recently used first; 0 is never", "Never removed: an image that a function uses, and those of image-keep.", (*bytes)(&c.ImageBytes)},
		{"image-keep", "images that are never removed automatically", "", (*list)(&c.ImageKeep)},
		{"max-request", "largest body of a call; 0 is no limit", "A larger one is answered with 413.", (*bytes)(&c.MaxRequest)},
		{"log-per-function", "log lines kept of one function", "", (*bytes)(&c.LogPerFunction)},
		{"log-total", "log lines kept of all functions together", "", (*bytes)(&c.LogTotal)},
		{"log-age", "age at which log lines are dropped; 0 is never", "", (*duration)(&c.LogAge)},
		{"journal-bytes", "records of finished calls kept", "", (*bytes)(&c.JournalBytes)},
		{"journal-age", "age at which records of calls are dropped; 0 is never", "", (*duration)(&c.JournalAge)},
		{"result-per-function", "results of asynchronous calls kept of one function; 0 is no limit", "The oldest are removed for newer ones; who asks for one of those is told that it is gone (410).", (*bytes)(&c.ResultPerFunction)},
		{"result-total", "results of asynchronous calls kept of all functions together; 0 is no limit", "", (*bytes)(&c.ResultTotal)},
		{"result-age", "age at which finished asynchronous calls, their payloads and results are dropped; 0 is never", "", (*duration)(&c.ResultAge)},
		{"queue-per-function", "payloads of the waiting calls of one function; 0 is no limit", "A call above it is answered at once with 503.", (*bytes)(&c.QueuePerFunction)},
		{"queue-total", "payloads of all waiting calls; 0 is no limit", "", (*bytes)(&c.QueueTotal)},
		{"key-age", "time for which an idempotency key stands for its call", "A repetition within it runs nothing and gets the answer of the first call.", (*duration)(&c.KeyAge)},
		{"async-share", "percent of the slots that asynchronous calls may hold while synchronous callers wait", "While none waits they may hold all.", (*number)(&c.AsyncShare)},
		{"max-result", "largest answer of an asynchronous call, or of one with an idempotency key; 0 is no limit", "A call whose answer is larger has failed.", (*bytes)(&c.MaxResult)},
		{"tls-listen", "address of an HTTPS server beside that of listen; empty is none", "Off loopback it needs insecure, as listen does. The client of Hyper speaks nothing else.", (*text)(&c.TLSListen)},
		{"tls-cert", "file with the certificate of the HTTPS server, and those above it", "Without one a certificate is made at the first start, kept as tls/cert.pem in the data directory, and its fingerprint logged.", (*text)(&c.TLSCert)},
		{"tls-key", "file with the key of tls-cert", "", (*text)(&c.TLSKey)},
		{"hyper-keys", "access keys of the Hyper API, as ACCESS:SECRET; none leaves signatures unchecked", "They stand in the file or the environment: a command line can be read by everybody on the machine. No secret is ever printed.", (*keys)(&c.HyperKeys)},
		{"hyper-region", "region in signatures of the Hyper API to a host that is not below .hyper.sh", "", (*text)(&c.HyperRegion)},
		{"hyper-quota", "calls at once of all functions made through the Hyper API together; 0 is no limit", "Those above it wait in line. It counts when the first of them is made; afterwards it is the limit of their app.", (*number)(&c.HyperQuota)},
		{"hyper-host", "host[:port] in the addresses that the Hyper API gives to functions; empty is that of the request", "", (*text)(&c.HyperHost)},
		{"hyper-isolation", "driver that functions of the Hyper API must have; empty is any", "A daemon whose driver is another does not start, so that none of them ever runs with less isolation than was asked for.", (*text)(&c.HyperIsolation)},
		{"grace", "time that calls in flight get when the daemon stops", "", (*duration)(&c.Grace)},
		{"least-free-disk", "free disk space below which the node is not ready and takes no image; 0 is not looked at", "", (*bytes)(&c.LeastFreeDisk)},
		{"log-level", "least level of the daemon's own log: debug, info, warn, error", "", (*text)(&c.LogLevel)},
		{"log-format", "format of the daemon's own log: text, json", "", (*text)(&c.LogFormat)},
	}
}

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
	for _, one := range []struct {
		name, value string
		of          []string
	}{
		{"driver", c.Driver, []string{"ns", "fake"}},
		{"log-level", c.LogLevel, []string{"debug", "info", "warn", "error"}},
		{"log-format", c.LogFormat, []string{"text", "json"}},
	} {
		if !slices.Contains(one.of, one.value) {
			return bad(one.name, "%q is not one of: %s", one.value, strings.Join(one.of, ", "))
		}
	}
	if c.PullTimeout <= 0 {
		return bad("pull-timeout", "%v leaves no time", c.PullTimeout)
	}
	if c.Memory > 0 && c.Memory < faas.MinMemory {
		return bad("memory", "%v is under the least of %v, which one sandbox needs", c.Memory, faas.MinMemory)
	}
	for _, count := range []struct {
		name  string
		value int
	}{{"max-concurrency", c.MaxConcurrency}, {"max-waiting", c.MaxWaiting}, {"hyper-quota", c.HyperQuota}} {
		if count.value < 0 {
			return bad(count.name, "%d is negative", count.value)
		}
	}
	if c.AsyncShare < 0 || c.AsyncShare > 100 {
		return bad("async-share", "%d is not a percentage between 0 and 100", c.AsyncShare)
	}
	if c.KeyAge <= 0 {
		return bad("key-age", "%v leaves no time for a repetition", c.KeyAge)
	}
	for name, least := range map[string]struct{ value, min faas.Bytes }{
		"max-image":        {c.MaxImage, faas.MB},
		"log-per-function": {c.LogPerFunction, faas.MB},
		"log-total":        {c.LogTotal, faas.MB},
		"journal-bytes":    {c.JournalBytes, faas.MB},
	} {
		if least.value < least.min {
			return bad(name, "%v is under the least of %v", least.value, least.min)
		}
	}
	for _, capped := range []struct {
		name  string
		value faas.Bytes
	}{
		{"result-per-function", c.ResultPerFunction}, {"result-total", c.ResultTotal},
		{"queue-per-function", c.QueuePerFunction}, {"queue-total", c.QueueTotal},
	} {
		if capped.value != 0 && capped.value < faas.MB {
			return bad(capped.name, "%v is under the least of %v; 0 is no limit", capped.value, faas.MB)
		}
	}
	if strings.Contains(c.CgroupParent, "..") {
		return bad("cgroup-parent", "%q holds '..'", c.CgroupParent)
	}
	return c.checkHyper(bad)
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
	if !c.Insecure && !loopback(host) {
		return faas.Errorf(faas.Denied, "%s (from %s): %q can be reached from other machines, and nothing asks who they are: listen on 127.0.0.1, or give --insecure", name, c.Origin(name), addr)
	}
	return nil
}

func (c Config) checkHyper(bad func(name, format string, args ...any) error) error {
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
	if c.HyperHost != "" {
		if u, err := url.Parse("//" + c.HyperHost); err != nil || u.Host != c.HyperHost {
			return bad("hyper-host", "%q is not of the form host or host:port", c.HyperHost)
		}
	}
	if c.HyperIsolation != "" && c.HyperIsolation != c.Driver {
		return bad("hyper-isolation", "functions of the Hyper API must have driver %q, and the driver of this node is %q (from %s)", c.HyperIsolation, c.Driver, c.Origin("driver"))
	}
	return nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// Origin says where the value of the named setting came from: "default", "file
// NAME:LINE", "environment HOB_…" or "flag --…".
func (c Config) Origin(name string) string {
	if from, ok := c.origins[name]; ok {
		return from
	}
	return "default"
}

// An Entry is one setting as it is shown.
type Entry struct {
	Name   string // as in the file; the flag is "--" and this
	Value  string // as the file would have it; of a secret, "***" in its place
	Origin string
	Env    string // name of the environment variable
	Help   string // a line
	Note   string // a sentence more, or empty
}

// Entries lists every setting with its value and origin, in a fixed order.
func (c Config) Entries() []Entry {
	var all []Entry
	for _, s := range c.settings() {
		all = append(all, Entry{
			Name: s.name, Value: s.value.String(), Origin: c.Origin(s.name),
			Env: envName(s.name), Help: s.help, Note: s.note,
		})
	}
	return all
}

func envName(name string) string {
	return "HOB_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
