package core

import (
	"encoding/json"
	"math"
	"net/http"
	"time"

	"hob/internal/logs"
)

// slowReader is how long one line may take to be taken by a client.
const slowReader = 30 * time.Second

// logs answers lines of a function's log as JSON lines, each as soon as it is
// there. An error after the first is the last line.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) error {
	p := query(r, "follow", "tail", "call")
	selection := logs.Selection{
		Follow: p.flag("follow"),
		Tail:   p.number("tail", 0, math.MaxInt32, -1),
		Call:   p.text("call"),
	}
	if p.err != nil {
		return p.err
	}
	fn, err := s.Catalog.Function(r.PathValue("app"), r.PathValue("function"))
	if err != nil {
		return err
	}
	selection.Function = fn.ID
	out := newLines(w)
	if selection.Follow {
		out.begin() // a client that follows waits for no line to know that it is connected
	}
	for line, err := range s.Logs.Follow(r.Context(), selection) {
		switch {
		case err != nil && r.Context().Err() != nil:
			return nil // the client has left
		case err != nil && !out.begun:
			return err
		case err != nil:
			out.write(s.late(r, err))
			return nil
		}
		if !out.write(wireLogLine{Time: line.Time.UTC(), Call: line.Call, Stream: line.Stream, Text: line.Text}) {
			return nil
		}
	}
	out.begin()
	return nil
}

// lines writes an answer of JSON lines.
type lines struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	enc   *json.Encoder
	begun bool
}

func newLines(w http.ResponseWriter) *lines {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &lines{w: w, rc: http.NewResponseController(w), enc: enc}
}

func (l *lines) begin() {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.w.WriteHeader(http.StatusOK)
		_ = l.rc.Flush()
	}
}

// write sends one line, and reports whether there is still somebody who reads.
func (l *lines) write(v any) bool {
	l.begin()
	_ = l.rc.SetWriteDeadline(time.Now().Add(slowReader)) // not every writer has one
	return l.enc.Encode(v) == nil && l.rc.Flush() == nil
}
