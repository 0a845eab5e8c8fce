package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hob/internal/testenv"
)

// The tests of this file use a running "hob serve" as a user of Fn does: over /v2,
// /invoke and /t, with functions made for Fn, and with Fn's variables.

// fnAnswer is what came of a request.
type fnAnswer struct {
	status int
	header http.Header
	body   string
}

// fn sends a request. Headers are "Name: value".
func (s *realServer) fn(method, path, body string, headers ...string) fnAnswer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.addr+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Error(err)
	}
	return fnAnswer{resp.StatusCode, resp.Header, string(out)}
}

// fnMade makes an app, fn or trigger and returns its ID.
func (s *realServer) fnMade(what, format string, args ...any) string {
	s.t.Helper()
	a := s.fn("POST", "/v2/"+what, fmt.Sprintf(format, args...))
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(a.body), &made); err != nil || a.status != 200 || len(made.ID) != 26 {
		s.t.Fatalf("POST /v2/%s: %+v", what, a)
	}
	return made.ID
}

// fnLogs waits until the log of a call has these words: what a hot function writes may
// come behind its answer.
func (s *realServer) fnLogs(fn, call string, words ...string) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		a := s.fn("GET", "/v2/fns/"+fn+"/calls/"+call+"/log", "", "Accept: text/plain")
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(a.body, word) }) {
			return
		}
		if time.Now().After(end) {
			s.t.Errorf("log of call %q: %+v, want %q in it", call, a, words)
			return
		}
	}
}

// TestFnFunctionOfTheNodeKit is a function that uses all that Fn's kit for Node has
// for the web, behind a trigger.
func TestFnFunctionOfTheNodeKit(t *testing.T) {
	testenv.NeedTool(t, "node")
	testenv.NeedTool(t, "npm")
	s := fnServe(t, "FN_HOT_START_TIMEOUT_MSECS=60000")
	root := filepath.Join(t.TempDir(), "root")
	tool(t, "bash", "../../examples/node-fdk/make.sh", root)
	tool(t, "cp", "testdata/fn/web.js", filepath.Join(root, "function", "web.js"))
	s.run(nil, "image", "build", "-t", "web", "--entrypoint", `["/bin/node","/function/web.js"]`, root)
	app := s.fnMade("apps", `{"name":"shop","config":{"GREETING":"Salut"}}`)
	fn := s.fnMade("fns", `{"name":"web","app_id":%q,"image":"hob.local/web","memory":256}`, app)
	s.fnMade("triggers", `{"name":"web","app_id":%q,"fn_id":%q,"type":"http","source":"/web"}`, app, fn)

	a := s.fn("PUT", "/t/shop/web?q=1&q=%20", `{"name":"Ada"}`, "Content-Type: application/json", "X-Tone: low")
	var got struct {
		Greeting, Method, URL, Tone, AppID, FnID, CallID, Deadline string
		Call, Memory                                               int
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatalf("%+v: %v", a, err)
	}
	if a.status != 418 || a.header.Get("X-Kettle") != "on" || strings.Join(a.header["X-Cup"], " ") != "one two" || a.header.Get("Content-Type") != "application/json" || a.header.Get("Fn-Fdk-Version") != "" {
		t.Errorf("the answer of the trigger: %+v", a)
	}
	if got.Greeting != "Salut Ada" || got.Method != "PUT" || got.URL != "http://"+s.addr+"/t/shop/web?q=1&q=%20" || got.Tone != "low" ||
		got.AppID != app || got.FnID != fn || got.CallID != a.header.Get("Fn-Call-Id") || got.Memory != 256 || got.Deadline == "" || got.Call != 1 {
		t.Errorf("the kit told its function %+v", got)
	}

	a = s.fn("POST", "/invoke/"+fn, `{"name":"fail"}`, "Content-Type: application/json")
	if a.status != 502 || a.body != `{"message":"function failed"}`+"\n" {
		t.Errorf("an exception: %+v", a)
	}
	s.fnLogs(fn, a.header.Get("Fn-Call-Id"), "no kettle")
	a = s.fn("POST", "/invoke/"+fn, `{"name":"Bob"}`, "Content-Type: application/json")
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || got.Call != 3 || got.Greeting != "Salut Bob" || !strings.HasPrefix(a.header.Get("Fn-Fdk-Version"), "fdk-node/") {
		t.Errorf("the call after the exception: %+v, %v", a, err)
	}
}

func TestFnFunctionInPython(t *testing.T) {
	testenv.NeedTool(t, "python3")
	s := fnServe(t, "FN_HOT_START_TIMEOUT_MSECS=60000")
	root := filepath.Join(t.TempDir(), "root")
	tool(t, "bash", "../../examples/fn-python/make.sh", root)
	s.run(nil, "image", "build", "-t", "fn-python", "--entrypoint", `["/bin/python","-B","/function/func.py"]`, root)
	app := s.fnMade("apps", `{"name":"shop"}`)
	fn := s.fnMade("fns", `{"name":"greet","app_id":%q,"image":"hob.local/fn-python"}`, app)
	says := func(want, body string, headers ...string) {
		t.Helper()
		a := s.fn("POST", "/invoke/"+fn, body, headers...)
		if want = fmt.Sprintf(want, a.header.Get("Fn-Call-Id")); a.status != 200 || a.body != want {
			t.Errorf("answer %+v, want %s", a, want)
		}
	}
	says(`{"hello": "Ada", "call": 1, "app": "shop", "id": %q}`, `{"name":"Ada"}`)
	a := s.fn("POST", "/invoke/"+fn, "no JSON")
	if a.status != 502 || a.body != `{"message":"function failed"}`+"\n" {
		t.Errorf("an exception: %+v", a)
	}
	s.fnLogs(fn, a.header.Get("Fn-Call-Id"), "failed: Expecting value")
	says(`{"hello": "world", "call": 3, "app": "shop", "id": %q}`, "")
}

// TestFnFunctionOfACommandLineTool runs a tool once per call in a container that
// stays.
func TestFnFunctionOfACommandLineTool(t *testing.T) {
	s := serve(t)
	root := busyboxRoot(t)
	cmd := exec.Command("go", "build", "-o", filepath.Join(root, "bin/fn-cli"), ".")
	cmd.Dir, cmd.Env = "../../examples/fn-cli", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	app := s.fnMade("apps", `{"name":"tools"}`)
	wrapped := func(name string, tool ...string) (fn string) {
		entrypoint, _ := json.Marshal(append([]string{"/bin/fn-cli", "/bin/busybox"}, tool...))
		s.run(nil, "image", "build", "-t", name, "--entrypoint", string(entrypoint), root)
		return s.fnMade("fns", `{"name":%[1]q,"app_id":%[2]q,"image":"hob.local/%[1]s"}`, name, app)
	}
	sed := wrapped("sed", "sed", "s/Ada/Lovelace/")
	if a := s.fn("POST", "/invoke/"+sed, "Ada\n"); a.status != 200 || a.body != "Lovelace\n" {
		t.Errorf("sed: %+v", a)
	}
	parents := wrapped("shell", "sh", "-c", `echo $PPID; cat; read -r x </none`)
	a := s.fn("POST", "/invoke/"+parents, "x")
	if a.status != 502 || a.body != `{"message":"function failed"}`+"\n" {
		t.Errorf("a tool that fails: %+v", a)
	}
	s.fnLogs(parents, a.header.Get("Fn-Call-Id"), "/none", "exit status")
	sum := wrapped("sum", "sha1sum")
	large := strings.Repeat("0123456789abcdef", 5<<16) // 5 MB
	want := fmt.Sprintf("%x  -\n", sha1.Sum([]byte(large)))
	for range 3 {
		if a := s.fn("POST", "/invoke/"+sum, large); a.status != 200 || a.body != want {
			t.Errorf("sha1sum: %+v", a)
		}
	}
}

// fnServe starts a server with these variables of Fn, and no setting of hob that
// they might stand for.
func fnServe(t *testing.T, variables ...string) *realServer {
	t.Helper()
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	return serve(t)
}

// savedImage is a file as "docker save" writes it, of examples/stream.
func savedImage(t *testing.T, s *realServer, name string) string {
	t.Helper()
	s.example("stream")
	file := filepath.Join(t.TempDir(), "saved.tar")
	tool(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+s.addr+"/stream:latest", "docker-archive:"+file+":"+name)
	return file
}

func TestFnVariablesAreHeeded(t *testing.T) {
	testenv.NeedTool(t, "skopeo")
	dir := t.TempDir()
	var file, image string
	t.Run("an image is saved", func(t *testing.T) { file, image = savedImageIn(t, dir), "team/stream:7" })
	if file == "" {
		return // the test above says why
	}
	s := fnServe(t, "FN_DOCKER_LOAD_FILE="+file, "FN_MAX_RESPONSE_SIZE=30", "FN_MAX_REQUEST_SIZE=10", "FN_API_CORS_ORIGINS=https://ui.example.org",
		"FN_API_CORS_HEADERS=X-Mine", "FN_PUBLIC_LB_URL=https://fn.example.org", "FN_RID_HEADER=X-Rid", "FN_CONTAINER_LABEL_TAG=mine", "FN_LOG_FORMAT=json")
	app := s.fnMade("apps", `{"name":"a"}`)
	fn := s.fnMade("fns", `{"name":"f","app_id":%q,"image":%q}`, app, image)
	if a := s.fn("POST", "/invoke/"+fn, "0123456789"); a.status != 502 || a.body != `{"message":"function response body too large"}`+"\n" {
		t.Errorf("a long answer: %+v", a)
	}
	if a := s.fn("POST", "/invoke/"+fn, "0123456789a"); a.status != 413 || a.body != `{"message":"Content-Length too large for this server, 11 \u003e max 10"}`+"\n" {
		t.Errorf("a long request: %+v", a)
	}
	if a := s.fn("GET", "/v2/fns/"+fn, "", "X-Rid: mine-17"); !strings.Contains(a.body, `"https://fn.example.org/invoke/`+fn) || a.header.Get("X-Rid")+a.header.Get("Request-Id") == "" {
		t.Errorf("the endpoint: %+v", a)
	}
	a := s.fn("OPTIONS", "/v2/apps", "", "Origin: https://ui.example.org", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: X-Mine")
	if a.header.Get("Access-Control-Allow-Origin") != "https://ui.example.org" || !strings.EqualFold(a.header.Get("Access-Control-Allow-Headers"), "X-Mine") {
		t.Errorf("preflight: %+v", a)
	}
	if a := s.fn("OPTIONS", "/v2/apps", "", "Origin: https://other.example.org", "Access-Control-Request-Method: PUT"); a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of another origin: %+v", a)
	}
	if a := s.fn("GET", "/api/sandboxes", ""); !strings.Contains(a.body, `"label":"mine"`) {
		t.Errorf("no sandbox has the label: %+v", a)
	}
}

// savedImageIn makes an image with a server of its own.
func savedImageIn(t *testing.T, dir string) string {
	s := serve(t)
	file := filepath.Join(dir, "saved.tar")
	if err := os.Rename(savedImage(t, s, "team/stream:7"), file); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestFnVariablesOfFiles is each variable as the name of a file, and a node that
// manages only.
func TestFnVariablesOfFiles(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	hob, err := program()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(freePort(), ":")
	dir := t.TempDir()
	file := filepath.Join(dir, "port")
	if err := os.WriteFile(file, []byte(port+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(hob, "serve")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = append(os.Environ(), "HOME="+dir, "FN_PORT_FILE="+file, "FN_DB_URL=sqlite3://"+dir+"/data/fn.db", "FN_NODE_TYPE=api", "FN_API_CORS_ORIGIN=*")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &realServer{t: t, hob: hob, addr: "127.0.0.1:" + port}
	await(t, "http://"+s.addr+"/readyz", http.StatusOK)
	app := s.fnMade("apps", `{"name":"a"}`)
	fn := s.fnMade("fns", `{"name":"f","app_id":%q,"image":"hob.local/none"}`, app)
	s.fnMade("triggers", `{"name":"t","app_id":%q,"fn_id":%q,"type":"http","source":"/"}`, app, fn)
	for _, path := range []string{"/invoke/" + fn, "/t/a", "/t/a/"} {
		if a := s.fn("POST", path, ""); a.status != 404 || a.body != `{"message":"Path not found: POST `+path+`"}`+"\n" {
			t.Errorf("POST %s on an api node: %+v", path, a)
		}
	}
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Errorf("serve ended with %v", err)
	}
	if !strings.Contains(log.String(), "FN_API_CORS_ORIGIN") || !strings.Contains(log.String(), "FN_API_CORS_ORIGINS") {
		t.Errorf("the log does not name the variable that comes nearest: %s", &log)
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); err != nil {
		t.Error(err)
	}
}

func TestFnVariablesThatCannotBeHadStopTheServer(t *testing.T) {
	hob, err := program()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "none")
	for _, tt := range []struct{ variable, says string }{
		{"FN_DB_URL=mysql://root:secret@db/fn", "mysql"},
		{"FN_DB_URL=postgres://db/fn", "Postgres"},
		{"FN_MQ_URL=bolt:///x", "bolt"},
		{"FN_MQ_URL=redis://x:secret@y", "redis"},
		{"FN_LOGSTORE_URL=s3://key:secret@host/region/bucket", "s3"},
		{"FN_NODE_TYPE=lb", "lb"},
		{"FN_NODE_TYPE=pure-runner", "pure-runner"},
		{"FN_NODE_TYPE=half", "half"},
		{"FN_PORT=seven", "FN_PORT"},
		{"FN_PORT=99999", "FN_PORT"},
		{"FN_MAX_REQUEST_SIZE=-1", "FN_MAX_REQUEST_SIZE"},
		{"FN_PORT_FILE=" + file, file},
		{"FN_PUBLIC_LB_URL=fn.example.org", "FN_PUBLIC_LB_URL"},
		{"FN_DOCKER_AUTH={", "FN_DOCKER_AUTH"},
		{"FN_DOCKER_LOAD_FILE=" + file, file},
	} {
		cmd := exec.Command(hob, "serve", "--data", t.TempDir(), "--listen", "127.0.0.1:0")
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), tt.variable)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), tt.says) {
			t.Errorf("%s: %v: %s", tt.variable, err, out)
		}
		if strings.Contains(string(out), "secret") {
			t.Errorf("%s: a password is said aloud: %s", tt.variable, out)
		}
	}
}

// TestFnAppWritesToRsyslogd is row 8 of the checklist, with Debian's daemon.
func TestFnAppWritesToRsyslogd(t *testing.T) {
	program := testenv.NeedTool(t, "rsyslogd")
	dir := t.TempDir()
	addr := freePort()
	_, port, _ := strings.Cut(addr, ":")
	messages := filepath.Join(dir, "messages")
	config := fmt.Sprintf(`global(workDirectory=%q)
module(load="imptcp")
input(type="imptcp" address="127.0.0.1" port="%s")
template(name="fields" type="string" string="%%app-name%%|%%procid%%|%%msgid%%|%%msg%%\n")
action(type="omfile" file="%s" template="fields")
`, dir, port, messages)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-n", "-f", filepath.Join(dir, "conf"), "-i", filepath.Join(dir, "pid"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	s := serve(t)
	root := busyboxRoot(t)
	if err := os.Link(filepath.Join(root, "bin/busybox"), filepath.Join(root, "bin/sh")); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(root, "bin/fn-cli"), ".")
	build.Dir, build.Env = "../../examples/fn-cli", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.run(nil, "image", "build", "-t", "logs", "--entrypoint", `["/bin/fn-cli","/bin/sh","-c","echo one line >&2"]`, root)
	app := s.fnMade("apps", `{"name":"a","syslog_url":"tcp://%s","annotations":{"hob/allow":["%[1]s"]}}`, addr)
	fn := s.fnMade("fns", `{"name":"f","app_id":%q,"image":"hob.local/logs"}`, app)
	a := s.fn("POST", "/invoke/"+fn, "")
	want := fmt.Sprintf("a.f|app_id=%s,fn_id=%s|%s|one line\n", app, fn, a.header.Get("Fn-Call-Id"))
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got, _ := os.ReadFile(messages)
		if string(got) == want {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("call %+v: rsyslogd wrote %q, want %q", a, got, want)
		}
	}
}

// TestFnImageOfAPasswordedRegistry is row 104: the image is pulled by the first call,
// with the credentials of FN_DOCKER_AUTH.
func TestFnImageOfAPasswordedRegistry(t *testing.T) {
	testenv.NeedTool(t, "skopeo")
	var image string
	dir := t.TempDir()
	t.Run("an image is saved", func(t *testing.T) { image = savedImageIn(t, dir) })
	if image == "" {
		return // the test above says why
	}
	addr := debianRegistry(t, "alice", "secret")
	tool(t, "skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "alice:secret", "docker-archive:"+image, "docker://"+addr+"/private/stream:1")
	auth := fmt.Sprintf(`{"auths":{%q:{"auth":"YWxpY2U6c2VjcmV0"}}}`, addr)
	t.Run("without credentials", func(t *testing.T) {
		s := serve(t)
		app := s.fnMade("apps", `{"name":"a"}`)
		fn := s.fnMade("fns", `{"name":"f","app_id":%q,"image":%q}`, app, addr+"/private/stream:1")
		if a := s.fn("POST", "/invoke/"+fn, "x"); a.status/100 == 2 || !strings.Contains(a.body, addr+"/private/stream:1") {
			t.Errorf("call: %+v", a)
		}
	})
	t.Run("with credentials", func(t *testing.T) {
		s := fnServe(t, "FN_DOCKER_AUTH="+auth)
		app := s.fnMade("apps", `{"name":"a"}`)
		fn := s.fnMade("fns", `{"name":"f","app_id":%q,"image":%q}`, app, addr+"/private/stream:1")
		if a := s.fn("POST", "/invoke/"+fn, "x"); a.status != 200 || !strings.HasPrefix(a.body, "1 bytes in call") {
			t.Errorf("call: %+v", a)
		}
	})
}

// TestFnImageWithVolumesIsRefused is row 95.
func TestFnImageWithVolumesIsRefused(t *testing.T) {
	dir := layout(t, "umoci")
	tool(t, "umoci", "config", "--image", dir+":1", "--config.volume", "/data")
	call := func(t *testing.T, s *realServer, status int, message string) {
		s.run(nil, "image", "load", dir, "--name", "from/layout:1")
		app := s.fnMade("apps", `{"name":"a"}`)
		fn := s.fnMade("fns", `{"name":"f","app_id":%q,"image":"from/layout:1"}`, app)
		if a := s.fn("POST", "/invoke/"+fn, ""); a.status != status || !strings.Contains(a.body, message) {
			t.Errorf("call: %+v, want %d %s", a, status, message)
		}
	}
	t.Run("by default", func(t *testing.T) { call(t, serve(t), 400, `{"message":"image has Volume definition"}`) })
	t.Run("unless it is allowed", func(t *testing.T) { // it never listens
		call(t, fnServe(t, "FN_IMAGE_ENABLE_VOLUME=true", "FN_HOT_START_TIMEOUT_MSECS=300"), 504, "Container initialization timed out")
	})
}
