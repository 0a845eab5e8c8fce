package registry

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/internal/image/content"
)

// live returns the tags of a repository with the digests they mean: those of
// the image store, and those of what is no image.
func (s *Server) live(name string) map[string]string {
	tags := make(map[string]string)
	pushed := make(map[string]tagged)
	s.mu.Lock()
	if r := s.repos[name]; r != nil {
		for tag, t := range r.Tags {
			pushed[tag] = t
			if !t.Image {
				tags[tag] = t.Digest
			}
		}
	}
	s.mu.Unlock()
	for _, img := range s.images.List() {
		for _, ref := range img.Refs {
			repo, tag, ok := localTag(ref)
			if !ok || repo != name || tags[tag] != "" {
				continue
			}
			tags[tag] = img.Digest
			if t := pushed[tag]; t.Digest != "" && t.Digest == img.Index {
				tags[tag] = t.Digest
			}
		}
	}
	return tags
}

// tagsOf returns the tags of a repository that mean a digest.
func (s *Server) tagsOf(name, digest string) []string {
	var list []string
	for tag, d := range s.live(name) {
		if d == digest {
			list = append(list, tag)
		}
	}
	slices.Sort(list)
	return list
}

// known reports whether anything was ever stored under a name and is still there.
func (s *Server) known(name string) bool {
	s.mu.Lock()
	_, ok := s.repos[name]
	s.mu.Unlock()
	return ok || len(s.live(name)) > 0
}

func (s *Server) listTags(w http.ResponseWriter, r *http.Request, at route) error {
	if !s.known(at.name) {
		return &fault{http.StatusNotFound, nameUnknown, "no image " + at.name + " here", map[string]string{"name": at.name}}
	}
	list, err := page(w, r, slices.Sorted(maps.Keys(s.live(at.name))))
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{at.name, list})
}

func (s *Server) listRepositories(w http.ResponseWriter, r *http.Request, _ route) error {
	names := make(map[string]bool)
	s.mu.Lock()
	for name := range s.repos {
		names[name] = true
	}
	s.mu.Unlock()
	for _, img := range s.images.List() {
		for _, ref := range img.Refs {
			if name, _, ok := localTag(ref); ok {
				names[name] = true
			}
		}
	}
	list, err := page(w, r, slices.Sorted(maps.Keys(names)))
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{list})
}

// page cuts a sorted list down to what ?n= and ?last= ask for, and names the
// next page in the header Link.
func page(w http.ResponseWriter, r *http.Request, list []string) ([]string, error) {
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		at, found := slices.BinarySearch(list, last)
		if found {
			at++
		}
		list = list[at:]
	}
	if q.Has("n") {
		n, err := strconv.Atoi(q.Get("n"))
		if err != nil || n < 0 {
			return nil, refuse(http.StatusBadRequest, pageInvalid, "n=%q is not a number of entries", q.Get("n"))
		}
		if n < len(list) {
			if list = list[:n]; n > 0 {
				next := url.Values{"n": {strconv.Itoa(n)}, "last": {list[n-1]}}
				w.Header().Set("Link", "<"+r.URL.EscapedPath()+"?"+next.Encode()+`>; rel="next"`)
			}
		}
	}
	if list == nil {
		list = []string{}
	}
	return list, nil
}

// referrer is a manifest that speaks of another, as the listing shows it.
type referrer struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

func (s *Server) listReferrers(w http.ResponseWriter, r *http.Request, at route) error {
	if err := content.CheckDigest(at.arg); err != nil {
		return err
	}
	want := r.URL.Query().Get("artifactType")
	list := []referrer{}
	s.mu.Lock()
	if rp := s.repos[at.name]; rp != nil {
		for digest, m := range rp.Manifests {
			if m.Subject == at.arg && (want == "" || m.ArtifactType == want) {
				list = append(list, referrer{m.MediaType, digest, m.Size, m.ArtifactType, m.Annotations})
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b referrer) int { return strings.Compare(a.Digest, b.Digest) })
	if want != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, string(types.OCIImageIndex), struct {
		SchemaVersion int        `json:"schemaVersion"`
		MediaType     string     `json:"mediaType"`
		Manifests     []referrer `json:"manifests"`
	}{2, string(types.OCIImageIndex), list})
}

func writeJSON(w http.ResponseWriter, contentType string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data)
	return nil
}
