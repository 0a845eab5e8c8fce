package ironv1_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/faas"
	"hob/internal/api/ironv1"
	"hob/internal/catalog"
	"hob/internal/logs"
	"hob/internal/store"
	"hob/internal/store/memory"
)

// day is the time of the calls in these tests: they are minutes from each other.
var day = time.Date(2020, 11, 21, 2, 0, 0, 0, time.UTC)

// idOf is an ID that was made n minutes after day.
func idOf(n int) string { return faas.FirstID(day.Add(time.Duration(n) * time.Minute)) }

// callsNode is a server with calls, and an app "a" with the functions f and g: the
// route /f, and as /f-too another, leads to f, and /g to g. None leads to h.
type callsNode struct {
	t       *testing.T
	handler http.Handler
	db      *memory.Store
	logs    *logs.Store
	live    []faas.Call
	app     faas.App
	fns     map[string]string // IDs by name
	trigger map[string]string // IDs by source
}

func (n *callsNode) Live() []faas.Call { return slices.Clone(n.live) }

func (n *callsNode) Find(ctx context.Context, id string) (faas.Call, error) {
	return n.db.Call(ctx, id)
}

func (n *callsNode) Call(context.Context, faas.Function, *faas.Call, *faas.Request, http.ResponseWriter) error {
	return faas.Errorf(faas.Unsupported, "nothing is run here")
}

func (n *callsNode) Enqueue(context.Context, faas.Function, *faas.Call, *faas.Request, time.Duration) (faas.Call, error) {
	return faas.Call{}, faas.Errorf(faas.Unsupported, "nothing is run here")
}

func newCallsNode(t *testing.T, age time.Duration) *callsNode {
	t.Helper()
	n := &callsNode{t: t, db: memory.New(), fns: make(map[string]string), trigger: make(map[string]string)}
	t.Cleanup(func() { n.db.Close() })
	index, err := catalog.Load(t.Context(), n.db)
	if err != nil {
		t.Fatal(err)
	}
	if n.logs, err = logs.Open(logs.Config{Dir: t.TempDir(), MaxAge: age}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.logs.Close() })
	if n.app, err = index.PutApp(t.Context(), faas.App{ID: idOf(-10), Name: "a"}, store.IfNew); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "g", "h"} {
		fn, err := index.PutFunction(t.Context(), faas.Function{App: n.app.ID, Name: name, Image: "here"}.WithDefaults(), store.IfNew)
		if err != nil {
			t.Fatal(err)
		}
		n.fns[name] = fn.ID
	}
	for _, name := range []string{"f", "f-too", "g"} {
		trigger, err := index.PutTrigger(t.Context(), faas.Trigger{App: n.app.ID, Function: n.fns[name[:1]], Name: name, Type: faas.TriggerHTTP, Source: "/" + name}, store.IfNew)
		if err != nil {
			t.Fatal(err)
		}
		n.trigger["/"+name] = trigger.ID
	}
	n.handler = (&ironv1.Server{Catalog: index, Logs: n.logs, Calls: n.db, Caller: n, Log: slog.New(slog.DiscardHandler)}).Handler()
	return n
}

// past is a call of a function that was over a second after it was made.
func (n *callsNode) past(fn string, minute int, end error) faas.Call {
	c := faas.Call{ID: idOf(minute), App: "a", Function: fn, FuncID: n.fns[fn], Kind: faas.CallSync, State: faas.CallQueued,
		Queued: day.Add(time.Duration(minute) * time.Minute), Outcome: faas.Outcome{PeakMemory: 5 * faas.MB, CPUTime: time.Millisecond}}
	_ = c.Advance(faas.CallRunning, c.Queued.Add(time.Millisecond))
	_ = c.Advance(faas.StateAfter(end), c.Queued.Add(time.Second))
	if end != nil {
		c.Error, c.ErrKind = end.Error(), faas.KindOf(end)
	}
	n.logs.Record(c)
	return c
}

func (n *callsNode) wrote(c faas.Call, text string) {
	w := n.logs.Writer(c.FuncID, c.ID, "stderr")
	io.WriteString(w, text)
	w.Close()
}

func (n *callsNode) do(method, path, accept string) (status int, kind, body string) {
	n.t.Helper()
	r := httptest.NewRequest(method, path, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	n.handler.ServeHTTP(w, r)
	return w.Code, w.Header().Get("Content-Type"), strings.TrimSuffix(w.Body.String(), "\n")
}

func (n *callsNode) want(method, path string, status int, body string) {
	n.t.Helper()
	if got, _, answer := n.do(method, path, ""); got != status || answer != body {
		n.t.Errorf("%s %s\ngot  %d %s\nwant %d %s", method, path, got, answer, status, body)
	}
}

// listed are "minute path status" of the calls on all pages, with the size of each.
func (n *callsNode) listed(query string) (all []string, sizes []int) {
	n.t.Helper()
	for cursor := ""; ; {
		status, _, body := n.do("GET", "/v1/apps/a/calls?"+query+cursor, "")
		var page struct {
			Message    string
			NextCursor *string `json:"next_cursor"`
			Calls      []struct{ ID, Path, Status string }
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil || status != 200 || page.NextCursor == nil || page.Calls == nil || page.Message != "Successfully listed calls" {
			n.t.Fatalf("%s: %d %s, %v", query, status, body, err)
		}
		for _, c := range page.Calls {
			made, _ := faas.IDTime(c.ID)
			all = append(all, fmt.Sprint(made.Sub(day).Minutes(), c.Path, " ", c.Status))
		}
		sizes = append(sizes, len(page.Calls))
		if *page.NextCursor == "" {
			return all, sizes
		}
		cursor = "&cursor=" + *page.NextCursor
	}
}

func TestCallsOfAnAppAndOfARoute(t *testing.T) {
	n := newCallsNode(t, 0)
	n.past("f", 1, nil)
	n.past("g", 2, faas.Errorf(faas.FuncFailed, "exit code 3"))
	n.past("h", 3, faas.Errorf(faas.TimedOut, "too long"))
	n.past("f", 4, faas.Errorf(faas.Canceled, "canceled"))
	other := n.past("f", 5, nil)
	other.ID, other.FuncID = idOf(-20), faas.NewID()
	n.logs.Record(other) // of an app that had the name before
	other.ID = idOf(6)
	n.logs.Record(other) // of a function that is no more
	queued := faas.Call{ID: idOf(7), App: "a", Function: "f", FuncID: n.fns["f"], Kind: faas.CallAsync, State: faas.CallQueued}
	if _, _, err := n.db.Accept(t.Context(), store.Acceptance{Call: queued, Delay: time.Hour, Request: &faas.Request{Method: "POST"}}); err != nil {
		t.Fatal(err)
	}
	n.live = []faas.Call{{ID: idOf(8), App: "a", Function: "g", FuncID: n.fns["g"], State: faas.CallRunning, Queued: day.Add(8 * time.Minute)}}
	all := "8/g running,7/f delayed,6 success,5/f success,4/f cancelled,3 timeout,2/g error,1/f success"
	unix := func(minute int) int64 { return day.Add(time.Duration(minute) * time.Minute).Unix() }
	for query, want := range map[string]struct{ calls, sizes string }{
		"":                                {all, "[8]"},
		"per_page=4":                      {all, "[4 4]"},
		"per_page=3":                      {all, "[3 3 2]"},
		"per_page=x":                      {all, "[8]"},
		"per_page=-1":                     {all, "[8]"},
		"cursor=":                         {all, "[8]"},
		"path=/f":                         {"7/f delayed,5/f success,4/f cancelled,1/f success", "[4]"},
		"route=%2Ff&per_page=2":           {"7/f delayed,5/f success,4/f cancelled,1/f success", "[2 2]"},
		"path=/f-too&route=/f&per_page=1": {"7/f delayed,5/f success,4/f cancelled,1/f success", "[1 1 1 1]"},
		"path=/f&route=/g":                {"", "[0]"},
		"path=/none":                      {"", "[0]"},
		"path=/g":                         {"8/g running,2/g error", "[2]"},
		fmt.Sprintf("path=/f&from_time=%d&to_time=%d", unix(1), unix(5)): {"4/f cancelled", "[1]"},
		fmt.Sprintf("from_time=%d&to_time=%d", unix(1), unix(4)):         {"3 timeout,2/g error", "[2]"},
	} {
		got, sizes := n.listed(query)
		if strings.Join(got, ",") != want.calls || fmt.Sprint(sizes) != want.sizes {
			t.Errorf("%s: %s, pages of %v\nwant %s, %s", query, strings.Join(got, ","), sizes, want.calls, want.sizes)
		}
	}
	for query, message := range map[string]string{
		"from_time=x": "from_time is not an epoch time", "to_time=1.5": "to_time is not an epoch time",
		"cursor=@@": "Invalid cursor: use the next_cursor of the page before", "cursor=L2Y": "Invalid cursor: use the next_cursor of the page before",
	} {
		n.want("GET", "/v1/apps/a/calls?"+query, 400, `{"error":{"message":"`+message+`"}}`)
	}
	n.want("GET", "/v1/apps/none/calls", 404, `{"error":{"message":"App not found"}}`)
	n.want("GET", "/v1/apps/none/calls/"+queued.ID, 404, `{"error":{"message":"App not found"}}`)
	n.want("POST", "/v1/apps/a/calls", 404, `{"error":{"message":"Path not found: /v1/apps/a/calls"}}`)
}

func TestWhoAsksForAllCallsGetsAThousandAndACursor(t *testing.T) {
	n := newCallsNode(t, 0)
	for minute := range 1001 {
		n.past("f", minute, nil)
	}
	status, _, body := n.do("GET", "/v1/apps/a/calls", "")
	var first struct {
		NextCursor string `json:"next_cursor"`
		Calls      []struct{ ID string }
	}
	if err := json.Unmarshal([]byte(body), &first); err != nil || status != 200 || len(first.Calls) != 1000 || first.Calls[999].ID != idOf(1) {
		t.Fatalf("%d %.200s, %v", status, body, err)
	}
	if got, sizes := n.listed("cursor=" + first.NextCursor); len(got) != 1 || len(sizes) != 1 {
		t.Errorf("behind them are %q", got)
	}
}

func TestCallIsShownAsFnV1Did(t *testing.T) {
	n := newCallsNode(t, 0)
	n.past("f", 0, faas.Errorf(faas.FuncFailed, "exit code 3"))
	n.past("h", 1, faas.Errorf(faas.Internal, "open /secret: no such file"))
	n.want("GET", "/v1/apps/a/calls/"+idOf(0), 200, `{"message":"Successfully loaded call","call":{"id":"`+idOf(0)+`","status":"error","error":"exit code 3","app_id":"`+n.app.ID+
		`","app_name":"a","path":"/f","fn_id":"`+n.fns["f"]+`","trigger_id":"`+n.trigger["/f"]+`","created_at":"2020-11-21T02:00:00.000Z","started_at":"2020-11-21T02:00:00.001Z",`+
		`"completed_at":"2020-11-21T02:00:01.000Z","stats":[{"timestamp":"2020-11-21T02:00:01.000Z","metrics":{"mem_usage":5242880,"cpu_total":1000000}}]}}`)
	if _, _, body := n.do("GET", "/v1/apps/a/calls/"+idOf(1), ""); !strings.Contains(body, `"error":"internal server error"`) || !strings.Contains(body, `"path":"","fn_id":"`+n.fns["h"]+`","trigger_id":""`) {
		t.Errorf("%s", body)
	}
	n.want("GET", "/v1/apps/a/calls/"+faas.NewID(), 404, `{"error":{"message":"Call not found"}}`)
	n.want("GET", "/v1/apps/a/calls/nope", 404, `{"error":{"message":"Call not found"}}`)
	n.want("GET", "/v1/apps/default/calls/"+idOf(0), 404, `{"error":{"message":"App not found"}}`)
}

func TestLogOfACallIsReadAndDeleted(t *testing.T) {
	n := newCallsNode(t, 0)
	c, kept := n.past("f", 0, nil), n.past("f", 1, nil)
	n.wrote(c, "one\nzwei & <3\n")
	n.wrote(kept, "stays\n")
	path := "/v1/apps/a/calls/" + c.ID + "/log"
	asJSON := `{"message":"Successfully loaded log","log":{"call_id":"` + c.ID + `","log":"one\nzwei \u0026 \u003c3\n"}}`
	for accept, want := range map[string]string{
		"": asJSON, "*/*": asJSON, "application/json": asJSON, "text/html, application/json;q=0.5": asJSON,
		"text/plain": "one\nzwei & <3", "text/plain; charset=utf-8": "one\nzwei & <3",
	} {
		status, kind, body := n.do("GET", path, accept)
		if status != 200 || body != want || strings.HasPrefix(kind, "text/plain") != (want != asJSON) {
			t.Errorf("Accept %q: %d %s %s", accept, status, kind, body)
		}
	}
	if status, _, body := n.do("GET", path, "text/html"); status != 406 || body != `{"error":{"message":"unable to respond within acceptable response content types"}}` {
		t.Errorf("%d %s", status, body)
	}
	silent := n.past("f", 2, nil)
	quiet := "/v1/apps/a/calls/" + silent.ID + "/log"
	n.want("GET", quiet, 200, `{"message":"Successfully loaded log","log":{"call_id":"`+silent.ID+`","log":""}}`)
	for _, path := range []string{path, quiet} {
		n.want("DELETE", path, 202, `{"message":"Log delete accepted"}`)
		for _, method := range []string{"GET", "DELETE"} {
			n.want(method, path, 404, `{"error":{"message":"Call log not found"}}`)
		}
	}
	n.want("GET", "/v1/apps/a/calls/"+kept.ID+"/log", 200, `{"message":"Successfully loaded log","log":{"call_id":"`+kept.ID+`","log":"stays\n"}}`)
	for _, method := range []string{"GET", "DELETE"} {
		n.want(method, "/v1/apps/a/calls/nope/log", 404, `{"error":{"message":"Call log not found"}}`)
		n.want(method, "/v1/apps/none/calls/"+c.ID+"/log", 404, `{"error":{"message":"App not found"}}`)
	}
}

func TestLinesAreGoneAfterTheirAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newCallsNode(t, 24*time.Hour)
		c := n.past("f", -int(time.Until(day)/time.Minute), nil) // the bubble has a clock of its own
		n.wrote(c, "now\n")
		time.Sleep(23 * time.Hour) // of the bubble's clock
		if _, _, body := n.do("GET", "/v1/apps/a/calls/"+c.ID+"/log", "text/plain"); body != "now" {
			t.Errorf("within a day it is %q", body)
		}
		time.Sleep(2 * time.Hour)
		if status, _, body := n.do("GET", "/v1/apps/a/calls/"+c.ID+"/log", "text/plain"); status != 404 || !strings.Contains(body, "Call log not found") {
			t.Errorf("after a day: %d %q", status, body)
		}
	})
}
