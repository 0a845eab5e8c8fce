package image

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"hob/faas"
	"hob/internal/image/content"
)

// LocalRegistry is the registry part of references to images that were pushed
// to this node, whatever its address was at the time.
const LocalRegistry = "hob.local"

// dockerHub is the registry of a reference that names none.
const dockerHub = "docker.io"

// Reference names an image in a registry, in full.
type Reference struct {
	Registry   string // "docker.io", "hob.local", "registry.example:5000"
	Repository string // "library/busybox"
	Tag        string // "latest"; "" if Digest is set
	Digest     string // "sha256:…"; "" if Tag is set
}

// String writes r in full: "docker.io/library/busybox:latest".
func (r Reference) String() string { return r.Name() + r.suffix() }

// Name is r without tag and digest: "docker.io/library/busybox".
func (r Reference) Name() string { return r.Registry + "/" + r.Repository }

// Familiar writes r as users do: "busybox:latest". It reads as r.
func (r Reference) Familiar() string {
	if r.Registry == dockerHub {
		for _, short := range []string{strings.TrimPrefix(r.Repository, "library/") + r.suffix(), r.Repository + r.suffix()} {
			if again, err := Normalize(short); err == nil && again == r {
				return short
			}
		}
	}
	return r.String()
}

func (r Reference) suffix() string {
	if r.Digest != "" {
		return "@" + r.Digest
	}
	return ":" + r.Tag
}

// Local reports whether r names an image of this node's own registry.
func (r Reference) Local() bool { return r.Registry == LocalRegistry }

// Limits of references, which are those of the distribution specification.
const (
	maxReference = 255 // characters of a name
	maxTag       = 128
)

// Normalize reads a reference by the naming rules of Docker Hub: a name without
// a registry is of docker.io, one without a '/' of docker.io/library, one
// without tag and digest means the tag latest; with a digest the tag is not
// looked at. A registry that is in self (host:port, any case) is hob.local.
func Normalize(ref string, self ...string) (Reference, error) {
	fail := func(format string, args ...any) (Reference, error) {
		shown := ref
		if len(shown) > maxReference {
			shown = shown[:maxReference] + "…"
		}
		return Reference{}, faas.Errorf(faas.Invalid, "bad image reference %q: "+format, append([]any{shown}, args...)...)
	}
	if ref == "" {
		return fail("it is empty")
	}
	var r Reference
	name, digest, pinned := strings.Cut(ref, "@")
	if pinned {
		if content.CheckDigest(digest) != nil {
			return fail("a digest is sha256: and 64 lower-case hexadecimal digits")
		}
		r.Digest = digest
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		tag := name[i+1:]
		if !tagOK(tag) {
			return fail("a tag is 1 to %d letters, digits, '_', '.' and '-', and begins with none of the last two", maxTag)
		}
		name = name[:i]
		if !pinned {
			r.Tag = tag
		}
	} else if !pinned {
		r.Tag = "latest"
	}
	r.Registry, r.Repository = dockerHub, name
	if first, rest, ok := strings.Cut(name, "/"); ok && (strings.ContainsAny(first, ".:") || strings.EqualFold(first, "localhost")) {
		if !hostOK(first) {
			return fail("%q is not the host of a registry", first)
		}
		r.Registry, r.Repository = strings.ToLower(first), rest
	}
	switch r.Registry {
	case "index.docker.io", "registry-1.docker.io":
		r.Registry = dockerHub
	}
	if slices.ContainsFunc(self, func(s string) bool { return strings.EqualFold(s, r.Registry) }) {
		r.Registry = LocalRegistry
	}
	if r.Registry == dockerHub && !strings.Contains(r.Repository, "/") {
		if isHex(r.Repository, 64) {
			return fail("64 hexadecimal digits are an image ID, not a name")
		}
		r.Repository = "library/" + r.Repository
	}
	if n := len(r.Name()); n > maxReference {
		return fail("its name of %d characters is over the limit of %d", n, maxReference)
	}
	for part := range strings.SplitSeq(r.Repository, "/") {
		if !partOK(part) {
			return fail("a name is made of lower-case letters and digits, joined by '.', '_', '__' or dashes, in parts between '/'")
		}
	}
	return r, nil
}

func alnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// partOK reports whether s is letters and digits with separators between them.
func partOK(s string) bool {
	if s == "" || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if alnum(s[i]) {
			i++
			continue
		}
		j := i
		for !alnum(s[j]) {
			j++ // ends: the last byte is alphanumeric
		}
		sep := s[i:j]
		if sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
		i = j
	}
	return true
}

func tagOK(s string) bool {
	if s == "" || len(s) > maxTag || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alnum(c) && (c < 'A' || c > 'Z') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// hostOK reports whether s is a host name or address with an optional port.
func hostOK(s string) bool {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 || strings.Trim(port, "0123456789") != "" {
			return false
		}
		host = h
		if strings.HasPrefix(s, "[") {
			return net.ParseIP(h) != nil
		}
	}
	for label := range strings.SplitSeq(strings.ToLower(host), ".") {
		if label == "" || !alnum(label[0]) || !alnum(label[len(label)-1]) {
			return false
		}
		for i := range len(label) {
			if !alnum(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return true
}
