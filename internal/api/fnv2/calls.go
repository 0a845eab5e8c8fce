package fnv2

import (
	"context"
	"io"
	"iter"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/logs"
	"hob/internal/store"
)

// wireCall is a call as it is shown.
type wireCall struct {
	ID          string `json:"id"`
	Status      string `json:"status"`
	Error       string `json:"error,omitempty"`
	AppID       string `json:"app_id"`
	FnID        string `json:"fn_id"`
	CreatedAt   stamp  `json:"created_at"`
	StartedAt   stamp  `json:"started_at,omitzero"`
	CompletedAt stamp  `json:"completed_at,omitzero"`
}

// statuses are the words of Fn for the states of calls. One that is queued and not
// due yet is "delayed".
var statuses = map[faas.CallState]string{
	faas.CallQueued:    "queued",
	faas.CallRunning:   "running",
	faas.CallSucceeded: "success",
	faas.CallFailed:    "error",
	faas.CallTimedOut:  "timeout",
	faas.CallCanceled:  "cancelled",
}

func (s *Server) wireOfCall(c faas.Call, fn faas.Function) wireCall {
	wire := wireCall{
		ID: c.ID, Status: statuses[c.State], Error: c.Error, AppID: fn.App, FnID: fn.ID,
		CreatedAt: stamp{c.Queued}, StartedAt: stamp{c.Started}, CompletedAt: stamp{c.Finished},
	}
	if c.ErrKind == faas.Internal {
		wire.Error = internalError
	}
	if c.State == faas.CallQueued && c.Due.After(s.Calls.Now()) {
		wire.Status = "delayed"
	}
	return wire
}

// fnOfCalls is the function in the path of r. With CallsGone there is nothing more to
// be said, and it has been said.
func (s *Server) fnOfCalls(w http.ResponseWriter, r *http.Request) (fn faas.Function, gone bool, err error) {
	if s.CallsGone {
		w.WriteHeader(http.StatusGone)
		return fn, true, nil
	}
	fn, err = s.fn(r.PathValue("id"))
	return fn, false, err
}

// listCalls answers calls of a function, those that are under way too, the newest
// first.
func (s *Server) listCalls(w http.ResponseWriter, r *http.Request) error {
	fn, gone, err := s.fnOfCalls(w, r)
	if gone || err != nil {
		return err
	}
	q := r.URL.Query()
	var from place
	p, err := pageOf(q, func(cursor string) (string, bool) {
		var ok bool
		from, ok = parsePlace(cursor)
		return cursor, ok
	})
	if err != nil {
		return err
	}
	after, err := epoch(q, "from_time")
	if err != nil {
		return err
	}
	before, err := epoch(q, "to_time")
	if err != nil {
		return err
	}
	out := wireList[wireCall]{Items: []wireCall{}}
	for at, err := range s.calls(r.Context(), fn, from) {
		if err != nil {
			return err
		}
		if made, _ := faas.IDTime(at.call.ID); !after.IsZero() && made.Before(after) {
			break // all that follow are older
		}
		created := at.call.Queued
		if !after.IsZero() && !created.After(after) || !before.IsZero() && !created.Before(before) {
			continue
		}
		out.Items = append(out.Items, s.wireOfCall(at.call, fn))
		if len(out.Items) == p.limit {
			out.NextCursor = at.cursor()
			break
		}
	}
	return answer(w, out)
}

// epoch reads a time in whole seconds since 1970; absent: the zero time.
func epoch(q url.Values, name string) (time.Time, error) {
	text := q.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, invalid(name + " is not an epoch time")
	}
	return time.Unix(n, 0), nil
}

// place is where a list of calls goes on: behind the call last and, of the store,
// behind the call stored. Either may be empty: nothing was listed yet.
type place struct {
	last, stored string // IDs

	call faas.Call // which stands before it
}

func (p place) cursor() string { return strings.TrimSuffix(p.last+"-"+p.stored, "-") }

// parsePlace reads a cursor.
func parsePlace(cursor string) (p place, ok bool) {
	p.last, p.stored, _ = strings.Cut(cursor, "-")
	_, isLast := faas.IDTime(p.last)
	_, isStored := faas.IDTime(p.stored)
	return p, cursor == "" || isLast && (isStored || p.stored == "")
}

// origin is calls of one source, the newest first.
type origin struct {
	next func() (faas.Call, error, bool)
	head faas.Call
	more bool // there is a head
}

func (o *origin) advance() (err error) {
	o.head, err, o.more = o.next()
	return err
}

// calls yields the calls of fn behind p, the newest first, each with the place behind
// it: those in flight, those of the store and those of the journal. What an earlier
// one of these says of a call counts.
func (s *Server) calls(ctx context.Context, fn faas.Function, p place) iter.Seq2[place, error] {
	const inStore = 1
	return func(yield func(place, error) bool) {
		origins := [3]origin{}
		for i, calls := range []iter.Seq2[faas.Call, error]{
			s.liveCalls(fn, p.last), s.storedCalls(ctx, fn, p.stored), s.pastCalls(ctx, fn, p.last),
		} {
			next, stop := iter.Pull2(calls)
			defer stop()
			origins[i].next = next
			if err := origins[i].advance(); err != nil {
				yield(place{}, err)
				return
			}
		}
		for {
			var newest *origin
			for i := range origins {
				if o := &origins[i]; o.more && (newest == nil || o.head.ID > newest.head.ID) {
					newest = o
				}
			}
			if newest == nil {
				return
			}
			p.call = newest.head
			if p.last == "" || p.call.ID < p.last {
				p.last = p.call.ID
			}
			for i := range origins {
				o := &origins[i]
				if !o.more || o.head.ID != p.call.ID {
					continue
				}
				if i == inStore {
					p.stored = p.call.ID
				}
				if err := o.advance(); err != nil {
					yield(place{}, err)
					return
				}
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// liveCalls yields the calls of fn in flight that are older than the one with this ID.
func (s *Server) liveCalls(fn faas.Function, before string) iter.Seq2[faas.Call, error] {
	return func(yield func(faas.Call, error) bool) {
		live := s.Caller.Live()
		slices.SortFunc(live, func(a, b faas.Call) int { return strings.Compare(b.ID, a.ID) })
		for _, c := range live {
			if c.FuncID == fn.ID && (before == "" || c.ID < before) && !yield(c, nil) {
				return
			}
		}
	}
}

// callBatch is how many calls are read at once.
const callBatch = 100

// storedCalls yields the calls of fn in the store, accepted before the one with this ID.
func (s *Server) storedCalls(ctx context.Context, fn faas.Function, before string) iter.Seq2[faas.Call, error] {
	return func(yield func(faas.Call, error) bool) {
		for more := true; more; more = before != "" {
			calls, next, err := s.Calls.List(ctx, store.CallFilter{FuncID: fn.ID, After: before, Limit: callBatch})
			if faas.KindOf(err) == faas.NotFound {
				return // that one is not kept any more, nor is any before it
			}
			if !yieldAll(yield, calls, err, fn) {
				return
			}
			before = next
		}
	}
}

// pastCalls yields the calls of fn in the journal that are older than the one with
// this ID.
func (s *Server) pastCalls(ctx context.Context, fn faas.Function, before string) iter.Seq2[faas.Call, error] {
	return func(yield func(faas.Call, error) bool) {
		app, err := s.Catalog.AppByID(fn.App)
		if err != nil {
			return // just removed, and the function with it
		}
		for more := true; more; more = before != "" {
			calls, next, err := s.Logs.Calls(ctx, logs.CallFilter{App: app.Name, Function: fn.Name, After: before, Limit: callBatch})
			if !yieldAll(yield, calls, err, fn) {
				return
			}
			before = next
		}
	}
}

// yieldAll yields those calls that are of fn, not of one that had its name before
// it, and reports whether more are wanted.
func yieldAll(yield func(faas.Call, error) bool, calls []faas.Call, err error, fn faas.Function) bool {
	if err != nil {
		yield(faas.Call{}, err)
		return false
	}
	for _, c := range calls {
		if c.FuncID == fn.ID && !yield(c, nil) {
			return false
		}
	}
	return true
}

// callOf is the call of fn with this ID, wherever it is.
func (s *Server) callOf(ctx context.Context, fn faas.Function, id string) (faas.Call, error) {
	c, err := s.Caller.Find(ctx, id)
	if faas.KindOf(err) == faas.NotFound {
		c, err = s.Logs.Call(id)
	}
	if faas.KindOf(err) == faas.NotFound || err == nil && c.FuncID != fn.ID {
		return c, errNoCall
	}
	return c, err
}

func (s *Server) getCall(w http.ResponseWriter, r *http.Request) error {
	fn, gone, err := s.fnOfCalls(w, r)
	if gone || err != nil {
		return err
	}
	c, err := s.callOf(r.Context(), fn, r.PathValue("call"))
	if err != nil {
		return err
	}
	return answer(w, struct {
		Message string   `json:"message"`
		Call    wireCall `json:"call"`
	}{"Successfully loaded call", s.wireOfCall(c, fn)})
}

// maxCallLog is how many bytes of a call's log are answered: what a Fn server keeps.
const maxCallLog = 1 << 20

// getCallLog answers what a call has written so far, as JSON or, if the client asks
// for it, as it is.
func (s *Server) getCallLog(w http.ResponseWriter, r *http.Request) error {
	fn, gone, err := s.fnOfCalls(w, r)
	if gone || err != nil {
		return err
	}
	asText, ok := wantsText(r.Header.Values("Accept"))
	if !ok {
		return fault{http.StatusNotAcceptable, "unable to respond within acceptable response content types"}
	}
	id := r.PathValue("call")
	call, unknown := s.callOf(r.Context(), fn, id)
	if unknown != nil && unknown != errNoCall {
		return unknown
	}
	text, err := s.logOf(r.Context(), fn, id)
	if err != nil {
		return err
	}
	if unknown != nil && text == "" { // lines may be kept longer than the record of their call
		return errNoCallLog
	}
	if text == "" && call.Error != "" {
		text = call.Error + "\n" // of a sandbox that ended before it had the call, with its last words
	}
	if asText {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, text)
		return nil
	}
	type wireLog struct {
		CallID string `json:"call_id"`
		Log    string `json:"log"`
	}
	return answer(w, struct {
		Message string  `json:"message"`
		Log     wireLog `json:"log"`
	}{"Successfully loaded log", wireLog{id, text}})
}

// logOf is the lines of a call of fn, at most maxCallLog bytes from the first on.
func (s *Server) logOf(ctx context.Context, fn faas.Function, id string) (string, error) {
	var text strings.Builder
	for line, err := range s.Logs.Follow(ctx, logs.Selection{Function: fn.ID, Call: id, Tail: -1, Only: logs.Lines}) {
		if err != nil {
			return "", err
		}
		if text.Len()+len(line.Text) >= maxCallLog {
			break
		}
		text.WriteString(line.Text + "\n")
	}
	return text.String(), nil
}

// wantsText reports whether a log is wanted as text rather than as JSON, and whether
// one of the two will do.
func wantsText(accept []string) (text, ok bool) {
	if len(accept) == 0 {
		return false, true
	}
	for item := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, _, _ := mime.ParseMediaType(item)
		switch kind {
		case "application/json", "*/*", "application/*":
			return false, true
		case "text/plain", "text/*":
			return true, true
		}
	}
	return false, false
}
