package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/internal/api/registry"
	"hob/internal/image"
	"hob/internal/image/content"
)

func TestLayerOnTheNodeIsNotSentAgain(t *testing.T) {
	n := newNode(t)
	img := imageFor(t, runtime.GOARCH)
	if err := remote.Write(n.ref(t, "from:1"), img); err != nil {
		t.Fatal(err)
	}
	d := ""
	layers, _ := img.Layers()
	d = digest(t, layers[0])
	resp, _ := n.do(t, "POST", "/v2/to/blobs/uploads/?mount="+d+"&from=from", "")
	if resp.StatusCode != 201 || resp.Header.Get("Location") != "/v2/to/blobs/"+d || resp.Header.Get("Docker-Content-Digest") != d {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
	if resp, _ := n.do(t, "HEAD", resp.Header.Get("Location"), ""); resp.StatusCode != 200 {
		t.Errorf("HEAD of the mounted blob: %d", resp.StatusCode)
	}
	none := content.Digest([]byte("none"))
	if resp, _ := n.do(t, "POST", "/v2/to/blobs/uploads/?mount="+none+"&from=from", ""); resp.StatusCode != 202 || resp.Header.Get("Location") == "" {
		t.Errorf("mount of what is not there: %d %v", resp.StatusCode, resp.Header)
	}
	// The whole image by mounts.
	src, err := remote.Image(n.ref(t, "from:1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(n.ref(t, "to:1"), src); err != nil {
		t.Fatal(err)
	}
	if got, err := n.images.Get("hob.local/to:1"); err != nil || got.Digest != digest(t, img) {
		t.Errorf("got %v, %v", got.Digest, err)
	}
}

func TestCutOffUploadIsResumed(t *testing.T) {
	n := newNode(t)
	data := strings.Repeat("0123456789", 1000)
	resp, _ := n.do(t, "POST", "/v2/x/blobs/uploads/", "")
	if resp.StatusCode != 202 || resp.Header.Get("Range") != "0-0" || resp.Header.Get("Docker-Upload-UUID") == "" {
		t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
	}
	place := resp.Header.Get("Location")

	// The line goes dead after 4,000 of 10,000 bytes.
	conn, err := net.Dial("tcp", n.host)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 10000\r\n\r\n%s", place, n.host, data[:4000])
	conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, conn) // until the server has seen it
	conn.Close()

	resp, _ = n.do(t, "GET", place, "")
	if resp.StatusCode != 204 || resp.Header.Get("Range") != "0-3999" {
		t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
	}
	resp, body := n.do(t, "PATCH", place, data[:100], "Content-Range", "0-99")
	if resp.StatusCode != 416 || codeOf(t, body) != "BLOB_UPLOAD_INVALID" || resp.Header.Get("Range") != "0-3999" {
		t.Errorf("a chunk at the wrong place: %d %s", resp.StatusCode, body)
	}
	resp, body = n.do(t, "PATCH", place, data[4000:8000], "Content-Range", "4000-7999")
	if resp.StatusCode != 202 || resp.Header.Get("Range") != "0-7999" {
		t.Fatalf("got %d %s", resp.StatusCode, body)
	}
	d := content.Digest([]byte(data))
	resp, body = n.do(t, "PUT", place+"?digest="+d, data[8000:], "Content-Range", "8000-9999")
	if resp.StatusCode != 201 || resp.Header.Get("Location") != "/v2/x/blobs/"+d {
		t.Fatalf("got %d %s", resp.StatusCode, body)
	}
	if _, got := n.do(t, "GET", "/v2/x/blobs/"+d, ""); got != data {
		t.Error("the blob is another one")
	}
	if resp, body := n.do(t, "GET", place, ""); resp.StatusCode != 404 || codeOf(t, body) != "BLOB_UPLOAD_UNKNOWN" {
		t.Errorf("a finished upload: %d %s", resp.StatusCode, body)
	}
}

func TestDamagedLayerIsRefusedAtThePush(t *testing.T) {
	n := newNode(t)
	img, err := mutate.AppendLayers(imageFor(t, runtime.GOARCH), static.NewLayer([]byte("this is not a tar"), types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(n.ref(t, "x:1"), img); err == nil || !strings.Contains(err.Error(), "MANIFEST_INVALID") {
		t.Errorf("got %v", err)
	}
	if resp, _ := n.do(t, "GET", "/v2/x/manifests/1", ""); resp.StatusCode != 404 {
		t.Errorf("the tag is there: %d", resp.StatusCode)
	}
}

func TestBlobOverTheLimitIsRefusedWithTheNumber(t *testing.T) {
	n := &node{dir: t.TempDir(), max: 1000}
	n.start(t)
	big := strings.Repeat("x", 1001)
	d := content.Digest([]byte(big))
	resp, body := n.do(t, "POST", "/v2/x/blobs/uploads/?digest="+d, big)
	if resp.StatusCode != 413 || codeOf(t, body) != "SIZE_INVALID" || !strings.Contains(body, "1000 bytes") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	resp, _ = n.do(t, "POST", "/v2/x/blobs/uploads/", "")
	req, _ := http.NewRequestWithContext(t.Context(), "PATCH", n.url+resp.Header.Get("Location"), io.MultiReader(strings.NewReader(big))) // of unknown length
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("in chunks: got %d", resp.StatusCode)
	}
}

func TestFullDiskIsAnAnswerAndNoDamage(t *testing.T) {
	var full atomic.Bool
	n := &node{dir: t.TempDir(), hook: func(op content.Op, path string) error {
		if full.Load() && op == content.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	}}
	n.start(t)
	before := imageFor(t, runtime.GOARCH)
	if err := remote.Write(n.ref(t, "x:1"), before); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	d := content.Digest([]byte("more"))
	for _, path := range []string{"/v2/x/blobs/uploads/?digest=" + d, ""} {
		method := "POST"
		if path == "" {
			resp, _ := n.do(t, "POST", "/v2/x/blobs/uploads/", "")
			method, path = "PATCH", resp.Header.Get("Location")
		}
		resp, body := n.do(t, method, path, "more")
		if resp.StatusCode != 507 || codeOf(t, body) != "UNKNOWN" || !strings.Contains(body, "no space left on the disk of this node") {
			t.Errorf("%s: got %d %s", method, resp.StatusCode, body)
		}
		if strings.Contains(body, n.dir) {
			t.Errorf("the answer names a directory of the operator: %s", body)
		}
	}
	img := imageFor(t, runtime.GOARCH)
	if err := remote.Write(n.ref(t, "x:1"), img, remote.WithRetryBackoff(remote.Backoff{Steps: 1})); err == nil {
		t.Error("a push to a full disk succeeded")
	}
	if resp, _ := n.do(t, "HEAD", "/v2/x/blobs/"+d, ""); resp.StatusCode != 404 {
		t.Errorf("half a blob is there: %d", resp.StatusCode)
	}
	back, err := remote.Image(n.ref(t, "x:1"))
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, back) != digest(t, before) {
		t.Error("the tag is not what it was")
	}
	readAll(t, back)
	files, err := filepath.Glob(filepath.Join(n.images.Content().Dir(), "tmp", "upload-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files { // one that was begun and has got no byte may be there
		if info, err := os.Stat(f); err != nil || info.Size() != 0 {
			t.Errorf("an upload takes room on the full disk: %v %v", info, err)
		}
	}
	full.Store(false)
	if err := remote.Write(n.ref(t, "x:1"), img); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func TestConcurrentPushesOfTheSameImage(t *testing.T) {
	n := newNode(t)
	img := imageFor(t, runtime.GOARCH)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ref, err := name.ParseReference(fmt.Sprintf("%s/x%d:1", n.host, i%4))
			if err == nil {
				err = remote.Write(ref, img)
			}
			if err != nil {
				t.Errorf("push %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	got, err := n.images.Get(digest(t, img))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Refs) != 4 {
		t.Errorf("got the names %v", got.Refs)
	}
	for i := range 4 {
		back, err := remote.Image(n.ref(t, fmt.Sprintf("x%d:1", i)))
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, back)
	}
}

func TestOnlyOneRequestWritesToAnUpload(t *testing.T) {
	n := newNode(t)
	resp, _ := n.do(t, "POST", "/v2/x/blobs/uploads/", "")
	place := resp.Header.Get("Location")
	r, w := io.Pipe()
	done := make(chan int, 1)
	req, _ := http.NewRequestWithContext(t.Context(), "PATCH", n.url+place, r)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			done <- 0
			return
		}
		resp.Body.Close()
		done <- resp.StatusCode
	}()
	io.WriteString(w, "first")
	for received := ""; received != "0-4"; { // until the first request has its turn
		resp, _ := n.do(t, "GET", place, "")
		received = resp.Header.Get("Range")
	}
	if resp, body := n.do(t, "PATCH", place, "second"); resp.StatusCode != 409 || codeOf(t, body) != "BLOB_UPLOAD_INVALID" {
		t.Errorf("a second request: %d %s", resp.StatusCode, body)
	}
	w.Close()
	if status := <-done; status != 202 {
		t.Errorf("got %d", status)
	}
}

func TestUploadThatNobodyContinuesIsSwept(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		images, err := image.Open(image.Config{Dir: filepath.Join(dir, "images")})
		if err != nil {
			t.Fatal(err)
		}
		defer images.Close()
		reg, err := registry.New(registry.Config{Dir: filepath.Join(dir, "registry"), Images: images, Content: images.Content()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- reg.Run(ctx) }()
		do := func(method, path string, body []byte) *http.Response {
			w := httptest.NewRecorder()
			reg.Handler().ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(body)))
			return w.Result()
		}
		place := do("POST", "/v2/x/blobs/uploads/", nil).Header.Get("Location")
		other := do("POST", "/v2/x/blobs/uploads/", nil).Header.Get("Location")
		time.Sleep(50 * time.Minute)
		if got := do("PATCH", other, []byte("x")).StatusCode; got != 202 {
			t.Errorf("after 50 minutes: %d", got)
		}
		time.Sleep(12 * time.Minute)
		synctest.Wait()
		if got := do("GET", place, nil).StatusCode; got != 404 {
			t.Errorf("an upload of an hour ago: %d", got)
		}
		if got := do("GET", other, nil).StatusCode; got != 204 {
			t.Errorf("an upload of 12 minutes ago: %d", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if files, _ := filepath.Glob(filepath.Join(images.Content().Dir(), "tmp", "upload-*")); len(files) != 0 {
			t.Errorf("uploads stayed: %v", files)
		}
	})
}

func TestPushedBlobWaitsForItsManifest(t *testing.T) {
	n := newNode(t)
	d := n.blob(t, "x", "data")
	if _, _, err := n.images.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !n.images.Content().Has(d) {
		t.Error("a blob between its upload and its manifest was collected")
	}
}

func TestUploadOfADeadDaemonIsSweptAtStart(t *testing.T) {
	n := newNode(t)
	resp, _ := n.do(t, "POST", "/v2/x/blobs/uploads/", "")
	place := resp.Header.Get("Location")
	if resp, _ := n.do(t, "PATCH", place, "half"); resp.StatusCode != 202 {
		t.Fatalf("got %d", resp.StatusCode)
	}
	n.start(t) // the first one did not stop in order
	if files, _ := filepath.Glob(filepath.Join(n.images.Content().Dir(), "tmp", "upload-*")); len(files) != 0 {
		t.Errorf("uploads stayed: %v", files)
	}
	if resp, _ := n.do(t, "GET", place, ""); resp.StatusCode != 404 {
		t.Errorf("got %d", resp.StatusCode)
	}
}
