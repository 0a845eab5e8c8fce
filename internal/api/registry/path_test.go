package registry

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestPathIsToldApartByItsShape(t *testing.T) {
	const d = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for path, want := range map[string]route{
		"/v2":                         {place: root},
		"/v2/":                        {place: root},
		"/v2/_catalog":                {place: catalog},
		"/v2/a/tags/list":             {tags, "a", ""},
		"/v2/a/b/c/manifests/1":       {manifests, "a/b/c", "1"},
		"/v2/a/blobs/" + d:            {blobs, "a", d},
		"/v2/a/blobs/uploads/":        {uploads, "a", ""},
		"/v2/a/blobs/uploads":         {uploads, "a", ""},
		"/v2/a/blobs/uploads/x":       {upload, "a", "x"},
		"/v2/a/referrers/" + d:        {referrers, "a", d},
		"/v2/Bad..Name/manifests/1":   {manifests, "Bad..Name", "1"}, // refused later, by the grammar
		"/v2/../manifests/1":          {manifests, "..", "1"},
		"/v2/apps/manifests/1":        {manifests, "apps", "1"}, // images called like Fn's things
		"/v2/fns/tags/list":           {tags, "fns", ""},
		"/v2/triggers/blobs/uploads/": {uploads, "triggers", ""},
		"/v2/apps/x/manifests/1":      {manifests, "apps/x", "1"},
		"/v2/fns/x/calls/manifests/1": {manifests, "fns/x/calls", "1"},
		// Images called like the API's own words: the end decides.
		"/v2/manifests/manifests/manifests": {manifests, "manifests", "manifests"},
		"/v2/blobs/blobs/uploads/":          {uploads, "blobs", ""},
		"/v2/a/blobs/uploads/blobs/uploads": {uploads, "a/blobs/uploads", ""},
		"/v2/a/blobs/uploads/manifests/1":   {manifests, "a/blobs/uploads", "1"},
		"/v2/a/blobs/uploads/tags/list":     {tags, "a/blobs/uploads", ""},
		"/v2/a/manifests/tags/list":         {tags, "a/manifests", ""},
		"/v2/a/tags/manifests/list":         {manifests, "a/tags", "list"},
		"/v2/a/manifests/uploads":           {manifests, "a", "uploads"},
		"/v2/a/blobs/uploads/list":          {upload, "a", "list"},
		"/v2/tags/tags/list":                {tags, "tags", ""},
		"/v2/_catalog/manifests/1":          {manifests, "_catalog", "1"},
		// Fn's, and nobody's.
		"/v2/apps":                  {},
		"/v2/apps/":                 {},
		"/v2/apps/01J":              {},
		"/v2/apps/manifests":        {},
		"/v2/fns/01J":               {},
		"/v2/fns/blobs":             {},
		"/v2/fns/01J/calls":         {},
		"/v2/fns/01J/calls/01K":     {},
		"/v2/fns/01J/calls/01K/log": {},
		"/v2/triggers":              {},
		"/v2/triggers/tags":         {},
		"/v2/tags/list":             {},
		"/v2/manifests/1":           {},
		"/v2/blobs/uploads/":        {},
		"/v2/blobs/uploads/x":       {},
		"/v2/a/manifests/":          {},
		"/v2/a/tags/list/":          {},
		"/v2/a":                     {},
		"/v2x/a/manifests/1":        {},
		"/v1/a/manifests/1":         {},
		"/":                         {},
		"":                          {},
	} {
		if got := parse(path); got != want {
			t.Errorf("%s is %+v, want %+v", path, got, want)
		}
	}
}

func TestNameIsCheckedByTheGrammar(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "a/b": true, "a-b_c.d__e--f": true, "apps/x": true, "0": true,
		strings.Repeat("a", maxName): true, strings.Repeat("a", maxName+1): false,
		"": false, "A": false, "a/": false, "/a": false, "a//b": false, "a___b": false, "a..b": false, "-a": false, "a-": false,
		"..": false, "a b": false, "a:1": false, "ä": false, "_catalog": false,
	} {
		if got := checkName(name) == nil; got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

func FuzzMatch(f *testing.F) {
	for _, seed := range []string{
		"/v2/", "/v2/a/manifests/1", "/v2/apps/01J", "/v2/a/blobs/uploads/", "/v2//manifests/x", "/v2/a/blobs/uploads/%2e%2e",
		"/v2/fns/x/tags/list", "/v2/_catalog", "/v2/a/referrers/sha256:0",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		at := parse(path)
		if got := Match(&http.Request{URL: &url.URL{Path: path}}); got != (at.place != nowhere) {
			t.Errorf("Match(%q) is %v", path, got)
		}
		if at.place > catalog && at.name == "" {
			t.Errorf("%q has no name", path)
		}
		// Taken apart and put together again it is the same.
		back := map[place]string{
			tags: "/v2/" + at.name + "/tags/list", manifests: "/v2/" + at.name + "/manifests/" + at.arg, blobs: "/v2/" + at.name + "/blobs/" + at.arg,
			uploads: "/v2/" + at.name + "/blobs/uploads", upload: "/v2/" + at.name + "/blobs/uploads/" + at.arg, referrers: "/v2/" + at.name + "/referrers/" + at.arg,
		}[at.place]
		if back != "" && back != path && back+"/" != path {
			t.Errorf("%q was taken for %q", path, back)
		}
		parts := strings.Split(strings.Trim(path, "/"), "/")
		if len(parts) >= 2 && len(parts) <= 3 && parts[0] == "v2" && (parts[1] == "apps" || parts[1] == "fns" || parts[1] == "triggers") &&
			strings.HasPrefix(path, "/v2/") && at.place != nowhere {
			t.Errorf("%q of Fn was taken for %+v", path, at)
		}
	})
}

func FuzzManifest(f *testing.F) {
	const d = `"digest":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","size":1`
	for _, seed := range []string{
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",` + d + `},"layers":[]}`,
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{` + d + `,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"schemaVersion":1}`, `{"schemaVersion":2,"config":{},"manifests":[]}`, `[]`, `null`, ``, `{"schemaVersion":2,"layers":[{"size":-1}]}`,
	} {
		f.Add([]byte(seed), "application/vnd.oci.image.manifest.v1+json")
		f.Add([]byte(seed), "")
	}
	f.Add([]byte(`{}`), `a/b; c="`)
	f.Fuzz(func(t *testing.T, data []byte, announced string) {
		doc, err := readDocument(data, announced)
		if err != nil {
			if fault, ok := err.(*fault); !ok || fault.status != 400 || fault.code != manifestInvalid {
				t.Errorf("got %v", err)
			}
			return
		}
		if doc.SchemaVersion != 2 || doc.MediaType.IsIndex() == doc.MediaType.IsImage() || doc.MediaType.IsIndex() && (doc.Config != nil || len(doc.Layers) > 0) {
			t.Errorf("let in %+v", doc)
		}
		doc.runs()
	})
}
