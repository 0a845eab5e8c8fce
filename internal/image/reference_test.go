package image_test

import (
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/image"
)

const someDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestReferencesFollowTheRulesOfDockerHub(t *testing.T) {
	for _, c := range []struct{ ref, full, familiar string }{
		{"busybox", "docker.io/library/busybox:latest", "busybox:latest"},
		{"busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"},
		{"library/busybox", "docker.io/library/busybox:latest", "busybox:latest"},
		{"fnproject/hello", "docker.io/fnproject/hello:latest", "fnproject/hello:latest"},
		{"docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"},
		{"index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"},
		{"registry-1.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"},
		{"docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"},
		{"a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"},
		{"ghcr.io/a/b_c/d__e--f.g:V1.0_x-y", "ghcr.io/a/b_c/d__e--f.g:V1.0_x-y", "ghcr.io/a/b_c/d__e--f.g:V1.0_x-y"},
		{"GHCR.io/a", "ghcr.io/a:latest", "ghcr.io/a:latest"},
		{"localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"},
		{"localhost/a", "localhost/a:latest", "localhost/a:latest"},
		{"localhost:5000/a", "localhost:5000/a:latest", "localhost:5000/a:latest"},
		{"[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"},
		{"10.0.0.1/a:b", "10.0.0.1/a:b", "10.0.0.1/a:b"},
		{"busybox@" + someDigest, "docker.io/library/busybox@" + someDigest, "busybox@" + someDigest},
		{"busybox:1@" + someDigest, "docker.io/library/busybox@" + someDigest, "busybox@" + someDigest},
		{"hob.local/x", "hob.local/x:latest", "hob.local/x:latest"},
		{"127.0.0.1:8080/x/y:1", "hob.local/x/y:1", "hob.local/x/y:1"},
		{"LOCALHOST:8080/x", "hob.local/x:latest", "hob.local/x:latest"},
		{"node.example:8080/apps/v2", "hob.local/apps/v2:latest", "hob.local/apps/v2:latest"},
	} {
		r, err := image.Normalize(c.ref, "127.0.0.1:8080", "localhost:8080", "Node.example:8080")
		if err != nil || r.String() != c.full || r.Familiar() != c.familiar {
			t.Errorf("%q: %q and %q, %v; want %q and %q", c.ref, r.String(), r.Familiar(), err, c.full, c.familiar)
		}
		if r.Local() != strings.HasPrefix(c.full, "hob.local/") {
			t.Errorf("%q is local: %v", c.ref, r.Local())
		}
	}
}

func TestBadReferencesAreRefused(t *testing.T) {
	for _, ref := range []string{
		"", " ", "Busybox", "busybox:", "busybox:-x", "busybox:.x", "a b", "a//b", "/a", "a/", "../a", "a/../b", "./a", "a/./b", "-a", "a-", "a_", "a___b", "a..b",
		"https://docker.io/busybox", "host:port/a", "host:0/a", "host:70000/a", "ho_st.x/a", "-h.x/a", "h..x/a", "localhost:5000/",
		"busybox@sha256:12", "busybox@", "busybox@" + strings.ToUpper(someDigest), "busybox@sha512:" + strings.Repeat("a", 128), "busybox@" + someDigest + "@" + someDigest,
		someDigest[7:], "busybox:" + strings.Repeat("t", 129), strings.Repeat("n", 256), "a\x00b", "ä",
	} {
		if r, err := image.Normalize(ref); err == nil {
			t.Errorf("%q was read as %q", ref, r)
		} else if faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), "reference") {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// FuzzNormalize: what is read is in normal form, which reads as itself.
func FuzzNormalize(f *testing.F) {
	for _, seed := range []string{"busybox", "a/b:c", "localhost:5000/a@" + someDigest, "127.0.0.1:8080/x", "[::1]:5000/a", "docker.io/library/a/b", "a..b", "a:b/c", "@", ":", "/", "HOST.x/a:T", "a__b-c.d/e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		r, err := image.Normalize(ref, "127.0.0.1:8080")
		if err != nil {
			if faas.KindOf(err) != faas.Invalid {
				t.Errorf("%q: kind %s", ref, faas.KindOf(err))
			}
			return
		}
		for _, form := range []string{r.String(), r.Familiar()} {
			again, err := image.Normalize(form, "127.0.0.1:8080")
			if err != nil || again != r {
				t.Errorf("%q became %q, which became %q, %v", ref, form, again, err)
			}
		}
		if strings.Contains(r.Repository, "..") || strings.HasPrefix(r.Repository, "/") || (r.Tag == "") == (r.Digest == "") {
			t.Errorf("%q became %+v", ref, r)
		}
	})
}
