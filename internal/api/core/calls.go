package core

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"hob/faas"
	"hob/internal/logs"
	"hob/internal/store"
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
	filter := logs.CallFilter{
		App: p.text("app"), Function: p.text("function"),
		State: oneOf(p, "state", faas.CallStates()...),
		After: p.text("after"),
		Limit: p.number("limit", 1, maxCalls, defaultCalls),
	}
	queued := p.flag("queued", false)
	if filter.Function != "" && filter.App == "" {
		p.fail(faas.Errorf(faas.Invalid, `parameter "function" needs parameter "app" beside it`))
	}
	if filter.After != "" && !isPlace(filter.After) {
		p.fail(faas.Errorf(faas.Invalid, `parameter "after" is %q: it must be what an earlier answer called "next"`, filter.After))
	}
	if queued && (filter.State != "" || filter.After != "") {
		p.fail(faas.Errorf(faas.Invalid, `parameter "queued" is for itself: it goes with app, function and limit only`))
	}
	if p.err != nil {
		return p.err
	}
	if queued {
		return s.listQueue(w, r, filter)
	}
	live := s.Caller.Live()
	slices.SortFunc(live, func(a, b faas.Call) int { return cmp.Compare(b.ID, a.ID) })
	kept, next, err := s.kept(r.Context(), filter, live)
	if err != nil {
		return err
	}
	out := wireCalls{Calls: []wireCall{}, Next: next}
	for _, c := range live {
		if filter.After == "" && fits(c, filter) && !slices.ContainsFunc(kept, same(c)) { // it may have ended between the two looks
			out.Calls = append(out.Calls, wireOfCall(c))
		}
	}
	for _, c := range kept {
		out.Calls = append(out.Calls, wireOfCall(c))
	}
	return answer(w, http.StatusOK, out)
}

func fits(c faas.Call, f logs.CallFilter) bool {
	return (f.App == "" || c.App == f.App) && (f.Function == "" || c.Function == f.Function) && (f.State == "" || c.State == f.State)
}

func same(c faas.Call) func(faas.Call) bool {
	return func(o faas.Call) bool { return o.ID == c.ID }
}

// kept returns a page of the calls in the store and the journal, without those
// that are in flight, and where the next one begins: behind a call of the journal
// and, after a dash, one of the store. What the store says of a call counts.
func (s *Server) kept(ctx context.Context, filter logs.CallFilter, live []faas.Call) (calls []faas.Call, next string, err error) {
	lastPast, lastStored, _ := strings.Cut(filter.After, "-")
	filter.After = lastPast
	past, more, err := s.Logs.Calls(ctx, filter)
	if err != nil {
		return nil, "", err
	}
	var stored []faas.Call
	var moreStored string
	if s.Calls != nil {
		f := store.CallFilter{App: filter.App, Function: filter.Function, After: lastStored, Limit: filter.Limit}
		if filter.State != "" {
			f.States = []faas.CallState{filter.State}
		}
		stored, moreStored, err = s.Calls.List(ctx, f)
		if err != nil && faas.KindOf(err) != faas.NotFound { // the last one is not kept any more, nor is any before it
			return nil, "", err
		}
	}
	for n := 0; n < filter.Limit && len(past)+len(stored) > 0; n++ {
		var c faas.Call
		if len(past) == 0 || len(stored) > 0 && stored[0].ID >= past[0].ID {
			c, stored = stored[0], stored[1:]
			lastStored = c.ID
			if len(past) > 0 && past[0].ID == c.ID {
				past, lastPast = past[1:], c.ID
			}
		} else {
			c, past = past[0], past[1:]
			lastPast = c.ID
		}
		if c.State.Final() || !slices.ContainsFunc(live, same(c)) {
			calls = append(calls, c)
		}
	}
	if len(past)+len(stored) > 0 || more != "" || moreStored != "" {
		next = strings.TrimSuffix(lastPast+"-"+lastStored, "-")
	}
	return calls, next, nil
}

// isPlace reports whether after is what kept may have returned.
func isPlace(after string) bool {
	past, stored, _ := strings.Cut(after, "-")
	for _, id := range []string{past, stored} {
		if _, ok := faas.IDTime(id); !ok && id != "" {
			return false
		}
	}
	return past+stored != ""
}

// listQueue answers the calls that wait in the queue, the next to start first.
func (s *Server) listQueue(w http.ResponseWriter, r *http.Request, filter logs.CallFilter) error {
	if s.Queue == nil {
		return errNoQueue
	}
	functions, err := s.functions(filter.App, filter.Function)
	if err != nil {
		return err
	}
	out := wireCalls{Calls: []wireCall{}}
	if len(functions) == 0 {
		return answer(w, http.StatusOK, out)
	}
	calls, err := s.Queue.Queued(r.Context(), functions, filter.Limit)
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
	if s.Queue != nil {
		if c, err := s.Queue.Find(ctx, id); faas.KindOf(err) != faas.NotFound {
			return c, err
		}
	} else if live := s.Caller.Live(); slices.ContainsFunc(live, same(faas.Call{ID: id})) {
		return live[slices.IndexFunc(live, same(faas.Call{ID: id}))], nil
	}
	return s.Logs.Call(id)
}
