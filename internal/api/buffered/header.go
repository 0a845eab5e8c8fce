package buffered

import (
	"net/http"
	"slices"
	"strings"

	"hob/internal/api"
	"hob/internal/invoke"
)

// Give adds a header of a function to the answer, unless it is about one connection,
// or ours.
func Give(to http.Header, name string, values []string) {
	switch {
	case isHop(name), name == "Content-Length", name == invoke.HeaderReplayed, name == api.RequestID, strings.HasPrefix(name, "Hob-"), strings.HasPrefix(name, http.TrailerPrefix):
	case name == "Vary": // there may be one of CORS
		to[name] = slices.Concat(to[name], values)
	default:
		to[name] = values
	}
}

// isHop reports whether a header, in canonical form, is about one connection only.
func isHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// DropHops takes out of the header of a request what is about one connection only.
func DropHops(h http.Header) {
	trailers := false
	for _, list := range h["Te"] {
		for word := range strings.SplitSeq(list, ",") {
			trailers = trailers || strings.EqualFold(strings.TrimSpace(word), "trailers")
		}
	}
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for name := range h {
		if isHop(name) || name == "Expect" { // the latter was between the client and this server
			delete(h, name)
		}
	}
	if trailers {
		h["Te"] = []string{"trailers"}
	}
}
