package daemon_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
)

func TestFailuresAreTriedAgainThenKeptAndMayBeRepeated(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) {
		s.Retries, s.RetryDelay, s.RetryMax = ptr(2), ptr(client.Duration(20*time.Millisecond)), ptr(client.Duration(50*time.Millisecond))
	})
	call := n.enqueue("f", "payload")
	for attempt := range 3 {
		v := g.next()
		if v.Call != call.ID || v.Attempt != fmt.Sprint(attempt+1) || v.Payload != "payload" {
			t.Errorf("attempt %d: %+v", attempt+1, v)
		}
		v.say(fmt.Sprintf("exit %d reason %d", attempt+1, attempt+1))
	}
	c := n.ended(call.ID)
	if c.State != faas.CallFailed || c.Attempt != 3 || c.Error == nil || !strings.Contains(c.Error.Message, "exit code 3: reason 3") {
		t.Errorf("the call that gave up: %+v", c)
	}
	a := n.ask("GET", "/api/calls/"+call.ID+"/result", "")
	if a.status != 502 || a.header.Get("Hob-Fault") != "func_failed" || !strings.Contains(a.body, "reason 3") {
		t.Errorf("its result: %+v", a)
	}
	repeated, err := n.RetryCall(t.Context(), call.ID)
	if err != nil || repeated.ID == call.ID || repeated.RetryOf != call.ID {
		t.Fatalf("retry: %+v, %v", repeated, err)
	}
	v := g.next()
	if v.Call != repeated.ID || v.Payload != "payload" || v.Attempt != "1" {
		t.Errorf("the repetition: %+v", v)
	}
	v.say("cat")
	if out, err := n.result(repeated.ID); out != "payload" || err != nil {
		t.Errorf("result of the repetition = %q, %v", out, err)
	}
	if c := n.record(repeated.ID); c.RetryOf != call.ID {
		t.Errorf("the repetition does not name the first: %+v", c)
	}
	if c := n.record(call.ID); c.State != faas.CallFailed {
		t.Errorf("the first call is %+v", c)
	}
	var names []string
	until(t, "its end is in the log", func() bool {
		names = nil
		for line, err := range n.Logs(t.Context(), client.LogSelection{App: faas.DefaultApp, Function: "f", Call: call.ID, Tail: -1}) {
			if err != nil {
				t.Fatal(err)
			}
			if line.Event != nil {
				names = append(names, fmt.Sprint(line.Event.Name, line.Event.Attempt))
			}
		}
		return slices.Contains(names, "FAILED3")
	})
	if len(names) != 8 || names[len(names)-1] != "FAILED3" || !slices.Contains(names, "PENDING1") || !slices.Contains(names, "RUNNING3") {
		t.Errorf("events of the call: %q", names)
	}
	g.none()
}

func TestResultsReachTheirDestinations(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	type post struct {
		key, call, state, body string
		status                 int
	}
	posts := make(chan post, 100)
	var mu sync.Mutex
	refuse := 1
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		status := 200
		if refuse > 0 {
			refuse, status = refuse-1, 503
		}
		mu.Unlock()
		w.WriteHeader(status)
		posts <- post{r.Header.Get("Idempotency-Key"), r.Header.Get("Hob-Call"), r.Header.Get("Hob-State"), string(body), status}
	}))
	defer server.Close()
	n.gated(g, "sink", nil)
	n.gated(g, "posts", func(s *client.Settings) {
		s.OnSuccess, s.OnFailure = ptr(server.URL+"/done?secret=1"), ptr("default/sink")
	})
	call := n.enqueue("posts", "payload")
	g.next().say("say result")
	first, second := within(t, posts), within(t, posts)
	if first.status != 503 || second.status != 200 || first.key == "" || first.key != second.key || second.call != call.ID || second.state != "succeeded" || second.body != "result" {
		t.Errorf("posted %+v, then %+v", first, second)
	}
	until(t, "the delivery is told of", func() bool { return strings.HasPrefix(n.record(call.ID).Delivery, "delivered to") })
	if d := n.record(call.ID).Delivery; !strings.Contains(d, "2 tries") || strings.Contains(d, "secret") {
		t.Errorf("delivery: %q", d)
	}
	failing := n.enqueue("posts", "payload")
	g.next().say("exit 7 it is over")
	v := g.next()
	if v.Function != "sink" || v.Of != failing.ID || v.State != "failed" || !strings.Contains(v.Payload, "exit code 7: it is over") {
		t.Errorf("the failure was delivered as %+v", v)
	}
	v.say("cat")
	until(t, "the delivery is told of", func() bool { return n.record(failing.ID).Delivery == "delivered to default/sink" })
	n.ended(v.Call)
	canceled := n.enqueue("posts", "payload")
	v = g.next()
	if _, err := n.CancelCall(t.Context(), canceled.ID); err != nil {
		t.Error(err)
	}
	v.gone(t)
	if c := n.ended(canceled.ID); c.State != faas.CallCanceled || c.Delivery != "" {
		t.Errorf("one that was canceled: %+v", c)
	}
	if s, err := n.Status(t.Context(), faas.DefaultApp, "sink"); err != nil || s.Total != 1 {
		t.Errorf("the destination was called %+v, %v; want once", s, err)
	}
	if len(posts) != 0 {
		t.Errorf("one more post: %+v", <-posts)
	}
	g.none()
}

func TestAsynchronousCallHasItsOwnTimeoutOrNone(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	second := client.Duration(500 * time.Millisecond)
	n.gated(g, "none", func(s *client.Settings) { s.Timeout, s.AsyncTimeout = &second, ptr("none") })
	n.gated(g, "short", func(s *client.Settings) { s.AsyncTimeout, s.Env["DEAF"] = ptr("300ms"), ptr("1") })
	n.gated(g, "later", func(s *client.Settings) { s.Delay = ptr(client.Duration(time.Hour)) })
	none, short := n.enqueue("none", ""), n.enqueue("short", "")
	held := g.of("none")
	if c := n.ended(short.ID); c.State != faas.CallTimedOut || c.Error == nil || !strings.Contains(c.Error.Message, "300ms") {
		t.Errorf("past its timeout: %+v", c)
	}
	if a := n.ask("GET", "/api/calls/"+short.ID+"/result", ""); a.status != 504 {
		t.Errorf("its result: %+v, want 504", a)
	}
	if _, err := n.say("none", ""); faas.KindOf(err) != faas.TimedOut {
		t.Errorf("the synchronous timeout is another: %v", err)
	}
	held.say("say at last") // it has run longer than the synchronous timeout
	if out, err := n.result(none.ID); out != "at last" || err != nil {
		t.Errorf("without a timeout: %q, %v", out, err)
	}
	later := n.enqueue("later", "")
	if later.Due.IsZero() || time.Until(later.Due) < 59*time.Minute || !strings.Contains(later.Waiting, "due in") {
		t.Errorf("with the delay of its function: %+v", later)
	}
	zero := time.Duration(0)
	now := n.enqueue("later", "", func(r *client.CallRequest) { r.Delay = &zero })
	g.of("later").say("say now")
	if out, err := n.result(now.ID); out != "now" || err != nil {
		t.Errorf("with a delay of its own: %q, %v", out, err)
	}
	n.settled()
}

func TestKeyIsOneRunAndOneAnswer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data, c.MaxResult = dir, 64*faas.KB }
	g := openGate(t)
	n := start(t, keep, withGate)
	n.gateImage()
	n.gated(g, "f", nil)
	n.gated(g, "other", nil)
	const key = "Idempotency-Key: k1"
	answers := make(chan answer, 5)
	for range 5 {
		go func() { answers <- n.ask("POST", async("f"), "body", key) }()
	}
	v := g.next()
	if s := n.ask("GET", "/api/calls/"+v.Call, ""); s.status != 200 || !strings.Contains(s.body, `"running"`) {
		t.Errorf("a call with a key that runs: %+v", s)
	}
	if a := n.ask("POST", async("f"), "another", key); a.status != 422 || a.header.Get("Hob-Call") != "" {
		t.Errorf("the same key with another body, while it runs: %+v, want 422", a)
	}
	v.say("say answer")
	replayed := 0
	for range 5 {
		a := <-answers
		if a.status != 200 || a.body != "answer" || a.header.Get("Hob-Call") != v.Call {
			t.Errorf("answer %+v, want that of %s", a, v.Call)
		}
		if a.header.Get("Idempotency-Replayed") == "true" {
			replayed++
		}
	}
	if replayed != 4 {
		t.Errorf("%d of 5 answers say that they are repeated", replayed)
	}
	go func() { answers <- n.ask("POST", async("other"), "body", key) }()
	v2 := g.next() // the key is another one for another function
	v2.say("exit 9 no")
	if a := <-answers; a.status != 502 || !strings.Contains(a.body, "exit code 9: no") {
		t.Errorf("a failure: %+v", a)
	}
	if a := n.ask("POST", async("other"), "body", key); a.status != 502 || !strings.Contains(a.body, "exit code 9: no") || a.header.Get("Hob-Call") != v2.Call {
		t.Errorf("the failure, repeated: %+v", a)
	}

	first := n.ask("POST", async("f"), "async", "Idempotency-Key: k2", "Prefer: respond-async")
	second := n.ask("POST", async("f"), "async", "Idempotency-Key: k2", "Prefer: respond-async")
	if id := first.header.Get("Hob-Call"); first.status != 202 || second.status != 202 || id != second.header.Get("Hob-Call") || second.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("asynchronous calls with one key: %+v, %+v", first, second)
	}
	g.next().say("cat")
	if out, err := n.result(first.header.Get("Hob-Call")); out != "async" || err != nil {
		t.Errorf("result %q, %v", out, err)
	}

	go func() { answers <- n.ask("POST", async("f"), "big", "Idempotency-Key: k3") }()
	g.next().say("big 70000")
	if a := <-answers; a.status != 413 && a.status != 502 && a.status != 507 || !strings.Contains(a.body, "64 KB") {
		t.Errorf("an answer over the limit: %+v, want it refused with the limit", a)
	}
	if a := n.ask("POST", async("f"), "big", "Idempotency-Key: k3"); !strings.Contains(a.body, "64 KB") {
		t.Errorf("an answer over the limit, repeated: %+v", a)
	}

	gone := n.ask("POST", async("f"), "x", "Idempotency-Key: k4", "Prefer: respond-async").header.Get("Hob-Call")
	v = g.next()
	if _, err := n.CancelCall(t.Context(), gone); err != nil {
		t.Error(err)
	}
	v.gone(t)
	n.ended(gone)
	again := n.ask("POST", async("f"), "x", "Idempotency-Key: k4", "Prefer: respond-async")
	if again.status != 202 || again.header.Get("Hob-Call") == gone {
		t.Errorf("a call that was canceled keeps its key: %+v", again)
	}
	g.next().say("cat")
	n.ended(again.header.Get("Hob-Call"))

	ctx, leave := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+n.addr+async("f"), strings.NewReader("left"))
	req.Header.Set("Idempotency-Key", "k5")
	left := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	v = g.next()
	leave()
	if err := <-left; err == nil {
		t.Error("it answered")
	}
	go func() { answers <- n.ask("POST", async("f"), "left", "Idempotency-Key: k5") }()
	v.say("say for who comes back")
	if a := <-answers; a.status != 200 || a.body != "for who comes back" {
		t.Errorf("whoever left and came back got %+v", a)
	}
	g.none()

	n.stop()
	n = run(t, keep, withGate)
	if a := n.ask("POST", async("f"), "body", key); a.status != 200 || a.body != "answer" || a.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("after a restart: %+v", a)
	}
	if a := n.ask("POST", async("other"), "body", key); a.status != 502 || !strings.Contains(a.body, "exit code 9: no") {
		t.Errorf("the failure, after a restart: %+v", a)
	}
	if a := n.ask("POST", async("f"), "another", key); a.status != 422 {
		t.Errorf("another body, after a restart: %+v", a)
	}
	g.none()
}

func TestPreferenceOfTheCallerIsTakenIntoAccount(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	image := n.gateImage()
	n.gated(g, "slow", nil)
	n.function("quick", image, nil, "cat")
	a := n.ask("POST", async("quick"), "in time", "Prefer: respond-async, wait=30")
	if id := a.header.Get("Hob-Call"); a.status != 200 || a.body != "in time" || id == "" || n.record(id).Kind != faas.CallAsync || !strings.Contains(a.header.Get("Preference-Applied"), "wait=30") {
		t.Errorf("in time: %+v", a)
	}
	late := n.ask("POST", async("slow"), "late", "Prefer: respond-async, wait=1")
	id := late.header.Get("Hob-Call")
	state := late.header.Get("Hob-State") // it has begun by now on all machines but the slowest
	if late.status != 202 || id == "" || late.header.Get("Location") != "/api/calls/"+id || !strings.Contains(late.body, id) || state != "running" && state != "queued" {
		t.Errorf("past its time: %+v", late)
	}
	g.next().say("cat")
	if out, err := n.result(id); out != "late" || err != nil {
		t.Errorf("the result of one that was late = %q, %v", out, err)
	}
	at := n.ask("GET", late.header.Get("Location"), "")
	if at.status != 200 || !strings.Contains(at.body, `"succeeded"`) {
		t.Errorf("where it was said to be: %+v", at)
	}
	n.function("fails", image, nil, "exit", "4", "bad")
	if a := n.ask("POST", async("fails"), "", "Prefer: wait=30, respond-async"); a.status != 502 || !strings.Contains(a.body, "exit code 4: bad") || a.header.Get("Hob-Call") == "" {
		t.Errorf("a failure in time: %+v", a)
	}
	if a := n.ask("POST", async("quick"), "plain", "Prefer: wait=1, return=minimal"); a.status != 200 || a.body != "plain" || n.record(a.header.Get("Hob-Call")).Kind != faas.CallSync {
		t.Errorf("a plain call: %+v", a)
	}
	if a := n.ask("HEAD", "/api/calls/"+id+"/result", ""); a.status != 200 {
		t.Errorf("HEAD of a result: %+v", a)
	}
}

func TestResultStaysUntilItIsRotated(t *testing.T) {
	n := start(t, func(c *config.Config) { c.ResultPerFunction = faas.MB })
	n.function("f", n.gateImage(), nil, "big", "300000")
	var ids []string
	for range 5 {
		call := n.enqueue("f", "")
		n.ended(call.ID)
		ids = append(ids, call.ID)
	}
	for i, id := range ids {
		want := 200
		if i < 2 {
			want = 410
		}
		for range 2 {
			if a := n.ask("GET", "/api/calls/"+id+"/result", ""); a.status != want {
				t.Errorf("result %d of 5: %d %.100s, want %d", i+1, a.status, a.body, want)
			}
		}
	}
	if c := n.record(ids[0]); c.State != faas.CallSucceeded || c.Result != faas.ResultRotated {
		t.Errorf("the call of a rotated result: %+v", c)
	}
}

func TestLargePayloadsAndResultsGoThroughTheQueue(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	n := start(t, func(c *config.Config) { c.Data = dir })
	n.function("f", n.gateImage(), func(s *client.Settings) { s.Memory = ptr(128 * faas.MB) }, "cat")
	payload := make([]byte, 7<<20+1)
	rand.Read(payload)
	var ids []string
	for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, len(payload)} {
		call := n.enqueue("f", string(payload[:size]))
		if out, err := n.result(call.ID); out != string(payload[:size]) || err != nil {
			t.Errorf("%d bytes came back as %d, %v", size, len(out), err)
		}
		ids = append(ids, call.ID)
	}
	n.stop()
	n = run(t, func(c *config.Config) { c.Data = dir })
	if out, err := n.result(ids[4]); out != string(payload) || err != nil {
		t.Errorf("after a restart %d bytes, %v", len(out), err)
	}
}

func TestDestinationsThatLeadToOneAnotherEnd(t *testing.T) {
	n := start(t)
	n.function("loop", n.gateImage(), func(s *client.Settings) { s.OnSuccess = ptr("default/loop") }, "cat")
	n.function("lost", gateImage, func(s *client.Settings) { s.OnSuccess = ptr("default/none") }, "cat")
	n.enqueue("loop", "x")
	lost := n.enqueue("lost", "x")
	var given string
	until(t, "the loop ends", func() bool {
		calls, _, err := n.Calls(t.Context(), client.CallFilter{App: faas.DefaultApp, Function: "loop"})
		if err != nil || len(calls) == 0 {
			t.Fatal(calls, err)
		}
		given = calls[0].Delivery
		return strings.HasPrefix(given, "given up")
	})
	if !strings.Contains(given, "16 deliveries") {
		t.Errorf("delivery of the last: %q", given)
	}
	if s, err := n.Status(t.Context(), faas.DefaultApp, "loop"); err != nil || s != (client.Status{Total: 17, Succeeded: 17}) {
		t.Errorf("status %+v, %v; want 17 calls", s, err)
	}
	until(t, "the delivery to nobody is given up", func() bool {
		d := n.record(lost.ID).Delivery
		return strings.HasPrefix(d, "given up") && strings.Contains(d, "none")
	})
}

func TestServerErrorOfAHotFunctionIsAFailureOfItsCall(t *testing.T) {
	n := start(t)
	n.hot("port", n.image("port"), func(s *client.Settings) {
		s.Format, s.Port, s.Concurrency = ptr(string(faas.FormatPort)), ptr(3000), ptr(4)
		s.Retries, s.RetryDelay = ptr(1), ptr(client.Duration(time.Millisecond))
	})
	for _, c := range []struct{ status, attempts int }{{201, 1}, {404, 1}, {418, 1}, {500, 2}, {503, 2}} {
		call := n.enqueue("port", "", func(r *client.CallRequest) { r.Path = fmt.Sprintf("/status/%d?q=1", c.status) })
		got := n.ended(call.ID)
		if got.Attempt != c.attempts || (got.State == faas.CallSucceeded) != (c.status < 500) {
			t.Errorf("%d: %s in attempt %d, want %d attempts", c.status, got.State, got.Attempt, c.attempts)
		}
		a := n.ask("GET", "/api/calls/"+call.ID+"/result", "")
		if c.status < 500 && (a.status != c.status || a.header.Get("X-Own") != "yes" || a.body != fmt.Sprintf("POST /status/%d?q=1", c.status)) {
			t.Errorf("%d: its result is %+v", c.status, a)
		}
	}
}

func TestKeyStandsForACallOfEitherKind(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	n.gated(g, "f", nil)
	answers := make(chan answer, 1)
	go func() { answers <- n.ask("POST", async("f"), "x", "Idempotency-Key: k") }()
	v := g.next()
	if a := n.ask("POST", async("f"), "x", "Idempotency-Key: k", "Prefer: respond-async"); a.status != 202 || a.header.Get("Hob-Call") != v.Call {
		t.Errorf("asynchronous, while the synchronous one runs: %+v", a)
	}
	v.say("say done")
	if a := <-answers; a.body != "done" {
		t.Errorf("%+v", a)
	}
	if a := n.ask("POST", async("f"), "x", "Idempotency-Key: k", "Prefer: respond-async, wait=10"); a.status != 200 || a.body != "done" {
		t.Errorf("asynchronous, afterwards: %+v", a)
	}
	if a := n.ask("GET", "/api/calls/"+v.Call+"/result", ""); a.status != 200 || a.body != "done" {
		t.Errorf("its result: %+v", a)
	}
	first := n.ask("POST", async("f"), "x", "Idempotency-Key: k2", "Prefer: respond-async")
	go func() { answers <- n.ask("POST", async("f"), "x", "Idempotency-Key: k2") }()
	g.next().say("say second")
	if a := <-answers; a.status != 200 || a.body != "second" || a.header.Get("Hob-Call") != first.header.Get("Hob-Call") {
		t.Errorf("synchronous, with the key of an asynchronous one: %+v", a)
	}
	g.none()
}

func TestOldResultIsGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	n := start(t, keep)
	n.function("f", n.gateImage(), nil, "cat")
	made, err := n.Function(t.Context(), faas.DefaultApp, "f")
	if err != nil {
		t.Fatal(err)
	}
	old := n.enqueue("f", "old").ID
	n.ended(old)
	n.stop()
	db, err := sql.Open("sqlite", filepath.Join(dir, "hob.db"))
	if err != nil {
		t.Fatal(err)
	}
	week := strconv.FormatInt((8 * 24 * time.Hour).Microseconds(), 10)
	for _, change := range []string{"UPDATE call SET ended = ended - " + week + ", queued = queued - " + week + ", finished = finished - " + week} {
		if _, err := db.Exec(change); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	n = run(t, keep)
	young := n.enqueue("f", "young").ID
	n.ended(young)
	until(t, "it is swept", func() bool { return n.ask("GET", "/api/calls/"+old+"/result", "").status != 200 })
	if a := n.ask("GET", "/api/calls/"+old+"/result", ""); a.status != 410 {
		t.Errorf("an old result: %+v, want 410", a)
	}
	if a := n.ask("GET", "/output/f/"+made.Address+"/"+old, ""); a.status != 410 {
		t.Errorf("an old result, through Hyper: %+v, want 410", a)
	}
	if a := n.ask("GET", "/api/calls/"+young+"/result", ""); a.status != 200 {
		t.Errorf("a young result: %+v", a)
	}
}
