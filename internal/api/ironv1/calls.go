package ironv1

import (
	"context"
	"io"
	"net/http"
	"time"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/definition"
	"hob/internal/api/records"
)

// wireCall is a call as it is shown.
type wireCall struct {
	ID          string     `json:"id"`
	Status      string     `json:"status"`
	Error       string     `json:"error,omitempty"`
	AppID       string     `json:"app_id"`
	AppName     string     `json:"app_name"`
	Path        string     `json:"path"`
	FnID        string     `json:"fn_id"`
	TriggerID   string     `json:"trigger_id"`
	CreatedAt   stamp      `json:"created_at"`
	StartedAt   stamp      `json:"started_at,omitzero"`
	CompletedAt stamp      `json:"completed_at,omitzero"`
	Stats       []wireStat `json:"stats"`
}

// wireStat is what a call used: the most memory in bytes, and processor time.
type wireStat struct {
	Timestamp stamp `json:"timestamp"`
	Metrics   struct {
		MemUsage faas.Bytes    `json:"mem_usage"`
		CPUTotal time.Duration `json:"cpu_total"`
	} `json:"metrics"`
}

// wireCalls is a list of calls, or the part of it that was asked for.
type wireCalls struct {
	Message    string     `json:"message"`
	NextCursor string     `json:"next_cursor"`
	Calls      []wireCall `json:"calls"`
}

// wireOfCall is a call of app. t leads to its function, or is none.
func (s *Server) wireOfCall(app faas.App, t faas.Trigger, c faas.Call) wireCall {
	wire := wireCall{
		ID: c.ID, Status: records.Status(c, s.Calls.Now()), Error: c.Error,
		AppID: app.ID, AppName: app.Name, Path: t.Source, FnID: c.FuncID, TriggerID: t.ID,
		CreatedAt: stamp{Time: c.Queued}, StartedAt: stamp{Time: c.Started}, CompletedAt: stamp{Time: c.Finished},
		Stats: []wireStat{},
	}
	if c.ErrKind == faas.Internal {
		wire.Error = internalError
	}
	if used := c.Outcome; used.PeakMemory > 0 || used.CPUTime > 0 {
		stat := wireStat{Timestamp: wire.CompletedAt}
		stat.Metrics.MemUsage, stat.Metrics.CPUTotal = used.PeakMemory, used.CPUTime
		wire.Stats = append(wire.Stats, stat)
	}
	return wire
}

var (
	errNoCall    = fault{http.StatusNotFound, "Call not found"}
	errNoCallLog = fault{http.StatusNotFound, "Call log not found"}
)

func (s *Server) callRoutes(all *api.Routes) {
	all.Add(http.MethodGet, "/v1/apps/{app}/calls", s.listCalls)
	all.Add(http.MethodGet, "/v1/apps/{app}/calls/{call}", s.getCall)
	all.Add(http.MethodGet, "/v1/apps/{app}/calls/{call}/log", s.getCallLog)
	all.Add(http.MethodDelete, "/v1/apps/{app}/calls/{call}/log", s.deleteCallLog)
}

// mostCalls is how many calls are answered to who asks for all.
const mostCalls = 1000

// listCalls answers calls of an app, or of one route, the newest first. Without
// per_page and cursor these are all, but for mostCalls: then there is a cursor.
func (s *Server) listCalls(w http.ResponseWriter, r *http.Request) error {
	app, err := s.app(r.PathValue("app"))
	if err != nil {
		return err
	}
	q := r.URL.Query()
	var at records.Place
	p := definition.Page{Limit: mostCalls}
	if q.Has("per_page") || q.Has("cursor") {
		p, err = definition.PageOf(q, func(cursor string) (_ string, ok bool) {
			at, ok = records.ParsePlace(cursor)
			return cursor, ok
		})
		if err != nil {
			return err
		}
	}
	sel := records.Selection{App: app.Name, Of: s.isOf(app)}
	if sel.From, sel.To, err = records.Between(q); err != nil {
		return err
	}
	triggers := s.triggersOf(app)
	out := wireCalls{"Successfully listed calls", "", []wireCall{}}
	for _, name := range []string{"path", "route"} {
		if q.Get(name) == "" {
			continue
		}
		t, err := s.Catalog.TriggerBySource(app.ID, q.Get(name))
		if err != nil || sel.FuncID != "" && sel.FuncID != t.Function {
			return answer(w, http.StatusOK, out) // nothing has this path
		}
		if fn, err := s.Catalog.FunctionByID(t.Function); err == nil {
			sel.Function = fn.Name
		}
		sel.FuncID, triggers[t.Function] = t.Function, t
	}
	page, err := s.book().Page(r.Context(), sel, at, p.Limit)
	if err != nil {
		return err
	}
	for _, c := range page.Calls {
		out.Calls = append(out.Calls, s.wireOfCall(app, triggers[c.FuncID], c))
	}
	if page.More {
		out.NextCursor = page.Next.String()
	}
	return answer(w, http.StatusOK, out)
}

// triggersOf has, for each function of an app, the first trigger by name that leads to it.
func (s *Server) triggersOf(app faas.App) map[string]faas.Trigger {
	first := make(map[string]faas.Trigger)
	for t := range s.Catalog.TriggersAfter(app.ID, "") {
		if _, known := first[t.Function]; !known {
			first[t.Function] = t
		}
	}
	return first
}

// isOf returns what tells calls of app from those of one that had its name before.
func (s *Server) isOf(app faas.App) func(*faas.Call) bool {
	return func(c *faas.Call) bool {
		if fn, err := s.Catalog.FunctionByID(c.FuncID); err == nil {
			return fn.App == app.ID
		}
		return c.App == app.Name && c.ID > app.ID // of a function that is no more
	}
}

// book is where calls are.
func (s *Server) book() records.Book {
	return records.Book{Live: s.Caller.Live, Find: s.Caller.Find, Calls: s.Calls, Logs: s.Logs}
}

// findCall is the call in the path of r, and its app; errNoCall if there is none.
func (s *Server) findCall(ctx context.Context, r *http.Request) (faas.App, faas.Call, error) {
	app, err := s.app(r.PathValue("app"))
	if err != nil {
		return app, faas.Call{}, err
	}
	c, err := s.book().Call(ctx, r.PathValue("call"))
	if faas.KindOf(err) == faas.NotFound || err == nil && !s.isOf(app)(&c) {
		err = errNoCall
	}
	return app, c, err
}

func (s *Server) getCall(w http.ResponseWriter, r *http.Request) error {
	app, c, err := s.findCall(r.Context(), r)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, struct {
		Message string   `json:"message"`
		Call    wireCall `json:"call"`
	}{"Successfully loaded call", s.wireOfCall(app, s.triggersOf(app)[c.FuncID], c)})
}

// getCallLog answers what a call has written so far, as JSON or, if the client asks
// for it, as it is.
func (s *Server) getCallLog(w http.ResponseWriter, r *http.Request) error {
	asText, ok := records.WantsText(r.Header.Values("Accept"))
	if !ok {
		return fault{http.StatusNotAcceptable, "unable to respond within acceptable response content types"}
	}
	_, c, err := s.findCall(r.Context(), r)
	if err == errNoCall {
		return errNoCallLog
	}
	if err != nil {
		return err
	}
	if err := s.logKept(c); err != nil {
		return err
	}
	text, err := s.book().Log(r.Context(), c)
	if err != nil {
		return err
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
	return answer(w, http.StatusOK, struct {
		Message string  `json:"message"`
		Log     wireLog `json:"log"`
	}{"Successfully loaded log", wireLog{c.ID, text}})
}

// logKept is errNoCallLog if the log of a call was erased, or is past its age.
func (s *Server) logKept(c faas.Call) error {
	gone, err := s.Logs.Gone(&c)
	if gone {
		return errNoCallLog
	}
	return err
}

// deleteCallLog removes what a call has written so far.
func (s *Server) deleteCallLog(w http.ResponseWriter, r *http.Request) error {
	_, c, err := s.findCall(r.Context(), r)
	if err == errNoCall {
		return errNoCallLog
	}
	if err != nil {
		return err
	}
	if err := s.logKept(c); err != nil {
		return err
	}
	if err := s.Logs.Erase(c.FuncID, c.ID); err != nil {
		return err
	}
	return answer(w, http.StatusAccepted, struct {
		Message string `json:"message"`
	}{"Log delete accepted"})
}
