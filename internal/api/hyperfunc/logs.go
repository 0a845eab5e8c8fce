package hyperfunc

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/logs"
)

// slowReader is how long one line may take to be taken by a client.
const slowReader = 30 * time.Second

// wireEvent is a line of a function's log.
type wireEvent struct {
	Time        time.Time
	Event       faas.EventName
	CallId      string
	ShortStdin  string `json:",omitempty"`
	ShortStdout string `json:",omitempty"`
	ShortStderr string `json:",omitempty"`
	Message     string `json:",omitempty"`
}

// logs answers the events of a function's calls as JSON lines: as the body of an
// answer, or, with "Upgrade: tcp", as a raw stream on the connection.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) error {
	fn, err := s.addressed(r)
	if err != nil {
		return err
	}
	sel := logs.Selection{Function: fn.ID, Only: logs.Events, Tail: -1}
	values, err := query(r)
	if err != nil {
		return err
	}
	if sel.Follow, err = flag("follow", values.Get("follow")); err != nil {
		return err
	}
	if tail := values.Get("tail"); tail != "" && tail != "all" {
		n, err := strconv.ParseUint(tail, 10, 31)
		if err != nil {
			return faas.Errorf(faas.Invalid, "tail %q is neither \"all\" nor a number of lines", tail)
		}
		sel.Tail = int(n)
	}
	if sel.Call = values.Get("callid"); sel.Call != "" {
		if _, err := s.callOf(r.Context(), fn, sel.Call); err != nil {
			return err
		}
	}
	if upgrade := r.Header.Get("Upgrade"); upgrade != "" {
		if !strings.EqualFold(upgrade, "tcp") {
			return faas.Errorf(faas.Invalid, "this can be upgraded to tcp only, not to %q", upgrade)
		}
		return s.stream(w, r, sel)
	}
	out := newLines(w)
	out.begin("application/json") // a client that follows waits for no line to know that it is connected
	return s.copyEvents(r.Context(), sel, out)
}

// stream sends the events on the connection itself, until they end or the client
// closes it.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, sel logs.Selection) error {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return faas.Errorf(faas.Invalid, "this connection cannot be upgraded to tcp: use HTTP/1.1")
	}
	ctx, stop := context.WithCancel(r.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	defer stop()
	_ = conn.SetDeadline(time.Time{}) // those of the server
	wg.Go(func() {
		_, _ = io.Copy(io.Discard, buffered) // nothing that is sent means anything
		stop()
	})
	wg.Go(func() {
		select {
		case <-s.Ending: // never, if nil
			stop()
		case <-ctx.Done():
		}
	})
	out := newRawLines(conn, buffered.Writer)
	_, _ = buffered.WriteString("HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	_ = out.flush()
	_ = s.copyEvents(ctx, sel, out) // there is no place for an error any more: the stream ends
	return nil
}

// copyEvents writes what sel selects to out, until it ends or nobody reads.
func (s *Server) copyEvents(ctx context.Context, sel logs.Selection, out *lines) error {
	for line, err := range s.Logs.Follow(ctx, sel) {
		if err != nil {
			if ctx.Err() == nil {
				if faas.KindOf(err) != faas.Busy { // else the node shuts down
					s.Log.Error("a log cannot be read", "function", sel.Function, "err", err)
				}
				panic(http.ErrAbortHandler) // what was sent must not pass for the whole
			}
			return nil // the client has left
		}
		if e := line.Event; e != nil && !out.write(wireEvent{
			Time: line.Time.UTC(), Event: e.Name, CallId: e.Call,
			ShortStdin: e.Stdin, ShortStdout: e.Stdout, ShortStderr: e.Stderr, Message: e.Message,
		}) {
			return nil
		}
	}
	return nil
}

// lines writes JSON lines, each as soon as it is there.
type lines struct {
	w        http.ResponseWriter // nil on a raw connection
	enc      *json.Encoder
	deadline func(time.Time) error
	flush    func() error
}

func newLines(w http.ResponseWriter) *lines {
	rc := http.NewResponseController(w)
	return (&lines{w: w, deadline: rc.SetWriteDeadline, flush: rc.Flush}).to(w)
}

func newRawLines(conn net.Conn, w *bufio.Writer) *lines {
	return (&lines{deadline: conn.SetWriteDeadline, flush: w.Flush}).to(w)
}

func (l *lines) to(w io.Writer) *lines {
	l.enc = json.NewEncoder(w)
	l.enc.SetEscapeHTML(false)
	return l
}

// begin sends the head of the answer.
func (l *lines) begin(contentType string) {
	l.w.Header().Set("Content-Type", contentType)
	l.w.WriteHeader(http.StatusOK)
	_ = l.flush()
}

// write sends one line, and reports whether there is still somebody who reads.
func (l *lines) write(v any) bool {
	_ = l.deadline(time.Now().Add(slowReader)) // not every writer has one
	return l.enc.Encode(v) == nil && l.flush() == nil
}
