package api

import (
	"io"
	"net"
	"net/http"
	"time"
)

// hearOutTime is how long a client whose body is refused may go on sending it.
const hearOutTime = 10 * time.Second

// HearOut reads what the client still sends of a body that nobody wants. A client
// that writes while its connection is closed gets a reset in place of the reason.
func HearOut(w http.ResponseWriter, r *http.Request) {
	if http.NewResponseController(w).SetReadDeadline(time.Now().Add(hearOutTime)) == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// Caller is the address from which r came; empty for one over a Unix socket.
func Caller(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return ""
}

// URL is what r asks for, absolute, as its client wrote it.
func URL(r *http.Request) string {
	u := *r.URL
	u.Scheme, u.Host = "http", r.Host
	if r.TLS != nil {
		u.Scheme = "https"
	}
	return u.String()
}

// MaxKey is the most characters of an idempotency key.
const MaxKey = 255

// IsKey reports whether s can be an idempotency key: visible ASCII characters, at
// most MaxKey.
func IsKey(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= MaxKey
}
