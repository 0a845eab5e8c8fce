package core

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// top answers what goes on now, in one look: what a live view needs each second.
func (s *Server) top(w http.ResponseWriter, r *http.Request) error {
	if p := query(r); p.err != nil {
		return p.err
	}
	live, sandboxes := s.Caller.Live(), s.sandboxes()
	out := wireTop{Time: time.Now().UTC(), Node: s.nodeNow(len(sandboxes), live), Functions: []wireTopFunction{}}

	// Calls name their app, rates only the function's ID, sandboxes only names.
	type name struct{ app, function string }
	functions := make(map[name]*wireTopFunction)
	get := func(app, function string) *wireTopFunction {
		n := name{app, function}
		if functions[n] == nil {
			functions[n] = &wireTopFunction{App: app, Function: function, P50: time.Duration(0).String()}
		}
		return functions[n]
	}
	slices.SortFunc(live, func(a, b faas.Call) int { return cmp.Compare(a.ID, b.ID) })
	for _, c := range live {
		f := get(c.App, c.Function)
		if c.State != faas.CallQueued {
			f.Running++
			continue
		}
		f.Queued++
		f.Waiting = cmp.Or(f.Waiting, c.Waiting)
	}
	for _, b := range sandboxes {
		f := get(b.App, b.Function)
		f.Memory += int64(b.Memory)
		switch b.State {
		case "starting":
			f.Sandboxes.Starting++
		case "idle":
			f.Sandboxes.Idle++
		case "frozen":
			f.Sandboxes.Frozen++
		case "ending":
		default:
			f.Sandboxes.Busy++
		}
	}
	rates := s.Logs.Rates()
	var tallies map[string]store.Tally
	if s.Calls != nil {
		var err error
		if tallies, err = s.Calls.Tallies(r.Context()); err != nil {
			return err
		}
	}
	for _, fn := range s.Catalog.Functions("") {
		if n := tallies[fn.ID].Queued; n > 0 {
			get(s.appName(fn), fn.Name).Queued += n
		}
		if rate, some := rates[fn.ID]; some {
			f := get(s.appName(fn), fn.Name)
			f.PerSecond, f.Failed, f.P50 = rate.PerSecond, rate.Failed, rate.P50.String()
		}
	}
	for _, f := range functions {
		out.Functions = append(out.Functions, *f)
	}
	slices.SortFunc(out.Functions, func(a, b wireTopFunction) int {
		return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Function, b.Function))
	})
	return answer(w, http.StatusOK, out)
}
