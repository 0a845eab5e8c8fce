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
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return bad("listen", "%q is not an address such as 127.0.0.1:8080", c.Listen)
	}
	if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
		return bad("listen", "%q has no port between 0 and 65535", c.Listen)
	}
	if !c.Insecure && !loopback(host) {
		return faas.Errorf(faas.Denied, "listen (from %s): %q can be reached from other machines, and nothing asks who they are: listen on 127.0.0.1, or give --insecure", c.Origin("listen"), c.Listen)
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
	if c.MaxConcurrency < 0 {
		return bad("max-concurrency", "%d is negative", c.MaxConcurrency)
	}
	if c.MaxWaiting < 0 {
		return bad("max-waiting", "%d is negative", c.MaxWaiting)
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
	if strings.Contains(c.CgroupParent, "..") {
		return bad("cgroup-parent", "%q holds '..'", c.CgroupParent)
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
	Value  string // as the file would have it
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
