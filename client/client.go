// Package client is the Go client of our own HTTP API (docs/api.md). It turns
// the answers of a daemon back into the errors that the daemon had, so that a
// program far away and a test inside the daemon see the same faas.Kind. It
// knows the wire and nothing else: where a server is found and how an answer is
// printed is for its user to say.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"hob/faas"
)

// headerCall carries the id of a call in every answer to one, errors included.
const headerCall = "Hob-Call"

// headerFault is on every failure that a daemon tells, and on no answer of a function.
const headerFault = "Hob-Fault"

// Client talks to one daemon. Its methods may be used from many goroutines.
type Client struct {
	address string // as the user wrote it, for messages
	base    string // what a path is appended to, without a slash at the end
	token   string // sent with every request; "": none
	http    *http.Client
}

// An Option sets what New does not have to be told.
type Option func(*Client)

// WithToken makes the client name itself to the server with a bearer token, in
// every request. It is sent as it is, also where nothing keeps others from
// reading it: whether to do that over http is for the user to decide.
func WithToken(token string) Option { return func(c *Client) { c.token = token } }

// New returns the client of the daemon at address: "http://127.0.0.1:8080",
// "https://…", or "unix:///var/lib/hob/hob.sock" for a Unix socket. It does not
// connect. An address in another form is Invalid.
func New(address string, options ...Option) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "bad server address %q: write it as http://HOST:PORT or unix:///PATH", address)
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   64,
		DisableCompression:    true, // an answer is passed on as it is
	}
	c := &Client{address: address, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	switch {
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "":
		c.base = strings.TrimRight(address, "/")
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		c.base = "http://localhost"
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", u.Path)
		}
	default:
		return nil, faas.Errorf(faas.Invalid, "bad server address %q: write it as http://HOST:PORT or unix:///PATH", address)
	}
	for _, set := range options {
		set(c)
	}
	if strings.ContainsFunc(c.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, faas.Errorf(faas.Invalid, "the token holds what a header cannot: it is visible ASCII characters")
	}
	return c, nil
}

// Address is what New was given.
func (c *Client) Address() string { return c.address }

// Base is the URL that the server's paths are appended to; of a Unix socket it is
// one that only this client reaches.
func (c *Client) Base() string { return c.base }

// Close closes the connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// A Failure is an error that the daemon answered. It wraps the faas.Error that
// the daemon had, and adds what to quote when asking about it.
type Failure struct {
	Call    string // id of the call that failed, if the request was one that got as far
	Request string // id of the request
	err     error
}

func (f *Failure) Error() string { return f.err.Error() }
func (f *Failure) Unwrap() error { return f.err }

// wireFault is the body of every failure.
type wireFault struct {
	Error *struct {
		Kind    faas.Kind `json:"kind"`
		Message string    `json:"message"`
		Request string    `json:"request"`
	} `json:"error"`
}

// said is an error in the words of the server, for a reason that we know: nil
// if we do not.
type said struct {
	words  string
	reason error
}

func (s said) Error() string { return s.words }
func (s said) Unwrap() error { return s.reason }

// reasons are the statuses that tell more than a Kind.
var reasons = map[int]error{
	http.StatusGone:                faas.ErrGone,
	http.StatusUnprocessableEntity: faas.ErrKeyReused,
}

// failure returns the error in f, or nil if there is none. Kinds that this
// client does not know, as a newer daemon may send, become Internal.
func (f wireFault) failure(call string, reason error) error {
	if f.Error == nil {
		return nil
	}
	kind := f.Error.Kind
	if !slices.Contains(faas.Kinds(), kind) {
		kind = faas.Internal
	}
	return &Failure{Call: call, Request: f.Error.Request, err: faas.Errorf(kind, "%w", said{f.Error.Message, reason})}
}

// maxFault is the most that is read of an answer that tells of a failure.
const maxFault = 64 << 10

// failureOf returns the error that resp tells of. An answer that is not in our
// shape was given by something between us and the daemon, or is no daemon's.
func (c *Client) failureOf(resp *http.Response) error {
	var body wireFault
	err := json.NewDecoder(io.LimitReader(resp.Body, maxFault)).Decode(&body)
	if f := body.failure(resp.Header.Get(headerCall), reasons[resp.StatusCode]); err == nil && f != nil {
		return f
	}
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		return faas.Errorf(faas.Denied, "%s answered %q: it does not know who asks, or does not let them; %s", c.address, resp.Status, c.credentials())
	}
	return faas.Errorf(faas.Internal, "%s answered %q in words that are not hob's: is this the address of a hob server?", c.address, resp.Status)
}

// credentials says what the server was told.
func (c *Client) credentials() string {
	if c.token == "" {
		return "no token was sent"
	}
	return "a token was sent"
}

// send makes a request and returns its answer, whose body the caller closes.
// An answer that tells of a failure is returned as that error.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	resp, err := c.roundTrip(ctx, method, path, query, header, body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, c.failureOf(resp)
	}
	return resp, nil
}

func (c *Client) roundTrip(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	address := c.base + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "%w", err)
	}
	if body, ok := body.(sized); ok {
		req.ContentLength = body.n
		if body.n == 0 {
			req.Body = http.NoBody
		}
	}
	req.Header.Set("User-Agent", "hob")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
		req.Header.Del("Host")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return resp, nil
}

// unreachable says in words why no answer came.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the whole address, whose query may hold what is not for logs
	}
	switch {
	case ctx.Err() == nil && faas.KindOf(err) != faas.Internal:
		return err // of the body, which somebody here makes
	case ctx.Err() != nil:
		return fmt.Errorf("reach the server at %s: %w", c.address, ended(ctx))
	case errors.Is(err, syscall.EACCES):
		return faas.Errorf(faas.Denied, "reach the server at %s: %w: only root may use this socket; run as root, or name another server with --server or HOB_SERVER", c.address, err)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return faas.Errorf(faas.Internal, `no server answers at %s: start one there with "hob serve", or name another with --server or HOB_SERVER (%w)`, c.address, err)
	}
	return faas.Errorf(faas.Internal, "reach the server at %s: %w", c.address, err)
}

// ended is why ctx ended, with a Kind: a cause of its own need not have one.
func ended(ctx context.Context) error {
	cause := context.Cause(ctx)
	switch {
	case faas.KindOf(cause) != faas.Internal:
		return cause
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return faas.Errorf(faas.TimedOut, "%w", cause)
	}
	return faas.Errorf(faas.Canceled, "%w", cause)
}

// do sends in as JSON, unless it is nil, and decodes the answer into out, unless that is nil.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	header := http.Header{}
	if in != nil {
		b, err := encode(in)
		if err != nil {
			return faas.Errorf(faas.Invalid, "%w", err)
		}
		body = bytes.NewReader(b)
		header.Set("Content-Type", "application/json")
	}
	resp, err := c.send(ctx, method, path, query, header, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	return c.decode(resp.Body, out)
}

// sendJSON posts in and returns the answer, whose body the caller closes.
func (c *Client) sendJSON(ctx context.Context, path string, in any) (*http.Response, error) {
	b, err := encode(in)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "%w", err)
	}
	return c.send(ctx, http.MethodPost, path, nil, http.Header{"Content-Type": {"application/json"}}, bytes.NewReader(b))
}

// encode is json.Marshal that leaves <, > and & in annotations as they are: the
// server keeps what it gets.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func (c *Client) decode(body io.Reader, out any) error {
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return faas.Errorf(faas.Internal, "read the answer of %s: %w", c.address, err)
	}
	return nil
}

// path joins segments that are names to a path below /api.
func path(segments ...string) string {
	var b strings.Builder
	b.WriteString("/api")
	for _, s := range segments {
		b.WriteString("/" + url.PathEscape(s))
	}
	return b.String()
}
