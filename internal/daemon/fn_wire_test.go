package daemon_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/config"
)

// raw writes bytes to a connection of its own and reads answers until the server
// closes it or there are as many as wanted.
func (n *fnNode) raw(text string, answers int) []answer {
	n.t.Helper()
	conn, err := net.Dial("tcp", n.addr)
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(long))
	if _, err := io.WriteString(conn, text); err != nil {
		n.t.Fatal(err)
	}
	return n.answers(conn, answers)
}

func (n *fnNode) answers(conn net.Conn, count int) (all []answer) {
	n.t.Helper()
	r := bufio.NewReader(conn)
	for range count {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			n.t.Errorf("after %d answers: %v", len(all), err)
			return all
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			n.t.Error(err)
		}
		all = append(all, answer{resp.StatusCode, resp.Header, string(body)})
	}
	return all
}

// TestRequestsThatCanBeReadTwoWaysReachNoFunction sends what one server takes for
// one request and the next for two.
func TestRequestsThatCanBeReadTwoWaysReachNoFunction(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	n.trigger(fn, "t", "/s")
	const smuggled = "5\r\ncount\r\n0\r\n\r\n"
	for name, tt := range map[string]struct {
		head   string // behind the request line and Host
		body   string
		status int
	}{
		"two lengths":                     {"Content-Length: 5\r\nContent-Length: 6\r\n", "countx", 400},
		"two lengths in one":              {"Content-Length: 5, 6\r\n", "countx", 400},
		"length with a sign":              {"Content-Length: +5\r\n", "count", 400},
		"negative length":                 {"Content-Length: -5\r\n", "count", 400},
		"length in hex":                   {"Content-Length: 0x5\r\n", "count", 400},
		"huge length":                     {"Content-Length: 99999999999999999999\r\n", "count", 400},
		"space before the colon":          {"Content-Length : 5\r\n", "count", 400},
		"chunked and identity":            {"Transfer-Encoding: chunked, identity\r\n", smuggled, 501},
		"two transfer encodings":          {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", smuggled, 501},
		"an encoding nobody knows":        {"Transfer-Encoding: xchunked\r\n", smuggled, 501},
		"control character in a value":    {"X-Mine: a\x00b\r\n", "", 400},
		"bare carriage return":            {"X-Mine: a\rX-Other: b\r\n", "", 400},
		"space in a name":                 {"X Mine: a\r\n", "", 400},
		"empty name":                      {": a\r\n", "", 400},
		"no colon":                        {"X-Mine\r\n", "", 400},
		"first line folded":               {" folded\r\n", "", 400},
		"two hosts":                       {"Host: other\r\n", "", 400},
		"chunk size that is none":         {"Transfer-Encoding: chunked\r\n", "zz\r\ncount\r\n0\r\n\r\n", 0},
		"chunk longer than it says":       {"Transfer-Encoding: chunked\r\n", "3\r\ncount\r\n0\r\n\r\n", 0},
		"chunk size over all there is":    {"Transfer-Encoding: chunked\r\n", "ffffffffffffffffff\r\ncount\r\n0\r\n\r\n", 0},
		"body shorter than it says":       {"Content-Length: 500\r\n", "count", 0},
		"folded line":                     {"Content-Length: 5\r\nX-Mine: a\r\n b\r\n", "headr", 200},
		"length and chunks: chunks count": {"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", smuggled, 200},
	} {
		for _, path := range []string{"/invoke/" + fn, "/t/a/s"} {
			request := "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + tt.head + "\r\n" + tt.body
			if tt.status != 0 {
				if a := n.raw(request, 1); len(a) != 1 || a[0].status != tt.status {
					t.Errorf("%s, %s: %+v, want %d", name, path, a, tt.status)
				}
				continue
			}
			conn, err := net.Dial("tcp", n.addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(long))
			io.WriteString(conn, request)
			conn.(*net.TCPConn).CloseWrite()
			if a := n.answers(conn, 1); len(a) != 1 || a[0].status/100 == 2 {
				t.Errorf("%s, %s: %+v, want a failure", name, path, a)
			}
			conn.Close()
		}
	}
	for _, head := range []string{"GET /v2/apps HTTP/1.1\r\n\r\n", "GET /v2/apps HTTP/1.1\r\nHost: a b\r\n\r\n", "GET /v2/apps HTTP/1.1\r\nHost: a/b\r\n\r\n", "GET  HTTP/1.1\r\nHost: x\r\n\r\n", "nothing\r\n\r\n", "GET /v2/apps HTTP/9.9\r\nHost: x\r\n\r\n", "GET /v2/\x00 HTTP/1.1\r\nHost: x\r\n\r\n", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n"} {
		if a := n.raw(head, 1); len(a) != 1 || a[0].status/100 != 4 && a[0].status/100 != 5 {
			t.Errorf("%q: %+v", head, a)
		}
	}
}

func TestWaysOfHTTPThatAreSeldomUsedWork(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	n.trigger(fn, "t", "/s")
	one := func(text string) answer {
		t.Helper()
		a := n.raw(text, 1)
		if len(a) == 0 {
			t.FailNow()
		}
		return a[0]
	}
	if a := one("POST /invoke/" + fn + " HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody"); a.status != 200 || a.body != "body" && a.header.Get("Fn-Call-Id") == "" {
		t.Errorf("HTTP/1.0: %+v", a)
	}
	if a := one("POST http://other.example.org:99/invoke/" + fn + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"); a.status != 200 || a.body != "hi" {
		t.Errorf("absolute address: %+v", a)
	}
	chunks := "POST /invoke/" + fn + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4;note=1\r\nhead\r\n3\r\ners\r\n0\r\nX-Sum: 7\r\n\r\n"
	a := one(chunks)
	var got struct{ Header http.Header }
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || got.Header.Get("Trailer")+got.Header.Get("X-Sum") != "" {
		t.Errorf("chunks with a trailer: %+v, %v", a, err)
	}
	all := n.raw(strings.Repeat("POST /invoke/"+fn+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na", 3)+
		"GET /v2/apps HTTP/1.1\r\nHost: localhost\r\n\r\nGET /none HTTP/1.1\r\nHost: localhost\r\n\r\nPOST /t/a/s HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nb", 6)
	var statuses []int
	for _, a := range all {
		statuses = append(statuses, a.status)
	}
	if fmt.Sprint(statuses) != "[200 200 200 200 404 200]" || all[0].body != "a" || all[5].body != "b" {
		t.Errorf("six requests at once: %+v", all)
	}
	// 100-continue: asked for the body when it is wanted, and not when it is not.
	all = n.raw("POST /invoke/"+fn+" HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nc", 2)
	if len(all) != 2 || all[0].status != 100 || all[1].status != 200 || all[1].body != "c" {
		t.Errorf("Expect: %+v", all)
	}
	if a := one("POST /invoke/01M7XY3BSTFW00008ZJ0000003 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"); a.status != 404 {
		t.Errorf("Expect of a call that cannot be made: %+v", a)
	}
	for path, want := range map[string]int{"/v2/apps": 405, "/invoke/" + fn: 405, "/none": 404, "/t/a/none": 404, "/t/a/s": 200} {
		for _, method := range []string{"HEAD", "OPTIONS", "TRACE"} {
			a := n.ask(method, path, "")
			if a.status != want || method == "HEAD" && a.body != "" {
				t.Errorf("%s %s: %+v, want %d", method, path, a, want)
			}
			if method != "HEAD" && want == 405 && a.message(t) != "Method not allowed: "+method+" "+path {
				t.Errorf("%s %s: %+v", method, path, a)
			}
		}
	}
}

func TestHostsWithPortsAndCapitalsAreShownAsAsked(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	for host, want := range map[string]string{"": n.addr, "LOCALHOST:99": "LOCALHOST:99", "127.0.0.1": "127.0.0.1", "[::1]:8080": "[::1]:8080"} {
		a := n.askHost(host, "GET", "/v2/fns/"+fn, "")
		if a.status != 200 || !strings.Contains(a.body, `"http://`+want+"/invoke/"+fn+`"`) {
			t.Errorf("host %q: %+v, want %s", host, a, want)
		}
	}
	// A page of another site that makes its name mean this machine manages nothing.
	if a := n.askHost("evil.example.org", "GET", "/v2/apps", ""); a.status/100 == 2 {
		t.Errorf("management under a foreign name: %+v", a)
	}
}

// TestLargeBodiesCostNoMemory sends 100 MB to management, which refuses it, and to a
// function, to which it streams.
func TestLargeBodiesCostNoMemory(t *testing.T) {
	n := startFn(t, func(c *config.Config) { c.MaxRequest = 200 * faas.MB })
	sink := n.make("fns", fmt.Sprintf(`{"name":"sink","app_id":%q,"image":%q,"memory":64,"timeout":300}`, n.app, n.node.image("fngate")))
	n.invoke(sink, "x")
	seen := watchMemory(t)
	const size = 100 << 20
	for _, known := range []bool{true, false} {
		post := func(path string) (int, string) {
			var body io.Reader = io.LimitReader(spaces{}, size)
			req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+n.addr+path, body)
			if err != nil {
				t.Fatal(err)
			}
			if known {
				req.ContentLength = size
			}
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s, length known: %t: %v", path, known, err)
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(text)
		}
		for _, path := range []string{"/v2/apps", "/v2/fns", "/v2/triggers"} {
			if !known && path != "/v2/apps" {
				continue // one is heard out for long enough
			}
			if status, text := post(path); status != 413 || text != `{"message":"Request content too large"}`+"\n" {
				t.Errorf("%s, length known: %t: %d %s", path, known, status, text)
			}
		}
		if status, text := post("/invoke/" + sink); status != 200 || text != fmt.Sprint(size) {
			t.Errorf("invoke, length known: %t: %d %s", known, status, text)
		}
	}
	if most := seen(); most > 60<<20 {
		t.Errorf("the process grew by %d bytes", most)
	}
}

// spaces is an endless JSON body that never begins.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestBadFnDefinitionsAreRefusedFromOutside(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	other := n.make("apps", `{"name":"other"}`)
	cursor := func(path string) string {
		var page struct {
			Cursor string `json:"next_cursor"`
		}
		a := n.ask("GET", path, "")
		if json.Unmarshal([]byte(a.body), &page) != nil || page.Cursor == "" {
			t.Fatalf("%s: %+v", path, a)
		}
		return page.Cursor
	}
	n.invoke(fn, "count")
	until(t, "the call is listed", func() bool {
		return strings.Contains(n.ask("GET", "/v2/fns/"+fn+"/calls?per_page=1", "").body, "next_cursor")
	})
	ofCalls, ofFns := cursor("/v2/fns/"+fn+"/calls?per_page=1"), cursor("/v2/fns?app_id="+n.app+"&per_page=1")
	deep := strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000)
	for _, tt := range []struct {
		method, path, body string
		status             int
		message            string
	}{
		{"POST", "/v2/apps", deep, 400, "Invalid JSON"},
		{"POST", "/v2/apps", `{"name":"x","annotations":{"k":` + deep + `}}`, 400, "Invalid JSON"},
		{"POST", "/v2/apps", "{\"name\":\"\xff\"}", 400, "Invalid JSON"},
		{"POST", "/v2/apps", `{"name":"x"} {"name":"y"}`, 400, "Invalid JSON"},
		{"POST", "/v2/apps", `["x"]`, 400, "Invalid JSON"},
		{"POST", "/v2/apps", `{"name":5}`, 400, "Invalid JSON"},
		{"POST", "/v2/apps", `{"name":"x","config":{"a":1}}`, 400, "Invalid JSON"},
		{"POST", "/v2/apps", "", 400, "Invalid JSON"},
		{"POST", "/v2/apps", `{"name":"a.b"}`, 400, "Invalid app name"},
		{"POST", "/v2/apps", `{"name":"a/b"}`, 400, "Invalid app name"},
		{"POST", "/v2/apps", `{"name":"a%2Fb"}`, 400, "Invalid app name"},
		{"POST", "/v2/apps", `{"name":".."}`, 400, "Invalid app name"},
		{"POST", "/v2/apps", `{"name":"` + strings.Repeat("a", 256) + `"}`, 400, "App name must be 255 characters or less"},
		{"POST", "/v2/fns", fmt.Sprintf(`{"name":"a/b","app_id":%q,"image":"i"}`, n.app), 400, "name must be a valid string"},
		{"POST", "/v2/fns", fmt.Sprintf(`{"name":"a b","app_id":%q,"image":"i"}`, n.app), 400, "name must be a valid string"},
		{"POST", "/v2/fns", fmt.Sprintf(`{"name":"a%%2F","app_id":%q,"image":"i"}`, n.app), 400, "name must be a valid string"},
		{"POST", "/v2/fns", `{"name":"x","app_id":"nope","image":"i"}`, 404, "App not found"},
		{"POST", "/v2/fns", fmt.Sprintf(`{"name":"x","app_id":%q,"image":"i","timeout":301}`, n.app), 400, "timeout value is out of range, must be between 0 and 300"},
		{"POST", "/v2/fns", fmt.Sprintf(`{"name":"x","app_id":%q,"image":"i","memory":-1}`, n.app), 400, ""},
		{"POST", "/v2/fns", fmt.Sprintf(`{"name":"x","app_id":%q,"image":"i","memory":1e3}`, n.app), 400, ""},
		{"POST", "/v2/fns", fmt.Sprintf(`{"name":"x","app_id":%q,"image":"i","memory":18446744073709551616}`, n.app), 400, "Invalid JSON"},
		{"POST", "/v2/fns", fmt.Sprintf(`{"name":"x","app_id":%q,"image":"BAD IMAGE"}`, n.app), 400, "Invalid Fn image"},
		{"POST", "/v2/triggers", fmt.Sprintf(`{"name":"x","app_id":%q,"fn_id":%q,"type":"http","source":"/x"}`, other, fn), 400, "Invalid Fn ID - not owned by specified app"},
		{"POST", "/v2/triggers", fmt.Sprintf(`{"name":"x.y","app_id":%q,"fn_id":%q,"type":"http","source":"/x"}`, n.app, fn), 400, "Invalid name for Trigger"},
		{"POST", "/v2/triggers", fmt.Sprintf(`{"name":"x","app_id":%q,"fn_id":%q,"type":"grpc","source":"/x"}`, n.app, fn), 400, "Trigger Type Not Supported"},
		{"GET", "/v2/apps/" + strings.Repeat("A", 26), "", 404, "App not found"},
		{"GET", "/v2/apps/a", "", 404, "App not found"},
		{"GET", "/v2/apps/..%2f..%2fetc", "", 404, ""},
		{"GET", "/v2/fns/%00", "", 404, "Fn not found"},
		{"GET", "/v2/fns/" + strings.ToLower(fn), "", 404, "Fn not found"},
		{"GET", "/v2/fns/" + n.app, "", 404, "Fn not found"},
		{"GET", "/v2/triggers/" + strings.Repeat("x", 5000), "", 404, "Trigger not found"},
		{"GET", "/v2/fns", "", 400, "Missing AppID on Fn"},
		{"GET", "/v2/fns?app_id=" + n.app + "&cursor=" + ofCalls, "", 0, ""},
		{"GET", "/v2/apps?cursor=%21", "", 400, "Invalid cursor: use the next_cursor of the page before"},
		{"GET", "/v2/fns/" + fn + "/calls?cursor=" + ofFns, "", 400, "Invalid cursor: use the next_cursor of the page before"},
		{"GET", "/v2/apps/", "", 404, "Path not found: GET /v2/apps/"},
		{"PATCH", "/v2/apps", "", 405, "Method not allowed: PATCH /v2/apps"},
		{"POST", "/invoke/", "", 404, "Path not found: POST /invoke/"},
		{"POST", "/invoke/x/y", "", 404, "Path not found: POST /invoke/x/y"},
		{"POST", "/t/", "", 404, "Path not found: POST /t/"},
		{"GET", "/t/a/../../v2/apps", "", 404, "Trigger not found"},
	} {
		a := n.ask(tt.method, tt.path, tt.body)
		if short := fmt.Sprintf("%s %.80s %.80s", tt.method, tt.path, tt.body); tt.status != 0 && a.status != tt.status || a.status/100 == 5 {
			t.Errorf("%s: %.300v, want %d", short, a, tt.status)
		} else if got := ""; tt.message != "" {
			if got = a.message(t); got != tt.message {
				t.Errorf("%s: %q, want %q", short, got, tt.message)
			}
		}
	}
	// Of a key that comes twice the last counts; annotations keep what they are.
	a := n.ask("POST", "/v2/apps", `{"name":"first","name":"twice","annotations":{"k":{"x":1,"x":2}}}`)
	if a.status != 200 || !strings.Contains(a.body, `"name":"twice"`) {
		t.Errorf("a key that comes twice: %+v", a)
	}
}

// TestOneOfManyTriggersWithASourceWins is that a source is one function's, also when
// many clients want it at once.
func TestOneOfManyTriggersWithASourceWins(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	var won sync.Map
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			a := n.ask("POST", "/v2/triggers", fmt.Sprintf(`{"name":"t%d","app_id":%q,"fn_id":%q,"type":"http","source":"/s"}`, i, n.app, fn))
			switch {
			case a.status == 200:
				won.Store(i, true)
			case a.status != 409 || a.message(t) != "Trigger with the same type and source exists on this app":
				t.Errorf("trigger %d: %+v", i, a)
			}
		})
	}
	all.Wait()
	count := 0
	won.Range(func(any, any) bool { count++; return true })
	a := n.ask("GET", "/v2/triggers?app_id="+n.app, "")
	if count != 1 || strings.Count(a.body, `"fn_id"`) != 1 {
		t.Errorf("%d clients have won; the list is %s", count, a.body)
	}
	if a := n.ask("POST", "/t/a/s", "hello"); a.status != 200 || a.body != "hello" {
		t.Errorf("the winner: %+v", a)
	}
}

// TestFnClientThatLeavesFreesTheContainer is ADR 0015 for the API of Fn: the call goes
// on to its end or its timeout, is recorded as canceled, and the container is free.
func TestFnClientThatLeavesFreesTheContainer(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	n.trigger(fn, "t", "/s")
	for i, path := range []string{"/invoke/" + fn, "/t/a/s"} {
		conn, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nsleep 2000", path)
		until(t, "it runs", func() bool { return n.busy() == 1 })
		conn.Close()
		until(t, "it is free", func() bool { return n.busy() == 0 })
		until(t, "it is recorded", func() bool {
			var list struct{ Items []struct{ Status string } }
			a := n.ask("GET", "/v2/fns/"+fn+"/calls", "")
			return json.Unmarshal([]byte(a.body), &list) == nil && len(list.Items) == i+1 && list.Items[0].Status != "running"
		})
	}
	var list struct{ Items []struct{ Status string } }
	if a := n.ask("GET", "/v2/fns/"+fn+"/calls", ""); json.Unmarshal([]byte(a.body), &list) != nil || list.Items[0].Status != "cancelled" || list.Items[1].Status != "cancelled" {
		t.Errorf("calls: %s", a.body)
	}
	if a := n.invoke(fn, "count"); a.body != "3" {
		t.Errorf("the container was not kept: %+v", a)
	}
	// One who leaves in the middle of its body, before the function has answered. (A
	// smaller one is read before a container is taken.)
	conn, err := net.Dial("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /invoke/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nsleep", fn)
	until(t, "it runs", func() bool { return n.busy() == 1 })
	conn.Close()
	until(t, "it is free", func() bool { return n.busy() == 0 })
	if a := n.invoke(fn, "hello"); a.status != 200 || a.body != "hello" {
		t.Errorf("next call: %+v", a)
	}
}

// TestFnHeadersReachTheFunctionAndNobodyElsesDo is what a caller can put into the
// header of a call, and what it cannot.
func TestFnHeadersReachTheFunctionAndNobodyElsesDo(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	n.trigger(fn, "t", "/s")
	a := n.invoke(fn, "headers", "X-Mine: 1", "X-Mine: 2", "Fn-Call-Id: forged", "Fn-Deadline: forged", "Fn-Intent: cloudevent", "Content-Type: a/b", "Te: trailers", "Keep-Alive: x", "Proxy-Authorization: x", "Authorization: Bearer x")
	var got struct{ Header http.Header }
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatalf("%+v: %v", a, err)
	}
	h := got.Header
	if strings.Join(h["X-Mine"], ",") != "1,2" || h.Get("Fn-Call-Id") != a.header.Get("Fn-Call-Id") || strings.Contains(fmt.Sprint(h), "forged") ||
		h.Get("Fn-Intent") != "cloudevent" || h.Get("Content-Type") != "a/b" || h.Get("Keep-Alive")+h.Get("Proxy-Authorization") != "" || h.Get("Authorization") != "Bearer x" {
		t.Errorf("over /invoke: %v", h)
	}
	if _, err := time.Parse(time.RFC3339, h.Get("Fn-Deadline")); err != nil {
		t.Error(err)
	}
	a = n.ask("POST", "/t/a/s", "headers", "Fn-Http-Method: FORGED", "Fn-Http-Request-Url: forged", "Fn-Intent: forged", "Fn-Call-Id: forged", "Fn-Http-H-X: y", "Cookie: a=b", "Fn-Invoke-Type: detached")
	got.Header = nil
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatalf("%+v: %v", a, err)
	}
	for name, values := range got.Header {
		if own := name == "Content-Type" || name == "Content-Length" || strings.HasPrefix(name, "Fn-"); !own {
			t.Errorf("over /t the function has %s: %v", name, values)
		}
		if !strings.HasPrefix(name, "Fn-Http-H-") && strings.Contains(strings.ToLower(fmt.Sprint(values)), "forged") {
			t.Errorf("over /t the function has %s: %v", name, values)
		}
	}
	if got.Header.Get("Fn-Http-H-Cookie") != "a=b" || got.Header.Get("Fn-Http-H-Fn-Invoke-Type") != "detached" {
		t.Errorf("over /t: %v", got.Header)
	}
	if a := n.invoke(fn, "headers", "X-Long: "+strings.Repeat("x", 300<<10)); a.status != 431 {
		t.Errorf("a header over the limit of the node: %d %.200s", a.status, a.body)
	}
}

// TestEveryByteArrivesAsItIs is that bytes arrive as they are.
func TestEveryByteArrivesAsItIs(t *testing.T) {
	n := startFn(t)
	fn := n.fn("f", "")
	n.trigger(fn, "t", "/s")
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, body := range []string{"", "\x00", string(all), strings.Repeat(string(all), 8000)} {
		for _, path := range []string{"/invoke/" + fn, "/t/a/s"} {
			if a := n.ask("POST", path, body); a.status != 200 || !bytes.Equal([]byte(a.body), []byte(body)) {
				t.Errorf("%s of %d bytes: %d with %d bytes", path, len(body), a.status, len(a.body))
			}
		}
	}
}
