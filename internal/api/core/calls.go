package core

import (
	"cmp"
	"net/http"
	"slices"

	"hob/faas"
	"hob/internal/logs"
)

// Records of one answer.
const (
	defaultCalls = 50
	maxCalls     = 1000
)

// listCalls answers the calls in flight first (on the first page only, and
// beside the limit), then those of the journal, each the newest first.
func (s *Server) listCalls(w http.ResponseWriter, r *http.Request) error {
	p := query(r, "app", "function", "state", "after", "limit")
	filter := logs.CallFilter{
		App: p.text("app"), Function: p.text("function"),
		State: oneOf(p, "state", faas.CallStates()...),
		After: p.text("after"),
		Limit: p.number("limit", 1, maxCalls, defaultCalls),
	}
	if filter.Function != "" && filter.App == "" {
		p.fail(faas.Errorf(faas.Invalid, `parameter "function" needs parameter "app" beside it`))
	}
	if filter.After != "" {
		if _, ok := faas.IDTime(filter.After); !ok {
			p.fail(faas.Errorf(faas.Invalid, `parameter "after" is %q: it must be what an earlier answer called "next"`, filter.After))
		}
	}
	if p.err != nil {
		return p.err
	}
	var live []faas.Call
	if filter.After == "" {
		live = slices.DeleteFunc(s.Caller.Live(), func(c faas.Call) bool {
			return filter.App != "" && c.App != filter.App || filter.Function != "" && c.Function != filter.Function ||
				filter.State != "" && c.State != filter.State
		})
		slices.SortFunc(live, func(a, b faas.Call) int { return cmp.Compare(b.ID, a.ID) })
	}
	past, next, err := s.Logs.Calls(r.Context(), filter)
	if err != nil {
		return err
	}
	out := wireCalls{Calls: []wireCall{}, Next: next}
	for _, c := range live {
		ended := slices.ContainsFunc(past, func(e faas.Call) bool { return e.ID == c.ID })
		if !ended { // between the two looks
			out.Calls = append(out.Calls, wireOfCall(c))
		}
	}
	for _, c := range past {
		out.Calls = append(out.Calls, wireOfCall(c))
	}
	return answer(w, http.StatusOK, out)
}

func (s *Server) getCall(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("call")
	for _, c := range s.Caller.Live() {
		if c.ID == id {
			return answer(w, http.StatusOK, wireOfCall(c))
		}
	}
	c, err := s.Logs.Call(id)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, wireOfCall(c))
}
