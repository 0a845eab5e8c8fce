package ironv1

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/invoke"
)

// Tasks gives calls to outside runners, and counts all calls; invoke.Invoker is one.
type Tasks interface {
	Reserve(ctx context.Context) (*invoke.Task, error)
	EndTask(ctx context.Context, id string, attempt int, err error) error
	Counts(ctx context.Context) (invoke.Counts, error)
}

// maxTask is the largest task that is read: one with a payload of the largest size.
const maxTask = 2 * invoke.MaxTaskPayload

func (s *Server) taskRoutes(all *api.Routes) {
	for _, path := range []string{"/tasks", "/v1/tasks"} {
		all.Add(http.MethodGet, path, s.reserveTask)
		all.Add(http.MethodDelete, path, s.endTask)
	}
}

// Acts reports whether r changes something though it is a GET: whoever asks for a task
// has it, and a web page of another origin is not to have it.
func (s *Server) Acts(r *http.Request) bool {
	return r.URL.Path == "/tasks" || r.URL.Path == "/v1/tasks"
}

// wireTask is a call on its way to an outside runner. Times are seconds.
type wireTask struct {
	ID              string            `json:"id"`
	Attempt         int               `json:"attempt"` // which reservation this is; IronFunctions has no such field
	Status          string            `json:"status"`
	Image           string            `json:"image"`
	Payload         string            `json:"payload"`
	PayloadEncoding string            `json:"payload_encoding,omitempty"` // "base64" of a payload that is no text; IronFunctions has no such field
	Priority        int               `json:"priority"`
	Timeout         int64             `json:"timeout"` // 0: none
	IdleTimeout     int64             `json:"idle_timeout"`
	Delay           int64             `json:"delay"`
	MaxRetries      int               `json:"max_retries"`
	RetriesDelay    int64             `json:"retries_delay"`
	EnvVars         map[string]string `json:"env_vars"`
	AppName         string            `json:"app_name"`
	Path            string            `json:"path"`
	CreatedAt       time.Time         `json:"created_at"`
	StartedAt       time.Time         `json:"started_at"`
	RetryOf         string            `json:"retry_of,omitempty"`
}

func newTask(t *invoke.Task) wireTask {
	call, fn := t.Call, t.Function
	wire := wireTask{
		ID: call.ID, Attempt: call.Attempt, Status: "running", Image: fn.Image, Payload: string(t.Payload), Priority: call.Priority,
		Timeout: wholeSeconds(fn.TimeoutOf(faas.CallAsync)), IdleTimeout: wholeSeconds(fn.Idle), Delay: wholeSeconds(call.Due.Sub(call.Queued)),
		MaxRetries: fn.Retries, RetriesDelay: wholeSeconds(fn.RetryDelay), EnvVars: make(map[string]string, len(t.Env)),
		AppName: call.App, Path: cmp.Or(t.Route, fn.Beside["iron"]), CreatedAt: call.Queued, StartedAt: call.Started, RetryOf: call.RetryOf,
	}
	if !utf8.Valid(t.Payload) {
		wire.Payload, wire.PayloadEncoding = base64.StdEncoding.EncodeToString(t.Payload), "base64"
	}
	for _, e := range t.Env {
		name, value, _ := strings.Cut(e, "=")
		wire.EnvVars[name] = value
	}
	return wire
}

// wholeSeconds is d in seconds, rounded up, so that a short time is not none.
func wholeSeconds(d time.Duration) int64 {
	return int64((max(0, d) + time.Second - 1) / time.Second)
}

// reserveTask answers with the next task, or null.
func (s *Server) reserveTask(w http.ResponseWriter, r *http.Request) error {
	task, err := s.Tasks.Reserve(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	if task == nil {
		return answer(w, http.StatusAccepted, nil)
	}
	return answer(w, http.StatusAccepted, newTask(task))
}

// endTask ends the call of the task that is sent, and answers with what was sent.
func (s *Server) endTask(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, api.Steady(w, r.Body), int64(maxTask)))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return faas.Errorf(faas.TooLarge, "the task is over the limit of %v: its payload may be left out", faas.Bytes(tooLarge.Limit))
	}
	var task endedTask
	if err != nil || json.Unmarshal(body, &task) != nil {
		return invalid("Invalid JSON")
	}
	outcome, err := task.outcome()
	if err != nil {
		return err
	}
	attempt := 0
	switch {
	case task.ID == "":
		return invalid("Missing task ID")
	case task.Attempt != nil && *task.Attempt < 1:
		return faas.Errorf(faas.Invalid, "attempt %d of task %s is under the least of 1", *task.Attempt, task.ID)
	case task.Attempt != nil:
		attempt = *task.Attempt
	}
	if err := s.Tasks.EndTask(r.Context(), task.ID, attempt, outcome); err != nil {
		return s.notEnded(r.Context(), task.ID, err)
	}
	return answer(w, http.StatusAccepted, json.RawMessage(body))
}

// notEnded is err, of ending a task, in words that say how the call has ended if it has.
func (s *Server) notEnded(ctx context.Context, id string, err error) error {
	if faas.KindOf(err) != faas.Conflict {
		return err
	}
	c, unknown := s.book().Call(ctx, id)
	if unknown != nil || !c.State.Final() {
		return err
	}
	how := "it has " + string(c.State)
	switch c.State {
	case faas.CallTimedOut:
		how = "its time ran out"
	case faas.CallCanceled:
		how = "it was canceled"
	}
	return faas.Errorf(faas.Conflict, "call %s is over: %s", id, how)
}

// endedTask is what counts of a task that is sent back.
type endedTask struct {
	ID      string `json:"id"`
	Attempt *int   `json:"attempt"` // nil: of a runner that knows no such field
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Error   string `json:"error"`
}

// outcome is how the runner says that its task ended. The runner of IronFunctions
// sends a task back as it got it, when it has begun it: that is a success.
func (t endedTask) outcome() (failed, err error) {
	kind := faas.FuncFailed
	switch t.Reason {
	case "", "killed", "bad_exit":
	case "timeout":
		kind = faas.TimedOut
	case "client_request":
		kind = faas.Canceled
	default:
		return nil, faas.Errorf(faas.Invalid, "reason %q of the task is not one of: timeout, killed, bad_exit, client_request", t.Reason)
	}
	switch t.Status {
	case "success":
		return nil, nil
	case "", "delayed", "queued", "running":
		if t.Reason == "" && t.Error == "" {
			return nil, nil
		}
	case "error":
	case "cancelled":
		kind = faas.Canceled
	default:
		return nil, faas.Errorf(faas.Invalid, "status %q of the task is not one of: success, error, cancelled, or one of a task that is not over: delayed, queued, running", t.Status)
	}
	if t.Error != "" {
		return faas.Errorf(kind, "%s", t.Error), nil
	}
	return faas.Errorf(kind, "the outside runner gives no reason but %q", cmp.Or(t.Reason, t.Status)), nil
}
