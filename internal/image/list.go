package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/image/content"
)

// record is what the disk remembers of an image beside its blobs.
type record struct {
	Digest string    `json:"digest"`
	Index  string    `json:"index,omitempty"`
	Refs   []string  `json:"refs,omitempty"`
	Pulled time.Time `json:"pulled"`
	Used   time.Time `json:"used"`
}

// list is the file images.json.
type list struct {
	Version int      `json:"version"`
	Images  []record `json:"images"`
}

func (s *Store) file() string { return filepath.Join(s.cfg.Dir, "images.json") }

// read fills the state from disk.
func (s *Store) read() error {
	st := &state{images: make(map[string]*entry), refs: make(map[string]string)}
	s.state.Store(st)
	data, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var l list
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	if err == nil && l.Version != 1 {
		err = fmt.Errorf("version %d is not one that this hob knows", l.Version)
	}
	if err != nil {
		return fmt.Errorf("read the list of images %s: %w", s.file(), err)
	}
	for _, r := range l.Images {
		e, err := s.describe(context.Background(), r)
		if err != nil {
			s.log.Warn("image dropped from the list: it is not whole any more", "image", cmp.Or(strings.Join(r.Refs, " "), r.Digest), "err", err)
			continue
		}
		st.images[r.Digest] = e
		for _, ref := range r.Refs {
			st.refs[ref] = r.Digest
		}
	}
	return nil
}

// describe reads what the blobs say of an image and makes sure that all are there.
func (s *Store) describe(ctx context.Context, r record) (*entry, error) {
	e := &entry{record: r}
	name := r.Digest
	if len(r.Refs) > 0 {
		name = r.Refs[0]
	}
	get := func(_ context.Context, digest string) ([]byte, error) { return s.readBlob(name, digest, maxManifest) }
	top := cmp.Or(r.Index, r.Digest)
	raw, err := get(ctx, top)
	if err != nil {
		return nil, err
	}
	c, err := s.choose(ctx, name, top, raw, get)
	if err != nil {
		return nil, err
	}
	if c.digest != r.Digest {
		return nil, faas.Errorf(faas.Invalid, "image %s: its list now leads to %s", name, c.digest)
	}
	return e, s.fill(e, name, c)
}

// fill completes an entry from the chosen manifest, whose blobs must be there.
func (s *Store) fill(e *entry, name string, c chosen) error {
	e.configID = c.manifest.Config.Digest.String()
	raw, err := s.readBlob(name, e.configID, maxConfig)
	if err != nil {
		return err
	}
	cfg, err := s.parseConfig(name, raw, c.manifest)
	if err != nil {
		return err
	}
	e.platform = platformName(v1.Platform{
		OS:           cmp.Or(cfg.OS, s.platform.OS),
		Architecture: cmp.Or(cfg.Architecture, s.platform.Architecture),
		Variant:      cfg.Variant,
	})
	e.created = cfg.Created.Time
	e.config = imageConfig(cfg.Config)
	e.blobs = append(slices.Clone(c.reach), e.configID)
	ids := make([]string, 0, len(c.manifest.Layers))
	for i, d := range c.manifest.Layers {
		size, err := s.blobs.Stat(d.Digest.String())
		if err != nil {
			return faas.Errorf(faas.Invalid, "image %s: layer %d of its manifest is missing: %w", name, i+1, err)
		}
		id := cfg.RootFS.DiffIDs[i].String()
		info, _ := s.layers.Info(id) // not there: not unpacked yet
		e.blobs = append(e.blobs, d.Digest.String())
		e.layers = append(e.layers, LayerInfo{
			Digest:    d.Digest.String(),
			DiffID:    id,
			MediaType: string(d.MediaType),
			Size:      faas.Bytes(size),
			Unpacked:  faas.Bytes(info.Size),
		})
		ids = append(ids, id)
	}
	e.key = chainKey(ids)
	if e.Index != "" {
		e.blobs = append(e.blobs, s.reachable(e.Index, 0)...)
	}
	slices.Sort(e.blobs)
	e.blobs = slices.Compact(e.blobs)
	for _, d := range e.blobs {
		size, _ := s.blobs.Stat(d)
		e.blobSize += faas.Bytes(size)
	}
	return nil
}

// reachable returns the blobs on this node that a manifest or list leads to:
// somebody may have pushed the images of other platforms, to pull them again.
func (s *Store) reachable(digest string, depth int) []string {
	raw, err := s.blobs.Read(digest, int64(maxManifest))
	if err != nil || depth > maxNesting {
		return nil
	}
	found := []string{digest}
	list, m, err := parseManifest(digest, raw)
	switch {
	case err != nil:
	case list != nil:
		for _, d := range list.Manifests {
			found = append(found, s.reachable(d.Digest.String(), depth+1)...)
		}
	default:
		for _, d := range append(slices.Clone(m.Layers), m.Config) {
			if s.blobs.Has(d.Digest.String()) {
				found = append(found, d.Digest.String())
			}
		}
	}
	return found
}

// readBlob reads a small blob that the image called name needs.
func (s *Store) readBlob(name, digest string, limit faas.Bytes) ([]byte, error) {
	raw, err := s.blobs.Read(digest, int64(limit))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, faas.Errorf(faas.NotFound, "image %s: %w", name, err)
	}
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "image %s: %w", name, err)
	}
	return raw, nil
}

// unsavedUse reports whether an image was used since the list was saved.
func (s *Store) unsavedUse() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.used) > 0
}

// save writes a state to disk. Precondition: s.write is held.
func (s *Store) save(st *state) error {
	l := list{Version: 1, Images: []record{}}
	s.mu.Lock()
	used := maps.Clone(s.used)
	s.mu.Unlock()
	for _, digest := range slices.Sorted(maps.Keys(st.images)) {
		r := st.images[digest].record
		r.Refs = st.names(digest)
		if t := used[digest]; t.After(r.Used) {
			r.Used = t
		}
		l.Images = append(l.Images, r)
	}
	data, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		return err
	}
	if err := content.WriteFile(s.file(), append(data, '\n'), s.cfg.Hook); err != nil {
		return classify(fmt.Errorf("save the list of images: %w", err))
	}
	return nil
}

// names returns the references that mean an image, sorted.
func (st *state) names(digest string) []string {
	var names []string
	for ref, d := range st.refs {
		if d == digest {
			names = append(names, ref)
		}
	}
	slices.Sort(names)
	return names
}

func (st *state) clone() *state {
	return &state{images: maps.Clone(st.images), refs: maps.Clone(st.refs)}
}
