package hyperfunc

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"hob/faas"
)

// The signatures of the management API, which are AWS signatures of version 4
// with other names.
const (
	algorithm   = "HYPER-HMAC-SHA256"
	headerDate  = "X-Hyper-Date"
	headerHash  = "X-Hyper-Content-Sha256"
	dateFormat  = "20060102T150405Z"
	scopeSuffix = "/hyper/hyper_request" // of DATE/REGION

	// maxSkew is how far the date of a request may be from this machine's clock.
	maxSkew = 5 * time.Minute
)

// authorization is the header Authorization, in parts.
type authorization struct {
	access, scope string   // of "Credential=ACCESS/SCOPE"
	signed        []string // names of headers, lower case, sorted
	signature     []byte
}

// parseAuthorization reads "HYPER-HMAC-SHA256 Credential=…, SignedHeaders=…,
// Signature=…". An error says what is wrong, and repeats nothing of it.
func parseAuthorization(header string) (a authorization, err error) {
	rest, ok := strings.CutPrefix(header, algorithm+" ")
	if !ok {
		return a, fmt.Errorf("the header Authorization does not begin with %s", algorithm)
	}
	fields := make(map[string]string)
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := fields[name]; !ok || twice || value == "" {
			return a, fmt.Errorf("the header Authorization is not of the form %s Credential=…, SignedHeaders=…, Signature=…", algorithm)
		}
		fields[name] = value
	}
	if a.access, a.scope, ok = strings.Cut(fields["Credential"], "/"); !ok || a.access == "" {
		return a, fmt.Errorf("the Credential of the header Authorization is not of the form ACCESSKEY/DATE/REGION%s", scopeSuffix)
	}
	a.signed = strings.Split(fields["SignedHeaders"], ";")
	for i, name := range a.signed {
		if name == "" || name != strings.ToLower(name) || i > 0 && a.signed[i-1] >= name {
			return a, fmt.Errorf("the SignedHeaders of the header Authorization are not lower case, sorted, and joined with ';'")
		}
	}
	for _, name := range []string{"host", strings.ToLower(headerHash), strings.ToLower(headerDate)} {
		if !slices.Contains(a.signed, name) {
			return a, fmt.Errorf("the header %s is not among the SignedHeaders", name)
		}
	}
	if a.signature, err = hex.DecodeString(fields["Signature"]); err != nil || len(a.signature) != sha256.Size {
		return a, fmt.Errorf("the Signature of the header Authorization is not %d hexadecimal digits", 2*sha256.Size)
	}
	return a, nil
}

// unsigned is the error of a request without a signature that can be checked. It
// is answered with 401, all others of checkSignature with the status of their kind.
type unsigned struct{ reason string }

func (e unsigned) Error() string { return e.reason }

// checkSignature reports whether r is signed with one of the keys, now, and was
// not received before if it changes something. The body of r is read, at most
// maxJSON of it, and can be read again.
func (s *Server) checkSignature(w http.ResponseWriter, r *http.Request, now time.Time) error {
	header := r.Header.Get("Authorization")
	if header == "" {
		return unsigned{"this server wants signed requests: set your access key and secret key (hyper config)"}
	}
	a, err := parseAuthorization(header)
	if err != nil {
		return unsigned{err.Error()}
	}
	stamp := r.Header.Get(headerDate)
	date, err := time.Parse(dateFormat, stamp)
	if err != nil {
		return unsigned{"the header " + headerDate + " is not a time of the form " + dateFormat}
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return faas.Errorf(faas.Invalid, "bad query: %w", err)
	}
	if skew := now.Sub(date); skew > maxSkew || skew < -maxSkew {
		return faas.Errorf(faas.Denied, "the request was signed at %s and it is %s here: more than %v apart", stamp, now.UTC().Format(dateFormat), maxSkew)
	}
	scope := stamp[:8] + "/" + s.region(r.Host) + scopeSuffix
	if a.scope != scope {
		return faas.Errorf(faas.Denied, "the request is signed for %q and must be for %q", a.scope, scope)
	}
	secret, known := s.Settings.Keys[a.access] // the sum is made for an unknown one, too: it takes as long
	sum := sign(secret, stamp, scope, canonical(r, values, a.signed))
	if !hmac.Equal(sum, a.signature) || !known {
		return faas.Errorf(faas.Denied, "the signature does not match: check access key and secret key")
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	if !strings.EqualFold(r.Header.Get(headerHash), hashOf(string(body))) {
		return faas.Errorf(faas.Denied, "the body is not the one that was signed (%s)", headerHash)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if r.Method != http.MethodGet && !s.seen.first(a.signature, now, date.Add(maxSkew)) {
		return faas.Errorf(faas.Denied, "this very request was received before: sign it again")
	}
	return nil
}

// region is that for which requests to host are signed.
func (s *Server) region(host string) string {
	if name, ok := strings.CutSuffix(host, ".hyper.sh"); ok && !strings.Contains(name, ".") {
		return name
	}
	return cmp.Or(s.Settings.Region, "us-west-1")
}

// canonical is a request as it is signed.
func canonical(r *http.Request, values url.Values, signed []string) string {
	var b strings.Builder
	b.WriteString(r.Method + "\n" + canonicalPath(r.URL.Path) + "\n")
	b.WriteString(strings.ReplaceAll(values.Encode(), "+", "%20") + "\n")
	for _, name := range signed {
		value := r.Header.Get(name)
		if name == "host" {
			value = canonicalHost(r.Host)
		}
		b.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	b.WriteString("\n" + strings.Join(signed, ";") + "\n" + r.Header.Get(headerHash))
	return b.String()
}

// canonicalHost is host without one of the two usual ports.
func canonicalHost(host string) string {
	for _, port := range []string{":80", ":443"} {
		if short, ok := strings.CutSuffix(host, port); ok {
			return short
		}
	}
	return host
}

// canonicalPath is path without its first slash and without empty segments, and
// with everything escaped that is not unreserved.
func canonicalPath(path string) string {
	var b strings.Builder
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('/')
		}
		for i := range len(segment) {
			c := segment[i]
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
	}
	return b.String()
}

// sign is the signature of a canonical request.
func sign(secret, stamp, scope, request string) []byte {
	key := []byte("HYPER" + secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = hmacOf(key, part)
	}
	return hmacOf(key, strings.Join([]string{algorithm, stamp, scope, hashOf(request)}, "\n"))
}

func hashOf(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

func hmacOf(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// signatures remembers which requests were received, for as long as their date
// is good. Only holders of a key can make it grow. The zero value is ready.
type signatures struct {
	mu    sync.Mutex
	until map[string]time.Time // guarded by mu, as below; by signature
	swept time.Time
}

// first reports whether this signature comes for the first time, and remembers it
// until then.
func (s *signatures) first(signature []byte, now, until time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.swept).Abs() > time.Minute {
		s.swept = now
		for known, end := range s.until {
			if end.Before(now) {
				delete(s.until, known)
			}
		}
	}
	if _, seen := s.until[string(signature)]; seen {
		return false
	}
	if s.until == nil {
		s.until = make(map[string]time.Time)
	}
	s.until[string(signature)] = until
	return true
}
