package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/image/content"
)

// Pull brings the image that ref names to this node, as the policy says, and
// returns it, ready to run. Two pulls of the same reference with the same
// credentials and owner are one; it goes on until the last of their callers has left.
// What a pull that was cut off has fetched is kept for the next.
//
// A digest or the beginning of one ("sha256:…") means an image that is here.
//
// Errors: Invalid for a bad reference and for an image that is damaged or over
// a limit, NotFound, Denied, Unsupported for an image that is not for this
// platform, Busy for a registry that is down and for a full disk.
func (s *Store) Pull(ctx context.Context, ref string, opt PullOptions) (Image, error) {
	if strings.HasPrefix(ref, "sha256:") || isHex(ref, 64) {
		img, err := s.Get(ref)
		if err == nil {
			s.touch(img.Digest)
		}
		return img, err
	}
	r, err := s.Normalize(ref)
	if err != nil {
		return Image{}, err
	}
	st := s.state.Load()
	e, _, err := s.find(st, r.String())
	have := err == nil
	switch {
	case r.Local() && !have:
		return Image{}, faas.Errorf(faas.NotFound, "no image %s on this node: push it first", r.Familiar())
	case have && (opt.Policy != PullAlways || r.Local() || r.Digest != ""):
		s.touch(e.Digest)
		return s.image(st, e), nil
	}
	switch opt.Policy {
	case PullMissing, PullAlways, "":
	case PullNever:
		return Image{}, faas.Errorf(faas.NotFound, "no image %s on this node, and it may not be pulled", r.Familiar())
	default:
		return Image{}, faas.Errorf(faas.Invalid, "pull policy %q is not one of: missing, always, never", opt.Policy)
	}
	key := flightKey{ref: r, owner: fmt.Sprint(opt.Owner)}
	if opt.Credentials != nil {
		key.own, key.auth = true, *opt.Credentials
	}
	return s.flight.do(ctx, s, key, opt)
}

// touch makes the image used now, so that Collect spares it while whoever
// pulled it makes use of it, or says so.
func (s *Store) touch(digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[digest] = time.Now().UTC()
}

// fetch is one pull, on the network.
func (s *Store) fetch(ctx context.Context, r Reference, opt PullOptions, t *tracker) (img Image, err error) {
	began := time.Now()
	reg, err := s.connect(ctx, r, opt)
	if err != nil {
		return Image{}, err
	}
	defer reg.close()
	lease := s.blobs.Lease()
	defer func() {
		// What came before a failure saves time when it is tried again, unless
		// room is what is missing.
		_, full := errors.AsType[*content.SpaceError](err)
		s.release(lease, full)
	}()
	id := r.Tag
	if r.Digest != "" {
		id = r.Digest
	}
	// Each manifest is stored as it is read: the image needs it later.
	get := func(ctx context.Context, id string) ([]byte, string, error) {
		raw, digest, err := reg.manifest(ctx, id)
		if err != nil {
			return nil, "", err
		}
		lease.Add(digest)
		return raw, digest, reg.explain(s.keep(ctx, digest, raw))
	}
	raw, digest, err := get(ctx, id)
	if err != nil {
		return Image{}, err
	}
	c, err := s.choose(ctx, r.Familiar(), digest, raw, func(ctx context.Context, digest string) ([]byte, error) {
		raw, _, err := get(ctx, digest)
		return raw, err
	})
	if err != nil {
		return Image{}, err
	}
	for _, d := range append(slices.Clone(c.manifest.Layers), c.manifest.Config) {
		lease.Add(d.Digest.String())
	}
	if err := reg.blob(ctx, s.blobs, c.manifest.Config, func(int64) {}); err != nil {
		return Image{}, err
	}
	img, err = s.install(ctx, r.Familiar(), c, []Reference{r}, t, func(ctx context.Context, d v1.Descriptor) error {
		t.state(d.Digest.String(), LayerFetching)
		if err := reg.blob(ctx, s.blobs, d, func(done int64) { t.done(d.Digest.String(), done) }); err != nil {
			return err
		}
		t.done(d.Digest.String(), d.Size)
		return nil
	})
	if err == nil {
		s.log.Info("image pulled", "image", r.String(), "digest", img.Digest, "size", img.Size, "took", time.Since(began))
	}
	return img, err
}

// flights are the pulls under way.
type flights struct {
	mu   sync.Mutex // guards over and the callers of each flight
	over map[flightKey]*flight
}

// flightKey tells pulls apart.
type flightKey struct {
	ref   Reference
	owner string
	own   bool // with the caller's own credentials
	auth  Auth
}

// flight is one pull and those who wait for it.
type flight struct {
	callers int
	cancel  context.CancelCauseFunc
	tracker *tracker
	done    chan struct{} // closed when img and err are set
	img     Image
	err     error
}

var errAllLeft = fmt.Errorf("everybody who waited for the pull has left: %w", context.Canceled)

// do joins the pull with this key, or begins it.
func (f *flights) do(ctx context.Context, s *Store, key flightKey, opt PullOptions) (Image, error) {
	f.mu.Lock()
	if s.life.Err() != nil {
		f.mu.Unlock()
		return Image{}, faas.Errorf(faas.Busy, "pull %s: the server is stopping", key.ref.Familiar())
	}
	p := f.over[key]
	if p == nil {
		p = &flight{tracker: newTracker(), done: make(chan struct{})}
		var pctx context.Context
		pctx, p.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
		if f.over == nil {
			f.over = make(map[flightKey]*flight)
		}
		f.over[key] = p
		s.pulls.Go(func() {
			stop := context.AfterFunc(s.life, func() {
				p.cancel(faas.Errorf(faas.Busy, "pull %s: the server is stopping", key.ref.Familiar()))
			})
			defer stop()
			p.img, p.err = s.fetch(pctx, key.ref, opt, p.tracker)
			if p.err != nil && pctx.Err() != nil && errors.Is(p.err, context.Canceled) {
				p.err = context.Cause(pctx)
			}
			f.mu.Lock()
			if f.over[key] == p {
				delete(f.over, key)
			}
			f.mu.Unlock()
			p.cancel(nil)
			close(p.done)
		})
	}
	p.callers++
	f.mu.Unlock()

	p.tracker.follow(ctx, p.done, opt.Progress)
	select {
	case <-p.done:
		return p.img, p.err
	default:
	}
	f.mu.Lock()
	p.callers--
	last := p.callers == 0
	if last && f.over[key] == p {
		delete(f.over, key) // who comes now begins anew
	}
	f.mu.Unlock()
	if last {
		p.cancel(errAllLeft)
		<-p.done
	}
	return Image{}, fmt.Errorf("pull %s: %w", key.ref.Familiar(), context.Cause(ctx))
}

// tracker holds how far a pull is. A nil tracker is ready and holds nothing.
type tracker struct {
	mu      sync.Mutex // guards what follows
	p       Progress
	changed chan struct{} // closed and replaced with each change
}

func newTracker() *tracker { return &tracker{changed: make(chan struct{})} }

// update changes the progress and wakes followers.
func (t *tracker) update(change func(p *Progress)) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.p)
	t.p.Done = 0
	for _, l := range t.p.Layers {
		t.p.Done += l.Done
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *tracker) begin(layers []v1.Descriptor) {
	t.update(func(p *Progress) {
		p.Layers, p.Total = nil, 0
		for _, d := range layers {
			p.Layers = append(p.Layers, LayerProgress{Digest: d.Digest.String(), State: LayerWaiting, Total: faas.Bytes(d.Size)})
			p.Total += faas.Bytes(d.Size)
		}
	})
}

func (t *tracker) state(digest string, state LayerState) {
	t.update(func(p *Progress) {
		for i := range p.Layers {
			if p.Layers[i].Digest == digest {
				p.Layers[i].State = state
			}
		}
	})
}

func (t *tracker) done(digest string, n int64) {
	t.update(func(p *Progress) {
		for i := range p.Layers {
			if p.Layers[i].Digest == digest {
				p.Layers[i].Done = faas.Bytes(n)
			}
		}
	})
}

// look returns a copy of the progress and what the next change closes.
func (t *tracker) look() (Progress, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.p
	p.Layers = slices.Clone(p.Layers)
	return p, t.changed
}

// follow calls progress, which may be nil, with what changes, at most ten times
// a second, until done is closed (then once more) or ctx ends.
func (t *tracker) follow(ctx context.Context, done <-chan struct{}, progress func(Progress)) {
	if progress == nil {
		select {
		case <-done:
		case <-ctx.Done():
		}
		return
	}
	for {
		p, changed := t.look()
		progress(p)
		pause := time.NewTimer(100 * time.Millisecond)
		select {
		case <-pause.C:
		case <-done:
		case <-ctx.Done():
		}
		pause.Stop()
		select {
		case <-changed:
		case <-done:
			p, _ := t.look()
			progress(p)
			return
		case <-ctx.Done():
			return
		}
	}
}
