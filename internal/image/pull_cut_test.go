package image_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
	"hob/internal/image"
	"hob/internal/image/content"
)

// cut answers each blob request with at most n bytes, then breaks off.
func cut(reg *server, ranges bool, n int, asked *sync.Map) func(http.ResponseWriter, *http.Request) bool {
	client := reg.Client()
	return func(w http.ResponseWriter, r *http.Request) bool {
		d, ok := blobRequest(r)
		if !ok || r.Header.Get("X-Whole") != "" {
			return false
		}
		asked.Store(d+" "+r.Header.Get("Range"), true)
		req, _ := http.NewRequestWithContext(r.Context(), http.MethodGet, reg.URL+r.URL.Path, nil)
		req.Header.Set("X-Whole", "1")
		resp, err := client.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		status, from := http.StatusOK, 0
		if h := r.Header.Get("Range"); ranges && h != "" {
			fmt.Sscanf(h, "bytes=%d-", &from)
			status = http.StatusPartialContent
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)-from))
		w.WriteHeader(status)
		if ranges {
			w.Write(body[from:min(len(body), from+n)])
			return true // shorter than announced: the connection is broken off
		}
		// Each time a little more, from the start.
		times := 0
		asked.Range(func(any, any) bool { times++; return true })
		w.Write(body[:min(len(body), n*times)])
		return true
	}
}

func TestTransferThatIsCutOffIsContinued(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges=%v", ranges), func(t *testing.T) {
			reg := serve(t)
			l, err := random.Layer(100_000, types.DockerLayer)
			if err != nil {
				t.Fatal(err)
			}
			ref := reg.push(t, "app:v1", build(t, v1.Config{}, l))
			var asked sync.Map
			reg.spoil = cut(reg, ranges, 30_000, &asked)
			if _, err := open(t).Pull(t.Context(), ref, image.PullOptions{}); err != nil {
				t.Fatal(err)
			}
			continued := false
			asked.Range(func(key, _ any) bool {
				continued = continued || strings.HasPrefix(key.(string), digest(t, l)+" bytes=")
				return true
			})
			if !continued {
				t.Error("the transfer did not go on where it was cut off")
			}
		})
	}
}

func TestTransferThatNeverGoesOnFails(t *testing.T) {
	reg, dir := serve(t), t.TempDir()
	l, err := random.Layer(100_000, types.DockerLayer)
	if err != nil {
		t.Fatal(err)
	}
	img := build(t, v1.Config{}, l)
	ref := reg.push(t, "app:v1", img)
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if d, ok := blobRequest(r); ok && d == digest(t, l) && r.Header.Get("Range") != "" {
			panic(http.ErrAbortHandler)
		} else if ok && d == digest(t, l) {
			w.Header().Set("Content-Length", "100000000")
			w.Write(make([]byte, 1000))
			return true
		}
		return false
	}
	s := open(t, in(dir))
	_, err = s.Pull(t.Context(), ref, image.PullOptions{})
	fails(t, err, faas.Busy, reg.host)
	s.Close()
	// The next process goes on, finds that the beginning was wrong, and mends it.
	reg.spoil = nil
	s = open(t, in(dir))
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Errorf("after restart: %v", err)
	}
	s.Close()
	wholeImages(t, dir, digest(t, img))
}

func TestWrongBytesAreRefused(t *testing.T) {
	img := build(t, v1.Config{}, files(t, file("f", "1")))
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	bad := func(match func(r *http.Request) bool, body []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if match(r) {
				w.Write(body)
				return true
			}
			return false
		}
	}
	size, err := layers[0].Size()
	if err != nil {
		t.Fatal(err)
	}
	layerBlob := func(r *http.Request) bool { d, ok := blobRequest(r); return ok && d == digest(t, layers[0]) }
	for name, c := range map[string]struct {
		spoil func(http.ResponseWriter, *http.Request) bool
		ref   string
		word  string
	}{
		"layer":             {bad(layerBlob, bytes.Repeat([]byte("x"), int(size))), ":v1", "digest mismatch"},
		"layer too long":    {bad(layerBlob, bytes.Repeat([]byte("x"), int(size)+1)), ":v1", "longer than"},
		"manifest":          {bad(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/sha") }, []byte(`{"schemaVersion":2}`)), "@" + digest(t, img), "digest mismatch"},
		"no manifest":       {bad(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }, []byte(`<html>`)), ":v1", "bad manifest"},
		"manifest too long": {bad(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }, make([]byte, 5<<20)), ":v1", "4 MB"},
		"schema 1":          {bad(func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }, []byte(`{"schemaVersion":1,"fsLayers":[]}`)), ":v1", "schema 1"},
	} {
		t.Run(name, func(t *testing.T) {
			reg, dir := serve(t), t.TempDir()
			reg.push(t, "app:v1", img)
			reg.spoil = c.spoil
			s := open(t, in(dir))
			_, err := s.Pull(t.Context(), reg.host+"/app"+c.ref, image.PullOptions{})
			kind := faas.Invalid
			if name == "schema 1" {
				kind = faas.Unsupported
			}
			fails(t, err, kind, c.word)
			s.Close()
			wholeImages(t, dir)
		})
	}
}

func TestRegistryThatIsOutOfOrderIsTriedAgain(t *testing.T) {
	reg := serve(t)
	ref := reg.push(t, "app:v1", build(t, v1.Config{}, files(t, file("f", "1"))))
	var n atomic.Int32
	reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if n.Add(1)%2 == 1 {
			http.Error(w, "out of order", http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	s := open(t)
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Errorf("every second answer is 503: %v", err)
	}
	for status, word := range map[int]string{http.StatusInternalServerError: "out of order", http.StatusTooManyRequests: "no more pulls"} {
		reg.spoil = func(w http.ResponseWriter, r *http.Request) bool {
			http.Error(w, "{}", status)
			return true
		}
		_, err := s.Pull(t.Context(), ref, image.PullOptions{Policy: image.PullAlways})
		fails(t, err, faas.Busy, reg.host, word)
	}
}

func TestFullDiskDuringPullIsBusyAndRecovers(t *testing.T) {
	reg, dir := serve(t), t.TempDir()
	img := build(t, v1.Config{}, files(t, file("f", strings.Repeat("data", 1000))))
	ref := reg.push(t, "app:v1", img)
	var full atomic.Bool
	full.Store(true)
	s := open(t, in(dir), func(c *image.Config) {
		c.Hook = func(op content.Op, path string) error {
			if full.Load() && op == content.OpWrite {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	_, err := s.Pull(t.Context(), ref, image.PullOptions{})
	fails(t, err, faas.Busy, "no space left", dir, "more bytes are needed")
	if left, _ := os.ReadDir(filepath.Join(dir, "content", "tmp")); len(left) > 0 {
		t.Errorf("left %v on a full disk", left)
	}
	full.Store(false)
	if _, err := s.Pull(t.Context(), ref, image.PullOptions{}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestCrashDuringPullLeavesNoHalfImage ends the life of the store at each
// operation of a pull in turn; opened again, it has the image whole or not at
// all, has it if that was promised, and pulls it without complaint.
func TestCrashDuringPullLeavesNoHalfImage(t *testing.T) {
	reg := serve(t)
	img := build(t, v1.Config{}, files(t, file("f", "1")), files(t, file("g", "2")))
	ref := reg.push(t, "app:v1", img)
	for n := int32(0); ; n++ {
		if n > 200 {
			t.Fatal("the scenario never ends")
		}
		dir := t.TempDir()
		var count atomic.Int32
		cfg := image.Config{Dir: dir, Platform: "linux/amd64", Keychain: authn.NewMultiKeychain(), RetryWait: 1, Parallel: 1, Hook: func(content.Op, string) error {
			if count.Add(1) > n {
				return errors.New("power cut")
			}
			return nil
		}}
		promised := false
		if s, err := image.Open(cfg); err == nil {
			_, err := s.Pull(t.Context(), ref, image.PullOptions{})
			promised = err == nil
			s.Close()
		}
		s := open(t, in(dir))
		if _, err := s.Get(ref); promised && err != nil {
			t.Errorf("crash at operation %d: the image is gone: %v", n, err)
		}
		got, err := s.Pull(t.Context(), ref, image.PullOptions{})
		if err != nil {
			t.Errorf("crash at operation %d, then again: %v", n, err)
		} else if read(t, s, got.Digest, "g") != "2" {
			t.Errorf("crash at operation %d: half an image", n)
		}
		s.Close()
		if count.Load() <= n {
			break
		}
	}
}
