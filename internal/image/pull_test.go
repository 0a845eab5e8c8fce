package image_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/image"
)

// blobRequest reports whether r asks for a blob, and which.
func blobRequest(r *http.Request) (digest string, ok bool) {
	_, digest, ok = strings.Cut(r.URL.Path, "/blobs/")
	return digest, ok && r.Method == http.MethodGet
}

func TestImageIsAliveAfterRestart(t *testing.T) {
	reg, dir := serve(t), t.TempDir()
	img := build(t, v1.Config{Cmd: []string{"x"}}, files(t, file("f", "1")))
	ref := reg.push(t, "app:v1", img)
	s := open(t, in(dir))
	first, err := s.Pull(t.Context(), ref, image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reg.Close()
	s.Close()
	s = open(t, in(dir))
	again, err := s.Pull(t.Context(), ref, image.PullOptions{})
	if err != nil || again.Digest != first.Digest || !slices.Equal(again.Config.Command, []string{"x"}) || again.Size != first.Size {
		t.Errorf("after restart %+v, %v; want %+v", again, err, first)
	}
	if got := read(t, s, first.Digest, "f"); got != "1" {
		t.Errorf("file is %q", got)
	}
	_, err = s.Pull(t.Context(), ref, image.PullOptions{Policy: image.PullAlways})
	fails(t, err, faas.Busy, reg.host, "cannot be reached")
	for _, id := range []string{first.Digest, first.Digest[7:], first.Digest[7:17], ref} {
		if got, err := s.Get(id); err != nil || got.Digest != first.Digest {
			t.Errorf("get %s: %v, %v", id, got.Digest, err)
		}
	}
	_, err = s.Get("sha256:" + strings.Repeat("0", 64))
	fails(t, err, faas.NotFound)
}

func TestPolicyDecidesWhetherTheRegistryIsAsked(t *testing.T) {
	reg, s := serve(t), open(t)
	old := build(t, v1.Config{}, files(t, file("f", "old")))
	ref := reg.push(t, "app:v1", old)
	_, err := s.Pull(t.Context(), ref, image.PullOptions{Policy: image.PullNever})
	fails(t, err, faas.NotFound, ref)
	_, err = s.Pull(t.Context(), ref, image.PullOptions{Policy: "sometimes"})
	fails(t, err, faas.Invalid, "sometimes")
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Fatal(err)
	}
	moved := build(t, v1.Config{}, files(t, file("f", "new")))
	reg.push(t, "app:v1", moved)
	for policy, want := range map[image.Policy]v1.Image{image.PullMissing: old, image.PullNever: old} {
		if got, err := s.Pull(t.Context(), ref, image.PullOptions{Policy: policy}); err != nil || got.Digest != digest(t, want) {
			t.Errorf("%s: %s, %v", policy, got.Digest, err)
		}
	}
	got, err := s.Pull(t.Context(), ref, image.PullOptions{Policy: image.PullAlways})
	if err != nil || got.Digest != digest(t, moved) {
		t.Errorf("always: %s, %v", got.Digest, err)
	}
	if old, err := s.Get(digest(t, old)); err != nil || len(old.Refs) != 0 {
		t.Errorf("the old image has names %v, %v", old.Refs, err)
	}
}

func TestPullByDigest(t *testing.T) {
	reg, s := serve(t), open(t)
	img := build(t, v1.Config{}, files(t, file("f", "1")))
	reg.push(t, "app:v1", img)
	ref := reg.host + "/app@" + digest(t, img)
	got, err := s.Pull(t.Context(), ref, image.PullOptions{})
	if err != nil || got.Digest != digest(t, img) || !slices.Equal(got.Refs, []string{ref}) {
		t.Errorf("pulled %+v, %v", got, err)
	}
	_, err = s.Pull(t.Context(), reg.host+"/app@"+someDigest, image.PullOptions{})
	fails(t, err, faas.NotFound, someDigest)
}

func TestUnknownImageNamesReferenceAndRegistry(t *testing.T) {
	reg, s := serve(t), open(t)
	_, err := s.Pull(t.Context(), reg.host+"/none:v1", image.PullOptions{})
	fails(t, err, faas.NotFound, reg.host+"/none:v1")
	_, err = s.Pull(t.Context(), "hob.local/none", image.PullOptions{})
	fails(t, err, faas.NotFound, "hob.local/none:latest")
	_, err = s.Pull(t.Context(), "No/Such", image.PullOptions{})
	fails(t, err, faas.Invalid, "No/Such")
}

func TestTwoPullsOfAReferenceAreOne(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	var manifests atomic.Int32
	gate, arrived := make(chan struct{}), make(chan struct{}, 1)
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			manifests.Add(1)
			arrived <- struct{}{}
			<-gate
		}
		return false
	}
	s := open(t)
	leaver, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := s.Pull(leaver, ref, image.PullOptions{})
		left <- err
	}()
	<-arrived
	results, joined := make(chan error, 3), make(chan struct{}, 3)
	for range 3 {
		go func() {
			var once sync.Once
			_, err := s.Pull(t.Context(), ref, image.PullOptions{Progress: func(image.Progress) {
				once.Do(func() { joined <- struct{}{} }) // it has joined when it hears of progress
			}})
			results <- err
		}()
	}
	for range 3 {
		<-joined
	}
	leave() // who began it goes; the others get their image
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(gate)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := manifests.Load(); n != 1 {
		t.Errorf("the registry was asked %d times, want once", n)
	}
}

func TestPullEndsWhenAllHaveLeft(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	arrived, gone := make(chan struct{}), make(chan struct{})
	var once sync.Once
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if _, ok := blobRequest(r); ok {
			once.Do(func() { close(arrived) })
			<-r.Context().Done()
			select {
			case <-gone:
			default:
				close(gone)
			}
			return true
		}
		return false
	}
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	_, err := s.Pull(ctx, ref, image.PullOptions{})
	fails(t, err, faas.Canceled)
	<-gone
	reg.spoil = nil
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Errorf("a new pull: %v", err)
	}
}

func TestCloseEndsPullsUnderWay(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	arrived := make(chan struct{})
	var once sync.Once
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if _, ok := blobRequest(r); ok {
			once.Do(func() { close(arrived) })
			<-r.Context().Done()
			return true
		}
		return false
	}
	s := open(t)
	pulled := make(chan error)
	go func() {
		_, err := s.Pull(t.Context(), ref, image.PullOptions{})
		pulled <- err
	}()
	<-arrived
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	fails(t, <-pulled, faas.Busy, "stopping")
	_, err := s.Pull(t.Context(), ref, image.PullOptions{})
	fails(t, err, faas.Busy, "stopping")
}

func TestImageIDIsNeverAskedOfARegistry(t *testing.T) {
	s := open(t)
	img := load(t, s, "a", build(t, v1.Config{}, files(t, file("f", "1"))))
	for _, id := range []string{img.Digest, img.Digest[7:], img.Digest[:20]} {
		if got, err := s.Pull(t.Context(), id, image.PullOptions{Policy: image.PullAlways}); err != nil || got.Digest != img.Digest {
			t.Errorf("%s: %v, %v", id, got.Digest, err)
		}
	}
	_, err := s.Pull(t.Context(), someDigest, image.PullOptions{})
	fails(t, err, faas.NotFound, someDigest)
}
