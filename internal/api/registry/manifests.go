package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/image/content"
)

// document is what a manifest or an index says, as far as a registry looks.
type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     types.MediaType   `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *descriptor       `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Manifests     []descriptor      `json:"manifests"`
	Subject       *descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

type descriptor struct {
	MediaType types.MediaType `json:"mediaType"`
	Size      int64           `json:"size"`
	Digest    string          `json:"digest"`
	URLs      []string        `json:"urls"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	} `json:"platform"`
}

// readDocument checks the form of a manifest: what can be known without
// looking at anything else. Announced is the media type that it was sent with.
func readDocument(data []byte, announced string) (document, error) {
	bad := func(format string, args ...any) (document, error) {
		return document{}, refuse(http.StatusBadRequest, manifestInvalid, "bad manifest: "+format, args...)
	}
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return bad("%v", err)
	}
	if announced != "" {
		mt, _, err := mime.ParseMediaType(announced)
		if err != nil {
			return bad("Content-Type %q: %v", announced, err)
		}
		if d.MediaType != "" && string(d.MediaType) != mt {
			return bad("it was sent as %s and says it is %s", mt, d.MediaType)
		}
		d.MediaType = types.MediaType(mt)
	}
	if d.SchemaVersion == 1 || d.MediaType == types.DockerManifestSchema1 || d.MediaType == types.DockerManifestSchema1Signed {
		return bad("schema version 1 is not supported: push with a newer client")
	}
	if d.SchemaVersion != 2 {
		return bad("schemaVersion is %d, not 2", d.SchemaVersion)
	}
	if d.MediaType == "" {
		d.MediaType = types.OCIManifestSchema1
		if d.Manifests != nil {
			d.MediaType = types.OCIImageIndex
		}
	}
	switch {
	case d.MediaType.IsIndex():
		if d.Config != nil || d.Layers != nil {
			return bad("an index with a config or layers could be taken for two things")
		}
	case d.MediaType.IsImage():
		if d.Manifests != nil {
			return bad("an image manifest with manifests could be taken for two things")
		}
		if d.Config == nil {
			return bad("it has no config")
		}
	default:
		return bad("its media type %q is not one of %s, %s, %s, %s", d.MediaType,
			types.OCIManifestSchema1, types.OCIImageIndex, types.DockerManifestSchema2, types.DockerManifestList)
	}
	for _, ref := range d.all() {
		if err := content.CheckDigest(ref.Digest); err != nil {
			return bad("%v", err)
		}
		if ref.Size < 0 {
			return bad("%s has a size of %d", ref.Digest, ref.Size)
		}
	}
	return d, nil
}

// all is everything that d refers to.
func (d document) all() []descriptor {
	refs := slices.Concat(d.Layers, d.Manifests)
	for _, one := range []*descriptor{d.Config, d.Subject} {
		if one != nil {
			refs = append(refs, *one)
		}
	}
	return refs
}

// elsewhere reports whether a layer may be missing because it is not to be
// distributed.
func (d descriptor) elsewhere() bool { return len(d.URLs) > 0 && !d.MediaType.IsDistributable() }

// runs reports whether a manifest is that of an image, by its form: others use
// manifests for signatures, charts and caches.
func (d document) runs() bool {
	if d.Config == nil || d.ArtifactType != "" || d.Config.MediaType != types.OCIConfigJSON && d.Config.MediaType != types.DockerConfigJSON {
		return false
	}
	return !slices.ContainsFunc(d.Layers, func(l descriptor) bool { return !l.MediaType.IsLayer() })
}

// manifest is what the list of pushes remembers of d, but for what it refers to.
func (d document) manifest(size int) *manifest {
	m := &manifest{MediaType: string(d.MediaType), Size: int64(size), ArtifactType: d.ArtifactType, Wanted: time.Now()}
	if d.Subject != nil {
		m.Subject, m.Annotations = d.Subject.Digest, d.Annotations // nobody asks for those of others
	}
	if m.ArtifactType == "" && d.Config != nil {
		m.ArtifactType = string(d.Config.MediaType)
	}
	return m
}

func (s *Server) putManifest(w http.ResponseWriter, r *http.Request, at route) error {
	byDigest := content.CheckDigest(at.arg) == nil
	if !byDigest && !tagGrammar.MatchString(at.arg) {
		return refuse(http.StatusBadRequest, manifestInvalid, "bad tag %q: use up to 128 letters, digits, '_', '.' and '-', beginning with a letter, digit or '_'", at.arg)
	}
	body := &patient{r: http.MaxBytesReader(w, r.Body, int64(MaxManifest)), c: http.NewResponseController(w)}
	data, err := io.ReadAll(body)
	body.done()
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refuse(http.StatusRequestEntityTooLarge, sizeInvalid, "the manifest is over the limit of %d bytes", MaxManifest)
	}
	if err != nil {
		return refuse(http.StatusBadRequest, manifestInvalid, "the manifest was cut off after %d bytes: %v", len(data), err)
	}
	digest := content.Digest(data)
	if byDigest && digest != at.arg {
		return refuse(http.StatusBadRequest, digestInvalid, "the manifest has the digest %s, not %s", digest, at.arg)
	}
	doc, err := readDocument(data, r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	m := doc.manifest(len(data))

	// One lease for the whole push: what is found now is there at the end.
	lease := s.content.Lease()
	defer lease.Release()
	lease.Add(digest)
	if err := s.checkContent(lease, at.name, doc, m, 0); err != nil {
		return err
	}
	if err := s.content.Ingest(r.Context(), digest, int64(len(data)), bytes.NewReader(data)); err != nil {
		return err
	}
	s.content.Touch(digest)
	if byDigest {
		err = s.change(at.name, func(rp *repo) { rp.put(digest, m) })
	} else {
		err = s.tag(r.Context(), at.name, at.arg, digest, m)
	}
	if err != nil {
		return err
	}
	s.drop(m.Blobs...)
	h := w.Header()
	h.Set("Location", "/v2/"+at.name+"/manifests/"+digest)
	h.Set("Docker-Content-Digest", digest)
	if m.Subject != "" {
		h.Set("OCI-Subject", m.Subject)
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// maxNesting is how deep indexes may be nested.
const maxNesting = 4

// checkContent puts everything that doc refers to under the lease, checks that
// it is there in the announced size, and notes it in m.
func (s *Server) checkContent(lease *content.Lease, name string, doc document, m *manifest, depth int) error {
	check := func(what string, d descriptor) error {
		lease.Add(d.Digest)
		size, err := s.content.Stat(d.Digest)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return &fault{http.StatusNotFound, manifestBlobUnknown, "the manifest refers to a " + what + " that was not pushed: " + d.Digest,
				map[string]string{"digest": d.Digest}}
		case err != nil:
			return err
		case size != d.Size:
			return refuse(http.StatusBadRequest, manifestInvalid, "bad manifest: it says that the %s %s has %d bytes, it has %d", what, d.Digest, d.Size, size)
		}
		return nil
	}
	m.Image = doc.runs()
	if doc.Config != nil {
		if err := check("config", *doc.Config); err != nil {
			return err
		}
		m.Blobs = append(m.Blobs, doc.Config.Digest)
	}
	for _, l := range doc.Layers {
		if l.elsewhere() && !s.content.Has(l.Digest) {
			continue
		}
		if err := check("layer", l); err != nil {
			return err
		}
		m.Blobs = append(m.Blobs, l.Digest)
	}
	for _, part := range doc.Manifests {
		if err := check("manifest", part); err != nil {
			return err
		}
		if !part.MediaType.IsImage() && !part.MediaType.IsIndex() {
			m.Blobs = append(m.Blobs, part.Digest) // a build cache is an index of layers
			continue
		}
		pm, err := s.adopt(name, part, depth)
		if err != nil {
			return err
		}
		m.Manifests = append(m.Manifests, part.Digest)
		if pm.Image && (part.Platform == nil || part.Platform.OS != "unknown") { // an attestation is of no platform
			m.Image = true
		}
	}
	return nil
}

// adopt makes sure that a part of an index is a manifest of the repository that
// the index is pushed to: it may have come to this node under another name.
func (s *Server) adopt(name string, part descriptor, depth int) (*manifest, error) {
	s.mu.Lock()
	if r := s.repos[name]; r != nil && r.Manifests[part.Digest] != nil {
		m := r.Manifests[part.Digest]
		m.Wanted = time.Now()
		s.mu.Unlock()
		return m, nil
	}
	s.mu.Unlock()
	if depth >= maxNesting {
		return nil, refuse(http.StatusBadRequest, manifestInvalid, "bad manifest: its indexes are nested more than %d deep", maxNesting)
	}
	data, err := s.content.Read(part.Digest, int64(MaxManifest))
	if err != nil {
		return nil, err
	}
	doc, err := readDocument(data, string(part.MediaType))
	if err != nil {
		return nil, err
	}
	m := doc.manifest(len(data))
	lease := s.content.Lease()
	defer lease.Release()
	if err := s.checkContent(lease, name, doc, m, depth+1); err != nil {
		return nil, err
	}
	return m, s.change(name, func(r *repo) { r.put(part.Digest, m) })
}

// tag points a tag at a manifest that is in the content store, and makes it an
// image if it is one.
func (s *Server) tag(ctx context.Context, name, tag, digest string, m *manifest) error {
	defer s.turns.take(name + ":" + tag)()
	ref := image.LocalRegistry + "/" + name + ":" + tag
	if m.Image {
		if err := s.images.Tag(ctx, ref, digest); err != nil {
			return err
		}
	} else if _, err := s.images.Get(ref); err == nil {
		if err := s.images.Remove(ctx, ref); err != nil { // the tag means an artifact from now on
			return err
		}
	}
	return s.change(name, func(r *repo) {
		if old, ok := r.Tags[tag]; ok && r.Manifests[old.Digest] != nil {
			r.Manifests[old.Digest].Wanted = time.Now()
		}
		r.put(digest, m)
		r.Tags[tag] = tagged{Digest: digest, Image: m.Image}
	})
}

// put makes m a manifest of r, keeping the lease of one that is there.
func (r *repo) put(digest string, m *manifest) {
	if old := r.Manifests[digest]; old != nil {
		m.lease = old.lease
	}
	r.Manifests[digest] = m
}

// getManifest answers GET and HEAD.
func (s *Server) getManifest(w http.ResponseWriter, r *http.Request, at route) error {
	digest, err := s.resolve(at)
	if err != nil {
		return err
	}
	data, err := s.content.Read(digest, int64(MaxManifest))
	if errors.Is(err, fs.ErrNotExist) {
		return noManifest(at)
	}
	if err != nil {
		return err
	}
	doc, err := readDocument(data, s.mediaType(at.name, digest))
	if err != nil {
		return noManifest(at)
	}
	h := w.Header()
	h.Set("Content-Type", string(doc.MediaType))
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Set("Docker-Content-Digest", digest)
	h.Set("ETag", `"`+digest+`"`)
	if r.Method != "HEAD" {
		w.Write(data)
	}
	return nil
}

func (s *Server) mediaType(name, digest string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.repos[name]; r != nil && r.Manifests[digest] != nil {
		return r.Manifests[digest].MediaType
	}
	return ""
}

func noManifest(at route) error {
	return &fault{http.StatusNotFound, manifestUnknown, "no manifest " + at.arg + " of " + at.name + " here", map[string]string{"name": at.name, "reference": at.arg}}
}

// resolve finds the digest that a tag or digest means in a repository.
func (s *Server) resolve(at route) (string, error) {
	if content.CheckDigest(at.arg) == nil {
		s.mu.Lock()
		known := s.repos[at.name] != nil && s.repos[at.name].Manifests[at.arg] != nil
		s.mu.Unlock()
		if known || s.imageOf(at.name, at.arg) {
			return at.arg, nil
		}
		return "", noManifest(at)
	}
	if !tagGrammar.MatchString(at.arg) {
		return "", noManifest(at)
	}
	s.mu.Lock()
	var t tagged
	if r := s.repos[at.name]; r != nil {
		t = r.Tags[at.arg]
	}
	s.mu.Unlock()
	if t.Digest != "" && !t.Image {
		return t.Digest, nil
	}
	img, err := s.images.Get(image.LocalRegistry + "/" + at.name + ":" + at.arg)
	switch {
	case faas.KindOf(err) == faas.NotFound:
		return "", noManifest(at)
	case err != nil:
		return "", err
	case t.Digest != "" && (t.Digest == img.Index || t.Digest == img.Digest):
		return t.Digest, nil
	}
	return img.Digest, nil // not pushed here: of an index the other platforms may be missing
}

// imageOf reports whether a digest is that of an image with a tag in the
// repository, however it came to this node.
func (s *Server) imageOf(name, digest string) bool {
	for _, img := range s.images.List() {
		if img.Digest != digest {
			continue
		}
		for _, ref := range img.Refs {
			if repo, _, ok := localTag(ref); ok && repo == name {
				return true
			}
		}
	}
	return false
}

// deleteManifest takes a tag away, or a manifest with all its tags.
func (s *Server) deleteManifest(w http.ResponseWriter, r *http.Request, at route) error {
	digest, err := s.resolve(at)
	if err != nil {
		return err
	}
	gone := []string{at.arg}
	if digest == at.arg {
		gone = s.tagsOf(at.name, digest)
	}
	for _, tag := range gone {
		if err := s.untag(r.Context(), at.name, tag); err != nil {
			return err
		}
	}
	if digest == at.arg {
		err = s.change(at.name, func(rp *repo) {
			if m := rp.Manifests[digest]; m != nil {
				if m.lease != nil {
					m.lease.Release()
				}
				delete(rp.Manifests, digest)
			}
		})
		if err != nil {
			return err
		}
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) untag(ctx context.Context, name, tag string) error {
	defer s.turns.take(name + ":" + tag)()
	ref := image.LocalRegistry + "/" + name + ":" + tag
	if _, err := s.images.Get(ref); err == nil {
		if err := s.images.Remove(ctx, ref); err != nil && faas.KindOf(err) != faas.NotFound {
			return err
		}
	}
	return s.change(name, func(r *repo) {
		if old, ok := r.Tags[tag]; ok && r.Manifests[old.Digest] != nil {
			r.Manifests[old.Digest].Wanted = time.Now()
		}
		delete(r.Tags, tag)
	})
}
