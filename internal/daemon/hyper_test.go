package daemon_test

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/config"
)

// hyper is the client of Hyper, as spec/transcripts/hyper-cli.txt has it.
type hyper struct {
	*node
	tls            *tls.Config
	client         *http.Client
	host           string // of the HTTPS address
	access, secret string
	sent           time.Duration // requests so far
}

// withHyper gives the daemon an HTTPS address and a key, and lets functions share
// the network of the node.
func withHyper(t *testing.T) func(*config.Config) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return func(c *config.Config) {
		withGate(c)
		c.TLSListen, c.HyperKeys = l.Addr().String(), []string{"AK:SK"}
	}
}

// startHyper starts a daemon with the image ubuntu.
func startHyper(t *testing.T, change ...func(*config.Config)) *hyper {
	t.Helper()
	var cfg config.Config
	n := start(t, append(append([]func(*config.Config){withHyper(t)}, change...), func(c *config.Config) { cfg = *c })...)
	tar, err := gateTar()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Load(t.Context(), bytes.NewReader(tar), "ubuntu"); err != nil {
		t.Fatal(err)
	}
	return clientOf(n, cfg)
}

// clientOf is a client that trusts the certificate that the node has made.
func clientOf(n *node, cfg config.Config) *hyper {
	n.t.Helper()
	h := &hyper{node: n, host: cfg.TLSListen, access: "AK", secret: "SK", tls: &tls.Config{RootCAs: x509.NewCertPool()}}
	cert, err := os.ReadFile(filepath.Join(cfg.Data, "tls/cert.pem"))
	if err != nil || !h.tls.RootCAs.AppendCertsFromPEM(cert) {
		n.t.Fatalf("the certificate: %v", err)
	}
	transport := &http.Transport{TLSClientConfig: h.tls, DisableCompression: true}
	h.client = &http.Client{Transport: transport}
	n.t.Cleanup(transport.CloseIdleConnections)
	return h
}

// hyperSignature signs a request as section 1 of spec/hyper-func.md says.
func hyperSignature(secret, method, path, query, host, hash, date, region string) string {
	mac := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		io.WriteString(m, text)
		return m.Sum(nil)
	}
	sum := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
	scope := date[:8] + "/" + region + "/hyper/hyper_request"
	canonical := strings.Join([]string{
		method, strings.TrimPrefix(path, "/"), query,
		"content-type:application/json", "host:" + host, "x-hyper-content-sha256:" + hash, "x-hyper-date:" + date, "",
		"content-type;host;x-hyper-content-sha256;x-hyper-date", hash,
	}, "\n")
	key := []byte("HYPER" + secret)
	for _, part := range strings.Split(scope, "/") {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, strings.Join([]string{"HYPER-HMAC-SHA256", date, scope, sum(canonical)}, "\n")))
}

// request is one of management, with the headers of the client.
func (h *hyper) request(method, path, body string, at time.Time) *http.Request {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, "https://"+h.host+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if body == "" {
		req.Body = nil
	}
	hash, date := fmt.Sprintf("%x", sha256.Sum256([]byte(body))), at.UTC().Format("20060102T150405Z")
	for name, value := range map[string]string{
		"User-Agent": "Docker-Client/1.10.17 (linux)", "Content-Type": "application/json", "Accept-Encoding": "gzip",
		"X-Hyper-Content-Sha256": hash, "X-Hyper-Date": date,
		"Authorization": "HYPER-HMAC-SHA256 Credential=" + h.access + "/" + date[:8] + "/us-west-1/hyper/hyper_request, " +
			"SignedHeaders=content-type;host;x-hyper-content-sha256;x-hyper-date, Signature=" +
			hyperSignature(h.secret, method, req.URL.Path, strings.ReplaceAll(req.URL.Query().Encode(), "+", "%20"), h.host, hash, date, "us-west-1"),
	} {
		req.Header.Set(name, value)
	}
	return req
}

func (h *hyper) do(req *http.Request) answer {
	h.t.Helper()
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Error(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// manage sends a request to management.
func (h *hyper) manage(method, path, body string) answer {
	h.t.Helper()
	h.sent++ // the client does not send the same within a second, and dates have no more
	return h.do(h.request(method, path, body, time.Now().Add(-h.sent*time.Second)))
}

// data sends a request to the data plane. A nil body is none.
func (h *hyper) data(method, path string, body io.Reader, headers ...string) answer {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, "https://"+h.host+path, body)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Host = "localhost"
	req.Header.Set("User-Agent", "Go-http-client/1.1")
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		req.Header.Add(name, value)
	}
	return h.do(req)
}

// A fn is a function as Hyper shows it.
type fn struct {
	Name, ContainerSize, UUID string
	Timeout                   int
	Config                    struct {
		Env    []string
		Labels map[string]string
	}
}

// create makes a function of the smallest size; more is further members of its
// JSON, config and host members of its Config and HostConfig.
func (h *hyper) create(name, cmd, more string) fn {
	h.t.Helper()
	body := fmt.Sprintf(`{"Name":%q,"ContainerSize":"s1","Config":{"Cmd":%s,"Image":"ubuntu"}%s}`+"\n", name, cmd, more)
	a := h.manage("POST", "/v1.23/funcs/create", body)
	var f fn
	if err := json.Unmarshal([]byte(a.body), &f); a.status != 201 || err != nil || f.UUID == "" {
		h.t.Fatalf("create %s: %+v, %v", name, a, err)
	}
	return f
}

// gated makes a function that asks at the gate.
func (h *hyper) gate(g *gate, name string) fn {
	h.t.Helper()
	a := h.manage("POST", "/v1.23/funcs/create", fmt.Sprintf(
		`{"Name":%q,"ContainerSize":"s1","Config":{"Image":"ubuntu","Env":["GATE=%s"]},"HostConfig":{"NetworkMode":"host"}}`+"\n", name, g.addr))
	var f fn
	if err := json.Unmarshal([]byte(a.body), &f); a.status != 201 || err != nil {
		h.t.Fatalf("create %s: %+v, %v", name, a, err)
	}
	return f
}

func (f fn) at(plane string) string { return "/" + plane + "/" + f.Name + "/" + f.UUID }

// call calls a function and returns the id of the call.
func (h *hyper) call(f fn, payload string) string {
	h.t.Helper()
	return h.accepted(h.data("POST", f.at("call"), strings.NewReader(payload)))
}

func (h *hyper) accepted(a answer) string {
	h.t.Helper()
	var out map[string]string
	if err := json.Unmarshal([]byte(a.body), &out); a.status != 200 || err != nil || len(out) != 1 || out["CallId"] == "" {
		h.t.Fatalf("call: %+v, %v", a, err)
	}
	return out["CallId"]
}

func TestSignatureOfTheTranscript(t *testing.T) {
	got := hyperSignature("SK", "GET", "/v1.23/funcs", "", "127.0.0.1:2375", fmt.Sprintf("%x", sha256.Sum256(nil)), "20261121T021918Z", "us-west-1")
	if want := "ecb2fd322e7de1bff34519745dfa15ea1c4a73660f2f568726b13884ca7abe58"; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

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

// TestCallsOverTheHyperQuotaWaitInOneLine is row 47 of spec/checklist.md.
func TestCallsOverTheHyperQuotaWaitInOneLine(t *testing.T) {
	g := openGate(t)
	h := startHyper(t)
	one, two := h.gate(g, "one"), h.gate(g, "two")
	own := h.create("own", `["cat"]`, "")
	var ids []string
	for i := range 20 {
		f := one
		if i%3 == 0 {
			f = two
		}
		ids = append(ids, h.call(f, fmt.Sprint(i)))
	}
	began := make(map[string]*visit)
	for range 10 {
		v := g.next()
		began[v.Payload] = v
	}
	for i := range 10 {
		if began[fmt.Sprint(i)] == nil {
			t.Errorf("call %d has not begun: %v", i, began)
		}
	}
	var pending, running int
	until(t, "ten run", func() bool {
		pending, running = 0, 0
		for _, f := range []fn{one, two} {
			var s struct{ Pending, Running int }
			if err := json.Unmarshal([]byte(h.data("GET", f.at("status"), nil).body), &s); err != nil {
				t.Fatal(err)
			}
			pending, running = pending+s.Pending, running+s.Running
		}
		return running == 10
	})
	if pending != 10 {
		t.Errorf("Pending %d, Running %d; want 10 and 10", pending, running)
	}
	for i, id := range ids[10:] {
		c := h.record(id)
		if c.Place != i+1 || !strings.Contains(c.Waiting, "10 calls at once") {
			t.Errorf("call %d: place %d, %q; want place %d", i+10, c.Place, c.Waiting, i+1)
		}
	}
	queued, err := h.QueuedCalls(t.Context(), "hyper", "", 0)
	if err != nil || len(queued) != 10 || queued[0].ID != ids[10] || queued[9].ID != ids[19] {
		t.Errorf("queued: %+v, %v", queued, err)
	}
	last := h.call(own, "last in line") // the quota counts all functions together
	if a := h.data("GET", own.at("output")+"/"+last, nil); a.status != 202 {
		t.Errorf("a third function does not wait for the quota: %+v", a)
	}
	// Another app has nothing to do with it.
	h.function("free", "ubuntu", nil, "cat")
	if out, err := h.say("free", "x"); out != "x" || err != nil {
		t.Errorf("a function of another app = %q, %v", out, err)
	}
	for i := range 10 {
		began[fmt.Sprint(i)].say("cat")
		v := g.next()
		if v.Payload != fmt.Sprint(i+10) {
			t.Errorf("number %d to begin is call %s", i+10, v.Payload)
		}
		began[v.Payload] = v
	}
	for i := range 10 {
		began[fmt.Sprint(i+10)].say("cat")
	}
	for i, id := range ids {
		f := one
		if i%3 == 0 {
			f = two
		}
		if a := h.data("GET", f.at("output")+"/"+id+"/wait", nil); a.status != 200 || a.body != fmt.Sprint(i) {
			t.Errorf("call %d: %+v", i, a)
		}
	}
	if a := h.data("GET", own.at("output")+"/"+last+"/wait", nil); a.status != 200 || a.body != "last in line" {
		t.Errorf("the last one: %+v", a)
	}
	g.none()
	h.settled()
}

// follow upgrades a connection to the log of a function and returns its lines.
func (h *hyper) follow(f fn, query string) *bufio.Reader {
	h.t.Helper()
	conn, err := tls.Dial("tcp", h.host, h.tls)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(long))
	fmt.Fprintf(conn, "GET %s?%s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", f.at("logs"), query)
	r := bufio.NewReader(conn)
	status, err := r.ReadString('\n')
	if err != nil || status != "HTTP/1.1 101 UPGRADED\r\n" {
		h.t.Fatalf("%q, %v; want 101", status, err)
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			h.t.Fatal(err)
		}
		if line == "\r\n" {
			return r
		}
	}
}

func TestUpgradedLogTellsOfCallsAsTheyGo(t *testing.T) {
	g := openGate(t)
	h := startHyper(t)
	f := h.gate(g, "f")
	h.call(f, "before")
	g.next().say("exit 2 bad luck")
	until(t, "the first call has failed", func() bool { return strings.Contains(h.data("GET", f.at("status"), nil).body, `"Failed":1`) })
	all, some := h.follow(f, "follow=true&tail=all"), h.follow(f, "follow=true&tail=1")
	next := func(r *bufio.Reader) (event, call, rest string) {
		t.Helper()
		line, err := r.ReadString('\n')
		var e struct{ Event, CallId, ShortStdin, ShortStdout, ShortStderr, Message string }
		if err == nil {
			err = json.Unmarshal([]byte(line), &e)
		}
		if err != nil {
			t.Fatalf("%q, %v", line, err)
		}
		return e.Event, e.CallId, e.ShortStdin + e.ShortStdout + e.Message
	}
	for _, want := range []string{"CALL before", "PENDING ", "RUNNING ", "FAILED exit code 2: bad luck"} {
		if event, _, rest := next(all); event+" "+rest != want && !(event == "FAILED" && strings.Contains(rest, "exit code 2: bad luck")) {
			t.Errorf("event %s %q, want %q", event, rest, want)
		}
	}
	if event, _, _ := next(some); event != "FAILED" {
		t.Errorf("the last event is %s, want FAILED", event)
	}
	id := h.call(f, "after")
	v := g.next()
	for _, r := range []*bufio.Reader{all, some} {
		for _, want := range []string{"CALL after", "PENDING ", "RUNNING "} { // while it runs
			if event, call, rest := next(r); event+" "+rest != want || call != id {
				t.Errorf("event %s %q of %s, want %q", event, rest, call, want)
			}
		}
	}
	v.say("say done")
	for _, r := range []*bufio.Reader{all, some} {
		if event, call, rest := next(r); event != "FINISHED" || call != id || rest != "done" {
			t.Errorf("event %s %q of %s, want FINISHED", event, rest, call)
		}
	}
	one := h.data("GET", f.at("logs")+"?callid="+id+"&tail=2", nil)
	if one.status != 200 || strings.Count(one.body, "\n") != 2 || strings.Count(one.body, id) != 2 {
		t.Errorf("two lines of one call: %+v", one)
	}
	if a := h.data("GET", f.at("logs")+"?follow=0?callid="+id, nil); a.status != 200 || strings.Count(a.body, id) != 4 {
		t.Errorf("with the second '?' of the documents: %+v", a)
	}
	h.stop() // with two that follow
	if _, err := all.ReadString('\n'); err != io.EOF {
		t.Errorf("the stream ends with %v", err)
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

func TestHyperFunctionHasHeadersAndSettingsInItsEnvironment(t *testing.T) {
	h := startHyper(t)
	f := h.create("f", `["env","HTTP_X_TRACE_ID"]`, "")
	if a := h.data("GET", f.at("call")+"/sync", strings.NewReader("x"), "X-Trace-Id: 7"); a.status != 200 || a.body != "7" {
		t.Errorf("a header: %+v", a)
	}
	p := h.create("p", `["env","HTTP_PROXY"]`, "")
	if a := h.data("DELETE", p.at("call")+"/sync", nil, "Proxy: evil"); a.status != 200 || a.body != "" {
		t.Errorf("Proxy is passed on: %+v", a)
	}
	e := h.create("e", `["env","A"]`, "")
	for _, c := range []struct{ env, want string }{{`["A=1"]`, "1"}, {"", "1"}, {"[]", ""}} {
		body := `{"Name":"e","Config":{}}`
		if c.env != "" {
			body = `{"Name":"e","Config":{"Env":` + c.env + `}}`
		}
		if a := h.manage("PUT", "/funcs/e", body); a.status != 200 {
			t.Errorf("update: %+v", a)
		}
		if a := h.data("POST", e.at("call")+"/sync", nil); a.body != c.want {
			t.Errorf("after %s: %q, want %q", body, a.body, c.want)
		}
	}
}

func TestHyperFunctionsAndResultsSurviveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	with := withHyper(t)
	var cfg config.Config
	keep := func(c *config.Config) { with(c); c.Data = dir; cfg = *c }
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

func TestManySynchronousHyperCallersShareTheQuota(t *testing.T) {
	h := startHyper(t, func(c *config.Config) { c.HyperQuota = 3 })
	f := h.create("f", `["cat"]`, "")
	var callers sync.WaitGroup
	for i := range 20 {
		callers.Go(func() {
			if a := h.data("POST", f.at("call")+"/sync", strings.NewReader(fmt.Sprint(i))); a.status != 200 || a.body != fmt.Sprint(i) {
				t.Errorf("caller %d: %+v", i, a)
			}
		})
	}
	callers.Wait()
	if a := h.data("GET", f.at("status"), nil); !strings.Contains(a.body, `"Total":20,"Pending":0,"Running":0,"Finished":20,"Failed":0`) {
		t.Errorf("status: %+v", a)
	}
}

func TestKeyOverTheHyperAPIIsOneCall(t *testing.T) {
	g := openGate(t)
	h := startHyper(t)
	f := h.gate(g, "f")
	const key = "Idempotency-Key: k"
	first := h.accepted(h.data("POST", f.at("call"), strings.NewReader("x"), key))
	if second := h.accepted(h.data("POST", f.at("call"), strings.NewReader("x"), key)); second != first {
		t.Errorf("call %s, then %s", first, second)
	}
	if a := h.data("POST", f.at("call"), strings.NewReader("y"), key); a.status != 422 {
		t.Errorf("another payload: %+v, want 422", a)
	}
	g.next().say("cat")
	if a := h.data("POST", f.at("call")+"/sync", strings.NewReader("x"), key); a.status != 200 || a.body != "x" {
		t.Errorf("with /sync: %+v", a)
	}
	g.none()
}

func TestCallerOfSyncWhoLeavesFindsTheResult(t *testing.T) {
	g := openGate(t)
	h := startHyper(t)
	f := h.gate(g, "f")
	conn, err := tls.Dial("tcp", h.host, h.tls)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST %s/sync HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nHello", f.at("call"))
	v := g.next()
	conn.Close()
	var s struct {
		List []struct{ CallId, Status string }
	}
	if err := json.Unmarshal([]byte(h.data("GET", f.at("status")+"?list=True", nil).body), &s); err != nil || len(s.List) != 1 || s.List[0].Status != "RUNNING" {
		t.Fatalf("status %+v, %v", s, err)
	}
	v.say("cat")
	if a := h.data("GET", f.at("output")+"/"+s.List[0].CallId+"/wait", nil); a.status != 200 || a.body != "Hello" {
		t.Errorf("result %+v", a)
	}
}

func TestMostOfAPayloadIsAccepted(t *testing.T) {
	h := startHyper(t)
	f := h.create("f", `["cat"]`, "")
	payload := strings.Repeat("x", 1<<20)
	for _, body := range []io.Reader{strings.NewReader(payload), struct{ io.Reader }{strings.NewReader(payload)}} {
		if a := h.data("POST", f.at("call")+"/sync", body); a.status != 200 || a.body != payload {
			t.Errorf("1 MB: %d, %d bytes", a.status, len(a.body))
		}
	}
}

func TestKeyAnswersWhoAsksSyncTwice(t *testing.T) {
	h := startHyper(t)
	f := h.create("f", `["cat"]`, "")
	for i := range 2 {
		if a := h.data("POST", f.at("call")+"/sync", strings.NewReader("x"), "Idempotency-Key: k"); a.status != 200 || a.body != "x" {
			t.Errorf("time %d: %+v", i+1, a)
		}
	}
	if a := h.data("GET", f.at("status"), nil); !strings.Contains(a.body, `"Total":1,`) {
		t.Errorf("status %+v", a)
	}
}

func TestFunctionIsToldTheURLAsItWasAsked(t *testing.T) {
	h := startHyper(t)
	h.function("url", "ubuntu", nil, "env", "HOB_REQUEST_URL")
	req, _ := http.NewRequest("POST", "https://"+h.host+async("url"), nil)
	if a := h.do(req); a.status != 200 || !strings.HasPrefix(a.body, "https://"+h.host) {
		t.Errorf("%+v", a)
	}
}
