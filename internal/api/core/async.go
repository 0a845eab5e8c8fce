package core

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/api"
)

// Queue runs asynchronous calls. It is what this API needs of package invoke.
type Queue interface {
	// Enqueue makes a call durable, in line after a delay, below 0 for the
	// function's, and returns it as it was accepted, or the earlier one of its key.
	Enqueue(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, delay time.Duration) (faas.Call, error)
	// Find returns a call that is not over, or is kept in the store.
	Find(ctx context.Context, id string) (faas.Call, error)
	// Queued returns queued calls in the order in which they are to start.
	Queued(ctx context.Context, functions []faas.Function, limit int) ([]faas.Call, error)
	// Cancel ends a queued call, or tells one that runs to end.
	Cancel(ctx context.Context, id, reason string) (faas.Call, error)
	// Retry accepts a new call that repeats one that did not succeed.
	Retry(ctx context.Context, id string) (faas.Call, error)
}

// Headers of asynchronous calls.
const (
	headerState    = "Hob-State" // of the call; on every answer that is about an asynchronous one
	headerPlace    = "Hob-Place"
	headerReason   = "Hob-Wait-Reason"
	headerEstimate = "Hob-Wait-Estimate"

	headerKey      = "Idempotency-Key"
	headerReplayed = "Idempotency-Replayed"
)

const (
	maxWait = time.Hour // for the end of a call
)

// ask is how a caller wants a call to be made.
type ask struct {
	async    bool
	wait     time.Duration // for the end of an asynchronous one
	waits    bool          // wait was named
	priority int
	delay    time.Duration // below 0: the function's
	key      string
}

// askOf reads the headers that say how a call is made, and takes those out that
// are not for the function.
func askOf(h http.Header) (ask, error) {
	a := ask{delay: -1}
	var err error
	if given, is := h["Prefer"]; is {
		if err = a.prefer(h, given); err != nil {
			return a, err
		}
	}
	if given, is := h[headerKey]; is {
		if a.key = given[0]; len(given) > 1 {
			return a, faas.Errorf(faas.Invalid, "header %s is given %d times", headerKey, len(given))
		}
		if !api.IsKey(a.key) {
			return a, faas.Errorf(faas.Invalid, "bad header %s: it has 1 to %d visible ASCII characters, no blanks", headerKey, api.MaxKey)
		}
	}
	if a.async {
		a.priority, a.delay, err = api.Queueing(h)
		return a, err
	}
	for _, name := range []string{api.HeaderPriority, api.HeaderDelay} {
		if h[name] != nil {
			return a, faas.Errorf(faas.Invalid, "header %s is for asynchronous calls: send Prefer: respond-async beside it", name)
		}
	}
	return a, nil
}

// prefer reads the header Prefer (RFC 7240). Of what it asks for we know
// respond-async and, beside it, wait; the rest stays, for the function.
func (a *ask) prefer(h http.Header, given []string) error {
	var rest []string
	var wait string
	for _, p := range preferences(given) {
		switch {
		case p.name == "respond-async":
			a.async = true
		case p.name == "wait" && !a.waits: // the first of several counts
			a.waits, wait = true, p.value
		case p.name != "wait":
			rest = append(rest, p.text)
		}
	}
	if !a.async {
		a.waits = false
		return nil // all of it is for the function
	}
	if a.waits {
		seconds, err := strconv.ParseUint(wait, 10, 32)
		a.wait = time.Duration(seconds) * time.Second
		if err != nil || a.wait > maxWait {
			return faas.Errorf(faas.Invalid, "header Prefer has wait=%q: it must be whole seconds, at most %d", wait, maxWait/time.Second)
		}
	}
	if delete(h, "Prefer"); len(rest) > 0 {
		h["Prefer"] = []string{strings.Join(rest, ", ")}
	}
	return nil
}

// applied is the header Preference-Applied.
func (a *ask) applied() string {
	if a.waits {
		return "respond-async, wait=" + strconv.Itoa(int(a.wait/time.Second))
	}
	return "respond-async"
}

type preference struct {
	text        string // as it was written, with its parameters
	name, value string // in lower case; without quotes
}

// preferences reads the lines of a header Prefer.
func preferences(lines []string) []preference {
	var all []preference
	for _, line := range lines {
		for len(line) > 0 {
			var text string
			text, line = element(line, ',')
			main, _ := element(text, ';')
			name, value, _ := strings.Cut(main, "=")
			p := preference{text: strings.TrimSpace(text), name: strings.ToLower(strings.TrimSpace(name)), value: unquoted(strings.TrimSpace(value))}
			if p.name != "" {
				all = append(all, p)
			}
		}
	}
	return all
}

// element cuts s at the first sep that is not in quotes.
func element(s string, sep byte) (first, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func unquoted(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	var b strings.Builder
	for s = s[1 : len(s)-1]; s != ""; s = s[1:] {
		if s[0] == '\\' && len(s) > 1 {
			s = s[1:]
		}
		b.WriteByte(s[0])
	}
	return b.String()
}

// enqueue makes an asynchronous call. It answers with the call, or, if its
// caller waits long enough, with its result.
func (s *Server) enqueue(w http.ResponseWriter, r *http.Request, fn faas.Function, call *faas.Call, req *faas.Request, a ask) error {
	if s.Queue == nil {
		return errNoQueue
	}
	call.Priority = a.priority
	accepted, err := s.Queue.Enqueue(r.Context(), fn, call, req, a.delay)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Preference-Applied", a.applied())
	if accepted.ID != call.ID {
		h.Set(headerReplayed, "true")
	}
	if a.wait > 0 {
		ended, err := s.await(r.Context(), accepted, a.wait)
		if err != nil || r.Context().Err() != nil {
			return err
		}
		if ended.State.Final() {
			return s.answerResult(w, r, ended)
		}
		accepted = ended
	}
	return answerAccepted(w, accepted)
}

// await returns a call when it is over, or, after a time, as it is then. When
// the caller leaves there is nobody to return it to.
func (s *Server) await(ctx context.Context, call faas.Call, longest time.Duration) (faas.Call, error) {
	if call.State.Final() || longest == 0 {
		return call, nil
	}
	wait, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	ended, err := s.Calls.Wait(wait, call.ID)
	switch {
	case err == nil || wait.Err() == nil:
		return ended, err
	case ctx.Err() != nil:
		return call, nil
	}
	return s.Queue.Find(ctx, call.ID)
}

// answerAccepted answers a call that somebody must come back to.
func answerAccepted(w http.ResponseWriter, c faas.Call) error {
	w.Header().Set("Location", "/api/calls/"+c.ID)
	return answerCall(w, http.StatusAccepted, c)
}

// answerCall answers an asynchronous call as it is, its place in headers too.
func answerCall(w http.ResponseWriter, status int, c faas.Call) error {
	h, wire := w.Header(), wireOfCall(c)
	h.Set(headerCall, c.ID)
	h.Set(headerState, string(c.State))
	if c.State == faas.CallQueued {
		if c.Place > 0 {
			h.Set(headerPlace, strconv.Itoa(c.Place))
		}
		if c.Waiting != "" {
			h.Set(headerReason, c.Waiting)
		}
		if wire.Estimate != "" {
			h.Set(headerEstimate, wire.Estimate)
		}
	}
	return answer(w, status, wire)
}

// result answers what a call answered, waiting for it if it is asked to.
func (s *Server) result(w http.ResponseWriter, r *http.Request) error {
	p := query(r, "wait")
	wait := p.duration("wait", maxWait)
	if p.err != nil {
		return p.err
	}
	if s.Queue == nil {
		return errNoQueue
	}
	id := r.PathValue("call")
	call, err := s.Calls.Call(r.Context(), id)
	if err == nil && !call.State.Final() {
		if call, err = s.await(r.Context(), call, wait); err == nil && wait == 0 {
			call, err = s.Queue.Find(r.Context(), id) // with its place
		}
	}
	switch {
	case r.Context().Err() != nil:
		return nil // nobody is left to be answered
	case faas.KindOf(err) == faas.NotFound:
		return s.noResult(r.Context(), id)
	case err != nil:
		return err
	case call.State.Final():
		return s.answerResult(w, r, call)
	}
	w.Header().Set("Retry-After", "1")
	return answerCall(w, http.StatusAccepted, call)
}

// noResult is why the store does not know a call.
func (s *Server) noResult(ctx context.Context, id string) error {
	call, err := s.find(ctx, id)
	switch {
	case err != nil:
		return err
	case call.Kind == faas.CallSync:
		return faas.Errorf(faas.NotFound, "call %s is synchronous: its answer goes to its caller only", id)
	}
	return faas.Errorf(faas.NotFound, "the result of call %s: %w", id, faas.ErrGone)
}

// notOfResult are headers that a result has had on its way, or that are ours.
var notOfResult = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Content-Length": true, "Hob-Outcome": true,
	headerCall: true, headerState: true, headerFault: true, headerReplayed: true, api.RequestID: true,
}

// answerResult answers a call that is over: with what the function answered, or
// with why it did not.
func (s *Server) answerResult(w http.ResponseWriter, r *http.Request, call faas.Call) error {
	h := w.Header()
	h.Set(headerCall, call.ID)
	h.Set(headerState, string(call.State))
	if call.ErrKind != faas.OK {
		return faas.Errorf(call.ErrKind, "%s", wireOfCall(call).Error.Message)
	}
	result, body, err := s.Calls.Result(r.Context(), call.ID)
	if err != nil {
		return err
	}
	defer body.Close()
	for name, values := range result.Header {
		if !notOfResult[name] && !strings.HasPrefix(name, http.TrailerPrefix) {
			h[name] = values
		}
	}
	status := cmp.Or(result.Status, http.StatusOK)
	if status != http.StatusNoContent && status != http.StatusNotModified {
		h.Set("Content-Length", strconv.FormatInt(body.Size(), 10))
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := io.Copy(w, body); err != nil {
		panic(http.ErrAbortHandler) // half a result must not pass for a whole one
	}
	return nil
}

// cancelCall ends a call.
func (s *Server) cancelCall(w http.ResponseWriter, r *http.Request) error {
	id, err := s.changes(r)
	if err != nil {
		return err
	}
	call, err := s.Queue.Cancel(r.Context(), id, "it was canceled on request")
	if past, is := s.past(r.Context(), id, err); is {
		return faas.Errorf(faas.Conflict, "call %s is over: it is %s", id, past.State)
	}
	if err != nil {
		return err
	}
	status := http.StatusAccepted // it was told to end
	if call.State.Final() {
		status = http.StatusOK
	}
	return answerCall(w, status, call)
}

// retryCall repeats a call that did not succeed.
func (s *Server) retryCall(w http.ResponseWriter, r *http.Request) error {
	if s.NoCalls {
		return errNoCalls
	}
	id, err := s.changes(r)
	if err != nil {
		return err
	}
	call, err := s.Queue.Retry(r.Context(), id)
	switch past, is := s.past(r.Context(), id, err); {
	case is && past.Kind == faas.CallSync:
		return faas.Errorf(faas.Conflict, "call %s was synchronous: its payload was not kept, so it cannot be run again", id)
	case is:
		return faas.Errorf(faas.NotFound, "the payload of call %s: %w", id, faas.ErrGone)
	}
	if err != nil {
		return err
	}
	return answerAccepted(w, call)
}

// changes returns the id of the call that r is to change.
func (s *Server) changes(r *http.Request) (string, error) {
	if p := query(r); p.err != nil {
		return "", p.err
	}
	if s.Queue == nil {
		return "", errNoQueue
	}
	return r.PathValue("call"), nil
}

// past is the record of a call that is nowhere but in the journal, which is why
// the queue does not know it.
func (s *Server) past(ctx context.Context, id string, err error) (call faas.Call, is bool) {
	if faas.KindOf(err) != faas.NotFound || errors.Is(err, faas.ErrGone) {
		return faas.Call{}, false
	}
	if _, err := s.Calls.Call(ctx, id); err == nil {
		return faas.Call{}, false // it is something else that is not there
	}
	call, err = s.Logs.Call(id)
	return call, err == nil
}

var (
	errNoQueue = faas.Errorf(faas.Unsupported, "this server takes no asynchronous calls")
	errNoCalls = faas.Errorf(faas.Unsupported, "this node takes no calls: its node-type is api")
)
