package fnv2_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// at is the time of the calls in these tests: they are minutes from each other.
var at = time.Date(2020, 11, 21, 2, 0, 0, 0, time.UTC)

// idAt is an ID that was made n minutes after at.
func idAt(n int) string { return faas.FirstID(at.Add(time.Duration(n) * time.Minute)) }

// past is a call of fn that was over a second after it was made.
func (n *node) past(fn string, minute int, end error) faas.Call {
	n.t.Helper()
	made, err := n.Catalog.FunctionByID(fn)
	if err != nil {
		n.t.Fatal(err)
	}
	app, _ := n.Catalog.AppByID(made.App)
	c := faas.Call{
		ID: idAt(minute), App: app.Name, Function: made.Name, FuncID: fn, Kind: faas.CallSync, State: faas.CallQueued,
		Queued: at.Add(time.Duration(minute) * time.Minute),
	}
	_ = c.Advance(faas.CallRunning, c.Queued.Add(time.Millisecond))
	_ = c.Advance(faas.StateAfter(end), c.Queued.Add(time.Second))
	if end != nil {
		c.Error, c.ErrKind = end.Error(), faas.KindOf(end)
	}
	n.Logs.Record(c)
	return c
}

// accept puts a call of fn into the queue.
func (n *node) accept(fn string, minute int, delay time.Duration) {
	n.t.Helper()
	made, _ := n.Catalog.FunctionByID(fn)
	app, _ := n.Catalog.AppByID(made.App)
	c := faas.Call{ID: idAt(minute), App: app.Name, Function: made.Name, FuncID: fn, Kind: faas.CallAsync, State: faas.CallQueued}
	if _, _, err := n.db.Accept(n.t.Context(), store.Acceptance{Call: c, Delay: delay, Request: &faas.Request{Method: "POST"}}); err != nil {
		n.t.Fatal(err)
	}
}

// listed are "minute status" of the calls on all pages.
func (n *node) listed(path string) (all []string, sizes []int) {
	n.t.Helper()
	minute := make(map[string]int)
	for i := range 100 {
		minute[idAt(i)] = i
	}
	for cursor := ""; ; {
		page := n.must("GET", path+cursor, "")
		items := page["items"].([]any)
		for _, item := range items {
			c := item.(map[string]any)
			all = append(all, fmt.Sprintf("%d %s", minute[c["id"].(string)], c["status"]))
		}
		sizes = append(sizes, len(items))
		next, more := page["next_cursor"].(string)
		if !more {
			return all, sizes
		}
		cursor = "&cursor=" + next
	}
}

func TestCallsAreListedWhereverTheyAre(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	fn, other := n.newFn(app, "f"), n.newFn(app, "g")
	n.past(fn, 1, nil)
	n.past(fn, 3, faas.Errorf(faas.FuncFailed, "exit code 3"))
	n.past(fn, 5, faas.Errorf(faas.TimedOut, "too long"))
	n.past(fn, 6, faas.Errorf(faas.Canceled, "canceled"))
	n.past(fn, 7, faas.Errorf(faas.Internal, "open /secret: no such file"))
	n.past(other, 8, nil)
	n.accept(fn, 2, 0)
	n.accept(fn, 9, time.Hour)
	n.accept(other, 10, 0)
	made, _ := n.Catalog.FunctionByID(fn)
	n.caller.live = []faas.Call{
		{ID: idAt(4), FuncID: made.ID, State: faas.CallRunning, Queued: at.Add(4 * time.Minute)},
		{ID: idAt(2), FuncID: made.ID, State: faas.CallRunning, Queued: at.Add(2 * time.Minute)}, // of the queue
		{ID: idAt(11), FuncID: made.ID, State: faas.CallQueued, Queued: at.Add(11 * time.Minute)},
		{ID: idAt(12), FuncID: other, State: faas.CallRunning},
	}
	path := "/v2/fns/" + fn + "/calls"
	want := "[11 queued 9 delayed 7 error 6 cancelled 5 timeout 4 running 3 error 2 running 1 success]"
	for size := 1; size < 11; size++ {
		all, sizes := n.listed(fmt.Sprintf("%s?per_page=%d", path, size))
		if fmt.Sprint(all) != want {
			t.Errorf("pages of %d: %v\nwant %s", size, all, want)
		}
		if len(sizes) != 9/size+1 {
			t.Errorf("pages of %d: %v", size, sizes)
		}
	}
	unix := func(minute int) int64 { return at.Add(time.Duration(minute) * time.Minute).Unix() }
	n.caller.live = nil
	for query, want := range map[string]string{ // both bounds are exclusive; the queue has the time of the test
		fmt.Sprintf("from_time=%d&to_time=%d", unix(3), unix(7)): "[6 cancelled 5 timeout]",
		fmt.Sprintf("from_time=%d&to_time=%d", unix(6), unix(8)): "[7 error]",
		fmt.Sprintf("to_time=%d", unix(5)):                       "[3 error 1 success]",
		fmt.Sprintf("from_time=%d", time.Now().Unix()+60):        "[]",
		"to_time=0": "[]",
	} {
		if all, _ := n.listed(path + "?" + query); fmt.Sprint(all) != want {
			t.Errorf("%s: %v, want %s", query, all, want)
		}
	}
	n.refused("GET", path+"?from_time=x", "", 400, "from_time is not an epoch time")
	n.refused("GET", path+"?to_time=1.5", "", 400, "to_time is not an epoch time")
}

func TestCallIsShownAsFnDid(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	fn, other := n.newFn(app, "f"), n.newFn(app, "g")
	n.past(fn, 0, faas.Errorf(faas.FuncFailed, "exit code 3"))
	n.past(fn, 1, faas.Errorf(faas.Internal, "open /secret: no such file"))
	path := "/v2/fns/" + fn + "/calls/"
	n.want("GET", path+idAt(0), "", 200, `{"message":"Successfully loaded call","call":{"id":"`+idAt(0)+`","status":"error","error":"exit code 3","app_id":"`+app+`","fn_id":"`+fn+
		`","created_at":"2020-11-21T02:00:00.000Z","started_at":"2020-11-21T02:00:00.001Z","completed_at":"2020-11-21T02:00:01.000Z"}}`)
	if got := n.must("GET", path+idAt(1), "")["call"].(map[string]any)["error"]; got != "internal server error" {
		t.Errorf("an error for the operator is shown as %v", got)
	}
	n.refused("GET", path+faas.NewID(), "", 404, "Call not found")
	n.refused("GET", path+"nope", "", 404, "Call not found")
	n.refused("GET", "/v2/fns/"+other+"/calls/"+idAt(0), "", 404, "Call not found")
	n.refused("GET", "/v2/fns/nope/calls/"+idAt(0), "", 404, "Fn not found")
}

func TestLogOfACall(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	fn, other := n.newFn(app, "f"), n.newFn(app, "g")
	wrote, silent := n.past(fn, 0, nil), n.past(fn, 1, nil)
	for _, line := range []struct{ call, text string }{{wrote.ID, "one\n"}, {silent.ID, ""}, {wrote.ID, "zwei & <3\n"}} {
		w := n.Logs.Writer(fn, line.call, "stderr")
		io.WriteString(w, line.text)
		w.Close()
	}
	path := "/v2/fns/" + fn + "/calls/" + wrote.ID + "/log"
	asJSON := `{"message":"Successfully loaded log","log":{"call_id":"` + wrote.ID + `","log":"one\nzwei \u0026 \u003c3\n"}}`
	for accept, want := range map[string]string{
		"": asJSON, "*/*": asJSON, "application/json": asJSON, "text/html, application/json;q=0.5": asJSON,
		"text/plain": "one\nzwei & <3\n", "text/plain; charset=utf-8": "one\nzwei & <3\n",
	} {
		with := http.Header{"Accept": {accept}}
		if accept == "" {
			with = nil
		}
		status, header, body := n.header("GET", path, with)
		if kind := header.Get("Content-Type"); status != 200 || body != want || strings.HasPrefix(kind, "text/plain") != (want != asJSON) {
			t.Errorf("Accept %q: %d %s %s", accept, status, kind, body)
		}
	}
	if status, _, body := n.header("GET", path, http.Header{"Accept": {"text/html"}}); status != 406 || body != `{"message":"unable to respond within acceptable response content types"}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	n.want("GET", "/v2/fns/"+fn+"/calls/"+silent.ID+"/log", "", 200, `{"message":"Successfully loaded log","log":{"call_id":"`+silent.ID+`","log":""}}`)
	n.refused("GET", "/v2/fns/"+other+"/calls/"+wrote.ID+"/log", "", 404, "Call log not found")
	n.refused("GET", "/v2/fns/"+fn+"/calls/nope/log", "", 404, "Call log not found")
	if err := n.Logs.Erase(fn, wrote.ID); err != nil {
		t.Fatal(err)
	}
	n.refused("GET", path, "", 404, "Call log not found")
}

func TestCallsMayBeGone(t *testing.T) {
	n := newNode(t)
	fn := n.newFn(n.newApp("a"), "f")
	c := n.past(fn, 0, nil)
	n.CallsGone = true
	for _, path := range []string{"", "/" + c.ID, "/" + c.ID + "/log", "/nope"} {
		status, header, body := n.header("GET", "/v2/fns/"+fn+"/calls"+path, nil)
		if status != http.StatusGone || body != "" || header.Get("Content-Type") != "" {
			t.Errorf("%s: %d %q %v", path, status, body, header)
		}
	}
}
