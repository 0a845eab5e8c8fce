package buffered

import (
	"net/http"
	"strings"
)

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
