package image_test

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// BenchmarkRootFS is what each start of a sandbox pays for an image that is here.
func BenchmarkRootFS(b *testing.B) {
	s := open(b)
	img := load(b, s, "a", build(b, v1.Config{Env: []string{"PATH=/bin"}}, files(b, file("a", "1")), files(b, file("b", "1"))))
	for b.Loop() {
		root, err := s.RootFS(b.Context(), img.Digest)
		if err != nil {
			b.Fatal(err)
		}
		root.Release()
	}
}

// BenchmarkLookupUser is what a start pays for a user that is given by name.
func BenchmarkLookupUser(b *testing.B) {
	s := open(b)
	img := load(b, s, "a", build(b, v1.Config{}, files(b, file("etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")), files(b, file("b", "1"))))
	root, err := s.RootFS(b.Context(), img.Digest)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Release()
	for b.Loop() {
		if _, _, _, err := root.LookupUser("app"); err != nil {
			b.Fatal(err)
		}
	}
}
