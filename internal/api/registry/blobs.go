package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"hob/internal/image/content"
)

// pending is an upload in progress.
type pending struct {
	name string // of the repository it was begun in
	w    *content.Writer

	mu   sync.Mutex // held by the one request that writes
	last time.Time  // of the last request; guarded by Server.mu
}

// getBlob answers GET and HEAD, with ranges.
func (s *Server) getBlob(w http.ResponseWriter, r *http.Request, at route) error {
	if err := content.CheckDigest(at.arg); err != nil {
		return err
	}
	if r.Method == "HEAD" && s.content.Has(at.arg) {
		s.hold(at.arg) // a push that hears "it is there" does not send it
	}
	f, size, err := s.content.Open(at.arg)
	if errors.Is(err, fs.ErrNotExist) {
		return &fault{http.StatusNotFound, blobUnknown, "no blob " + at.arg + " here", map[string]string{"digest": at.arg}}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", at.arg)
	h.Set("ETag", `"`+at.arg+`"`)
	if beyond(r.Header.Get("Range"), size) {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return refuse(http.StatusRequestedRangeNotSatisfiable, sizeInvalid, "the range %q is outside of the %d bytes of the blob", r.Header.Get("Range"), size)
	}
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// beyond reports whether a single range begins behind the end.
func beyond(header string, size int64) bool {
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok || strings.Contains(spec, ",") {
		return false
	}
	first, _, ok := strings.Cut(spec, "-")
	at, err := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	return ok && err == nil && at >= size
}

// startUpload answers POST: a blob mounted, a blob in one piece, or a place to
// send it to.
func (s *Server) startUpload(w http.ResponseWriter, r *http.Request, at route) error {
	q := r.URL.Query()
	if digest := q.Get("mount"); digest != "" {
		if err := content.CheckDigest(digest); err != nil {
			return err
		}
		if from := q.Get("from"); from != "" {
			if err := checkName(from); err != nil {
				return err
			}
		}
		if s.content.Has(digest) {
			s.hold(digest)
			if s.content.Touch(digest) { // still there, and from now on it stays
				return created(w, at.name, digest)
			}
		}
	}
	digest := q.Get("digest")
	if digest != "" {
		if err := content.CheckDigest(digest); err != nil {
			return err
		}
	}
	if r.ContentLength > s.maxBlob {
		return s.tooLarge()
	}
	p, id, err := s.begin(r, at.name)
	if err != nil {
		return err
	}
	if digest != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		defer s.forget(id)
		if err := s.receive(w, r, p, r.ContentLength); err != nil {
			return err
		}
		return s.commit(w, p, digest)
	}
	progress(w, at.name, id, 0)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) begin(r *http.Request, name string) (*pending, string, error) {
	s.mu.Lock()
	open := len(s.uploads)
	s.mu.Unlock()
	if open >= maxUploads {
		return nil, "", refuse(http.StatusTooManyRequests, tooManyRequests, "%d uploads are open, which is the limit", open)
	}
	cw, err := s.content.Writer(r.Context())
	if err != nil {
		return nil, "", err
	}
	p := &pending{name: name, w: cw, last: time.Now()}
	s.mu.Lock()
	s.uploads[cw.ID()] = p
	s.mu.Unlock()
	return p, cw.ID(), nil
}

// forget throws an upload away, if it has not been committed.
func (s *Server) forget(id string) {
	s.mu.Lock()
	p := s.uploads[id]
	delete(s.uploads, id)
	s.mu.Unlock()
	if p != nil {
		p.w.Abort()
	}
}

// find returns the upload that a path names.
func (s *Server) find(at route) (*pending, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.uploads[at.arg]
	if p == nil || p.name != at.name {
		return nil, refuse(http.StatusNotFound, blobUploadUnknown, "no upload %q of %s is open: it was finished, canceled or not continued for %v", at.arg, at.name, uploadAge)
	}
	p.last = time.Now()
	return p, nil
}

func (s *Server) uploadStatus(w http.ResponseWriter, r *http.Request, at route) error {
	p, err := s.find(at)
	if err != nil {
		return err
	}
	progress(w, at.name, at.arg, p.w.Size())
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) cancelUpload(w http.ResponseWriter, r *http.Request, at route) error {
	if _, err := s.find(at); err != nil {
		return err
	}
	s.forget(at.arg)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// continueUpload answers PATCH: the next chunk.
func (s *Server) continueUpload(w http.ResponseWriter, r *http.Request, at route) error {
	p, err := s.find(at)
	if err != nil {
		return err
	}
	if err := s.chunk(w, r, at, p); err != nil {
		return err
	}
	defer p.mu.Unlock()
	progress(w, at.name, at.arg, p.w.Size())
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// finishUpload answers PUT: the last chunk, or none, and the digest.
func (s *Server) finishUpload(w http.ResponseWriter, r *http.Request, at route) error {
	p, err := s.find(at)
	if err != nil {
		return err
	}
	digest := r.URL.Query().Get("digest")
	if err := content.CheckDigest(digest); err != nil {
		return err
	}
	if err := s.chunk(w, r, at, p); err != nil {
		return err
	}
	defer p.mu.Unlock()
	defer s.forget(at.arg)
	return s.commit(w, p, digest)
}

// chunk appends the body of r. If it returns nil, the caller has p.mu.
func (s *Server) chunk(w http.ResponseWriter, r *http.Request, at route, p *pending) error {
	if !p.mu.TryLock() {
		return refuse(http.StatusConflict, blobUploadInvalid, "another request is writing to this upload")
	}
	ok := false
	defer func() {
		if !ok {
			p.mu.Unlock()
		}
	}()
	size := r.ContentLength // -1: unknown
	if header := r.Header.Get("Content-Range"); header != "" {
		first, last, err := contentRange(header)
		if err != nil {
			return err
		}
		if have := p.w.Size(); first != have {
			progress(w, at.name, at.arg, have)
			return refuse(http.StatusRequestedRangeNotSatisfiable, blobUploadInvalid, "the chunk begins at byte %d, the upload has %d", first, have)
		}
		if n := last - first + 1; size >= 0 && size != n {
			return refuse(http.StatusBadRequest, sizeInvalid, "Content-Range %q is of %d bytes, the body is of %d", header, n, size)
		} else {
			size = n
		}
	}
	if err := s.receive(w, r, p, size); err != nil {
		if _, full := errors.AsType[*content.SpaceError](err); full {
			s.forget(at.arg) // what it took is needed more elsewhere
		}
		return err
	}
	ok = true
	return nil
}

// contentRange reads "first-last", as the specification writes it, or
// "bytes first-last/size", as HTTP does.
func contentRange(header string) (first, last int64, err error) {
	spec := strings.TrimPrefix(header, "bytes ")
	spec, _, _ = strings.Cut(spec, "/")
	a, b, ok := strings.Cut(spec, "-")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	if !ok || err1 != nil || err2 != nil || first < 0 || last < first-1 || last-first+1 < 0 {
		return 0, 0, refuse(http.StatusBadRequest, blobUploadInvalid, "bad Content-Range %q: write it as 0-1023", header)
	}
	return first, last, nil
}

func (s *Server) tooLarge() error {
	return refuse(http.StatusRequestEntityTooLarge, sizeInvalid, "the blob is over the limit of %d bytes", s.maxBlob)
}

// receive appends the body of r, of size bytes unless that is -1. Bytes that
// came before a cut-off stay: the client may go on from there.
// Precondition: p.mu is held.
func (s *Server) receive(w http.ResponseWriter, r *http.Request, p *pending, size int64) error {
	left := s.maxBlob - p.w.Size()
	if size > left {
		return s.tooLarge()
	}
	limit := left
	if size >= 0 {
		limit = size
	}
	body := &patient{r: io.LimitReader(r.Body, limit+1), c: http.NewResponseController(w)}
	defer body.done()
	n, err := io.Copy(p.w, &upTo{r: body, left: limit})
	s.mu.Lock()
	p.last = time.Now()
	s.mu.Unlock()
	switch {
	case errors.Is(err, errOver) && size >= 0:
		return refuse(http.StatusBadRequest, sizeInvalid, "the body is longer than the %d bytes it was announced with", size)
	case errors.Is(err, errOver):
		return s.tooLarge()
	case err != nil:
		if body.err != nil { // the client's side
			return refuse(http.StatusBadRequest, blobUploadInvalid, "the body was cut off after %d bytes: %v", n, body.err)
		}
		return err
	case size >= 0 && n < size:
		return refuse(http.StatusBadRequest, sizeInvalid, "the body ended after %d of %d bytes", n, size)
	}
	return nil
}

var errOver = errors.New("too many bytes")

// upTo reads left bytes and no more: one more is errOver.
type upTo struct {
	r    io.Reader
	left int64
}

func (u *upTo) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if int64(n) > u.left {
		n, err = int(u.left), errOver
	}
	u.left -= int64(n)
	return n, err
}

// patient gives up on a client that sends nothing for readIdle.
type patient struct {
	r   io.Reader
	c   *http.ResponseController
	err error // of reading
}

func (p *patient) Read(b []byte) (int, error) {
	p.c.SetReadDeadline(time.Now().Add(readIdle)) // not every writer can, in tests
	n, err := p.r.Read(b)
	if err != nil && err != io.EOF {
		p.err = err
	}
	return n, err
}

func (p *patient) done() { p.c.SetReadDeadline(time.Time{}) }

// commit ends an upload. Precondition: p.mu is held.
func (s *Server) commit(w http.ResponseWriter, p *pending, digest string) error {
	if err := p.w.Commit(digest); err != nil {
		return err
	}
	s.hold(digest)
	return created(w, p.name, digest)
}

func created(w http.ResponseWriter, name, digest string) error {
	w.Header().Set("Location", "/v2/"+name+"/blobs/"+digest)
	w.Header().Set("Docker-Content-Digest", digest)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// progress says where an upload stands. The range of nothing is written 0-0, as
// every registry does.
func progress(w http.ResponseWriter, name, id string, size int64) {
	h := w.Header()
	h.Set("Location", "/v2/"+name+"/blobs/uploads/"+id)
	h.Set("Docker-Upload-UUID", id)
	h.Set("Range", "0-"+strconv.FormatInt(max(size-1, 0), 10))
}

// hold keeps a blob until a manifest names it, for uploadAge at the longest.
func (s *Server) hold(digest string) {
	lease := s.content.Lease()
	lease.Add(digest)
	s.content.Touch(digest)
	s.mu.Lock()
	old, ok := s.fresh[digest]
	s.fresh[digest] = held{lease, time.Now().Add(uploadAge)}
	s.mu.Unlock()
	if ok {
		old.lease.Release()
	}
}

// drop ends hold.
func (s *Server) drop(digests ...string) {
	for _, d := range digests {
		s.mu.Lock()
		old, ok := s.fresh[d]
		delete(s.fresh, d)
		s.mu.Unlock()
		if ok {
			old.lease.Release()
		}
	}
}
