// Package registry is the OCI distribution API (/v2/) over the node's own
// content store: what docker push, skopeo copy and crane push speak, and what
// their pulls read.
//
// It owns this wire format, uploads in progress, and the list of what was
// pushed under which name: tags of things that are no images for this node
// (artifacts, signatures), manifests pushed by digest, the other platforms of
// an index. A pushed tag of an image becomes an image hob.local/NAME:TAG, and
// from then on the image store decides about it: an image that is removed there
// is gone here. It leaves blobs to content, images to image, and the
// guard of the listener to its caller.
//
// All repositories share one set of blobs: a blob that the node has need not be
// pushed again under any name.
package registry

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/image/content"
)

// Limits of a push, unless Config says otherwise.
const (
	MaxManifest = 4 * faas.MB  // of a manifest or index
	MaxBlob     = 16 * faas.GB // of one blob
	maxUploads  = 1000         // open at once
)

// How long things live that nothing refers to.
const (
	uploadAge   = time.Hour        // an upload after its last byte, a blob after its upload
	untaggedAge = 24 * time.Hour   // a manifest without a tag
	sweepEvery  = time.Minute      // how often Run looks
	readIdle    = 60 * time.Second // how long a client may stop in the middle of a body
)

// Images is the part of the image store that this API needs. *image.Store is one.
type Images interface {
	Get(ref string) (image.Image, error)
	List() []image.Image
	Tag(ctx context.Context, ref, manifestDigest string) error
	Remove(ctx context.Context, ref string) error
}

// Config is what a Server works with.
type Config struct {
	Dir     string // of the list of what was pushed; made if missing
	Images  Images
	Content *content.Store
	Log     *slog.Logger
	MaxBlob faas.Bytes // 0: MaxBlob
}

// Server answers the distribution API.
type Server struct {
	dir     string
	images  Images
	content *content.Store
	log     *slog.Logger
	maxBlob int64

	turns turns // one push of a tag at a time

	save sync.Mutex // held while a list is written; taken before mu
	mu   sync.Mutex // guards what follows; never held over a wait
	// repos holds what was pushed, by name; a repository with nothing in it is not there.
	repos   map[string]*repo
	uploads map[string]*pending
	fresh   map[string]held // blobs that no manifest names yet
}

// held is a lease that ends.
type held struct {
	lease *content.Lease
	until time.Time
}

// New opens the list in cfg.Dir and takes leases on what is in it: until then
// nothing may sweep the content store.
func New(cfg Config) (*Server, error) {
	s := &Server{
		dir:     cfg.Dir,
		images:  cfg.Images,
		content: cfg.Content,
		log:     cfg.Log,
		maxBlob: int64(cfg.MaxBlob),
		repos:   make(map[string]*repo),
		uploads: make(map[string]*pending),
		fresh:   make(map[string]held),
	}
	if s.maxBlob == 0 {
		s.maxBlob = int64(MaxBlob)
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, s.load()
}

// Run sweeps once a minute until ctx ends, and then gives back every upload and
// lease: the Server is of no use after it.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.Error("sweep of the registry", "err", err)
			}
		}
	}
}

// Match reports whether r is a request of the distribution API, as the function
// of this name does.
func (s *Server) Match(r *http.Request) bool { return Match(r) }

// Handler answers every path that Match accepts. It is not to be put behind a
// ServeMux, which would redirect names that it takes for paths.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
		if err := s.serve(w, r); err != nil {
			faultOf(err, r, s.log).write(w)
		}
	})
}

type handler func(w http.ResponseWriter, r *http.Request, at route) error

// serve finds the handler of a request: all routes of this API.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) error {
	at := parse(r.URL.Path)
	var methods map[string]handler
	switch at.place {
	case nowhere:
		return refuse(http.StatusNotFound, unsupported, "%s is no path of the distribution API", r.URL.Path)
	case root:
		methods = map[string]handler{"GET": s.version}
	case catalog:
		methods = map[string]handler{"GET": s.listRepositories}
	case tags:
		methods = map[string]handler{"GET": s.listTags}
	case manifests:
		methods = map[string]handler{"GET": s.getManifest, "PUT": s.putManifest, "DELETE": s.deleteManifest}
	case blobs:
		methods = map[string]handler{"GET": s.getBlob}
	case uploads:
		methods = map[string]handler{"POST": s.startUpload}
	case upload:
		methods = map[string]handler{"GET": s.uploadStatus, "PATCH": s.continueUpload, "PUT": s.finishUpload, "DELETE": s.cancelUpload}
	case referrers:
		methods = map[string]handler{"GET": s.listReferrers}
	}
	if at.name != "" {
		if err := checkName(at.name); err != nil {
			return err
		}
	}
	method := r.Method
	if method == "HEAD" {
		method = "GET"
	}
	h, ok := methods[method]
	if !ok {
		for m := range methods {
			w.Header().Add("Allow", m)
		}
		return refuse(http.StatusMethodNotAllowed, unsupported, "%s is not possible here", r.Method)
	}
	return h(w, r, at)
}

func (s *Server) version(w http.ResponseWriter, r *http.Request, _ route) error {
	return writeJSON(w, "application/json", struct{}{})
}

// turns lets one goroutine at a time work on a key. Its zero value is ready.
type turns struct {
	mu   sync.Mutex // guards busy
	busy map[string]*turn
}

type turn struct {
	mu   sync.Mutex // held by whose turn it is
	want int        // who has it or waits; guarded by turns.mu
}

// take waits for the turn of key; the caller ends it with what it gets.
func (t *turns) take(key string) (end func()) {
	t.mu.Lock()
	if t.busy == nil {
		t.busy = make(map[string]*turn)
	}
	k := t.busy[key]
	if k == nil {
		k = new(turn)
		t.busy[key] = k
	}
	k.want++
	t.mu.Unlock()
	k.mu.Lock()
	return func() {
		k.mu.Unlock()
		t.mu.Lock()
		if k.want--; k.want == 0 {
			delete(t.busy, key)
		}
		t.mu.Unlock()
	}
}
