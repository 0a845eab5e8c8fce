package ironv1_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/invoke"
)

// tasks hands out what it has and notes how tasks end.
type tasks struct {
	next    *invoke.Task
	counts  invoke.Counts
	ends    error // what ending one comes to
	fails   error // as all does
	id      string
	attempt int
	outcome error
}

func (s *tasks) Reserve(context.Context) (*invoke.Task, error) {
	next := s.next
	s.next = nil
	return next, s.fails
}

func (s *tasks) EndTask(_ context.Context, id string, attempt int, err error) error {
	s.id, s.attempt, s.outcome = id, attempt, err
	return s.ends
}

func (s *tasks) Counts(context.Context) (invoke.Counts, error) { return s.counts, s.fails }

func newTasks(t *testing.T) (*node, *tasks) {
	n, s := newNode(t), &tasks{}
	n.Tasks = s
	return n, s
}

func reservedTask() *invoke.Task {
	at := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	return &invoke.Task{
		Call: faas.Call{ID: "01K9", App: "photos", Function: "x", Attempt: 2, Priority: 1, Queued: at, Due: at.Add(90 * time.Second), Started: at.Add(2 * time.Minute), RetryOf: "01K8"},
		Function: faas.Function{
			Image: "iron/hello:0.1", Timeout: 30 * time.Second, AsyncTimeout: 90 * time.Second, Idle: 1500 * time.Millisecond, Retries: 3, RetryDelay: 10 * time.Second,
			Beside: map[string]string{"iron": "/made"},
		},
		Route: "/hello", Payload: []byte(`{"name":"Jané"}`), Env: []string{"A=1", "B=x=y", "A=2"},
	}
}

func TestTaskIsAnsweredInTheWordsOfIronFunctions(t *testing.T) {
	n, s := newTasks(t)
	for _, path := range []string{"/tasks", "/v1/tasks"} {
		s.next = reservedTask()
		const want = `{"id":"01K9","attempt":2,"status":"running","image":"iron/hello:0.1","payload":"{\"name\":\"Jané\"}","priority":1,"timeout":90,"idle_timeout":2,"delay":90,` +
			`"max_retries":3,"retries_delay":10,"env_vars":{"A":"2","B":"x=y"},"app_name":"photos","path":"/hello","created_at":"2026-11-21T02:00:00Z","started_at":"2026-11-21T02:02:00Z","retry_of":"01K8"}` + "\n"
		if status, body := send(n.handler, "GET", path, ""); status != 202 || body != want {
			t.Errorf("GET %s = %d %s, want 202 %s", path, status, body, want)
		}
		if status, body := send(n.handler, "GET", path, ""); status != 202 || body != "null\n" {
			t.Errorf("GET %s with an empty queue = %d %q, want 202 null", path, status, body)
		}
	}
	s.next = reservedTask()
	s.next.Payload, s.next.Route, s.next.Function.AsyncTimeout = []byte("\xff\x00"), "", -1
	_, body := send(n.handler, "GET", "/tasks", "")
	for _, want := range []string{`"payload":"/wA=","payload_encoding":"base64"`, `"path":"/made"`, `"timeout":0,`} {
		if !strings.Contains(body, want) {
			t.Errorf("GET /tasks = %s, want %s in it", body, want)
		}
	}
	s.fails = faas.Errorf(faas.Busy, "the disk is full")
	if status, body := send(n.handler, "GET", "/tasks", ""); status != 503 || body != `{"error":{"message":"the disk is full"}}`+"\n" {
		t.Errorf("GET /tasks with a full disk = %d %s", status, body)
	}
	s.fails = errDamaged{}
	if status, body := send(n.handler, "GET", "/tasks", ""); status != 500 || !strings.HasPrefix(body, `{"error":{"message":"`) || strings.Contains(body, "secret") {
		t.Errorf("GET /tasks with a damaged queue = %d %s", status, body)
	}
}

type errDamaged struct{}

func (errDamaged) Error() string { return "secret" }

func TestDeletedTaskEndsAsItsRunnerSays(t *testing.T) {
	n, s := newTasks(t)
	for _, tt := range []struct {
		task    string
		attempt int
		kind    faas.Kind
		says    string
	}{
		{`{"id":"01K9"}`, 0, faas.OK, ""},
		{`{"id":"01K9","attempt":2,"status":"success"}`, 2, faas.OK, ""},
		{`{"id":"01K9","status":"running","payload":"x","more":[1]}`, 0, faas.OK, ""},
		{`{"id":"01K9","status":"delayed","reason":"","error":""}`, 0, faas.OK, ""},
		{`{"id":"01K9","status":"error","reason":"bad_exit","error":"exit code 3"}`, 0, faas.FuncFailed, "exit code 3"},
		{`{"id":"01K9","status":"error","reason":"killed"}`, 0, faas.FuncFailed, `the outside runner gives no reason but "killed"`},
		{`{"id":"01K9","status":"error"}`, 0, faas.FuncFailed, `the outside runner gives no reason but "error"`},
		{`{"id":"01K9","status":"error","reason":"timeout","error":"%d seconds"}`, 0, faas.TimedOut, "%d seconds"},
		{`{"id":"01K9","reason":"timeout"}`, 0, faas.TimedOut, `the outside runner gives no reason but "timeout"`},
		{`{"id":"01K9","status":"queued","error":"no such image"}`, 0, faas.FuncFailed, "no such image"},
		{`{"id":"01K9","status":"cancelled","error":"not wanted"}`, 0, faas.Canceled, "not wanted"},
		{`{"id":"01K9","status":"error","reason":"client_request"}`, 0, faas.Canceled, `the outside runner gives no reason but "client_request"`},
	} {
		*s = tasks{}
		status, body := send(n.handler, "DELETE", "/tasks", tt.task)
		if status != 202 || body != tt.task+"\n" {
			t.Errorf("DELETE %s = %d %s, want 202 and the task", tt.task, status, body)
		}
		if s.id != "01K9" || s.attempt != tt.attempt || faas.KindOf(s.outcome) != tt.kind || tt.says != "" && s.outcome.Error() != tt.says {
			t.Errorf("DELETE %s ended %q at %d with %v", tt.task, s.id, s.attempt, s.outcome)
		}
	}
}

func TestTaskThatCannotBeDeletedIsRefusedWithTheReason(t *testing.T) {
	n, s := newTasks(t)
	for _, tt := range []struct {
		name, task string
		ends       error
		status     int
		says       string
	}{
		{"no body", "", nil, 400, "Invalid JSON"},
		{"half a body", `{"id":"01K9"`, nil, 400, "Invalid JSON"},
		{"two bodies", `{"id":"01K9"}{}`, nil, 400, "Invalid JSON"},
		{"a list", `[]`, nil, 400, "Invalid JSON"},
		{"a number for an ID", `{"id":7}`, nil, 400, "Invalid JSON"},
		{"null, as the empty queue is answered", `null`, nil, 400, "Missing task ID"},
		{"no ID", `{"status":"success"}`, nil, 400, "Missing task ID"},
		{"no attempt", `{"id":"01K9","attempt":0}`, nil, 400, "attempt 0 of task 01K9 is under the least of 1"},
		{"an unknown status", `{"id":"01K9","status":"done"}`, nil, 400, `status "done" of the task is not one of: success, error, cancelled, or one of a task that is not over: delayed, queued, running`},
		{"an unknown reason", `{"id":"01K9","status":"error","reason":"bored"}`, nil, 400, `reason "bored" of the task is not one of: timeout, killed, bad_exit, client_request`},
		{"too large", `{"payload":"` + strings.Repeat("x", 16<<20) + `"}`, nil, 413, "the task is over the limit of 16 MB: its payload may be left out"},
		{"an unknown ID", `{"id":"01K9"}`, faas.Errorf(faas.NotFound, `no call "01K9"`), 404, `no call "01K9"`},
		{"one of another runner", `{"id":"01K9","attempt":1}`, faas.Errorf(faas.Conflict, "it ran out"), 409, "it ran out"},
		{"a full disk", `{"id":"01K9"}`, faas.Errorf(faas.Busy, "the disk is full"), 503, "the disk is full"},
	} {
		s.ends = tt.ends
		status, body := send(n.handler, "DELETE", "/tasks", tt.task)
		var fault struct {
			Error struct{ Message string }
		}
		if err := json.Unmarshal([]byte(body), &fault); err != nil || status != tt.status || fault.Error.Message != tt.says {
			t.Errorf("%s: %d %s, want %d %s", tt.name, status, body, tt.status, tt.says)
		}
	}
	if status, body := send(n.handler, "POST", "/tasks", "{}"); status != 404 || body != `{"error":{"message":"Path not found: /tasks"}}`+"\n" {
		t.Errorf("POST /tasks = %d %s", status, body)
	}
	if match, call := n.Match(httptest.NewRequest("GET", "/tasks", nil)); !match || call {
		t.Errorf("/tasks is not management: %t, %t", match, call)
	}
}

func TestStatsAreCounts(t *testing.T) {
	n, s := newTasks(t)
	s.counts = invoke.Counts{Waiting: 3, Running: 2, Ended: 1}
	if status, body := send(n.handler, "GET", "/stats", ""); status != 200 || body != `{"Queue":3,"Running":2,"Complete":1}`+"\n" {
		t.Errorf("GET /stats = %d %s", status, body)
	}
}

// patience is a writer that notes how long the client may take, and how long it may
// rest while it sends.
type patience struct {
	*httptest.ResponseRecorder
	until time.Time
	rests time.Duration // the longest
}

func (p *patience) SetWriteDeadline(t time.Time) error { p.until = t; return nil }
func (p *patience) SetReadDeadline(t time.Time) error {
	p.rests = max(p.rests, time.Until(t))
	return nil
}

func TestNobodyHasForeverToReadAnAnswerOfManagement(t *testing.T) {
	n, s := newTasks(t)
	s.next = reservedTask()
	n.newRoute("photos", "/a", "")
	for _, target := range []string{"GET /v1/apps", "GET /v1/routes", "GET /v1/apps/photos/calls", "GET /tasks", "DELETE /tasks", "GET /stats", "GET /v1/nope"} {
		method, path, _ := strings.Cut(target, " ")
		w := &patience{ResponseRecorder: httptest.NewRecorder()}
		n.handler.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(`{"id":"01K9"}`)))
		if left := time.Until(w.until); left <= 0 || left > 5*time.Minute {
			t.Errorf("%s: the client has until %v", target, w.until)
		}
		if method == "DELETE" && (w.rests <= 0 || w.rests > time.Minute) {
			t.Errorf("%s: the client may rest for %v", target, w.rests)
		}
	}
}

func TestWhoAsksForATaskActs(t *testing.T) {
	n, _ := newTasks(t)
	for path, want := range map[string]bool{"/tasks": true, "/v1/tasks": true, "/v1/apps": false, "/stats": false} {
		if n.Acts(httptest.NewRequest("GET", path, nil)) != want {
			t.Errorf("%s: %t, want %t", path, !want, want)
		}
	}
}

func TestTaskThatIsOverIsRefusedWithItsEndInWords(t *testing.T) {
	n, s := newTasks(t)
	s.ends = faas.Errorf(faas.Conflict, "another reservation has it")
	for state, want := range map[faas.CallState]string{
		faas.CallSucceeded: "it has succeeded", faas.CallFailed: "it has failed", faas.CallTimedOut: "its time ran out", faas.CallCanceled: "it was canceled",
	} {
		c := faas.Call{ID: faas.NewID(), App: "a", Function: "f", FuncID: "f1", Kind: faas.CallAsync, State: state, Queued: time.Now(), Finished: time.Now()}
		n.Logs.Record(c)
		n.refused("DELETE", "/tasks", `{"id":"`+c.ID+`"}`, 409, "call "+c.ID+" is over: "+want)
	}
	n.refused("DELETE", "/tasks", `{"id":"01K9"}`, 409, "another reservation has it")
}
