package core

import (
	"context"
	"net/http"
	"slices"

	"hob/faas"
	"hob/internal/api/records"
)

// Records of one answer.
const (
	defaultCalls = 50
	maxCalls     = 1000
)

// listCalls answers the calls in flight first (on the first page only, and
// beside the limit), then those of the queue and the journal, each the newest
// first. With the parameter queued it is the queue, in its order.
func (s *Server) listCalls(w http.ResponseWriter, r *http.Request) error {
	p := query(r, "app", "function", "state", "after", "limit", "queued")
	sel := records.Selection{
		App: p.text("app"), Function: p.text("function"),
		State: oneOf(p, "state", faas.CallStates()...),
		Apart: true,
	}
	after, limit := p.text("after"), p.number("limit", 1, maxCalls, defaultCalls)
	queued := p.flag("queued", false)
	if sel.Function != "" && sel.App == "" {
		p.fail(faas.Errorf(faas.Invalid, `parameter "function" needs parameter "app" beside it`))
	}
	from, ok := records.ParsePlace(after)
	if !ok {
		p.fail(faas.Errorf(faas.Invalid, `parameter "after" is %q: it must be what an earlier answer called "next"`, after))
	}
	if queued && (sel.State != "" || after != "") {
		p.fail(faas.Errorf(faas.Invalid, `parameter "queued" is for itself: it goes with app, function and limit only`))
	}
	if p.err != nil {
		return p.err
	}
	if queued {
		return s.listQueue(w, r, sel.App, sel.Function, limit)
	}
	found, err := s.book().Page(r.Context(), sel, from, limit)
	if err != nil {
		return err
	}
	out := wireCalls{Calls: []wireCall{}}
	if found.More {
		out.Next = found.Next.String()
	}
	for _, c := range slices.Concat(found.Live, found.Calls) {
		out.Calls = append(out.Calls, wireOfCall(c))
	}
	return answer(w, http.StatusOK, out)
}

// book is where calls are.
func (s *Server) book() records.Book {
	b := records.Book{Live: s.Caller.Live, Calls: s.Calls, Logs: s.Logs}
	if s.Queue != nil {
		b.Find = s.Queue.Find
	}
	return b
}

// listQueue answers the calls that wait in the queue, the next to start first.
func (s *Server) listQueue(w http.ResponseWriter, r *http.Request, app, function string, limit int) error {
	if s.Queue == nil {
		return errNoQueue
	}
	functions, err := s.functions(app, function)
	if err != nil {
		return err
	}
	out := wireCalls{Calls: []wireCall{}}
	if len(functions) == 0 {
		return answer(w, http.StatusOK, out)
	}
	calls, err := s.Queue.Queued(r.Context(), functions, limit)
	if err != nil {
		return err
	}
	for _, c := range calls {
		out.Calls = append(out.Calls, wireOfCall(c))
	}
	return answer(w, http.StatusOK, out)
}

// functions are one function, those of an app, or all.
func (s *Server) functions(app, function string) ([]faas.Function, error) {
	if function != "" {
		fn, err := s.Catalog.Function(app, function)
		return []faas.Function{fn}, err
	}
	if app != "" {
		if _, err := s.Catalog.App(app); err != nil {
			return nil, err
		}
	}
	return s.Catalog.Functions(app), nil
}

func (s *Server) getCall(w http.ResponseWriter, r *http.Request) error {
	if p := query(r); p.err != nil {
		return p.err
	}
	c, err := s.find(r.Context(), r.PathValue("call"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, wireOfCall(c))
}

// find returns a call wherever it is.
func (s *Server) find(ctx context.Context, id string) (faas.Call, error) {
	return s.book().Call(ctx, id)
}
