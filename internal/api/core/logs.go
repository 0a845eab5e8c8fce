package core

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"time"

	"hob/faas"
	"hob/internal/logs"
)

// slowReader is how long one line may take to be taken by a client.
const slowReader = 30 * time.Second

// logs answers lines of a function's log as JSON lines, each as soon as it is
// there. An error after the first is the last line.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) error {
	p := query(r, "follow", "tail", "call", "events")
	selection := logs.Selection{
		Follow: p.flag("follow", false),
		Tail:   p.number("tail", 0, math.MaxInt32, -1),
		Call:   p.text("call"),
	}
	if !p.flag("events", true) {
		selection.Only = logs.Lines
	}
	if p.err != nil {
		return p.err
	}
	fn, err := s.Catalog.Function(r.PathValue("app"), r.PathValue("function"))
	if err != nil {
		return err
	}
	selection.Function = fn.ID
	unknown := s.checkCall(r.Context(), fn, selection.Call)
	if unknown != nil && (selection.Follow || faas.KindOf(unknown) != faas.NotFound) {
		return unknown // nothing more will come
	}
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
			out.write(s.late(w, r, err))
			return nil
		}
		if !out.write(wireOfLine(line)) {
			return nil
		}
	}
	if unknown != nil && !out.begun {
		return unknown // its lines may be kept longer than its record, but there are none
	}
	out.begin()
	return nil
}

// checkCall reports whether there is a call of fn with this id, if one is named:
// NotFound if none is known, Invalid if it is another function's.
func (s *Server) checkCall(ctx context.Context, fn faas.Function, id string) error {
	if id == "" {
		return nil
	}
	call, err := s.find(ctx, id)
	if err == nil && call.FuncID != fn.ID {
		return faas.Errorf(faas.Invalid, "call %s is not of function %q: it is of %s/%s", id, fn.Name, call.App, call.Function)
	}
	return err
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
