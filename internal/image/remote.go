package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
	"hob/internal/image/content"
)

const (
	maxTries    = 5 // of one request that brings nothing new
	dialTimeout = 10 * time.Second
	idleTimeout = 60 * time.Second // without a byte, then the connection is given up
	userAgent   = "hob"
)

// remote is one repository of a registry, with whom we are settled.
type remote struct {
	ref       Reference
	base      string // "https://host/v2/repository"; the transport knows the scheme
	client    *http.Client
	anonymous bool
	user      string
	wait      time.Duration
}

// connect settles scheme and authentication with the registry of ref.
func (s *Store) connect(ctx context.Context, ref Reference, opt PullOptions) (*remote, error) {
	host := ref.Registry
	if host == dockerHub {
		host = name.DefaultRegistry
	}
	var opts []name.Option
	if s.plainHTTP(host) {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(host, opts...)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "bad registry %q: %w", host, err)
	}
	repo := reg.Repo(ref.Repository)
	r := &remote{ref: ref, base: "https://" + host + "/v2/" + ref.Repository, wait: s.cfg.RetryWait}
	var auth authn.Authenticator
	if cred := opt.Credentials; cred != nil {
		auth = authn.FromConfig(authn.AuthConfig{Username: cred.Username, Password: cred.Password, RegistryToken: cred.Token})
	} else if auth, err = authn.Resolve(ctx, s.cfg.Keychain, repo); err != nil {
		return nil, faas.Errorf(faas.Denied, "find the credentials for %s: %w", ref.Registry, err)
	}
	if cfg, err := authn.Authorization(ctx, auth); err == nil {
		r.user = cfg.Username
		r.anonymous = *cfg == authn.AuthConfig{}
	}
	base := s.transport(reg, opt.Owner)
	var refused error // nobody listens there: whoever waits should know at once
	err = r.retry(ctx, func(context.Context) (bool, error) {
		rt, err := transport.NewWithContext(ctx, reg, auth, base, []string{repo.Scope(transport.PullScope)})
		if errors.Is(err, syscall.ECONNREFUSED) {
			refused = err
			return false, nil
		}
		if err == nil {
			r.client = &http.Client{Transport: rt}
		}
		return false, err
	})
	err = cmp.Or(err, refused)
	if err != nil {
		base.CloseIdleConnections()
		return nil, r.explain(err)
	}
	return r, nil
}

func (r *remote) close() { r.client.CloseIdleConnections() }

// plainHTTP reports whether a registry (host or host:port) may be spoken to
// without TLS.
func (s *Store) plainHTTP(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	if ip, err := netip.ParseAddr(name); err == nil && ip.IsLoopback() {
		return true
	}
	return slices.ContainsFunc(s.cfg.PlainHTTP, func(allowed string) bool {
		return strings.EqualFold(allowed, host) || strings.EqualFold(allowed, name)
	})
}

// httpTransport is an http.Transport that speaks plain HTTP only where that is allowed.
type httpTransport struct {
	*http.Transport
	plain func(host string) bool
}

// transport is for a registry and what it leads to.
func (s *Store) transport(reg name.Registry, of Owner) *httpTransport {
	w := &way{Store: s, registry: reg, owner: of}
	return &httpTransport{
		Transport: &http.Transport{
			Proxy:                 w.proxy,
			DialContext:           w.dial,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			IdleConnTimeout:       10 * time.Second,
			MaxIdleConnsPerHost:   s.cfg.Parallel,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true, // blobs are counted and continued as they are stored
		},
		plain: s.plainHTTP,
	}
}

func (t *httpTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !t.plain(req.URL.Host) {
		return nil, fmt.Errorf("plain HTTP to %s is not allowed: it must offer TLS, or be allowed by name", req.URL.Host)
	}
	return t.Transport.RoundTrip(req)
}

// retry calls try until it succeeds, fails in a way that trying again cannot
// mend, or has failed maxTries times in a row without getting further.
func (r *remote) retry(ctx context.Context, try func(context.Context) (further bool, err error)) error {
	wait := r.wait
	for n := 1; ; n++ {
		further, err := try(ctx)
		if err == nil || ctx.Err() != nil || !temporary(err) {
			return err
		}
		if further {
			n, wait = 0, r.wait
		}
		if n >= maxTries {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait + rand.N(wait/4+1)):
		}
		wait *= 2
	}
}

// temporary reports whether trying again may help.
func temporary(err error) bool {
	if faas.KindOf(err) == faas.Denied {
		return false
	}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		return te.StatusCode >= 500 || te.StatusCode == http.StatusTooManyRequests || te.StatusCode == http.StatusRequestTimeout
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return !dns.IsNotFound
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, errCutOff)
}

// errCutOff is a transfer that ended before its end.
var errCutOff = errors.New("the registry cut the transfer off")

// explain turns an error of talking to the registry into one for who pulls.
func (r *remote) explain(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok && faas.KindOf(err) == faas.Denied {
		return faas.Errorf(faas.Denied, "pull %s: %w", r.ref.Familiar(), e.Err)
	}
	if err == nil || faas.KindOf(err) != faas.Internal {
		return err
	}
	ref, host := r.ref.Familiar(), r.ref.Registry
	if _, ok := errors.AsType[*content.SpaceError](err); ok {
		return faas.Errorf(faas.Busy, "pull %s: %w", ref, err)
	}
	if c := classify(err); faas.KindOf(c) != faas.Internal {
		return faas.Errorf(faas.KindOf(c), "pull %s from %s: %w", ref, host, err)
	}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		switch code := te.StatusCode; {
		case code == http.StatusNotFound:
			return faas.Errorf(faas.NotFound, "no image %s: the registry %s does not have it", ref, host)
		case (code == http.StatusUnauthorized || code == http.StatusForbidden) && r.anonymous:
			return faas.Errorf(faas.Denied, "pull %s: the registry %s has no such image, or wants a login first: docker login %s", ref, host, host)
		case code == http.StatusUnauthorized || code == http.StatusForbidden:
			return faas.Errorf(faas.Denied, "pull %s: the registry %s refuses the credentials of %s: log in again with docker login %s", ref, host, cmp.Or(strconv.Quote(r.user), "the token"), host)
		case code == http.StatusTooManyRequests:
			return faas.Errorf(faas.Busy, "pull %s: the registry %s allows no more pulls for now; with a login it may: %w", ref, host, err)
		case code >= 500:
			return faas.Errorf(faas.Busy, "pull %s: the registry %s is out of order: %w", ref, host, err)
		default:
			return faas.Errorf(faas.Invalid, "pull %s: the registry %s refuses: %w", ref, host, err)
		}
	}
	if temporary(err) {
		return faas.Errorf(faas.Busy, "pull %s: the registry %s cannot be reached: %w", ref, host, err)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return faas.Errorf(faas.Busy, "pull %s: there is no registry %s: %w", ref, host, dns)
	}
	return faas.Errorf(faas.Busy, "pull %s from %s: %w", ref, host, err)
}

// manifestTypes is what we can read, for the Accept header.
var manifestTypes = strings.Join([]string{
	string(types.OCIImageIndex), string(types.DockerManifestList),
	string(types.OCIManifestSchema1), string(types.DockerManifestSchema2),
}, ", ")

// manifest fetches a manifest or list by tag or digest and returns it with its
// digest, verified.
func (r *remote) manifest(ctx context.Context, id string) (raw []byte, digest string, err error) {
	err = r.retry(ctx, func(ctx context.Context) (bool, error) {
		resp, done, err := r.get(ctx, "/manifests/"+id, manifestTypes, 0)
		if err != nil {
			return false, err
		}
		defer done()
		if err := transport.CheckError(resp, http.StatusOK); err != nil {
			return false, err
		}
		raw, err = io.ReadAll(io.LimitReader(resp.Body, int64(maxManifest)+1))
		if err != nil {
			return false, err
		}
		if len(raw) > int(maxManifest) {
			return false, faas.Errorf(faas.Invalid, "pull %s: its manifest is over the limit of %v", r.ref.Familiar(), maxManifest)
		}
		digest = content.Digest(raw)
		want := resp.Header.Get("Docker-Content-Digest")
		if content.CheckDigest(id) == nil {
			want = id
		}
		if content.CheckDigest(want) == nil && want != digest {
			return false, &content.MismatchError{Want: want, Got: digest}
		}
		return false, nil
	})
	return raw, digest, r.explain(err)
}

// blob brings a blob to this node, and goes on where an earlier transfer was
// cut off. The caller holds a lease on it.
func (r *remote) blob(ctx context.Context, blobs *content.Store, d v1.Descriptor, report func(done int64)) error {
	in, err := blobs.Resume(ctx, d.Digest.String(), d.Size)
	if in == nil || err != nil {
		return r.explain(err)
	}
	defer in.Close()
	mended := false
	err = r.retry(ctx, func(ctx context.Context) (bool, error) {
		before := in.Offset()
		report(before)
		if before < d.Size || d.Size == 0 {
			if err := r.fetch(ctx, in, d, report); err != nil {
				return in.Offset() > before, err
			}
		}
		err := in.Commit()
		if _, ok := errors.AsType[*content.MismatchError](err); ok && before > 0 && !mended {
			// What an earlier transfer left was wrong: once more from the start.
			mended = true
			return true, errors.Join(errCutOff, err)
		}
		return false, err
	})
	return r.explain(err)
}

// fetch transfers the rest of a blob.
func (r *remote) fetch(ctx context.Context, in *content.Ingest, d v1.Descriptor, report func(int64)) error {
	resp, done, err := r.get(ctx, "/blobs/"+d.Digest.String(), "*/*", in.Offset())
	if err != nil {
		return err
	}
	defer done()
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return errors.Join(errCutOff, in.Restart())
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusPartialContent {
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", in.Offset())) {
			return errors.Join(errCutOff, in.Restart())
		}
	} else if _, err := io.CopyN(io.Discard, resp.Body, in.Offset()); err != nil {
		return errors.Join(errCutOff, err)
	}
	buf := make([]byte, 128<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, err := in.Write(buf[:n]); err != nil {
				return err
			}
			report(in.Offset())
		}
		if err == io.EOF && in.Offset() < d.Size {
			return fmt.Errorf("%w after %d of %d bytes", errCutOff, in.Offset(), d.Size)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w after %d of %d bytes: %w", errCutOff, in.Offset(), d.Size, err)
		}
	}
}

// get asks the registry for something, from an offset on. When no byte comes
// for idleTimeout, reading the body fails. The caller calls done.
func (r *remote) get(ctx context.Context, path, accept string, offset int64) (resp *http.Response, done func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+path, nil)
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", userAgent)
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err = r.client.Do(req)
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	watch := time.AfterFunc(idleTimeout, func() { cancel(fmt.Errorf("no byte for %v", idleTimeout)) })
	resp.Body = &watched{ReadCloser: resp.Body, watch: watch}
	return resp, func() {
		watch.Stop()
		resp.Body.Close()
		cancel(nil)
	}, nil
}

// watched is a body whose every read puts the watchdog off.
type watched struct {
	io.ReadCloser
	watch *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.watch.Reset(idleTimeout)
	return n, err
}
