package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hob/internal/image"
	"hob/internal/image/content"
)

// repo is what was pushed under one name, as it is written to disk: one JSON
// file for each repository, replaced as a whole.
type repo struct {
	Name      string               `json:"name"`
	Manifests map[string]*manifest `json:"manifests"` // by digest
	Tags      map[string]tagged    `json:"tags"`
}

// manifest is a manifest or index of a repository.
type manifest struct {
	MediaType    string            `json:"mediaType"`
	Size         int64             `json:"size"`
	Blobs        []string          `json:"blobs,omitempty"`     // config and layers
	Manifests    []string          `json:"manifests,omitempty"` // of an index
	Image        bool              `json:"image,omitempty"`     // it is one, or has one as a part
	Subject      string            `json:"subject,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"` // if it has a subject
	Wanted       time.Time         `json:"wanted"`                // when it was pushed, or lost a tag

	lease *content.Lease // nil: the image store keeps it
}

// tagged is where a tag points.
type tagged struct {
	Digest string `json:"digest"` // as pushed: of an index, if one was
	Image  bool   `json:"image"`  // the image store has the tag, too, and decides about it
}

// plan is what a repository is about to become.
type plan struct {
	tags  []string // that are gone
	drop  []string // manifests that nothing wants
	lease []string // manifests whose blobs only the registry keeps
}

// decide says what of r has to stay at time now. Images are the tags that the
// image store has. A manifest stays while it has a tag, is part of an index
// that stays, speaks of a manifest that stays, or has been wanted lately. What
// the image store keeps anyway needs no lease, so that an image that is removed
// there frees its disk at once.
func (r *repo) decide(images map[string]kept, now time.Time) plan {
	var p plan
	// walk puts a manifest and its parts into a set.
	var walk func(set map[string]bool, digest string)
	walk = func(set map[string]bool, digest string) {
		m := r.Manifests[digest]
		if m == nil || set[digest] {
			return
		}
		set[digest] = true
		for _, part := range m.Manifests {
			walk(set, part)
		}
	}
	byImage, byUs, removed := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	for tag, t := range r.Tags {
		img, ok := images[tag]
		switch {
		case r.Manifests[t.Digest] == nil:
			p.tags = append(p.tags, tag)
		case !t.Image:
			walk(byUs, t.Digest)
		case !ok:
			p.tags = append(p.tags, tag)
			walk(removed, t.Digest) // by a user, who wants the disk back
		case img.digest == t.Digest || img.index == t.Digest:
			walk(byImage, t.Digest)
		default:
			p.tags = append(p.tags, tag) // it was given to another image since
		}
	}
	for digest, m := range r.Manifests {
		if now.Sub(m.Wanted) < untaggedAge && !byImage[digest] && !removed[digest] {
			walk(byUs, digest)
		}
	}
	for more := true; more; {
		more = false
		for digest, m := range r.Manifests {
			if !byUs[digest] && !byImage[digest] && (byUs[m.Subject] || byImage[m.Subject]) {
				walk(byUs, digest)
				more = true
			}
		}
	}
	for digest := range r.Manifests {
		switch {
		case byUs[digest]:
			p.lease = append(p.lease, digest)
		case !byImage[digest]:
			p.drop = append(p.drop, digest)
		}
	}
	slices.Sort(p.tags)
	slices.Sort(p.drop)
	slices.Sort(p.lease)
	return p
}

// kept is what the image store has under a tag.
type kept struct{ digest, index string }

// apply makes r what decide said, and reports whether the list on disk is
// another one now. Precondition: s.mu is held.
func (s *Server) apply(r *repo, p plan) (changed bool) {
	for _, tag := range p.tags {
		delete(r.Tags, tag)
	}
	wanted := make(map[string]bool, len(p.lease))
	for _, digest := range p.lease {
		wanted[digest] = true
	}
	for _, digest := range p.drop {
		if m := r.Manifests[digest]; m.lease != nil {
			m.lease.Release()
		}
		delete(r.Manifests, digest)
	}
	for digest, m := range r.Manifests {
		switch {
		case wanted[digest] && m.lease == nil:
			m.lease = s.content.Lease()
			m.lease.Add(digest)
			for _, b := range m.Blobs {
				m.lease.Add(b)
			}
		case !wanted[digest] && m.lease != nil:
			m.lease.Release()
			m.lease = nil
		}
	}
	return len(p.tags)+len(p.drop) > 0
}

// change lets f change the repository, made if it is missing, settles what has
// to stay, and writes the list. When it returns nil the change survives a
// power cut.
func (s *Server) change(name string, f func(*repo)) error {
	images := s.imageTags(name)
	s.save.Lock()
	defer s.save.Unlock()
	s.mu.Lock()
	r := s.repos[name]
	if r == nil {
		r = &repo{Name: name, Manifests: make(map[string]*manifest), Tags: make(map[string]tagged)}
		s.repos[name] = r
	}
	f(r)
	s.apply(r, r.decide(images, time.Now()))
	data, err := s.encode(r)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.write(name, data)
}

// encode is the file of r, nil if nothing is left of it. Precondition: s.mu is held.
func (s *Server) encode(r *repo) ([]byte, error) {
	if len(r.Manifests) == 0 {
		delete(s.repos, r.Name)
		return nil, nil
	}
	return json.Marshal(r)
}

// file is where the list of a repository is: a name may be longer than a file
// name, and holds slashes.
func (s *Server) file(name string) string {
	return filepath.Join(s.dir, strings.TrimPrefix(content.Digest([]byte(name)), "sha256:")+".json")
}

// write replaces the file of a repository. Precondition: s.save is held.
func (s *Server) write(name string, data []byte) error {
	if data == nil {
		if err := os.Remove(s.file(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("forget the pushes of %s: %w", name, err)
		}
		return nil
	}
	if err := content.WriteFile(s.file(name), data, nil); err != nil {
		return fmt.Errorf("write the list of pushes of %s: %w", name, err)
	}
	return nil
}

// load reads every list. What a list names and the content store does not have
// is forgotten, with a word to the operator.
func (s *Server) load() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("open the registry: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil {
		return fmt.Errorf("open the registry: %w", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("open the registry: %w", err)
		}
		r := new(repo)
		if err := json.Unmarshal(data, r); err != nil || s.file(r.Name) != f || checkName(r.Name) != nil {
			s.log.Error("a list of pushes is damaged and left alone", "file", f, "err", err)
			continue
		}
		for digest, m := range r.Manifests {
			if m == nil || !s.content.Has(digest) || slices.ContainsFunc(m.Blobs, func(b string) bool { return !s.content.Has(b) }) {
				s.log.Warn("a pushed manifest has lost content and is forgotten", "image", r.Name+"@"+digest)
				delete(r.Manifests, digest)
			}
		}
		if r.Manifests == nil || r.Tags == nil {
			continue
		}
		s.repos[r.Name] = r
		// All of it until the first sweep, when the image store says what it has.
		all := plan{lease: slices.Collect(maps.Keys(r.Manifests))}
		s.apply(r, all)
	}
	return nil
}

// Sweep forgets uploads that nobody continues, leases that have run out, and
// manifests that nothing refers to. Call it before the content store is swept,
// so that what it lets go goes with the same sweep.
func (s *Server) Sweep(ctx context.Context) error {
	now := time.Now()
	var idle, old []string
	s.mu.Lock()
	for id, p := range s.uploads {
		if now.Sub(p.last) >= uploadAge {
			idle = append(idle, id)
		}
	}
	for digest, h := range s.fresh {
		if !now.Before(h.until) {
			old = append(old, digest)
		}
	}
	names := slices.Sorted(maps.Keys(s.repos))
	s.mu.Unlock()
	for _, id := range idle {
		s.mu.Lock()
		p := s.uploads[id]
		s.mu.Unlock()
		if p != nil && p.mu.TryLock() { // nobody writes: a body that trickles in is alive
			s.forget(id)
			p.mu.Unlock()
		}
	}
	s.drop(old...)
	var errs []error
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		errs = append(errs, s.settle(name))
	}
	return errors.Join(errs...)
}

// settle drops what nothing in a repository wants any more.
func (s *Server) settle(name string) error {
	images := s.imageTags(name)
	s.save.Lock()
	defer s.save.Unlock()
	s.mu.Lock()
	r := s.repos[name]
	if r == nil || !s.apply(r, r.decide(images, time.Now())) {
		s.mu.Unlock()
		return nil
	}
	data, err := s.encode(r)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.write(name, data)
}

// close gives back what the Server holds of the content store.
func (s *Server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, p := range s.uploads {
		p.w.Abort()
		delete(s.uploads, id)
	}
	for digest, h := range s.fresh {
		h.lease.Release()
		delete(s.fresh, digest)
	}
	for _, r := range s.repos {
		for _, m := range r.Manifests {
			if m.lease != nil {
				m.lease.Release()
				m.lease = nil
			}
		}
	}
}

// imageTags are the tags of a repository that the image store has.
func (s *Server) imageTags(name string) map[string]kept {
	tags := make(map[string]kept)
	for _, img := range s.images.List() {
		for _, ref := range img.Refs {
			if repo, tag, ok := localTag(ref); ok && repo == name {
				tags[tag] = kept{img.Digest, img.Index}
			}
		}
	}
	return tags
}

// localTag takes "hob.local/NAME:TAG" apart.
func localTag(ref string) (name, tag string, ok bool) {
	rest, ok := strings.CutPrefix(ref, image.LocalRegistry+"/")
	if !ok || strings.Contains(rest, "@") {
		return "", "", false
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 || strings.Contains(rest[i:], "/") {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}
