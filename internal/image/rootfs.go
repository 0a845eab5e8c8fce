package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"hob/faas"
)

// RootFS returns the image with this manifest digest as a root filesystem, and
// pins its layers until the caller releases it. Layers that are not unpacked
// are.
func (s *Store) RootFS(ctx context.Context, digest string) (*RootFS, error) {
	s.mu.Lock()
	e := s.state.Load().images[digest]
	if e != nil {
		s.pins[digest]++
		s.used[digest] = time.Now().UTC()
	}
	s.mu.Unlock()
	if e == nil {
		return nil, faas.Errorf(faas.NotFound, "no image %s on this node", digest)
	}
	release := sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.pins[digest]--; s.pins[digest] == 0 {
			delete(s.pins, digest)
		}
	})
	r := &RootFS{Digest: digest, Key: e.key, Config: e.config.clone(), release: release, accounts: &e.accounts}
	if err := s.prepare(ctx, e); err != nil {
		release()
		return nil, err
	}
	for _, l := range slices.Backward(e.layers) {
		r.Layers = append(r.Layers, s.layers.Dir(l.DiffID))
	}
	if len(r.Layers) == 0 {
		r.Layers = []string{s.layers.Dir(emptyDiffID)}
	}
	return r, nil
}

// Release ends the pin. It may be called again and then does nothing.
func (r *RootFS) Release() {
	if r.release != nil {
		r.release()
	}
}

// emptyDiffID is the digest of a tar without entries: two blocks of zeros. An
// image without layers has this one.
const emptyDiffID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

// prepare makes sure that the layers of a pinned image are unpacked.
func (s *Store) prepare(ctx context.Context, e *entry) error {
	if e.ready.Load() && len(e.layers) > 0 {
		return nil
	}
	if len(e.layers) == 0 && !s.layers.Has(emptyDiffID) {
		if _, err := s.layers.Unpack(ctx, emptyDiffID, io.LimitReader(zeros{}, 1024)); err != nil {
			return classify(err)
		}
	}
	for _, l := range e.layers {
		if err := s.unpack(ctx, l.Digest, l.DiffID); err != nil {
			return fmt.Errorf("image %s: %w", e.Digest, err)
		}
	}
	e.ready.Store(true)
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
