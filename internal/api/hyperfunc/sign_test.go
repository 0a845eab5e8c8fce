package hyperfunc

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"hob/faas"
)

func newSigned(region string) *Server {
	return &Server{Settings: Settings{Keys: map[string]string{"AK": "SK", "other": "secret"}, Region: region}}
}

// signedRequests are the requests of the hyper CLI to the management API.
func signedRequests(t testing.TB) []*http.Request {
	t.Helper()
	script, err := txtar.ParseFile("testdata/hyper-cli.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all []*http.Request
	for _, f := range script.Files {
		if f.Name != "request" || !bytes.Contains(f.Data, []byte("Authorization: ")) {
			continue
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(f.Data)))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		all = append(all, r)
	}
	return all
}

func dateOf(t testing.TB, r *http.Request) time.Time {
	t.Helper()
	date, err := time.Parse(dateFormat, r.Header.Get(headerDate))
	if err != nil {
		t.Fatal(err)
	}
	return date
}

func TestSignaturesOfTheClientAreGood(t *testing.T) {
	s, n := newSigned(""), 0
	for _, r := range signedRequests(t) {
		if err := s.checkSignature(httptest.NewRecorder(), r, dateOf(t, r).Add(time.Second)); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		n++
	}
	if n < 12 {
		t.Errorf("only %d requests in the transcript", n)
	}
}

// signedNow is a request signed as the client does it, but by the code under test:
// what that is worth, the transcript shows.
func signedNow(method, target, body string, now time.Time, region, access, secret string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(headerDate, now.UTC().Format(dateFormat))
	r.Header.Set(headerHash, hashOf(body))
	resign(r, region, access, secret)
	return r
}

func resign(r *http.Request, region, access, secret string) {
	signed := []string{"content-type", "host", "x-hyper-content-sha256", "x-hyper-date"}
	stamp := r.Header.Get(headerDate)
	scope := stamp[:8] + "/" + region + scopeSuffix
	sum := sign(secret, stamp, scope, canonical(r, r.URL.Query(), signed))
	r.Header.Set("Authorization", algorithm+" Credential="+access+"/"+scope+", SignedHeaders="+strings.Join(signed, ";")+", Signature="+hex.EncodeToString(sum))
}

func TestBadSignaturesAreRefused(t *testing.T) {
	now := time.Date(2026, 11, 21, 2, 19, 18, 0, time.UTC)
	const unsigned401 = faas.Kind("401")
	tests := []struct {
		name   string
		change func(r *http.Request)
		kind   faas.Kind
		text   string
	}{
		{"as it is", func(*http.Request) {}, faas.OK, ""},
		{"five minutes late", func(r *http.Request) {
			r.Header.Set(headerDate, now.Add(-5*time.Minute).Format(dateFormat))
			resign(r, "us-west-1", "AK", "SK")
		}, faas.OK, ""},
		{"port 443", func(r *http.Request) {
			r.Host = "hob.example"
			resign(r, "us-west-1", "AK", "SK")
			r.Host = "hob.example:443"
		}, faas.OK, ""},
		{"a host of Hyper's", func(r *http.Request) {
			r.Host = "eu-central-1.hyper.sh"
			resign(r, "eu-central-1", "AK", "SK")
		}, faas.OK, ""},
		{"none", func(r *http.Request) { r.Header.Del("Authorization") }, unsigned401, "wants signed requests"},
		{"another scheme", func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, unsigned401, "does not begin with HYPER-HMAC-SHA256"},
		{"garbage", func(r *http.Request) { r.Header.Set("Authorization", algorithm+" x") }, unsigned401, "not of the form"},
		{"no date", func(r *http.Request) { r.Header.Del(headerDate) }, unsigned401, "not a time"},
		{"date of another form", func(r *http.Request) { r.Header.Set(headerDate, now.Format(time.RFC1123)) }, unsigned401, "not a time"},
		{"host not signed", func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), ";host", "", 1))
		}, unsigned401, "host is not among"},
		{"body hash not signed", func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), ";x-hyper-content-sha256", "", 1))
		}, unsigned401, "is not among"},
		{"too late", func(r *http.Request) {
			r.Header.Set(headerDate, now.Add(-5*time.Minute-time.Second).Format(dateFormat))
			resign(r, "us-west-1", "AK", "SK")
		}, faas.Denied, "more than 5m0s apart"},
		{"too early", func(r *http.Request) {
			r.Header.Set(headerDate, now.Add(5*time.Minute+time.Second).Format(dateFormat))
			resign(r, "us-west-1", "AK", "SK")
		}, faas.Denied, "more than 5m0s apart"},
		{"another date than signed", func(r *http.Request) { r.Header.Set(headerDate, now.Add(time.Second).Format(dateFormat)) }, faas.Denied, "does not match"},
		{"wrong secret", func(r *http.Request) { resign(r, "us-west-1", "AK", "KS") }, faas.Denied, "does not match"},
		{"secret of another key", func(r *http.Request) { resign(r, "us-west-1", "AK", "secret") }, faas.Denied, "does not match"},
		{"unknown key", func(r *http.Request) { resign(r, "us-west-1", "KA", "SK") }, faas.Denied, "does not match"},
		{"unknown key with an empty secret", func(r *http.Request) { resign(r, "us-west-1", "KA", "") }, faas.Denied, "does not match"},
		{"another region", func(r *http.Request) { resign(r, "eu-central-1", "AK", "SK") }, faas.Denied, "must be for"},
		{"another path", func(r *http.Request) { r.URL.Path = "/v1.23/funcs/other" }, faas.Denied, "does not match"},
		{"another verb", func(r *http.Request) { r.Method = "DELETE" }, faas.Denied, "does not match"},
		{"another query", func(r *http.Request) { r.URL.RawQuery = "b=2&a=1" }, faas.Denied, "does not match"},
		{"a query that cannot be read", func(r *http.Request) { r.URL.RawQuery += ";x=1" }, faas.Invalid, "bad query"},
		{"another host", func(r *http.Request) { r.Host = "evil.example" }, faas.Denied, "does not match"},
		{"another body", func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("{}")) }, faas.Denied, "not the one that was signed"},
		{"a body without end", func(r *http.Request) { r.Body = io.NopCloser(zeros{}) }, faas.TooLarge, "limit of 1 MB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSigned("")
			r := signedNow("PUT", "http://127.0.0.1:2375/v1.23/funcs/h%20w?b=2&a=x+y", `{"Name":"hw"}`, now, "us-west-1", "AK", "SK")
			tt.change(r)
			err := s.checkSignature(httptest.NewRecorder(), r, now)
			kind := faas.KindOf(err)
			if _, ok := err.(unsigned); ok {
				kind = unsigned401
			}
			if kind != tt.kind || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("checkSignature = %q %v; want %q %q", kind, err, tt.kind, tt.text)
			}
			if err != nil && (strings.Contains(err.Error(), "SK") || strings.Contains(err.Error(), "secret\"")) {
				t.Errorf("a secret in %q", err)
			}
			if err == nil {
				if body, err := io.ReadAll(r.Body); string(body) != `{"Name":"hw"}` {
					t.Errorf("body afterwards %q, %v", body, err)
				}
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestOnlyWhatChangesNothingMayComeTwice(t *testing.T) {
	now := time.Date(2026, 11, 21, 2, 19, 18, 0, time.UTC)
	for method, want := range map[string]bool{"GET": true, "POST": false, "PUT": false, "DELETE": false} {
		s := newSigned("")
		for i := range 2 {
			r := signedNow(method, "http://127.0.0.1:2375/v1.23/funcs/hw", "", now, "us-west-1", "AK", "SK")
			err := s.checkSignature(httptest.NewRecorder(), r, now)
			if ok := i == 0 || want; (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "received before") {
				t.Errorf("%s, time %d: %v", method, i+1, err)
			}
		}
	}
}

func TestSignaturesAreForgottenWithTheirDate(t *testing.T) {
	var seen signatures
	now := time.Now()
	for i := range 100 {
		if !seen.first([]byte{byte(i)}, now, now.Add(maxSkew)) {
			t.Fatalf("%d: seen before", i)
		}
	}
	now = now.Add(maxSkew + 2*time.Minute)
	if !seen.first([]byte{200}, now, now.Add(maxSkew)) || len(seen.until) != 1 {
		t.Errorf("%d are remembered, want 1", len(seen.until))
	}
}

func TestConfiguredRegionCounts(t *testing.T) {
	s, now := newSigned("mars"), time.Now()
	if err := s.checkSignature(httptest.NewRecorder(), signedNow("GET", "http://h/funcs", "", now, "mars", "AK", "SK"), now); err != nil {
		t.Error(err)
	}
}

func FuzzParseAuthorization(f *testing.F) {
	for _, r := range signedRequests(f) {
		f.Add(r.Header.Get("Authorization"))
	}
	f.Add(algorithm + " Credential=/, SignedHeaders=;, Signature=00")
	f.Fuzz(func(t *testing.T, header string) {
		a, err := parseAuthorization(header)
		if err != nil {
			return
		}
		if a.access == "" || len(a.signature) != 32 || !slices.IsSorted(a.signed) || !slices.Contains(a.signed, "host") {
			t.Errorf("%q is taken for %+v", header, a)
		}
	})
}
