package daemon_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/config"
)

// TestSeedsSessionWithTheHyperClient sends what the client sends, over HTTPS.
func TestSeedsSessionWithTheHyperClient(t *testing.T) {
	h := startHyper(t)
	if a := h.manage("GET", "/v1.23/funcs", ""); a.status != 200 || a.body != "[]\n" {
		t.Errorf("ls: %+v", a)
	}
	if a := h.manage("GET", "/v1.23/images/ubuntu/json", ""); a.status != 200 || !strings.Contains(a.body, `"RepoTags":["ubuntu:latest"]`) {
		t.Errorf("image: %+v", a)
	}
	if a := h.manage("GET", "/v1.23/images/none/json", ""); a.status != 404 {
		t.Errorf("an image that is not here: %+v", a)
	}
	body := `{"Name":"hw","ContainerSize":"s1","Timeout":60,"Created":"0001-01-01T00:00:00Z","Config":{"Env":["A=1"],"Cmd":["echo","Hi"],"Image":"ubuntu","StopSignal":"SIGTERM"},"HostConfig":{"NetworkMode":"bridge"},"NetworkingConfig":{"EndpointsConfig":{}}}` + "\n"
	a := h.manage("POST", "/v1.23/funcs/create", body)
	var f fn
	if err := json.Unmarshal([]byte(a.body), &f); a.status != 201 || err != nil || f.Name != "hw" || f.ContainerSize != "s1" || f.Timeout != 60 || f.Config.Env[0] != "A=1" {
		t.Fatalf("create: %+v, %v", a, err)
	}
	if want := "https://" + h.host + "/call/hw/" + f.UUID; a.header.Get("Location") != want {
		t.Errorf("address %q, want %s", a.header.Get("Location"), want)
	}
	if a := h.manage("POST", "/v1.23/funcs/create", body); a.status != 409 {
		t.Errorf("create, again: %+v", a)
	}
	if a := h.manage("GET", "/v1.23/funcs/hw", ""); a.status != 200 || !strings.HasPrefix(a.body, `{"Name":"hw","ContainerSize":"s1","Timeout":60,"UUID":"`+f.UUID) {
		t.Errorf("inspect: %+v", a)
	}
	old := f
	a = h.manage("PUT", "/v1.23/funcs/hw", `{"Name":"hw","Created":"0001-01-01T00:00:00Z","Refresh":true,"Config":{},"HostConfig":{},"NetworkingConfig":{"EndpointsConfig":null}}`+"\n")
	if err := json.Unmarshal([]byte(a.body), &f); a.status != 200 || err != nil || f.UUID == old.UUID || f.Timeout != 60 || len(f.Config.Env) != 1 {
		t.Errorf("update --refresh: %+v, %v", a, err)
	}
	if a := h.data("POST", old.at("call"), strings.NewReader("x")); a.status != 404 {
		t.Errorf("the old address: %+v", a)
	}

	id := h.accepted(h.data("POST", f.at("call"), struct{ io.Reader }{strings.NewReader("Hello\n")})) // chunked
	if a := h.manage("GET", "/v1.23/funcs/call/"+id, ""); a.status != 200 || !strings.Contains(a.body, f.UUID) {
		t.Errorf("get asks for the function: %+v", a)
	}
	if a := h.data("GET", f.at("output")+"/"+id+"/wait", nil); a.status != 200 || a.body != "Hi\n" || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
		t.Errorf("get --wait: %+v", a)
	}
	if a := h.data("GET", f.at("output")+"/"+id, nil); a.status != 404 {
		t.Errorf("get of a result that was fetched: %+v, want 404", a)
	}
	if a := h.data("POST", f.at("call")+"/sync", nil); a.status != 200 || a.body != "Hi\n" {
		t.Errorf("call --sync: %+v", a)
	}
	var events []string
	until(t, "all events are in the log", func() bool {
		a := h.data("GET", f.at("logs")+"?tail=all", nil)
		events = events[:0]
		for line := range strings.Lines(a.body) {
			var e struct{ Time, Event, CallId, ShortStdin, ShortStdout string }
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.CallId == "" || e.Time == "" {
				t.Fatalf("line %q: %v", line, err)
			}
			if e.CallId == id {
				events = append(events, e.Event+" "+e.ShortStdin+e.ShortStdout)
			}
		}
		return len(events) == 4 && strings.Count(a.body, "\n") == 8
	})
	if want := "CALL Hello\n|PENDING |RUNNING |FINISHED Hi\n"; strings.Join(events, "|") != want {
		t.Errorf("events %q, want %q", events, want)
	}
	if a := h.data("GET", f.at("status")+"?list=false", nil); a.status != 200 || a.body != `{"Total":2,"Pending":0,"Running":0,"Finished":2,"Failed":0}`+"\n" {
		t.Errorf("status: %+v", a)
	}
	if a := h.data("GET", f.at("status")+"?list=1", nil); a.status != 200 || strings.Count(a.body, `"CallId"`) != 2 || strings.Count(a.body, `"Status":"FINISHED"`) != 2 || !strings.Contains(a.body, `"Message":null`) {
		t.Errorf("status with the calls: %+v", a)
	}
	if a := h.manage("DELETE", "/v1.23/funcs/hw", ""); a.status != 204 || a.body != "" {
		t.Errorf("rm: %+v", a)
	}
	if a := h.manage("DELETE", "/v1.23/funcs/hw", ""); a.status != 404 {
		t.Errorf("rm, again: %+v", a)
	}
	if a := h.data("POST", f.at("call"), nil); a.status != 404 {
		t.Errorf("call of what is gone: %+v", a)
	}
	h.settled()
}

func TestOnlyHoldersOfAKeyManage(t *testing.T) {
	h := startHyper(t)
	f := h.create("f", `["echo","x"]`, "")
	now := time.Now()
	body := `{"Name":"f","Timeout":9}` + "\n"
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		at     time.Time
		status int
	}{
		{"no signature", func(r *http.Request) { r.Header.Del("Authorization") }, now, 401},
		{"another scheme", func(r *http.Request) { r.Header.Set("Authorization", "Basic QUs6U0s=") }, now, 401},
		{"another key", func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "AK/", "XX/", 1))
		}, now, 403},
		{"another path", func(r *http.Request) { r.URL.Path = "/v1.23/funcs/g" }, now, 403},
		{"another body", func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(strings.Replace(body, "9", "8", 1))) }, now, 403},
		{"another host", func(r *http.Request) { r.Host = "localhost" }, now, 403},
		{"six minutes ago", nil, now.Add(-6 * time.Minute), 403},
		{"in six minutes", nil, now.Add(6 * time.Minute), 403},
		{"four minutes ago", nil, now.Add(-4 * time.Minute), 200},
	} {
		req := h.request("PUT", "/v1.23/funcs/f", body, c.at)
		if c.change != nil {
			c.change(req)
		}
		if a := h.do(req); a.status != c.status || strings.Contains(a.body, "SK") {
			t.Errorf("%s: %+v, want %d", c.name, a, c.status)
		}
	}
	wrong := *h
	wrong.secret = "wrong"
	if a := wrong.manage("GET", "/v1.23/funcs", ""); a.status != 403 {
		t.Errorf("the wrong secret: %+v", a)
	}
	for _, method := range []string{"GET", "PUT"} {
		want := map[string][2]int{"GET": {200, 200}, "PUT": {200, 403}}[method]
		for i := range 2 {
			req := h.request(method, "/funcs/f", map[string]string{"PUT": body}[method], now.Add(-time.Minute))
			if a := h.do(req); a.status != want[i] {
				t.Errorf("%s, time %d: %+v, want %d", method, i+1, a, want[i])
			}
		}
	}
	// The other listener asks for the same, and the address of a function is its key.
	if a := h.ask("GET", "/v1.23/funcs/f", ""); a.status != 401 {
		t.Errorf("over HTTP, without a signature: %+v", a)
	}
	if a := h.ask("POST", f.at("call")+"/sync", ""); a.status != 200 || a.body != "x\n" {
		t.Errorf("over HTTP, with the secret address: %+v", a)
	}
}

func TestHyperStatusesOfRealCalls(t *testing.T) {
	g := openGate(t)
	h := startHyper(t, func(c *config.Config) { c.ResultPerFunction, c.HyperQuota = 3*faas.MB, 2 })
	for _, c := range []struct {
		name, cmd, more, payload string
		status                   int
		says                     string
		size                     int
	}{
		{"cat", `["cat"]`, "", "payload", 200, "payload", 7},
		{"nothing", `["exit","0"]`, "", "", 200, "", 0},
		{"most", `["big","1048576"]`, "", "", 200, "xxx", 1 << 20},
		{"over", `["big","1048577"]`, "", "", 509, "1 MB", -1},
		{"far-over", `["big","50000000"]`, "", "", 509, "1 MB", -1},
		{"exits", `["exit","3","no such picture"]`, "", "", 500, "exit code 3: no such picture", -1},
		{"late", `["hang"]`, `,"Timeout":1`, "", 504, "execution timeout", -1},
		{"no-program", `["/nope"]`, "", "", 500, "/nope", -1},
	} {
		f := h.create(c.name, c.cmd, c.more)
		id := h.call(f, c.payload)
		for i, path := range []string{f.at("output") + "/" + id + "/wait", f.at("output") + "/" + id, f.at("call") + "/sync"} {
			method, want := "GET", c.status
			switch i {
			case 1: // whatever came of it is told once
				want = 404
			case 2:
				method = "PUT"
			}
			a := h.data(method, path, strings.NewReader(c.payload))
			if a.status != want || i != 1 && (!strings.Contains(a.body, c.says) || c.size >= 0 && len(a.body) != c.size) {
				t.Errorf("%s, %s: %d %d bytes %.100q, want %d %q", c.name, path, a.status, len(a.body), a.body, want, c.says)
			}
		}
	}

	gate := h.gate(g, "gate")
	runs, second, waits := h.call(gate, "1"), h.call(gate, "2"), h.call(gate, "3")
	visits := []*visit{g.next(), g.next()}
	for id, want := range map[string]int{runs: 201, second: 201, waits: 202} {
		if a := h.data("GET", gate.at("output")+"/"+id, nil); a.status != want || strings.Count(a.body, "\n") != 1 {
			t.Errorf("a call under way: %+v, want %d", a, want)
		}
	}
	if a := h.manage("DELETE", "/funcs/gate", ""); a.status != 409 || !strings.Contains(a.body, "executing") {
		t.Errorf("rm while a call executes: %+v", a)
	}
	for _, v := range visits {
		v.say("say done")
	}
	g.next().say("say done")
	for _, id := range []string{runs, second, waits} {
		if a := h.data("GET", gate.at("output")+"/"+id+"/wait", nil); a.status != 200 || a.body != "done" {
			t.Errorf("after it ended: %+v", a)
		}
	}

	big := h.create("rotates", `["big","1000000"]`, "")
	var ids []string
	for range 5 {
		id := h.call(big, "")
		h.ended(id)
		ids = append(ids, id)
	}
	for i, id := range ids {
		want := 200
		if i < 2 {
			want = 410
		}
		if a := h.data("GET", big.at("output")+"/"+id, nil); a.status != want {
			t.Errorf("result %d of 5: %d %.100q, want %d", i+1, a.status, a.body, want)
		}
	}
	if a := h.data("GET", big.at("output")+"/"+ids[0]+"/wait", nil); a.status != 410 {
		t.Errorf("waiting for a rotated result: %+v", a)
	}
	h.settled()
}

func TestBadHyperRequestsAreRefused(t *testing.T) {
	h := startHyper(t)
	f, o := h.create("f", `["cat"]`, ""), h.create("o", `["cat"]`, "")
	id := h.call(f, "x")
	h.ended(id)
	more := strings.Repeat("x", 1<<20+1)
	nobody := "00000000-0000-0000-0000-000000000000"
	for _, c := range []struct {
		method, path string
		body         io.Reader
		status       int
		says         string
	}{
		{"POST", f.at("call"), strings.NewReader(more), 413, "1 MB"},
		{"POST", f.at("call"), struct{ io.Reader }{strings.NewReader(more)}, 413, "1 MB"},
		{"POST", f.at("call") + "/sync", strings.NewReader(more), 413, "1 MB"},
		{"POST", f.at("call") + "/sync", struct{ io.Reader }{strings.NewReader(more)}, 413, "1 MB"},
		{"POST", "/call/f/" + nobody, nil, 404, ""},
		{"POST", "/call/f/" + o.UUID, nil, 404, ""},
		{"POST", "/call/f/x", nil, 404, ""},
		{"POST", "/call/none/" + f.UUID + "/sync", nil, 404, ""},
		{"GET", o.at("output") + "/" + id, nil, 404, ""},
		{"GET", o.at("output") + "/" + id + "/wait", nil, 404, ""},
		{"GET", f.at("output") + "/" + faas.NewID() + "/wait", nil, 404, ""},
		{"GET", f.at("output") + "/218b7b10-e7f1-4c48-ac3c-66792f8ffc06", nil, 404, ""},
		{"GET", "/output/f/" + nobody + "/" + id, nil, 404, ""},
		{"GET", "/logs/f/" + nobody, nil, 404, ""},
		{"GET", o.at("logs") + "?callid=" + id, nil, 404, ""},
		{"GET", f.at("logs") + "?tail=ten", nil, 400, "tail"},
		{"GET", f.at("logs") + "?tail=-1", nil, 400, "tail"},
		{"GET", f.at("logs") + "?tail=1e3", nil, 400, "tail"},
		{"GET", f.at("logs") + "?follow=perhaps", nil, 400, "follow"},
		{"GET", f.at("logs") + "?tail=%zz", nil, 400, ""},
		{"GET", "/status/f/" + nobody, nil, 404, ""},
		{"GET", f.at("status") + "?list=all", nil, 400, "list"},
		{"PATCH", f.at("call"), nil, 405, ""},
		{"DELETE", f.at("output") + "/" + id, nil, 405, ""},
	} {
		a := h.data(c.method, c.path, c.body)
		if a.status != c.status || !strings.Contains(a.body, c.says) || strings.Count(a.body, "\n") != 1 {
			t.Errorf("%s %s: %+v, want %d with %q in one line", c.method, c.path, a, c.status, c.says)
		}
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/v1.23/funcs?filters=garbage", "", 400, "filters"},
		{"GET", `/v1.23/funcs?filters=%7B%22color%22%3A%5B%22red%22%5D%7D`, "", 400, "color"},
		{"GET", `/v1.23/funcs?filters=%7B%22name%22%3A3%7D`, "", 400, "name"},
		{"GET", "/v1.23/funcs/call/" + faas.NewID(), "", 404, ""},
		{"GET", "/v1.23/funcs/none", "", 404, "none"},
		{"POST", "/v1.23/funcs/create", `{"Name":"F_","Config":{"Image":"ubuntu"}}`, 400, "F_"},
		{"POST", "/v1.23/funcs/create", `{"Name":"x","Config":{"Image":"none-such"}}`, 404, "none-such"},
		{"POST", "/v1.23/funcs/create", `{"Name":"x","ContainerSize":"xl","Config":{"Image":"ubuntu"}}`, 400, "s1"},
		{"POST", "/v1.23/funcs/create", `{"Name":"x","Timeout":86401,"Config":{"Image":"ubuntu"}}`, 400, "86400"},
		{"POST", "/v1.23/funcs/create", `{"Name":"x","Timeout":-1,"Config":{"Image":"ubuntu"}}`, 400, "86400"},
		{"POST", "/v1.23/funcs/create", `{"Name":"x","Config":{"Image":"ubuntu"},"HostConfig":{"NetworkMode":"container:y"}}`, 400, "container:y"},
		{"POST", "/v1.23/funcs/create", `{"Name":"x"`, 400, "JSON"},
		{"POST", "/v1.23/funcs/create", "", 400, ""},
		{"PUT", "/v1.23/funcs/f", `{"Name":"g"}`, 400, "name"},
		{"PUT", "/v1.23/funcs/f", `{"ContainerSize":"s11"}`, 400, "s11"},
	} {
		if a := h.manage(c.method, c.path, c.body); a.status != c.status || !strings.Contains(a.body, c.says) {
			t.Errorf("%s %s %s: %+v, want %d with %q", c.method, c.path, c.body, a, c.status, c.says)
		}
	}
	if a := h.data("GET", f.at("output")+"/"+id, nil); a.status != 200 || a.body != "x" {
		t.Errorf("the result, after all that: %+v", a)
	}
	if a := h.data("GET", f.at("status"), nil); !strings.Contains(a.body, `"Total":1,`) {
		t.Errorf("what was refused was accepted: %+v", a)
	}
}

// TestHobsFunctionsHaveHypersDataPlane is about functions that "hob create" makes.
func TestHobsFunctionsHaveHypersDataPlane(t *testing.T) {
	h := startHyper(t)
	h.function("own", "ubuntu", nil, "cat")
	made, err := h.Function(t.Context(), faas.DefaultApp, "own")
	if err != nil || made.Address == "" {
		t.Fatalf("%+v, %v", made, err)
	}
	f := fn{Name: "own", UUID: made.Address}
	id := h.call(f, "Hello")
	if a := h.data("GET", f.at("output")+"/"+id+"/wait", nil); a.status != 200 || a.body != "Hello" {
		t.Errorf("get --wait: %+v", a)
	}
	if a := h.data("GET", f.at("output")+"/"+id, nil); a.status != 404 {
		t.Errorf("get, again: %+v", a)
	}
	if _, err := h.result(id); faas.KindOf(err) != faas.NotFound {
		t.Errorf("the own API has a result that Hyper's rule removed: %v", err)
	}
	if a := h.data("PUT", f.at("call")+"/sync", strings.NewReader("now")); a.status != 200 || a.body != "now" {
		t.Errorf("call --sync: %+v", a)
	}
	if a := h.data("GET", f.at("status"), nil); a.status != 200 || !strings.Contains(a.body, `"Finished":2`) {
		t.Errorf("status: %+v", a)
	}
	var log string
	until(t, "the events are there", func() bool {
		log = h.data("GET", f.at("logs"), nil).body
		return strings.Count(log, "FINISHED") == 2
	})
	if strings.Contains(log, "Hello") {
		t.Errorf("its payload is in the log: %s", log)
	}
	kept := h.enqueue("own", "kept").ID
	for range 2 {
		if out, err := h.result(kept); out != "kept" || err != nil {
			t.Errorf("the own API keeps results: %q, %v", out, err)
		}
	}
	fresh, err := h.RefreshFunction(t.Context(), faas.DefaultApp, "own")
	if err != nil || fresh.Address == made.Address {
		t.Errorf("refresh: %+v, %v", fresh, err)
	}
	if a := h.data("POST", f.at("call"), nil); a.status != 404 {
		t.Errorf("the old address: %+v", a)
	}
	if a := h.manage("GET", "/v1.23/funcs", ""); a.body != "[]\n" {
		t.Errorf("management shows functions that were not made through it: %+v", a)
	}
}

func TestHyperFunctionsAndResultsSurviveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var cfg config.Config
	keep := func(c *config.Config) { withHyper(c); c.Data = dir; cfg = *c }
	g := openGate(t)
	h := startHyper(t, keep)
	body := `{"Name":"f","ContainerSize":"s2","Timeout":86400,"Config":{"Image":"ubuntu","Cmd":"cat","Labels":{"sh_hyper_sg_web":"yes","team":"a"},"ExposedPorts":{"80/tcp":{}},"Tty":true},` +
		`"HostConfig":{"Links":["db:db"],"VolumesFrom":["data"],"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},"PublishAllPorts":true}}`
	a := h.manage("POST", "/funcs/create", body)
	var f fn
	if err := json.Unmarshal([]byte(a.body), &f); a.status != 201 || err != nil {
		t.Fatalf("create: %+v, %v", a, err)
	}
	before := h.manage("GET", "/funcs/f", "").body
	for _, part := range []string{`"sh_hyper_sg_web":"yes"`, `"db:db"`, `"data"`, `"8080"`, `"80/tcp"`, `"PublishAllPorts":true`, `"Tty":true`, `"Timeout":86400`} {
		if !strings.Contains(before, part) {
			t.Errorf("%s is not kept: %s", part, before)
		}
	}
	if a := h.manage("GET", `/funcs?filters=%7B%22label%22%3A%7B%22team%3Da%22%3Atrue%7D%7D`, ""); strings.Count(a.body, `"Name"`) != 1 {
		t.Errorf("ls by label: %+v", a)
	}
	fetched, kept := h.call(f, "fetched"), h.call(f, "kept")
	if a := h.data("GET", f.at("output")+"/"+fetched+"/wait", nil); a.status != 200 {
		t.Errorf("%+v", a)
	}
	h.ended(kept)
	gate := h.gate(g, "gate")
	runs := h.call(gate, "runs")
	v := g.next()
	h.stop()
	v.gone(t)
	h = clientOf(run(t, keep), cfg)
	if after := h.manage("GET", "/funcs/f", "").body; after != before {
		t.Errorf("after a restart %s, before it %s", after, before)
	}
	for id, want := range map[string]int{fetched: 404, kept: 200} {
		if a := h.data("GET", f.at("output")+"/"+id, nil); a.status != want {
			t.Errorf("after a restart: %+v, want %d", a, want)
		}
	}
	g.next().say("cat")
	if a := h.data("GET", gate.at("output")+"/"+runs+"/wait", nil); a.status != 200 || a.body != "runs" {
		t.Errorf("the call that ran: %+v", a)
	}
	g.none()
}
