package faas

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
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
	return nil
}

func badHost(host string) bool {
	return host == "" || len(host) > 253 || strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.')
	})
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

// CheckSyslog reports whether target names a syslog server, as tcp://HOST:PORT, or
// unix:///PATH; nothing is none.
func CheckSyslog(target string) error {
	if target == "" {
		return nil
	}
	u, err := url.Parse(target)
	if err != nil || !slices.Contains(SyslogSchemes(), u.Scheme) {
		return Errorf(Invalid, "syslog URL %q: use %s", target, strings.Join(SyslogSchemes(), "://, ")+"://")
	}
	if local := strings.HasPrefix(u.Scheme, "unix"); local && !strings.HasPrefix(u.Path, "/") || !local && u.Hostname() == "" || u.User != nil {
		return Errorf(Invalid, "syslog URL %q names no server: write tcp://HOST:PORT, or unix:///PATH", target)
	}
	return nil
}
