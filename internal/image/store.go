package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"hob/faas"
	"hob/internal/image/content"
	"hob/internal/image/layer"
)

// Config is what a Store is made of. Dir is required.
type Config struct {
	Dir       string                 // made if it is missing; see README.md for what is in it
	Platform  string                 // "linux/arm64" or "linux/arm/v7"; "": this machine's
	Self      []string               // the server's own addresses (host:port), which mean hob.local in a reference
	PlainHTTP []string               // registries (host or host:port) that may be spoken to without TLS; loopback always may
	Proxy     string                 // URL of the proxy to registries; "": as $HTTPS_PROXY, $HTTP_PROXY and $NO_PROXY say
	Keychain  authn.Keychain         // credentials for registries, such as Credentials returns; nil: the Docker config file and its helpers, as $DOCKER_CONFIG or $HOME say
	InUse     func() map[string]bool // digests of images that functions use; nil: none. It is called with no lock of the store held by readers, and must not call the store
	Budget    faas.Bytes             // what Collect leaves at most; 0: no bound
	Keep      []string               // names that Collect never removes: "docker.io/library/busybox", with or without tag, '*' matching within a part
	Grace     time.Duration          // how long Collect spares what was just pulled, used or uploaded; 0: ten minutes; below 0: not at all
	Limits    layer.Limits           // of one layer
	Parallel  int                    // layers at once of one pull; 0: 4
	RetryWait time.Duration          // before the first retry, doubled with each; 0: half a second
	// Dial connects by "tcp" to "host:port" for the owner of a pull: to registries, and to
	// whatever these lead to. An error of kind Denied is final. Check tells of such an
	// error ahead, where a proxy connects. nil: nothing is closed.
	Dial  func(ctx context.Context, of Owner, network, address string) (net.Conn, error)
	Check func(ctx context.Context, of Owner, address string) error

	Hook content.Hook // for tests: asked before changes to the disk
	Log  *slog.Logger // nil: none
}

// Store is the images of this node. Its methods may be called from many
// goroutines. Only one process may have a directory open.
//
// Locks, outermost first: write, then mu.
type Store struct {
	cfg      Config
	log      *slog.Logger
	platform v1.Platform
	proxy    *url.URL // nil: the environment's
	blobs    *content.Store
	layers   *layer.Store

	life   context.Context // ends with Close; pulls end with it
	end    context.CancelFunc
	pulls  sync.WaitGroup
	flight flights

	write sync.Mutex            // serialises changes of the list, the disk included
	state atomic.Pointer[state] // replaced, never changed, by holders of write and mu

	mu    sync.Mutex           // guards what follows, and the exchange of state
	pins  map[string]int       // manifest digest → root filesystems not released
	holds map[string]int       // diffID → installations under way
	used  map[string]time.Time // manifest digest → last use, newer than what is on disk
}

// state is the list of images at one moment.
type state struct {
	images map[string]*entry // by manifest digest
	refs   map[string]string // Reference.String → manifest digest
}

// entry is one image: what never changes of it.
type entry struct {
	record
	platform string
	created  time.Time
	config   ImageConfig
	layers   []LayerInfo
	configID string   // digest of the config blob
	blobs    []string // every blob it keeps: lists, manifests, configs, layers
	blobSize faas.Bytes
	key      string // chainKey of its layers
	ready    atomic.Bool
	accounts accounts
}

// Open opens the store in cfg.Dir. An image whose blobs are gone or damaged is
// dropped from the list, with a warning.
func Open(cfg Config) (*Store, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the image store: %w", err)
	}
	s := &Store{
		cfg:   cfg,
		log:   cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)),
		pins:  make(map[string]int),
		holds: make(map[string]int),
		used:  make(map[string]time.Time),
	}
	if s.cfg.Grace == 0 {
		s.cfg.Grace = 10 * time.Minute
	}
	s.cfg.Parallel = cmp.Or(s.cfg.Parallel, 4)
	s.cfg.RetryWait = cmp.Or(s.cfg.RetryWait, 500*time.Millisecond)
	if s.cfg.InUse == nil {
		s.cfg.InUse = func() map[string]bool { return nil }
	}
	if s.cfg.Keychain == nil {
		s.cfg.Keychain = authn.DefaultKeychain
	}
	p, err := v1.ParsePlatform(cmp.Or(cfg.Platform, "linux/"+runtime.GOARCH))
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "bad platform %q: %w", cfg.Platform, err)
	}
	s.platform = *p
	if cfg.Proxy != "" {
		if s.proxy, err = url.Parse(cfg.Proxy); err != nil {
			return nil, faas.Errorf(faas.Invalid, "bad proxy: %w", err)
		}
	}
	if s.blobs, err = content.OpenHooked(filepath.Join(cfg.Dir, "content"), cfg.Hook); err != nil {
		return nil, err
	}
	if s.layers, err = layer.OpenHooked(filepath.Join(cfg.Dir, "layers"), cfg.Limits, cfg.Hook); err != nil {
		return nil, err
	}
	if err := s.read(); err != nil {
		return nil, err
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Close ends the pulls under way, waits for them, and writes down when images
// were used.
func (s *Store) Close() error {
	s.flight.mu.Lock() // no pull begins from here on
	s.end()
	s.flight.mu.Unlock()
	s.pulls.Wait()
	s.write.Lock()
	defer s.write.Unlock()
	if !s.unsavedUse() {
		return nil
	}
	return s.save(s.state.Load())
}

// Content returns the store of blobs, which the registry shares.
func (s *Store) Content() *content.Store { return s.blobs }

// Normalize reads a reference; the server's own addresses mean hob.local.
func (s *Store) Normalize(ref string) (Reference, error) { return Normalize(ref, s.cfg.Self...) }

// image returns what users see of an entry.
func (s *Store) image(st *state, e *entry) Image {
	s.mu.Lock()
	used := s.used[e.Digest]
	s.mu.Unlock()
	if used.Before(e.Used) {
		used = e.Used
	}
	img := Image{
		Refs:     st.names(e.Digest),
		Digest:   e.Digest,
		Index:    e.Index,
		Platform: e.platform,
		Size:     e.blobSize,
		Created:  e.created,
		Pulled:   e.Pulled,
		Used:     used,
		Config:   e.config.clone(),
		Layers:   slices.Clone(e.layers),
	}
	for i := range img.Layers {
		img.Size += img.Layers[i].Unpacked
	}
	return img
}

// List returns all images, by their first reference; those without one come last.
func (s *Store) List() []Image {
	st := s.state.Load()
	images := make([]Image, 0, len(st.images))
	for _, e := range st.images {
		images = append(images, s.image(st, e))
	}
	slices.SortFunc(images, func(a, b Image) int {
		if (len(a.Refs) == 0) != (len(b.Refs) == 0) {
			return len(b.Refs) - len(a.Refs)
		}
		if len(a.Refs) > 0 {
			return cmp.Compare(a.Refs[0], b.Refs[0])
		}
		return cmp.Compare(a.Digest, b.Digest)
	})
	return images
}

// Get returns the image that ref means: a reference, the digest of a manifest,
// a manifest list or a config, or the first four or more digits of one.
func (s *Store) Get(ref string) (Image, error) {
	st := s.state.Load()
	e, _, err := s.find(st, ref)
	if err != nil {
		return Image{}, err
	}
	return s.image(st, e), nil
}

// Has reports whether the image with this digest is on the node.
func (s *Store) Has(digest string) bool { return s.state.Load().images[digest] != nil }

// minPrefix is how many digits of a digest can stand for it.
const minPrefix = 4

// find returns the entry that ref means, and the name in the list if it is one.
func (s *Store) find(st *state, ref string) (*entry, string, error) {
	r, err := s.Normalize(ref)
	if err == nil {
		if e := st.images[st.refs[r.String()]]; e != nil {
			return e, r.String(), nil
		}
		if r.Digest != "" {
			for _, e := range st.images {
				if e.Digest == r.Digest || e.Index == r.Digest {
					return e, "", nil
				}
			}
		}
	}
	prefix := strings.TrimPrefix(ref, "sha256:")
	if len(prefix) >= minPrefix && isHex(prefix, len(prefix)) {
		var hits []*entry
		for _, e := range st.images {
			for _, d := range []string{e.Digest, e.Index, e.configID} {
				if hex := strings.TrimPrefix(d, "sha256:"); hex != "" && strings.HasPrefix(hex, prefix) {
					hits = append(hits, e)
					break
				}
			}
		}
		switch len(hits) {
		case 1:
			return hits[0], "", nil
		case 0:
		default:
			return nil, "", faas.Errorf(faas.Invalid, "%q is the beginning of %d images' digests: write more of it", ref, len(hits))
		}
	}
	if err != nil && !strings.HasPrefix(ref, "sha256:") && !isHex(prefix, 64) {
		return nil, "", err
	}
	if err == nil {
		ref = r.Familiar()
	}
	return nil, "", faas.Errorf(faas.NotFound, "no image %s on this node", ref)
}

// Tag makes ref mean the image with this manifest or manifest list, whose blobs
// are in the content store, and unpacks its layers. When it returns nil the
// image can be run, and survives a power cut.
func (s *Store) Tag(ctx context.Context, ref, manifestDigest string) error {
	r, err := s.Normalize(ref)
	if err != nil {
		return err
	}
	lease := s.blobs.Lease()
	defer lease.Release()
	_, err = s.adopt(ctx, lease, r.Familiar(), manifestDigest, []Reference{r}, nil)
	return err
}

// adopt makes an image of blobs that are in the content store, under the lease.
func (s *Store) adopt(ctx context.Context, lease *content.Lease, name, digest string, refs []Reference, t *tracker) (Image, error) {
	lease.Add(digest)
	get := func(_ context.Context, digest string) ([]byte, error) {
		lease.Add(digest)
		return s.readBlob(name, digest, maxManifest)
	}
	raw, err := get(ctx, digest)
	if err != nil {
		return Image{}, err
	}
	c, err := s.choose(ctx, name, digest, raw, get)
	if err != nil {
		return Image{}, err
	}
	for _, d := range append(slices.Clone(c.manifest.Layers), c.manifest.Config) {
		lease.Add(d.Digest.String())
	}
	return s.install(ctx, name, c, refs, t, nil)
}

// install unpacks the layers of the chosen image and enters it into the list.
// The caller holds a lease on all of its blobs; fetch, if not nil, brings one
// layer to this node first.
func (s *Store) install(ctx context.Context, name string, c chosen, refs []Reference, t *tracker, fetch func(ctx context.Context, d v1.Descriptor) error) (Image, error) {
	raw, err := s.readBlob(name, c.manifest.Config.Digest.String(), maxConfig)
	if err != nil {
		return Image{}, err
	}
	cfg, err := s.parseConfig(name, raw, c.manifest)
	if err != nil {
		return Image{}, err
	}
	ids := cfg.RootFS.DiffIDs
	defer s.hold(ids)()
	t.begin(c.manifest.Layers)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.cfg.Parallel)
	for i, d := range c.manifest.Layers {
		g.Go(func() error {
			if fetch != nil {
				if err := fetch(gctx, d); err != nil {
					return err
				}
			}
			t.state(d.Digest.String(), LayerUnpacking)
			if err := s.unpack(gctx, d.Digest.String(), ids[i].String()); err != nil {
				return fmt.Errorf("image %s: %w", name, err)
			}
			t.state(d.Digest.String(), LayerDone)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return Image{}, err
	}
	now := time.Now().UTC()
	e := &entry{record: record{Digest: c.digest, Index: c.index, Pulled: now, Used: now}}
	if err := s.fill(e, name, c); err != nil {
		return Image{}, err
	}
	e.ready.Store(true)
	return s.enter(e, refs)
}

// unpack unpacks one layer from its blob, unless that has been done.
func (s *Store) unpack(ctx context.Context, digest, diffID string) error {
	if s.layers.Has(diffID) {
		return nil
	}
	f, _, err := s.blobs.Open(digest)
	if err != nil {
		return faas.Errorf(faas.Invalid, "layer %s: %w", digest, err)
	}
	defer f.Close()
	_, err = s.layers.Unpack(ctx, diffID, f)
	return classify(err)
}

// hold keeps unpacked layers from being removed until the returned function is called.
func (s *Store) hold(ids []v1.Hash) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.holds[id.String()]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, id := range ids {
			if s.holds[id.String()]--; s.holds[id.String()] == 0 {
				delete(s.holds, id.String())
			}
		}
	}
}

// enter puts an image into the list and makes the references mean it.
func (s *Store) enter(e *entry, refs []Reference) (Image, error) {
	s.write.Lock()
	defer s.write.Unlock()
	st := s.state.Load().clone()
	if old := st.images[e.Digest]; old != nil && e.Index == "" {
		e.Index = old.Index // the way it was first found still leads to it
		e.blobs, e.blobSize = old.blobs, old.blobSize
	}
	st.images[e.Digest] = e
	for _, r := range refs {
		st.refs[r.String()] = e.Digest
	}
	if err := s.save(st); err != nil {
		return Image{}, err
	}
	s.swap(st)
	return s.image(st, e), nil
}

// swap makes a saved state the one that readers see. Precondition: s.write is held.
func (s *Store) swap(st *state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Store(st)
}

// classify decides the Kind of an error from the stores below.
func classify(err error) error {
	if err == nil || faas.KindOf(err) != faas.Internal {
		return err
	}
	if _, ok := errors.AsType[*layer.BadError](err); ok {
		return faas.Errorf(faas.Invalid, "%w", err)
	}
	if _, ok := errors.AsType[*content.MismatchError](err); ok {
		return faas.Errorf(faas.Invalid, "%w", err)
	}
	if _, ok := errors.AsType[*content.SizeError](err); ok {
		return faas.Errorf(faas.Invalid, "%w", err)
	}
	if _, ok := errors.AsType[*content.DigestError](err); ok {
		return faas.Errorf(faas.Invalid, "%w", err)
	}
	if err := content.NoSpace(err, "the image store", -1); err != nil {
		if _, ok := errors.AsType[*content.SpaceError](err); ok {
			return faas.Errorf(faas.Busy, "%w", err)
		}
	}
	return err
}
