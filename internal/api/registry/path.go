package registry

import (
	"net/http"
	"regexp"
	"strings"

	"hob/internal/image"
)

// A place is what a path of the distribution API names.
type place byte

const (
	nowhere   place = iota // not of this API
	root                   // /v2/
	catalog                // /v2/_catalog
	tags                   // /v2/NAME/tags/list
	manifests              // /v2/NAME/manifests/REF
	blobs                  // /v2/NAME/blobs/DIGEST
	uploads                // /v2/NAME/blobs/uploads/
	upload                 // /v2/NAME/blobs/uploads/ID
	referrers              // /v2/NAME/referrers/DIGEST
)

// A route is a path taken apart. Neither name nor arg has been checked.
type route struct {
	place place
	name  string // of the repository
	arg   string // reference, digest or ID of an upload
}

// Match reports whether r is a request of the distribution API. It is decided
// by the shape of the path, read from its end: everything before the last
// /manifests/X, /blobs/X, /blobs/uploads/[X], /tags/list or /referrers/X is the
// name of an image, whatever it is called. So /v2/apps/manifests/1 is the image
// "apps", and /v2/apps and /v2/apps/X are not of this API.
func Match(r *http.Request) bool { return parse(r.URL.Path).place != nowhere }

func parse(path string) route {
	rest, ok := strings.CutPrefix(path, "/v2")
	switch {
	case !ok:
		return route{}
	case rest == "" || rest == "/":
		return route{place: root}
	case rest == "/_catalog":
		return route{place: catalog}
	case rest[0] != '/':
		return route{}
	}
	parts := strings.Split(rest[1:], "/")
	n := len(parts)
	// last returns the n-th part from the end.
	last := func(i int) string {
		if i > n {
			return ""
		}
		return parts[n-i]
	}
	name := func(i int) string { return strings.Join(parts[:max(n-i, 0)], "/") }
	r := route{}
	switch {
	case last(1) == "" && last(2) == "uploads" && last(3) == "blobs":
		r = route{uploads, name(3), ""}
	case last(1) == "uploads" && last(2) == "blobs":
		r = route{uploads, name(2), ""}
	case last(1) == "":
		return route{}
	case last(1) == "list" && last(2) == "tags":
		r = route{tags, name(2), ""}
	case last(2) == "manifests":
		r = route{manifests, name(2), last(1)}
	case last(2) == "blobs":
		r = route{blobs, name(2), last(1)}
	case last(2) == "referrers":
		r = route{referrers, name(2), last(1)}
	case last(2) == "uploads" && last(3) == "blobs":
		r = route{upload, name(3), last(1)}
	}
	if r.name == "" {
		return route{}
	}
	return r
}

// The grammar of the OCI distribution specification, and its limit of 255
// characters for host and name together, where the host is hob.local.
var (
	nameGrammar = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

const maxName = 255 - len(image.LocalRegistry+"/")

func checkName(name string) error {
	if len(name) > maxName {
		return refuse(http.StatusBadRequest, nameInvalid, "the image name of %d characters is over the limit of %d", len(name), maxName)
	}
	if !nameGrammar.MatchString(name) {
		return refuse(http.StatusBadRequest, nameInvalid, "bad image name %q: use lower-case letters and digits, joined by '.', '_', '__', '-' or '/'", name)
	}
	return nil
}
