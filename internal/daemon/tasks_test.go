package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
	"hob/internal/daemon"
	"hob/internal/testenv"
)

// task is what an outside runner reads of one.
type task struct {
	ID        string            `json:"id"`
	Attempt   int               `json:"attempt,omitempty"`
	Status    string            `json:"status,omitempty"`
	Reason    string            `json:"reason,omitempty"`
	Error     string            `json:"error,omitempty"`
	Image     string            `json:"image,omitempty"`
	Payload   string            `json:"payload,omitempty"`
	Encoding  string            `json:"payload_encoding,omitempty"`
	Priority  int               `json:"priority,omitempty"`
	EnvVars   map[string]string `json:"env_vars,omitempty"`
	AppName   string            `json:"app_name,omitempty"`
	StartedAt time.Time         `json:"started_at,omitzero"`
}

// startTasks starts a daemon whose reservations last for lease; 0: as they do.
func startTasks(t *testing.T, lease time.Duration, change ...func(*config.Config)) *node {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	return runTasks(t, lease, change...)
}

// runTasks is startTasks for a test's second daemon.
func runTasks(t *testing.T, lease time.Duration, change ...func(*config.Config)) *node {
	t.Helper()
	return runWith(t, []daemon.Option{daemon.WithLease(lease)}, change...)
}

// runner says who runs the calls of an app, in the words of /v1.
func (n *node) runner(app, runner string) {
	n.t.Helper()
	if _, err := n.UpdateApp(n.t.Context(), app, client.AppSettings{Runner: &runner}); err != nil {
		n.t.Fatal(err)
	}
}

// reserve asks for a task; nil: there is none.
func (n *node) reserve() *task {
	n.t.Helper()
	a := n.ask("GET", "/tasks", "")
	var got *task
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 202 {
		n.t.Fatalf("GET /tasks: %+v, %v", a, err)
	}
	return got
}

// reserved reserves a task that must come.
func (n *node) reserved() (got *task) {
	n.t.Helper()
	until(n.t, "a task comes", func() bool {
		got = n.reserve()
		return got != nil
	})
	return got
}

// delete sends a task back.
func (n *node) delete(back task) answer {
	n.t.Helper()
	body, err := json.Marshal(back)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.ask("DELETE", "/v1/tasks", string(body))
}

func TestTaskIsReservedAndDeletedByAnOutsideRunner(t *testing.T) {
	n := startTasks(t, 0)
	n.function("f", n.gateImage(), func(s *client.Settings) { s.Env = map[string]*string{"K": ptr("v")} }, "cat")
	if got := n.reserve(); got != nil {
		t.Errorf("reserved %+v, and there is none", got)
	}
	n.runner(faas.DefaultApp, "external")
	hour := time.Hour
	late := n.enqueue("f", "late", func(r *client.CallRequest) { r.Delay, r.Priority = &hour, 9 })
	low := n.enqueue("f", "low")
	high := n.enqueue("f", "hi\xffgh", func(r *client.CallRequest) { r.Priority = 2 })
	if !strings.Contains(low.Waiting, "place 1 in line, for an outside runner to take it (GET /tasks)") {
		t.Errorf("accepted as %+v", low)
	}
	if a := n.ask("GET", "/stats", ""); a.body != `{"Queue":3,"Running":0,"Complete":0}`+"\n" {
		t.Errorf("stats: %+v", a)
	}
	first := n.reserved()
	if first.ID != high.ID || first.Payload != "aGn/Z2g=" || first.Encoding != "base64" || first.Priority != 2 || first.AppName != faas.DefaultApp ||
		first.Image != gateImage || first.EnvVars["K"] != "v" || first.EnvVars["HOB_CALL_ID"] != high.ID || first.Status != "running" || first.StartedAt.IsZero() {
		t.Errorf("the first task: %+v", first)
	}
	if c := n.record(high.ID); c.State != faas.CallRunning || c.Start != "outside" {
		t.Errorf("the call that is outside: %+v", c)
	}
	second := n.reserved()
	if second.ID != low.ID || second.Payload != "low" || second.Encoding != "" {
		t.Errorf("the second task: %+v", second)
	}
	if got := n.reserve(); got != nil {
		t.Errorf("reserved %+v, which is not due", got)
	}
	first.Status = "success"
	if a := n.delete(*first); a.status != 202 || !strings.Contains(a.body, `"status":"success"`) {
		t.Errorf("deleted: %+v", a)
	}
	if a := n.delete(*first); a.status != 409 || !strings.Contains(a.body, "is over: it has succeeded") {
		t.Errorf("deleted twice: %+v", a)
	}
	second.Status, second.Reason, second.Error = "error", "bad_exit", "exit code 3"
	if a := n.delete(*second); a.status != 202 {
		t.Errorf("deleted: %+v", a)
	}
	if a := n.delete(task{ID: late.ID}); a.status != 409 || !strings.Contains(a.body, "is not reserved: it is queued") {
		t.Errorf("never reserved: %+v", a)
	}
	if a := n.delete(task{ID: faas.NewID()}); a.status != 404 {
		t.Errorf("unknown: %+v", a)
	}
	if c := n.ended(high.ID); c.State != faas.CallSucceeded || c.Error != nil || c.Start != "outside" {
		t.Errorf("the call that succeeded: %+v", c)
	}
	if c := n.ended(low.ID); c.State != faas.CallFailed || c.Error == nil || c.Error.Message != "exit code 3" {
		t.Errorf("the call that failed: %+v", c)
	}
	if a := n.ask("GET", "/stats", ""); a.body != `{"Queue":1,"Running":0,"Complete":2}`+"\n" {
		t.Errorf("stats: %+v", a)
	}
	log := n.ask("GET", "/api/apps/default/functions/f/logs?events=true&call="+low.ID, "").body
	for _, want := range []string{"[RUNNING]", "[FAILED]", "exit code 3"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s: %s", want, log)
		}
	}
}

func TestTaskThatIsNotDeletedComesBack(t *testing.T) {
	n := startTasks(t, 100*time.Millisecond)
	n.function("f", n.gateImage(), nil, "cat")
	n.runner(faas.DefaultApp, "external")
	id := n.enqueue("f", "x").ID
	slow := n.reserved()
	other := n.reserved()
	if other.ID != id || slow.Attempt != 1 || other.Attempt != 2 {
		t.Errorf("reserved %+v, then %+v", slow, other)
	}
	a := n.delete(*slow)
	if a.status != 409 || !strings.Contains(a.body, "another runner has the call") && !strings.Contains(a.body, "in line again") {
		t.Errorf("deleted by the one whose time was over: %+v", a)
	}
	until(t, "it ends in time", func() bool {
		got := n.reserve()
		return got != nil && n.delete(*got).status == 202
	})
	if c := n.ended(id); c.State != faas.CallSucceeded || c.Attempt < 3 {
		t.Errorf("the call: %+v", c)
	}
}

func TestTaskIsReservedAcrossARestartAndAKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	n := startTasks(t, 0, func(c *config.Config) { c.Data = dir })
	n.function("f", n.gateImage(), nil, "cat")
	n.runner(faas.DefaultApp, "external")
	ids := []string{n.enqueue("f", "kept").ID, n.enqueue("f", "lapses").ID, n.enqueue("f", "waits").ID}
	kept, lapses := n.reserved(), n.reserved()
	n.stop()
	v := victimOn(t, dir, "ns")
	until(t, "the next daemon knows who has it", func() bool {
		c, err := v.CallRecord(t.Context(), ids[1])
		return err == nil && c.State == faas.CallRunning && c.Start == "outside"
	})
	v.kill()
	n = runTasks(t, 0, func(c *config.Config) { c.Data = dir })
	if a := n.delete(*kept); a.status != 202 {
		t.Errorf("deleted at the third daemon: %+v", a)
	}
	if got := n.reserved(); got.ID != ids[2] {
		t.Errorf("reserved %+v, want %s", got, ids[2])
	}
	n.stop()
	n = runTasks(t, time.Nanosecond, func(c *config.Config) { c.Data = dir }) // their time is over
	got := []string{n.reserved().ID}
	if !slices.Contains(ids[1:], got[0]) {
		t.Errorf("reserved %v, want one of %v", got, ids[1:])
	}
	n.stop()
	n = runTasks(t, 0, func(c *config.Config) { c.Data = dir })
	if c := n.record(kept.ID); c.State != faas.CallSucceeded || c.Attempt != 1 {
		t.Errorf("the one that was deleted: %+v", c)
	}
	if a := n.delete(*lapses); a.status != 409 {
		t.Errorf("deleted when its time was over: %+v", a)
	}
}

func TestTaskOfAnAppThatIsGivenToOutsideRunnersAndBack(t *testing.T) {
	g := openGate(t)
	n := startTasks(t, 0, withGate, func(c *config.Config) { c.Memory = 64 * faas.MB })
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.Memory = ptr(64 * faas.MB) })
	runs := n.enqueue("f", "runs")
	v := g.next()
	var ids []string
	for i := range 2 { // the first of them has left the queue, and waits for memory
		ids = append(ids, n.enqueue("f", fmt.Sprint(i)).ID)
	}
	n.runner(faas.DefaultApp, "external")
	first, second := n.reserved(), n.reserved() // which is which depends on when the one that waits for memory is back
	if got := []string{first.ID, second.ID}; !slices.Contains(got, ids[0]) || !slices.Contains(got, ids[1]) {
		t.Errorf("reserved %v, want %v", got, ids)
	}
	ids = append(ids, n.enqueue("f", "2").ID)
	v.say("cat")
	if c := n.ended(runs.ID); c.State != faas.CallSucceeded {
		t.Errorf("the one that ran here: %+v", c)
	}
	g.none()
	n.runner(faas.DefaultApp, "")
	v = g.next()
	if v.Call != ids[2] {
		t.Errorf("began %+v, want %s", v, ids[2])
	}
	v.say("cat")
	n.ended(ids[2])
	if a := n.delete(*first); a.status != 202 {
		t.Errorf("deleted when outside runners are no more: %+v", a)
	}
	if _, err := n.CancelCall(t.Context(), second.ID); err != nil {
		t.Error(err)
	}
	if c := n.ended(second.ID); c.State != faas.CallCanceled {
		t.Errorf("canceled: %+v", c)
	}
	if a := n.delete(*second); a.status != 409 || !strings.Contains(a.body, "is over: it was canceled") {
		t.Errorf("deleted when it was canceled: %+v", a)
	}
	if got := n.reserve(); got != nil {
		t.Errorf("reserved %+v", got)
	}
	g.none()
	n.settled()
}

func TestTaskIsGivenToOneOfManyRunners(t *testing.T) {
	n := startTasks(t, 0)
	n.function("f", n.gateImage(), nil, "cat")
	n.runner(faas.DefaultApp, "external")
	const calls = 100
	for i := range calls {
		n.enqueue("f", fmt.Sprint(i))
	}
	var mu sync.Mutex
	given := make(map[string]int)
	var runners sync.WaitGroup
	for range 50 {
		runners.Go(func() {
			for {
				resp, err := http.Get("http://" + n.addr + "/v1/tasks")
				if err != nil {
					t.Error(err)
					return
				}
				var got *task
				err = json.NewDecoder(resp.Body).Decode(&got)
				resp.Body.Close()
				if err != nil || got == nil {
					if err != nil {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				given[got.ID]++
				mu.Unlock()
			}
		})
	}
	runners.Wait()
	for id, times := range given {
		if times != 1 {
			t.Errorf("call %s was given to %d runners", id, times)
		}
	}
	if len(given) != calls {
		t.Errorf("%d calls were given, want %d", len(given), calls)
	}
	if err := n.DeleteFunction(t.Context(), faas.DefaultApp, "f", true); err != nil {
		t.Error(err)
	}
}

// TestTaskOfAnAsynchronousRoute goes the way of IronFunctions' own runner, which sends a
// task back as it got it.
func TestTaskOfAnAsynchronousRoute(t *testing.T) {
	n := startTasks(t, 0)
	image := n.gateImage()
	if a := n.ask("POST", "/v1/apps", `{"app":{"name":"shop","runner":"external","config":{"K":"v"}}}`); a.status != 200 {
		t.Fatal(a)
	}
	if a := n.ask("POST", "/v1/apps/shop/routes", fmt.Sprintf(`{"route":{"path":"/order","image":%q,"type":"async","timeout":45}}`, image)); a.status != 200 {
		t.Fatal(a)
	}
	called := n.ask("POST", "/r/shop/order?x=1", "two", "X-Color: red")
	var accepted struct {
		CallID string `json:"call_id"`
	}
	if err := json.Unmarshal([]byte(called.body), &accepted); err != nil || called.status != 202 {
		t.Fatalf("the call: %+v, %v", called, err)
	}
	a := n.ask("GET", "/tasks", "")
	for _, want := range []string{
		`"id":"` + accepted.CallID, `"payload":"two"`, `"app_name":"shop"`, `"path":"/order"`, `"timeout":45`, `"image":"` + image, `"priority":0`,
		`"K":"v"`, `"METHOD":"POST"`, `"ROUTE":"/order"`, `"HEADER_X_COLOR":"red"`,
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("the task lacks %s: %s", want, a.body)
		}
	}
	call := "/v1/apps/shop/calls/" + accepted.CallID
	if a := n.ask("GET", call, ""); !strings.Contains(a.body, `"status":"running"`) {
		t.Errorf("reserved: %+v", a)
	}
	if a := n.ask("DELETE", "/tasks", a.body); a.status != 202 || !strings.Contains(a.body, accepted.CallID) {
		t.Errorf("deleted: %+v", a)
	}
	if a := n.ask("GET", call, ""); !strings.Contains(a.body, `"status":"success"`) {
		t.Errorf("deleted: %+v", a)
	}
}
