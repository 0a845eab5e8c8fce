package faas

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of annotations, which are those of Fn.
const (
	MaxAnnotations     = 100
	MaxAnnotationKey   = 128 // bytes
	MaxAnnotationValue = 512 // bytes of compact JSON
)

// Annotations of an app that hob itself heeds.
const (
	// AnnotationPatterns, true or false, says whether parameters (/users/:id) and
	// wildcards (/static/*) in the sources of the app's triggers are such, in place
	// of the node's setting.
	AnnotationPatterns = "hob/patterns"
	// AnnotationHosts is a list of host names, in lower case and without port: a
	// request to one of them goes to the app's triggers.
	AnnotationHosts = "hob/hosts"
	// AnnotationRunner says who runs the asynchronous calls of the app: "external" is
	// a program that asks for them (GET /tasks).
	AnnotationRunner = "hob/runner"
)

// Annotations of apps and of functions that hob itself heeds: what their fields of
// the same name say, for clients that know no such fields.
const (
	AnnotationNetwork   = "hob/network"   // text: as Function.Network
	AnnotationAllow     = "hob/allow"     // a list of rules, which add to those of Function.Allow
	AnnotationIsolation = "hob/isolation" // of functions only; text: as Function.Isolation
)

// CheckAnnotations reports whether annotations can be kept: at most MaxAnnotations,
// keys of 1 to MaxAnnotationKey visible ASCII characters, values of valid, compact
// JSON of at most MaxAnnotationValue bytes, and of those that hob heeds what they
// must be.
func CheckAnnotations(annotations map[string]string) error {
	if n := len(annotations); n > MaxAnnotations {
		return Errorf(Invalid, "%d annotations are over the limit of %d", n, MaxAnnotations)
	}
	for key, value := range annotations {
		if len(key) > MaxAnnotationKey {
			return Errorf(Invalid, "the annotation key %.32q… of %d bytes is over the limit of %d", key, len(key), MaxAnnotationKey)
		}
		if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return Errorf(Invalid, "bad annotation key %q: use visible ASCII characters", key)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(value)); err != nil || compact.String() != value || !utf8.ValidString(value) {
			return Errorf(Invalid, "the value of annotation %s is no compact JSON", key)
		}
		if len(value) > MaxAnnotationValue {
			return Errorf(Invalid, "the value of annotation %s has %d bytes, over the limit of %d", key, len(value), MaxAnnotationValue)
		}
	}
	if value, ok := annotations[AnnotationPatterns]; ok && value != "true" && value != "false" {
		return Errorf(Invalid, "annotation %s is %s: true or false is wanted", AnnotationPatterns, value)
	}
	if value, ok := annotations[AnnotationHosts]; ok {
		var hosts []string
		if err := json.Unmarshal([]byte(value), &hosts); err != nil || slices.ContainsFunc(hosts, badHost) {
			return Errorf(Invalid, "annotation %s is %s: a list of host names is wanted, in lower case and without port", AnnotationHosts, value)
		}
	}
	if value, ok := annotations[AnnotationRunner]; ok && value != runnerExternal {
		return Errorf(Invalid, "annotation %s is %s: %s is wanted, or no such annotation", AnnotationRunner, value, runnerExternal)
	}
	return checkReachAnnotations(annotations)
}

// checkReachAnnotations is CheckAnnotations for AnnotationNetwork, AnnotationAllow and
// AnnotationIsolation. What the first two say is checked with the fields.
func checkReachAnnotations(annotations map[string]string) error {
	var network, isolation string
	if value, ok := annotations[AnnotationNetwork]; ok && (json.Unmarshal([]byte(value), &network) != nil || network == "") {
		return Errorf(Invalid, "annotation %s is %s: none, open, allow, or the name of a network is wanted, as text", AnnotationNetwork, value)
	}
	if NetworkMode(network) == NetworkHost {
		return Errorf(Invalid, "annotation %s cannot be host: that is for the API of hob itself", AnnotationNetwork)
	}
	var allow []string
	if value, ok := annotations[AnnotationAllow]; ok && (json.Unmarshal([]byte(value), &allow) != nil || value == "null") {
		return Errorf(Invalid, `annotation %s is %s: a list such as ["db.lan:5432"] is wanted`, AnnotationAllow, value)
	}
	if value, ok := annotations[AnnotationIsolation]; ok &&
		(json.Unmarshal([]byte(value), &isolation) != nil || !slices.Contains(Isolations(), Isolation(isolation))) {
		return Errorf(Invalid, "annotation %s is %s: one of %s is wanted, as text", AnnotationIsolation, value, joinIsolations())
	}
	return nil
}

// Patterns reports whether parameters and wildcards in the sources of the app's triggers
// are such; otherwise is what the node says.
func (a App) Patterns(otherwise bool) bool {
	switch a.Annotations[AnnotationPatterns] {
	case "true":
		return true
	case "false":
		return false
	}
	return otherwise
}

// RunnerExternal is what AnnotationRunner holds, as text.
const RunnerExternal = "external"

const runnerExternal = `"` + RunnerExternal + `"`

// External reports whether the asynchronous calls of a are run by who asks for them,
// not by hob.
func (a App) External() bool { return a.Annotations[AnnotationRunner] == runnerExternal }

// badHost reports whether host can be no app's: a host name, and none of the machine
// itself.
func badHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" || len(host) > 253 {
		return true
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label || strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
		}) {
			return true
		}
	}
	return false
}

// Hosts returns the host names of its own that a has.
func (a App) Hosts() (hosts []string) {
	_ = json.Unmarshal([]byte(a.Annotations[AnnotationHosts]), &hosts) // checked when it was put
	return hosts
}

// Shapes are the processors that a function can be said to be made for.
func Shapes() []string { return []string{"GENERIC_X86", "GENERIC_ARM", "GENERIC_X86_ARM"} }

// CheckShape reports whether shape is one of Shapes, or none.
func CheckShape(shape string) error {
	if shape != "" && !slices.Contains(Shapes(), shape) {
		return Errorf(Invalid, "shape %q is not one of: %s", shape, strings.Join(Shapes(), ", "))
	}
	return nil
}

// SyslogSchemes are the ways to a syslog server.
func SyslogSchemes() []string { return []string{"tcp", "udp", "unix", "unixgram", "tcp+tls"} }

// maxSocketPath is the longest path of a Unix socket that Linux takes, in bytes.
const maxSocketPath = 107

// CheckSyslog reports whether target names a syslog server, as tcp://HOST:PORT, or
// unix:///PATH, and nothing else; an empty one is none.
func CheckSyslog(target string) error {
	if target == "" {
		return nil
	}
	u, err := url.Parse(target)
	if err != nil || !slices.Contains(SyslogSchemes(), u.Scheme) {
		return Errorf(Invalid, "syslog URL %q: use %s", target, strings.Join(SyslogSchemes(), "://, ")+"://")
	}
	local := strings.HasPrefix(u.Scheme, "unix")
	if local && (u.Host != "" || !strings.HasPrefix(u.Path, "/")) || !local && u.Hostname() == "" {
		return Errorf(Invalid, "syslog URL %q names no server: write tcp://HOST:PORT, or unix:///PATH", target)
	}
	if u.User != nil || strings.ContainsAny(target, "?#") {
		return Errorf(Invalid, "syslog URL %q has a user, a query or a fragment: it can have none", target)
	}
	if local && (len(u.Path) > maxSocketPath || strings.Contains(u.Path, "\x00")) {
		return Errorf(Invalid, "syslog URL %.64q…: the path of a Unix socket has no zero byte and at most %d bytes, this one has %d", target, maxSocketPath, len(u.Path))
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); u.Port() != "" && (err != nil || port == 0) {
		return Errorf(Invalid, "syslog URL %q: a port is a number from 1 to 65535", target)
	}
	return nil
}
