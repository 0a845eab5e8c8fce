package daemon_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"hob/internal/config"
)

// fnMasked are the words of an answer that differ from run to run: IDs and times.
var fnMasked = regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b|\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)

// TestWholeNodeAnswersAsAFnServer replays the transcript of package fnv2 against a
// node as its clients see it: with its guard, its other APIs and its database.
func TestWholeNodeAnswersAsAFnServer(t *testing.T) {
	script, err := txtar.ParseFile(filepath.Join("..", "api", "fnv2", "testdata", "fn-server-api.txtar"))
	if err != nil || len(script.Files) < 40 {
		t.Fatalf("%d exchanges, %v", len(script.Files), err)
	}
	n := &fnNode{node: start(t, func(c *config.Config) { c.NodeType, c.FnCallsGone = "api", true })}
	ours := make(map[string]string) // by the word of the transcript
	replace := func(s string) string {
		return fnMasked.ReplaceAllStringFunc(s, func(word string) string {
			if real, ok := ours[word]; ok {
				return real
			}
			return word
		})
	}
	for _, file := range script.Files {
		body, want, _ := strings.Cut("\n"+string(file.Data), "\n<<<\n")
		want, _, _ = strings.Cut(want, "<<< reference: ")
		method, target, _ := strings.Cut(file.Name, " ")
		got := n.written(method, replace(target), replace(strings.TrimPrefix(body, "\n")))
		words := fnMasked.FindAllString(got, -1)
		for i, word := range fnMasked.FindAllString(want, -1) {
			if _, known := ours[word]; !known && i < len(words) {
				ours[word] = words[i]
			}
		}
		if want := inOrder(replace(want)); got != want {
			t.Errorf("%s\n%s\ngot\n%s\nwant\n%s", file.Name, body, got, want)
		}
	}
	if a := n.ask("GET", "/version", ""); a.status != 200 || !regexp.MustCompile(`^\{"version":"[^"]*"\}\n?$`).MatchString(a.body) {
		t.Errorf("/version: %+v", a)
	}
}

// written is an answer as it is written, without what only we send and the date.
func (n *fnNode) written(method, path, body string) string {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, "http://"+n.addr+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Host = "127.0.0.1:8080"
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	out := fmt.Sprintf("%s %s\n", resp.Proto, resp.Status)
	for name, values := range resp.Header {
		if name != "Date" && name != "Request-Id" {
			out += name + ": " + strings.Join(values, ", ") + "\n"
		}
	}
	if len(text) > 0 {
		out += "\n" + strings.TrimSuffix(string(text), "\n") + "\n"
	}
	return inOrder(out)
}

// inOrder is an answer with the lines of its header in order.
func inOrder(answer string) string {
	head, body, _ := strings.Cut(answer, "\n\n")
	lines := strings.Split(strings.TrimSuffix(head, "\n"), "\n")
	slices.Sort(lines[1:])
	return strings.TrimSuffix(strings.Join(lines, "\n")+"\n\n"+body, "\n\n") + "\n"
}

// fnThing is an app, fn or trigger as the command line of Fn reads it.
type fnThing struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	AppID       string            `json:"app_id,omitempty"`
	FnID        string            `json:"fn_id,omitempty"`
	Image       string            `json:"image,omitempty"`
	Memory      int               `json:"memory,omitempty"`
	Timeout     int               `json:"timeout,omitempty"`
	IdleTimeout int               `json:"idle_timeout,omitempty"`
	Type        string            `json:"type,omitempty"`
	Source      string            `json:"source,omitempty"`
	Config      map[string]string `json:"config,omitempty"`
	Annotations map[string]any    `json:"annotations,omitempty"`
	CreatedAt   string            `json:"created_at,omitempty"`
	UpdatedAt   string            `json:"updated_at,omitempty"`
}

// fnCLI does what the command line of Fn does: it knows names, looks up their IDs,
// and calls the address that the server names.
type fnCLI struct{ *fnNode }

// json sends a request that must succeed, and reads its answer into out.
func (c fnCLI) json(method, path string, body, out any) {
	c.t.Helper()
	text := ""
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			c.t.Fatal(err)
		}
		text = string(b)
	}
	a := c.ask(method, path, text, "Content-Type: application/json", "Accept: application/json")
	if a.status/100 != 2 {
		c.t.Fatalf("%s %s %s: %+v", method, path, text, a)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(a.body), out); err != nil {
			c.t.Fatalf("%s %s: %v: %+v", method, path, err, a)
		}
	}
}

// list follows the cursors from page to page until it has n things, as -n does.
func (c fnCLI) list(what string, q url.Values, n int) (all []fnThing, pages int) {
	c.t.Helper()
	for {
		var page struct {
			NextCursor string    `json:"next_cursor"`
			Items      []fnThing `json:"items"`
		}
		c.json("GET", "/v2/"+what+"?"+q.Encode(), nil, &page)
		all, pages = append(all, page.Items...), pages+1
		if page.NextCursor == "" || len(all) >= n {
			return all[:min(n, len(all))], pages
		}
		q.Set("cursor", page.NextCursor)
	}
}

// named is the one thing with a name.
func (c fnCLI) named(what, name string, q url.Values) (fnThing, bool) {
	c.t.Helper()
	if q == nil {
		q = url.Values{}
	}
	q.Set("name", name)
	all, _ := c.list(what, q, 100)
	if len(all) > 1 {
		c.t.Errorf("%d %s have the name %q", len(all), what, name)
	}
	if len(all) == 0 {
		return fnThing{}, false
	}
	return all[0], true
}

func (c fnCLI) fnOf(app, name string) fnThing {
	c.t.Helper()
	a, _ := c.named("apps", app, nil)
	f, ok := c.named("fns", name, url.Values{"app_id": {a.ID}})
	if !ok {
		c.t.Fatalf("no fn %s in %s", name, app)
	}
	return f
}

func (c fnCLI) triggerOf(app, fn, name string) fnThing {
	c.t.Helper()
	f := c.fnOf(app, fn)
	t, ok := c.named("triggers", name, url.Values{"app_id": {f.AppID}, "fn_id": {f.ID}})
	if !ok {
		c.t.Fatalf("no trigger %s of %s %s", name, app, fn)
	}
	return t
}

// at sends a request to an address that the server has named.
func (c fnCLI) at(thing fnThing, annotation, method, query, body string, headers ...string) answer {
	c.t.Helper()
	u, _ := thing.Annotations[annotation].(string)
	path, ok := strings.CutPrefix(u, "http://"+c.addr)
	if !ok {
		c.t.Fatalf("%s has the address %q", thing.Name, u)
	}
	return c.ask(method, path+query, body, headers...)
}

const (
	fnInvokeAddress  = "fnproject.io/fn/invokeEndpoint"
	fnTriggerAddress = "fnproject.io/trigger/httpEndpoint"
)

// TestSessionOfTheFnCommandLine is a day of somebody who uses it: create app, create
// function, create trigger, invoke, config, inspect, update, list, unset, delete.
func TestSessionOfTheFnCommandLine(t *testing.T) {
	n := startFn(t)
	c := fnCLI{n}
	var app, fn, trigger fnThing
	c.json("POST", "/v2/apps", fnThing{Name: "shop", Config: map[string]string{"DB": "x"}, Annotations: map[string]any{"team/owner": "ada"}}, &app)
	c.json("POST", "/v2/fns", fnThing{Name: "hello", AppID: app.ID, Image: n.image, Memory: 256}, &fn)
	if fn.Memory != 256 || fn.Timeout != 30 || fn.IdleTimeout != 30 {
		t.Errorf("created as %+v", fn)
	}
	c.json("POST", "/v2/triggers", fnThing{Name: "web", AppID: app.ID, FnID: fn.ID, Type: "http", Source: "/hello"}, &trigger)
	if trigger.Annotations[fnTriggerAddress] != "http://"+n.addr+"/t/shop/hello" {
		t.Errorf("Trigger Endpoint: %v", trigger.Annotations)
	}
	// fn invoke shop hello; fn invoke --display-call-id
	if a := c.at(c.fnOf("shop", "hello"), fnInvokeAddress, "POST", "", "Ada", "Content-Type: text/plain"); a.status != 200 || a.body != "Ada" || len(a.header.Get("Fn-Call-Id")) != 26 {
		t.Errorf("invoke: %+v", a)
	}
	if a := c.at(c.fnOf("shop", "hello"), fnInvokeAddress, "POST", "", "status 502"); a.status != 502 || a.message(t) != "function failed" || a.header.Get("Fn-Call-Id") == "" {
		t.Errorf("invoke of what fails: %+v", a)
	}
	if a := c.at(c.triggerOf("shop", "hello", "web"), fnTriggerAddress, "GET", "?q=1", "headers", "X-A: b"); a.status != 200 || !strings.Contains(a.body, `/t/shop/hello?q=1`) {
		t.Errorf("trigger: %+v", a)
	}
	// fn config app shop DB y; fn config function shop hello LEVEL 3: the CLI sends just that key.
	a, _ := c.named("apps", "shop", nil)
	c.json("PUT", "/v2/apps/"+a.ID, map[string]any{"config": map[string]string{"DB": "y"}}, nil)
	c.json("PUT", "/v2/fns/"+fn.ID, map[string]any{"config": map[string]string{"LEVEL": "3"}}, nil)
	env := c.at(c.fnOf("shop", "hello"), fnInvokeAddress, "POST", "", "env").body
	if !strings.Contains(env, "DB=y\n") || !strings.Contains(env, "\nLEVEL=3") {
		t.Errorf("environment %s", env)
	}
	// fn unset config app shop DB; fn update function: the CLI sends the whole object back.
	c.json("PUT", "/v2/apps/"+a.ID, map[string]any{"config": map[string]string{"DB": ""}}, nil)
	f := c.fnOf("shop", "hello")
	f.Timeout, f.Annotations["team/tier"] = 60, 2
	c.json("PUT", "/v2/fns/"+f.ID, f, nil)
	f = c.fnOf("shop", "hello")
	if f.Timeout != 60 || f.Memory != 256 || f.Annotations["team/tier"] != 2.0 || f.Config["LEVEL"] != "3" || f.UpdatedAt <= f.CreatedAt {
		t.Errorf("updated to %+v", f)
	}
	if a, _ := c.named("apps", "shop", nil); len(a.Config) != 0 || a.Annotations["team/owner"] != "ada" {
		t.Errorf("app %+v", a)
	}
	// fn update trigger; a second source of the same function; fn list triggers.
	w := c.triggerOf("shop", "hello", "web")
	w.Annotations["team/x"] = map[string]any{"y": 1}
	c.json("PUT", "/v2/triggers/"+w.ID, w, nil)
	c.json("POST", "/v2/triggers", fnThing{Name: "root", AppID: app.ID, FnID: fn.ID, Type: "http", Source: "/"}, nil)
	all, _ := c.list("triggers", url.Values{"app_id": {app.ID}}, 100)
	if len(all) != 2 || all[0].Name != "root" || all[1].Name != "web" || fmt.Sprint(all[1].Annotations["team/x"]) != "map[y:1]" {
		t.Errorf("triggers %+v", all)
	}
	if a := c.at(all[0], fnTriggerAddress, "DELETE", "", "x"); a.status != 200 || a.body != "x" {
		t.Errorf("second source: %+v", a)
	}
	// fn delete trigger, function, app.
	c.json("DELETE", "/v2/triggers/"+all[0].ID, nil, nil)
	c.json("DELETE", "/v2/fns/"+fn.ID, nil, nil)
	if all, _ := c.list("triggers", url.Values{"app_id": {app.ID}}, 100); len(all) != 0 {
		t.Errorf("triggers of a fn that is gone: %+v", all)
	}
	c.json("DELETE", "/v2/apps/"+app.ID, nil, nil)
	if _, ok := c.named("apps", "shop", nil); ok {
		t.Error("the app is still there")
	}
	if a := c.ask("GET", "/v2/apps/"+app.ID, ""); a.status != 404 || a.message(t) != "App not found" {
		t.Errorf("the app: %+v", a)
	}
	if a := c.ask("POST", "/t/shop/hello", ""); a.status != 404 || a.message(t) != "App not found" {
		t.Errorf("its trigger: %+v", a)
	}
}

// TestPagesAreFollowedToTheEnd is "fn list" with more than a page of each.
func TestPagesAreFollowedToTheEnd(t *testing.T) {
	n := startFn(t)
	c := fnCLI{n}
	var fn fnThing
	ids := make([]string, 0, 65)
	for i := range 65 {
		var made fnThing
		c.json("POST", "/v2/fns", fnThing{Name: fmt.Sprintf("f-%02d", 64-i), AppID: n.app, Image: n.image}, &made)
		ids, fn = append(ids, made.ID), made
		c.json("POST", "/v2/triggers", fnThing{Name: fmt.Sprintf("t-%02d", i), AppID: n.app, FnID: made.ID, Type: "http", Source: fmt.Sprint("/", i)}, nil)
		if i < 30 {
			c.json("POST", "/v2/apps", fnThing{Name: fmt.Sprintf("b-%02d", i)}, nil)
		}
	}
	if !slices.IsSorted(ids) {
		t.Error("ids of creates do not sort by time")
	}
	for _, tt := range []struct {
		what         string
		q            url.Values
		n            int
		count, pages int
	}{
		{"apps", url.Values{}, 100, 31, 2},
		{"fns", url.Values{"app_id": {n.app}}, 100, 65, 3},
		{"fns", url.Values{"app_id": {n.app}}, 40, 40, 2},
		{"fns", url.Values{"app_id": {n.app}, "per_page": {"1000"}}, 100, 65, 1},
		{"fns", url.Values{"app_id": {n.app}, "per_page": {"x"}}, 100, 65, 3},
		{"fns", url.Values{"app_id": {n.app}, "per_page": {"13"}}, 100, 65, 6}, // the fifth is full, and says so
		{"triggers", url.Values{"app_id": {n.app}}, 100, 65, 3},
		{"triggers", url.Values{"app_id": {n.app}, "fn_id": {fn.ID}}, 100, 1, 1},
	} {
		all, pages := c.list(tt.what, tt.q, tt.n)
		names := make([]string, 0, len(all))
		for _, thing := range all {
			names = append(names, thing.Name)
		}
		if len(all) != tt.count || pages != tt.pages || !slices.IsSorted(names) || len(slices.Compact(names)) != tt.count {
			t.Errorf("%s %v: %d in %d pages: %v; want %d in %d", tt.what, tt.q, len(all), pages, names, tt.count, tt.pages)
		}
	}
}
