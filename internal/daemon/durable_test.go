package daemon_test

import (
	"crypto/rand"
	"database/sql"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
	"hob/internal/testenv"
)

func TestClockThatWasSetBackDelaysNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	n := start(t, keep)
	n.function("f", n.gateImage(), func(s *client.Settings) { s.MaxConcurrency = ptr(1) }, "cat")
	delay := 5 * time.Second
	later := n.enqueue("f", "later", func(r *client.CallRequest) { r.Delay = &delay })
	if c := n.record(later.ID); c.State != faas.CallQueued {
		t.Fatalf("it did not wait: %+v", c)
	}
	n.stop()
	shift(t, filepath.Join(dir, "hob.db"), time.Hour)
	n = run(t, keep)
	if c := n.record(later.ID); c.State == faas.CallQueued && time.Duration(c.Estimate) > time.Minute {
		t.Errorf("a call that is due in %v says %q, estimate %v", delay, c.Waiting, c.Estimate)
	}
	if out, err := n.result(later.ID); out != "later" || err != nil {
		t.Errorf("result = %q, %v", out, err)
	}
	hour := time.Hour
	late := n.enqueue("f", "", func(r *client.CallRequest) { r.Delay = &hour })
	if c := n.record(late.ID); time.Duration(c.Estimate) > hour+time.Minute {
		t.Errorf("a call with a delay of %v says %q, estimate %v", hour, c.Waiting, c.Estimate)
	}
	if out, err := n.result(n.enqueue("f", "now").ID); out != "now" || err != nil {
		t.Errorf("a new call = %q, %v", out, err)
	}
}

func TestNodeThatManagesOnlyTakesAndRunsNoCalls(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	n := start(t, keep)
	image := n.gateImage()
	n.function("f", image, nil, "sh", "-c", "exit 3")
	n.function("later", image, nil, "cat")
	failed := n.enqueue("f", "x")
	_, _ = n.result(failed.ID)
	hour := time.Hour
	later := n.enqueue("later", "kept", func(r *client.CallRequest) { r.Delay = &hour })
	n.stop()
	shift(t, filepath.Join(dir, "hob.db"), -2*time.Hour) // it is due
	n = run(t, keep, func(c *config.Config) { c.NodeType = "api" })
	for _, path := range []string{"/api/calls/" + failed.ID + "/retry", async("later")} {
		for _, prefer := range []string{"respond-async", "nothing"} {
			if a := n.ask("POST", path, "", "Prefer: "+prefer); a.status != 501 || !strings.Contains(a.body, "node-type is api") {
				t.Errorf("POST %s: %+v", path, a)
			}
		}
	}
	if a := n.ask("GET", "/api/calls/"+later.ID+"/result?wait=100ms", ""); a.status != 202 || !strings.Contains(a.header.Get("Hob-Wait-Reason"), "runs no calls") {
		t.Errorf("a queued call: %+v", a)
	}
	n.stop()
	n = run(t, keep)
	if out, err := n.result(later.ID); out != "kept" || err != nil {
		t.Errorf("on a full node again: %q, %v", out, err)
	}
}

// TestPlaceInLineIsToldAlsoWhenTheClockWasSetBack is about calls that are due, on a
// node whose clock is behind its database.
func TestPlaceInLineIsToldAlsoWhenTheClockWasSetBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	g := openGate(t)
	n := start(t, keep, withGate)
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	n.stop()
	shift(t, filepath.Join(dir, "hob.db"), time.Hour)
	n = run(t, keep, withGate)
	n.enqueue("f", "first")
	v := g.next()
	second := n.enqueue("f", "second")
	if second.Place != 1 || !strings.Contains(second.Waiting, "place 1") {
		t.Errorf("the next in line: %+v, want place 1", second)
	}
	v.say("cat")
	g.next().say("cat")
	if c := n.ended(second.ID); c.Finished.Before(c.Queued) {
		t.Errorf("it ended (%v) before it was accepted (%v)", c.Finished, c.Queued)
	}
}

// shift moves all that a database knows of time into the future, as if the clock
// of the machine had been set back.
func shift(t *testing.T, path string, by time.Duration) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	us := strconv.FormatInt(by.Microseconds(), 10)
	now := strconv.FormatInt(time.Now().UnixMicro(), 10)
	for _, change := range []string{
		"UPDATE call SET due = due + " + us + ", queued = queued + " + us,
		"UPDATE key SET made = made + " + us,
		"UPDATE clock SET newest = max(newest, " + now + ") + " + us,
	} {
		if _, err := db.Exec(change); err != nil {
			t.Fatal(err)
		}
	}
}

// fill leaves about so much room in the file system of dir, and returns the file
// that holds the rest.
func fill(t *testing.T, dir string, leave int) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	size := int64(0)
	for err == nil {
		var k int
		k, err = f.Write(block)
		size += int64(k)
	}
	if leave > 0 {
		if err := f.Truncate(max(0, size-int64(leave))); err != nil {
			t.Fatal(err)
		}
	}
	return f.Name()
}

func TestFullDiskRefusesNewCallsAndKeepsTheAccepted(t *testing.T) {
	disk := smallDisk(t, "64m")
	g := openGate(t)
	n := start(t, withGate, func(c *config.Config) { c.Data, c.LeastFreeDisk = filepath.Join(disk, "data"), 0 })
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(2) })
	payload := make([]byte, 100<<10)
	rand.Read(payload)
	var ids []string
	for range 6 {
		ids = append(ids, n.enqueue("f", string(payload)).ID)
	}
	filler := fill(t, disk, 0)
	large := make([]byte, 3<<20) // a file
	rand.Read(large)
	if _, err := n.tryEnqueue("f", string(large)); faas.KindOf(err) != faas.Busy || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("a large payload while the disk is full: %v (%s), want Busy with the reason", err, faas.KindOf(err))
	}
	var refused error
	for range 100 { // until what room the database has is used up
		call, err := n.tryEnqueue("f", string(payload))
		if refused = err; err != nil {
			break
		}
		ids = append(ids, call.ID)
	}
	if faas.KindOf(refused) != faas.Busy || !strings.Contains(refused.Error(), "full") {
		t.Errorf("enqueue while the disk is full: %v (%s), want Busy with the reason", refused, faas.KindOf(refused))
	}
	a := n.ask("POST", async("f"), string(payload), "Prefer: respond-async")
	if a.status != 503 || !strings.Contains(a.body, "full") || a.header.Get("Retry-After") == "" {
		t.Errorf("enqueue while the disk is full: %d %s, want 503 with the reason and the time to wait", a.status, a.body)
	}
	for range 2 {
		g.next().say("cat") // what came of it cannot be kept
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	runs := make(chan int)
	enough := make(chan struct{})
	go func() {
		count := 2
		for {
			select {
			case v := <-g.visits:
				v.say("cat")
				count++
			case <-enough:
				runs <- count
				return
			}
		}
	}()
	for _, id := range ids {
		if out, err := n.result(id); out != string(payload) || err != nil {
			t.Errorf("result of an accepted call: %d bytes, %v", len(out), err)
		}
	}
	again := n.enqueue("f", "there is room")
	if out, err := n.result(again.ID); out != "there is room" || err != nil {
		t.Errorf("after the disk has room: %q, %v", out, err)
	}
	close(enough)
	attempts := 0
	for _, id := range append(ids, again.ID) {
		attempts += n.record(id).Attempt
	}
	if count := <-runs; count > attempts {
		t.Errorf("%d runs of %d attempts", count, attempts)
	}
}

func TestLowDiskRefusesAsynchronousCallsBeforeItIsFull(t *testing.T) {
	disk := smallDisk(t, "64m")
	g := openGate(t)
	n := start(t, withGate, func(c *config.Config) { c.Data, c.LeastFreeDisk = filepath.Join(disk, "data"), 16*faas.MB })
	image := n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(1) })
	n.hot("hot", n.hotImage(), nil)
	n.function("cold", image, nil, "cat")
	cold, err := n.Function(t.Context(), faas.DefaultApp, "cold")
	if err != nil {
		t.Fatal(err)
	}
	address := "/call/cold/" + cold.Address
	earlier := n.enqueue("cold", "earlier")
	n.ended(earlier.ID)
	first, second := n.enqueue("f", "1"), n.enqueue("f", "2")
	v := g.next()
	filler := fill(t, disk, 8<<20)
	n.becomes(503)
	for _, headers := range [][]string{{"Prefer: respond-async"}, {"Idempotency-Key: k"}} {
		a := n.ask("POST", async("f"), "x", headers...)
		if a.status != 503 || !strings.Contains(a.body, "16 MB") || a.header.Get("Retry-After") == "" {
			t.Errorf("a call with %q while the disk is low: %+v, want 503 with the limit", headers, a)
		}
	}
	for _, path := range []string{address, address + "/sync"} {
		if a := n.ask("POST", path, "x"); a.status != 503 || !strings.Contains(a.body, "16 MB") || a.header.Get("Retry-After") == "" {
			t.Errorf("%s while the disk is low: %+v, want 503 with the limit", path, a)
		}
	}
	if a := n.ask("GET", strings.Replace(address, "call", "output", 1)+"/"+earlier.ID, ""); a.status != 200 || a.body != "earlier" {
		t.Errorf("an earlier result: %+v", a)
	}
	for i := range 5 {
		if out, err := n.say("hot", "count"); out != fmt.Sprint(i+1) || err != nil {
			t.Errorf("hot call = %q, %v", out, err)
		}
		if out, err := n.say("cold", "count"); out != "count" || err != nil {
			t.Errorf("call = %q, %v", out, err)
		}
	}
	v.say("cat")
	g.next().say("cat")
	for i, c := range []client.Call{first, second} {
		if out, err := n.result(c.ID); out != fmt.Sprint(i+1) || err != nil {
			t.Errorf("an accepted call = %q, %v", out, err)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	n.becomes(200)
	n.enqueue("f", "3")
	g.next().say("cat")
}

func TestShutdownPutsRunningCallsBackIntoTheirPlaces(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	g := openGate(t)
	n := start(t, keep, withGate)
	n.gateImage()
	n.gated(g, "f", func(s *client.Settings) { s.MaxConcurrency = ptr(2) })
	n.gated(g, "once", func(s *client.Settings) { s.MaxConcurrency, s.OnNodeLoss = ptr(1), ptr("fail") })
	var ids []string
	for i := range 5 {
		ids = append(ids, n.enqueue("f", fmt.Sprint(i)).ID)
	}
	runs, waits := n.enqueue("once", "runs"), n.enqueue("once", "waits")
	var held []*visit
	for range 3 {
		held = append(held, g.next())
	}
	follow, err := http.Get("http://" + n.addr + "/api/apps/default/functions/f/logs?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer follow.Body.Close()
	n.stop()
	for _, v := range held {
		v.gone(t)
	}
	g.none()
	n = run(t, keep, withGate)
	began := make(map[string]string) // attempt by call
	others := 0
	next := func() (of *visit) {
		for of == nil {
			switch v := g.next(); {
			case v.Function == "f":
				began[v.Call], of = v.Attempt, v
			case v.Call != waits.ID || v.Attempt != "1":
				t.Errorf("of the function that must not run twice began %+v", v)
				fallthrough
			default:
				others++
				v.say("cat")
			}
		}
		return of
	}
	held = []*visit{next(), next()}
	if began[ids[0]] != "2" || began[ids[1]] != "2" {
		t.Errorf("the first two to begin are %v, want the second attempts of %v", began, ids[:2])
	}
	for i := 2; i < 5; i++ {
		held[i-2].say("cat")
		if v := next(); v.Call != ids[i] || v.Attempt != "1" {
			t.Errorf("then began %+v, want call %d", v, i)
		} else {
			held = append(held, v)
		}
	}
	held[3].say("cat")
	held[4].say("cat")
	if others == 0 {
		g.next().say("cat")
	}
	for i, id := range ids {
		if out, err := n.result(id); out != fmt.Sprint(i) || err != nil {
			t.Errorf("call %d = %q, %v", i, out, err)
		}
	}
	if c := n.ended(runs.ID); c.State != faas.CallFailed || c.Error == nil || !strings.Contains(c.Error.Message, "must not run twice") {
		t.Errorf("the one that must not run twice: %+v", c)
	}
	if c := n.ended(waits.ID); c.State != faas.CallSucceeded {
		t.Errorf("the one that had not run: %+v", c)
	}
	g.none()
}

func TestWhoWaitsDoesNotHoldUpTheShutdown(t *testing.T) {
	g := openGate(t)
	n := start(t, withGate)
	n.gateImage()
	n.gated(g, "f", nil)
	id := n.enqueue("f", "x").ID
	v := g.next()
	paths := []string{"/api/calls/" + id + "/result?wait=1h", "/api/apps/default/functions/f/logs?follow=true"}
	var waiters sync.WaitGroup
	for _, path := range paths {
		waiters.Go(func() {
			resp, err := http.Get("http://" + n.addr + path)
			if err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	waiters.Go(func() {
		req, _ := http.NewRequest("POST", "http://"+n.addr+async("f"), strings.NewReader("second"))
		req.Header.Set("Prefer", "respond-async, wait=3600")
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	})
	second := g.next()
	n.stop()
	waiters.Wait()
	v.gone(t)
	second.gone(t)
}

func TestRetriesAndDeliveriesSurviveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	keep := func(c *config.Config) { c.Data = dir }
	g := openGate(t)
	n := start(t, keep, withGate)
	n.gateImage()
	type post struct{ key, body string }
	posts := make(chan post, 10)
	var up atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		posts <- post{r.Header.Get("Idempotency-Key"), string(body)}
	}))
	defer server.Close()
	n.gated(g, "f", func(s *client.Settings) {
		s.Retries, s.RetryDelay, s.OnSuccess = ptr(1), ptr(client.Duration(time.Hour)), ptr(server.URL)
	})
	done, fails := n.enqueue("f", "done"), n.enqueue("f", "fails")
	for range 2 {
		if v := g.next(); v.Call == done.ID {
			v.say("cat")
		} else {
			v.say("exit 1 at first")
		}
	}
	n.ended(done.ID)
	until(t, "a delivery and an attempt have failed", func() bool {
		return strings.HasPrefix(n.record(done.ID).Delivery, "tried") && n.record(fails.ID).State == faas.CallQueued
	})
	n.stop()
	shift(t, filepath.Join(dir, "hob.db"), -2*time.Hour) // the attempt is due
	up.Store(true)
	n = run(t, keep, withGate)
	v := g.next()
	if v.Call != fails.ID || v.Attempt != "2" || v.Payload != "fails" {
		t.Errorf("after a restart began %+v, want the second attempt", v)
	}
	v.say("cat")
	got := map[string]bool{}
	keys := map[string]bool{}
	for range 2 {
		select {
		case p := <-posts:
			got[p.body], keys[p.key] = true, true
		case <-time.After(long):
			t.Fatalf("delivered: %v", got)
		}
	}
	if !got["done"] || !got["fails"] || len(keys) != 2 {
		t.Errorf("delivered %v with the keys %v", got, keys)
	}
	for _, id := range []string{done.ID, fails.ID} {
		until(t, "the delivery is told of", func() bool { return strings.HasPrefix(n.record(id).Delivery, "delivered") })
	}
	if len(posts) > 0 {
		t.Errorf("one more: %+v", <-posts)
	}
	g.none()
}

// TestKeyOfACallThatDiedWithItsNode kills a daemon while a synchronous call runs.
func TestKeyOfACallThatDiedWithItsNodeRunsNothingTwice(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	g := openGate(t)
	dir := filepath.Join(t.TempDir(), "data")
	v := victimOn(t, dir, "ns")
	n := &node{Client: v.Client, t: t, addr: strings.TrimPrefix(v.Base(), "http://")}
	n.gateImage()
	n.gated(g, "f", nil)
	n.gated(g, "once", func(s *client.Settings) { s.OnNodeLoss = ptr("fail") })
	left := make(chan error, 1)
	go func() {
		_, err := n.Call(t.Context(), client.CallRequest{App: faas.DefaultApp, Function: "f", Key: "k", Body: strings.NewReader("x")})
		left <- err
	}()
	sync := g.next()
	once := n.enqueue("once", "")
	g.next()
	async := n.enqueue("f", "async", func(r *client.CallRequest) { r.Key = "k2" })
	g.next()
	v.kill()
	if err := <-left; err == nil {
		t.Error("the caller got an answer")
	}
	v = victimOn(t, dir, "ns")
	defer v.end(t)
	n = &node{Client: v.Client, t: t, addr: strings.TrimPrefix(v.Base(), "http://")}
	again := g.next()
	if again.Call != async.ID || again.Attempt != "2" {
		t.Errorf("after the kill began %+v, want the second attempt of the asynchronous call", again)
	}
	again.say("cat")
	if out, err := n.result(async.ID); out != "async" || err != nil {
		t.Errorf("the asynchronous call = %q, %v", out, err)
	}
	if c := n.record(async.ID); c.Losses != 1 || c.Attempt != 2 {
		t.Errorf("its record: %+v", c)
	}
	if c := n.ended(once.ID); c.State != faas.CallFailed || c.Error == nil || !strings.Contains(c.Error.Message, "must not run twice") {
		t.Errorf("the one that must not run twice: %+v", c)
	}
	for range 2 {
		_, err := n.Call(t.Context(), client.CallRequest{App: faas.DefaultApp, Function: "f", Key: "k", Body: strings.NewReader("x")})
		if faas.KindOf(err) != faas.FuncFailed || !strings.Contains(err.Error(), "not known") {
			t.Errorf("the same key: %v, want that nobody knows what came of it", err)
		}
	}
	if c := n.record(sync.Call); c.State != faas.CallFailed {
		t.Errorf("its record: %+v", c)
	}
	g.none()
}

// TestWhateverManyUsersDoEveryCallEndsOnce has many users do what they like, and
// looks at the books when all is over.
func TestWhateverManyUsersDoEveryCallEndsOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	open := func() *node {
		return run(t, func(c *config.Config) { c.Data, c.Driver, c.Grace = dir, "fake", 5*time.Millisecond })
	}
	n := open()
	names := []string{"quick", "single", "slow", "fails"}
	for i, does := range [][]string{{"cat"}, {"cat"}, {"sleep", "0.02"}, {"false"}} {
		n.function(names[i], n.gateImage(), func(s *client.Settings) {
			s.MaxConcurrency, s.Retries, s.RetryDelay = ptr(i), ptr(i/2), ptr(client.Duration(time.Millisecond))
		}, does...)
	}
	var mu sync.Mutex
	made := make(map[string]bool)
	keep := func(c client.Call, err error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			made[c.ID] = true
		case faas.KindOf(err) == faas.Internal:
			t.Error(err)
		}
	}
	some := func() string {
		mu.Lock()
		defer mu.Unlock()
		for id := range made {
			return id
		}
		return faas.NewID()
	}
	for range 2 {
		var users sync.WaitGroup
		for range 6 {
			users.Go(func() {
				for range 40 {
					name := names[mrand.IntN(len(names))]
					switch mrand.IntN(8) {
					case 0:
						keep(n.CancelCall(t.Context(), some()))
					case 1:
						keep(n.RetryCall(t.Context(), some()))
					case 2:
						if _, err := n.say(name, "x"); faas.KindOf(err) == faas.Internal {
							t.Error(err)
						}
					case 3:
						delay := time.Duration(mrand.IntN(20)) * time.Millisecond
						keep(n.tryEnqueue(name, "x", func(r *client.CallRequest) { r.Delay, r.Priority = &delay, mrand.IntN(10) }))
					case 4:
						keep(n.tryEnqueue(name, "x", func(r *client.CallRequest) { r.Key = fmt.Sprint(mrand.IntN(5)) }))
					default:
						keep(n.tryEnqueue(name, "x"))
					}
				}
			})
		}
		users.Wait()
		n.stop() // in the middle of what is left
		n = open()
	}
	sum := client.Status{}
	for _, name := range names {
		until(t, "all calls are over", func() bool {
			s, err := n.Status(t.Context(), faas.DefaultApp, name)
			if err != nil {
				t.Fatal(err)
			}
			if s.Queued+s.Running > 0 {
				return false
			}
			sum.Total, sum.Succeeded, sum.Failed = sum.Total+s.Total, sum.Succeeded+s.Succeeded, sum.Failed+s.Failed
			return true
		})
	}
	if sum.Total != sum.Succeeded+sum.Failed || sum.Total < len(made) {
		t.Errorf("%d calls known, the books say %+v", len(made), sum)
	}
	t.Logf("%d calls, %+v", len(made), sum)
	n.stop() // until then the log may not have all ends
	n = open()
	finals := make(map[string]int)
	for _, name := range names {
		for line, err := range n.Logs(t.Context(), client.LogSelection{App: faas.DefaultApp, Function: name, Tail: -1}) {
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case line.Event == nil:
			case line.Event.Name == faas.EventFinished || line.Event.Name == faas.EventFailed:
				finals[line.Call]++
			case finals[line.Call] > 0:
				t.Errorf("call %s: %s after its end", line.Call, line.Event.Name)
			}
		}
	}
	for id := range made {
		c := n.record(id)
		if !c.State.Final() || c.Kind == faas.CallAsync && finals[id] != 1 {
			t.Errorf("call %s is %s, and its end is %d times in the log", id, c.State, finals[id])
		}
	}
}

func TestCallThatWaitedForMemoryRunsAfterAKill(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	g := openGate(t)
	dir := filepath.Join(t.TempDir(), "data")
	v := victimOn(t, dir, "ns")
	n := &node{Client: v.Client, t: t}
	n.gateImage()
	info, err := n.Node(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	most := info.Memory/faas.MB*faas.MB - 16*faas.MB // all that there is
	n.gated(g, "once", func(s *client.Settings) { s.Memory, s.OnNodeLoss = &most, ptr("fail") })
	runs := n.enqueue("once", "runs")
	g.next()
	first, second := n.enqueue("once", "first"), n.enqueue("once", "second")
	until(t, "they wait", func() bool { return n.record(second.ID).Place == 2 })
	v.kill()
	v = victimOn(t, dir, "ns")
	defer v.end(t)
	n = &node{Client: v.Client, t: t}
	for _, id := range []string{first.ID, second.ID} {
		v := g.next()
		if v.Call != id {
			t.Errorf("began %+v, want %s", v, id)
		}
		v.say("cat")
		if c := n.ended(id); c.State != faas.CallSucceeded {
			t.Errorf("it had not begun: %+v", c)
		}
	}
	if c := n.ended(runs.ID); c.State != faas.CallFailed || c.Error == nil || !strings.Contains(c.Error.Message, "must not run twice") {
		t.Errorf("the one that ran: %+v", c)
	}
	g.none()
}
