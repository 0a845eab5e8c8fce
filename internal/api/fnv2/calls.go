package fnv2

import (
	"context"
	"io"
	"net/http"

	"hob/faas"
	"hob/internal/api/definition"
	"hob/internal/api/records"
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

func (s *Server) wireOfCall(c faas.Call, fn faas.Function) wireCall {
	wire := wireCall{
		ID: c.ID, Status: records.Status(c, s.Calls.Now()), Error: c.Error, AppID: fn.App, FnID: fn.ID,
		CreatedAt: stamp{Time: c.Queued}, StartedAt: stamp{Time: c.Started}, CompletedAt: stamp{Time: c.Finished},
	}
	if c.ErrKind == faas.Internal {
		wire.Error = internalError
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
	var at records.Place
	p, err := definition.PageOf(q, func(cursor string) (_ string, ok bool) {
		at, ok = records.ParsePlace(cursor)
		return cursor, ok
	})
	if err != nil {
		return err
	}
	sel := records.Selection{Function: fn.Name, FuncID: fn.ID}
	if sel.From, sel.To, err = records.Between(q); err != nil {
		return err
	}
	app, err := s.Catalog.AppByID(fn.App)
	if err != nil {
		return errNoFn // just removed, with its app
	}
	sel.App = app.Name
	found, err := s.book().Page(r.Context(), sel, at, p.Limit)
	if err != nil {
		return err
	}
	out := wireList[wireCall]{Items: []wireCall{}}
	for _, c := range found.Calls {
		out.Items = append(out.Items, s.wireOfCall(c, fn))
	}
	if len(out.Items) == p.Limit {
		out.NextCursor = found.Next.String()
	}
	return answer(w, out)
}

// book is where calls are.
func (s *Server) book() records.Book {
	return records.Book{Live: s.Caller.Live, Find: s.Caller.Find, Calls: s.Calls, Logs: s.Logs}
}

// callOf is the call of fn with this ID, wherever it is.
func (s *Server) callOf(ctx context.Context, fn faas.Function, id string) (faas.Call, error) {
	c, err := s.book().Call(ctx, id)
	if faas.KindOf(err) == faas.NotFound || err == nil && c.FuncID != fn.ID {
		return faas.Call{ID: id, FuncID: fn.ID}, errNoCall
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

// getCallLog answers what a call has written so far, as JSON or, if the client asks
// for it, as it is.
func (s *Server) getCallLog(w http.ResponseWriter, r *http.Request) error {
	fn, gone, err := s.fnOfCalls(w, r)
	if gone || err != nil {
		return err
	}
	asText, ok := records.WantsText(r.Header.Values("Accept"))
	if !ok {
		return fault{http.StatusNotAcceptable, "unable to respond within acceptable response content types"}
	}
	id := r.PathValue("call")
	call, unknown := s.callOf(r.Context(), fn, id)
	if unknown != nil && unknown != errNoCall {
		return unknown
	}
	erased, err := s.Logs.Gone(&call)
	if err != nil {
		return err
	}
	if erased && unknown == nil {
		return errNoCallLog
	}
	text, err := s.book().Log(r.Context(), call)
	if err != nil {
		return err
	}
	if unknown != nil && text == "" { // lines may be kept longer than the record of their call
		return errNoCallLog
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
