package api

import (
	"io"
	"net/http"
	"time"
)

// restTime is how long the sender of a Steady body may send nothing.
const restTime = time.Minute

// Steady returns body, whose sender must not rest for longer than a minute: for what
// is read to its end before anything else bounds the time.
func Steady(w http.ResponseWriter, body io.ReadCloser) io.ReadCloser {
	return &steady{body, http.NewResponseController(w)}
}

type steady struct {
	io.ReadCloser
	control *http.ResponseController
}

func (s *steady) Read(p []byte) (int, error) {
	_ = s.control.SetReadDeadline(time.Now().Add(restTime)) // not every server has one
	n, err := s.ReadCloser.Read(p)
	if err == io.EOF {
		_ = s.control.SetReadDeadline(time.Time{})
	} // else it stays: net/http reads what is left before it answers
	return n, err
}
