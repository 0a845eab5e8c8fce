package store

import (
	"net/http"

	"hob/faas"
)

// A Recorder is the http.ResponseWriter of a call whose answer is kept: it writes
// to a Body, up to a limit.
type Recorder struct {
	header http.Header
	status int
	body   *Body
	limit  faas.Bytes // 0: none
	err    error      // why it takes no more
}

// NewRecorder returns a Recorder that owns body, until Result hands it on.
func NewRecorder(body *Body, limit faas.Bytes) *Recorder {
	return &Recorder{header: make(http.Header), body: body, limit: limit}
}

// Header implements http.ResponseWriter.
func (r *Recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *Recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
}

// Write implements http.ResponseWriter. What is over the limit, or cannot be kept,
// is refused, and so is all that follows.
func (r *Recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.err == nil && r.limit > 0 && r.body.Size()+int64(len(p)) > int64(r.limit) {
		r.err = faas.Errorf(faas.TooLarge, "the answer is over the limit of %v for answers that are kept", r.limit)
	}
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.body.Write(p)
	if err != nil {
		r.err = faas.Errorf(faas.Busy, "the answer cannot be kept: %w", err)
	}
	return n, r.err
}

// FlushError implements flushing for http.ResponseController: there is nobody to
// flush to.
func (r *Recorder) FlushError() error { return nil }

// Error is how the call has ended that this records: err, unless that is only what
// became of a Write that was refused.
func (r *Recorder) Error(err error) error {
	if r.err != nil {
		return r.err
	}
	return err
}

// Status is the answer's; 0 if there is none.
func (r *Recorder) Status() int { return r.status }

// Begin is the beginning of the answer, as an event shows it.
func (r *Recorder) Begin() string { return r.body.Begin() }

// Result is what was recorded. The Body is the receiver's.
func (r *Recorder) Result() *NewResult {
	return &NewResult{Status: r.status, Header: r.header, Body: r.body}
}

// Discard removes what was recorded.
func (r *Recorder) Discard() { r.body.Discard() }
