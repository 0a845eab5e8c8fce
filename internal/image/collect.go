package image

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/image/content"
)

// orphanAge is how old a blob that no image has must be to be swept: an upload
// whose manifest is still to come is younger.
const orphanAge = time.Hour

// Remove takes the name ref away, or, if ref is a digest or the beginning of
// one, all names of the image. With its last name the image and all that no
// other image shares leave the disk. An image that a function or a sandbox uses
// is not removed: Conflict; it may lose a name as long as it has another.
func (s *Store) Remove(ctx context.Context, ref string) error {
	s.write.Lock()
	defer s.write.Unlock()
	st := s.state.Load().clone()
	e, name, err := s.find(st, ref)
	if err != nil {
		return err
	}
	names := []string{name}
	if name == "" {
		names = st.names(e.Digest)
	}
	for _, n := range names {
		delete(st.refs, n)
	}
	if len(st.names(e.Digest)) > 0 {
		if err := s.save(st); err != nil {
			return err
		}
		s.swap(st)
		return nil
	}
	if s.cfg.InUse()[e.Digest] {
		return faas.Errorf(faas.Conflict, "image %s is used by a function: remove or update the function first", ref)
	}
	gone, err := s.drop(ctx, st, []*entry{e})
	if err == nil && len(gone) == 0 {
		return faas.Errorf(faas.Conflict, "image %s is used by a running sandbox: stop it first", ref)
	}
	return err
}

// Prune removes every image that keep does not want and that no function or
// sandbox uses, whatever its age. It returns what it removed and how much room
// that made, also with an error.
func (s *Store) Prune(ctx context.Context, keep func(digest string) bool) ([]Image, faas.Bytes, error) {
	s.write.Lock()
	defer s.write.Unlock()
	inUse := s.cfg.InUse()
	st := s.state.Load().clone()
	var victims []*entry
	for _, e := range st.images {
		if !inUse[e.Digest] && (keep == nil || !keep(e.Digest)) {
			victims = append(victims, e)
		}
	}
	return s.clear(ctx, st, victims, orphanAge)
}

// Collect brings the images of this node under the budget. First go images
// whose names have moved on, then, as long as the whole is over the budget, the
// least recently used. Never what a function or a sandbox uses, what is exempt
// by name, or what was used within the grace time. It also sweeps what no image
// has: left uploads, blobs and layers. It returns what it removed and how much
// room that made, also with an error.
func (s *Store) Collect(ctx context.Context) ([]Image, faas.Bytes, error) {
	s.write.Lock()
	defer s.write.Unlock()
	st := s.state.Load().clone()
	plan := garbage{
		budget: s.cfg.Budget,
		before: time.Now().Add(-max(s.cfg.Grace, 0)),
		exempt: s.cfg.InUse(),
		keep:   s.cfg.Keep,
	}
	for _, e := range st.images {
		img := s.image(st, e)
		c := candidate{digest: e.Digest, names: img.Refs, used: img.Used, parts: s.parts(e)}
		plan.images = append(plan.images, c)
	}
	var victims []*entry
	for _, digest := range plan.victims() {
		victims = append(victims, st.images[digest])
	}
	removed, freed, err := s.clear(ctx, st, victims, orphanAge)
	if err == nil && s.unsavedUse() {
		err = s.save(s.state.Load())
	}
	return removed, freed, err
}

// parts returns what an image has on disk, by name.
func (s *Store) parts(e *entry) map[string]faas.Bytes {
	parts := make(map[string]faas.Bytes)
	for _, d := range e.blobs {
		size, _ := s.blobs.Stat(d)
		parts[d] = faas.Bytes(size)
	}
	for _, l := range e.layers {
		parts["layer "+l.DiffID] = l.Unpacked
	}
	return parts
}

// garbage decides which images go. It has no clock and touches nothing.
type garbage struct {
	images []candidate
	budget faas.Bytes      // 0: none
	before time.Time       // images used at or after it stay
	exempt map[string]bool // by digest
	keep   []string        // patterns of names
}

type candidate struct {
	digest string
	names  []string
	used   time.Time
	parts  map[string]faas.Bytes // what it has on disk; images share parts
}

// victims returns the digests of the images that go, in order.
func (g garbage) victims() []string {
	shared := make(map[string]int)
	var total faas.Bytes
	for _, c := range g.images {
		for part, size := range c.parts {
			if shared[part]++; shared[part] == 1 {
				total += size
			}
		}
	}
	images := slices.Clone(g.images)
	slices.SortFunc(images, func(a, b candidate) int {
		if (len(a.names) == 0) != (len(b.names) == 0) {
			return len(a.names) - len(b.names) // the nameless first
		}
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.digest, b.digest))
	})
	var out []string
	for _, c := range images {
		over := g.budget > 0 && total > g.budget
		if len(c.names) > 0 && !over || g.exempt[c.digest] || !c.used.Before(g.before) || g.kept(c.names) {
			continue
		}
		out = append(out, c.digest)
		for part, size := range c.parts {
			if shared[part]--; shared[part] == 0 {
				total -= size
			}
		}
	}
	return out
}

// kept reports whether one of the names is exempt.
func (g garbage) kept(names []string) bool {
	for _, n := range names {
		r, err := Normalize(n)
		if err != nil {
			continue
		}
		for _, p := range g.keep {
			for _, form := range []string{r.String(), r.Name(), r.Familiar(), strings.TrimSuffix(r.Familiar(), r.suffix())} {
				if ok, _ := path.Match(p, form); ok {
					return true
				}
			}
		}
	}
	return false
}

// clear drops images, then sweeps what no image has. Precondition: s.write is held.
func (s *Store) clear(ctx context.Context, st *state, victims []*entry, age time.Duration) ([]Image, faas.Bytes, error) {
	before := s.total(s.state.Load())
	removed, err := s.drop(ctx, st, victims)
	after := s.state.Load()
	freed := before - s.total(after)
	for _, img := range removed {
		s.log.Info("image removed", "image", cmp.Or(strings.Join(img.Refs, " "), img.Digest), "size", img.Size)
	}
	if err != nil {
		return removed, freed, err
	}
	wanted := after.wanted()
	n, err := s.blobs.Sweep(ctx, func(d string) bool { return wanted[d] }, age)
	freed += faas.Bytes(n)
	if err != nil {
		return removed, freed, err
	}
	ids, err := s.layers.List()
	for _, id := range ids {
		if wanted[id] || id == emptyDiffID {
			continue
		}
		info, _ := s.layers.Info(id)
		if err := s.layers.Delete(ctx, id, func() bool { return s.held(id) }); err != nil {
			return removed, freed, err
		}
		freed += faas.Bytes(info.Size)
	}
	return removed, freed, err
}

func (s *Store) held(diffID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holds[diffID] > 0
}

// total is what the images of a state have on disk.
func (s *Store) total(st *state) faas.Bytes {
	all := make(map[string]faas.Bytes)
	for _, e := range st.images {
		for _, d := range e.blobs {
			if _, ok := all[d]; !ok {
				size, _ := s.blobs.Stat(d)
				all[d] = faas.Bytes(size)
			}
		}
		for _, l := range e.layers {
			all["layer "+l.DiffID] = l.Unpacked
		}
	}
	var sum faas.Bytes
	for _, size := range all {
		sum += size
	}
	return sum
}

// drop takes images, with their names, out of st, makes st the state, and
// removes what only they had from the disk. Those that are pinned stay. It
// returns what is gone. Precondition: s.write is held, st is a clone.
func (s *Store) drop(ctx context.Context, st *state, victims []*entry) ([]Image, error) {
	var gone []Image
	var dead []*entry
	old := s.state.Load()
	s.mu.Lock()
	victims = slices.DeleteFunc(slices.Clone(victims), func(e *entry) bool { return s.pins[e.Digest] > 0 })
	for _, e := range victims {
		delete(st.images, e.Digest)
		maps.DeleteFunc(st.refs, func(_, d string) bool { return d == e.Digest })
		delete(s.used, e.Digest)
		dead = append(dead, e)
	}
	if len(dead) > 0 {
		s.state.Store(st) // no new pin from here on
	}
	s.mu.Unlock()
	if len(dead) == 0 {
		return nil, nil
	}
	for _, e := range dead {
		gone = append(gone, s.image(old, e))
	}
	err := s.save(st)
	if _, full := errors.AsType[*content.SpaceError](err); err != nil && !full {
		s.swap(old)
		return nil, err
	}
	if rerr := s.erase(ctx, st, dead); rerr != nil {
		return gone, rerr
	}
	if err != nil { // the disk was full, and should not be any more
		err = s.save(st)
	}
	return gone, err
}

// release ends a lease and, with discard, removes those of its blobs that no
// image has and nobody else leases.
func (s *Store) release(lease *content.Lease, discard bool) {
	digests := lease.Digests()
	lease.Release()
	if !discard {
		return
	}
	s.write.Lock()
	defer s.write.Unlock()
	wanted := s.state.Load().wanted()
	for _, d := range digests {
		if wanted[d] {
			continue
		}
		if err := s.blobs.Delete(d); err != nil && !errors.Is(err, content.ErrLeased) {
			s.log.Warn("blob left behind", "err", err)
		}
	}
}

// wanted returns the digests of all blobs and the diffIDs of all layers that
// images have.
func (st *state) wanted() map[string]bool {
	wanted := make(map[string]bool)
	for _, e := range st.images {
		for _, d := range e.blobs {
			wanted[d] = true
		}
		for _, l := range e.layers {
			wanted[l.DiffID] = true
		}
	}
	return wanted
}

// erase removes the blobs and layers of dead images that no image of st has.
// Precondition: s.write is held, so that no image enters meanwhile.
func (s *Store) erase(ctx context.Context, st *state, dead []*entry) error {
	wanted := st.wanted()
	// Once begun it is finished: the list no longer has these images.
	ctx = context.WithoutCancel(ctx)
	for _, e := range dead {
		for _, d := range e.blobs {
			if wanted[d] {
				continue
			}
			if err := s.blobs.Delete(d); err != nil && !errors.Is(err, content.ErrLeased) {
				return err
			}
		}
		for _, l := range e.layers {
			if wanted[l.DiffID] {
				continue
			}
			if err := s.layers.Delete(ctx, l.DiffID, func() bool { return s.held(l.DiffID) }); err != nil {
				return err
			}
		}
	}
	return nil
}
