package fnv2_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"hob/faas"
	"hob/internal/catalog"
	"hob/internal/store"
	"hob/internal/store/memory"
)

// pages reads a list to its end and returns the names, and how many there were on
// each page.
func (n *node) pages(path string) (names []string, sizes []int) {
	n.t.Helper()
	for cursor := ""; ; {
		page := n.must("GET", path+cursor, "")
		items := page["items"].([]any)
		for _, item := range items {
			names = append(names, item.(map[string]any)["name"].(string))
		}
		sizes = append(sizes, len(items))
		next, more := page["next_cursor"].(string)
		if !more {
			return names, sizes
		}
		cursor = "&cursor=" + next
	}
}

// manyFunctions is a store with functions in the app "seeded": f00000, f00001, …
type manyFunctions struct {
	*memory.Store
	count int
}

func (m manyFunctions) Functions(ctx context.Context, appID string) (all []faas.Function, err error) {
	app, err := m.App(ctx, "seeded")
	for i := range m.count {
		fn := faas.Function{ID: faas.NewID(), App: app.ID, Name: fmt.Sprintf("f%05d", i), Image: "x", Env: map[string]string{"A": "1"}, Revision: 1}
		all = append(all, fn.WithDefaults())
	}
	return all, err
}

// seed puts count functions in an app. They cannot be changed.
func (n *node) seed(count int) (app string) {
	n.t.Helper()
	made, err := n.db.PutApp(n.t.Context(), faas.App{ID: faas.NewID(), Name: "seeded"}, store.IfNew)
	if err != nil {
		n.t.Fatal(err)
	}
	if n.Catalog, err = catalog.Load(n.t.Context(), manyFunctions{n.db, count}); err != nil {
		n.t.Fatal(err)
	}
	return made.ID
}

func TestTenThousandFunctionsAreReadInPages(t *testing.T) {
	const count = 10_000
	n := newNode(t)
	app := n.seed(count)
	names, sizes := n.pages("/v2/fns?per_page=100&app_id=" + app)
	if len(names) != count || len(sizes) != count/100+1 || sizes[count/100] != 0 {
		t.Fatalf("%d names on %d pages", len(names), len(sizes))
	}
	for i, name := range names {
		if name != fmt.Sprintf("f%05d", i) {
			t.Fatalf("name %d is %s", i, name)
		}
	}
}

func TestSizeOfPages(t *testing.T) {
	n := newNode(t)
	for i := range 102 {
		n.newApp(fmt.Sprintf("a%03d", i))
	}
	for query, want := range map[string]string{
		"": "[30 30 30 12]", "per_page=": "[30 30 30 12]", "per_page=0": "[30 30 30 12]", "per_page=-1": "[30 30 30 12]",
		"per_page=x": "[30 30 30 12]", "per_page=100": "[100 2]", "per_page=101": "[100 2]", "per_page=99999999999999999999": "[30 30 30 12]",
		"per_page=51": "[51 51 0]", "name=a007": "[1]", "name=a007&per_page=1": "[1 0]", "name=none": "[0]", "name=A007": "[0]",
	} {
		names, sizes := n.pages("/v2/apps?" + query)
		if fmt.Sprint(sizes) != want || !strings.HasPrefix(query, "name") && names[101] != "a101" {
			t.Errorf("%s: pages of %v, want %s", query, sizes, want)
		}
	}
}

func TestCursors(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	fn := n.newFn(app, "f")
	n.newTrigger(app, fn, "t", "/t")
	const bad = "Invalid cursor: use the next_cursor of the page before"
	for _, list := range []string{"/v2/apps?", "/v2/fns?app_id=" + app + "&", "/v2/triggers?app_id=" + app + "&", "/v2/fns/" + fn + "/calls?"} {
		for _, cursor := range []string{"@@@", "YQ==", "_w", "a", "YTE%00", "%FF"} { // padded, no UTF-8, no byte
			n.refused("GET", list+"cursor="+cursor, "", http.StatusBadRequest, bad)
		}
	}
	after := func(name string) string { return "cursor=" + base64.RawURLEncoding.EncodeToString([]byte(name)) }
	n.want("GET", "/v2/apps?"+after("a"), "", 200, `{"items":[]}`)
	n.want("GET", "/v2/apps?name=a&"+after("a"), "", 200, `{"items":[]}`)
	if names, _ := n.pages("/v2/apps?" + after("Z\x00\u00e4")); len(names) != 1 {
		t.Errorf("behind a name that nothing has: %v", names)
	}
	n.want("GET", "/v2/fns/"+fn+"/calls?"+after("a"), "", 400, `{"message":"`+bad+"\"}\n") // of another list
	if page := n.must("GET", "/v2/triggers?per_page=1&app_id="+app, ""); page["next_cursor"] != "dA" {
		t.Errorf("%v", page)
	}
}

func TestTriggersOfOneNameAreAllListed(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	for i := range 25 {
		fn := n.newFn(app, fmt.Sprintf("f%d", i))
		n.newTrigger(app, fn, "same", fmt.Sprintf("/s%d", i))
		n.newTrigger(app, fn, fmt.Sprintf("other%02d", i), fmt.Sprintf("/o%d", i))
	}
	for _, size := range []int{1, 7, 25, 30, 50} {
		names, _ := n.pages(fmt.Sprintf("/v2/triggers?per_page=%d&app_id=%s", size, app))
		same := strings.Count(strings.Join(names, " "), "same")
		if len(names) != 50 || same != 25 {
			t.Errorf("pages of %d: %d triggers, %d of one name", size, len(names), same)
		}
	}
	if names, sizes := n.pages("/v2/triggers?name=same&per_page=10&app_id=" + app); len(names) != 25 || len(sizes) != 3 {
		t.Errorf("by name: %v", sizes)
	}
	fn := n.must("GET", "/v2/fns?name=f3&app_id="+app, "")["items"].([]any)[0].(map[string]any)["id"].(string)
	if names, _ := n.pages("/v2/triggers?fn_id=" + fn + "&app_id=" + app); fmt.Sprint(names) != "[other03 same]" {
		t.Errorf("by function: %v", names)
	}
	n.want("GET", "/v2/triggers?fn_id="+fn+"&app_id=nope", "", 200, `{"items":[]}`)
	n.want("GET", "/v2/fns?app_id=nope", "", 200, `{"items":[]}`)
	n.want("GET", "/v2/fns?name=f3&app_id=nope", "", 200, `{"items":[]}`)
}

// TestNoMergeIsLost changes one thing from 32 clients at once.
func TestNoMergeIsLost(t *testing.T) {
	const clients, changes = 32, 8
	n := newNode(t)
	app := n.newApp("a")
	fn := n.newFn(app, "f")
	trigger := n.newTrigger(app, fn, "t", "/t")
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range changes {
				for _, path := range []string{"/v2/fns/" + fn, "/v2/apps/" + app} {
					if status, body := n.do("PUT", path, fmt.Sprintf(`{"config":{"C%d_%d":"1"}}`, c, i)); status != http.StatusOK {
						t.Errorf("%s: %d %s", path, status, body)
					}
				}
			}
			if status, body := n.do("PUT", "/v2/triggers/"+trigger, fmt.Sprintf(`{"annotations":{"c%d":1}}`, c)); status != http.StatusOK {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	wg.Wait()
	for _, path := range []string{"/v2/fns/" + fn, "/v2/apps/" + app} {
		if got := len(n.must("GET", path, "")["config"].(map[string]any)); got != clients*changes {
			t.Errorf("%s: %d of %d changes", path, got, clients*changes)
		}
	}
	if got := len(n.must("GET", "/v2/triggers/"+trigger, "")["annotations"].(map[string]any)); got != clients+1 {
		t.Errorf("trigger: %d annotations, want %d", got, clients+1)
	}
}

func TestOneOfManyCreatesWins(t *testing.T) {
	n := newNode(t)
	app := n.newApp("a")
	fn := n.newFn(app, "first")
	for _, tt := range []struct{ path, body, conflict string }{
		{"/v2/apps", `{"name":"b"}`, "App already exists"},
		{"/v2/fns", `{"name":"f","app_id":"` + app + `","image":"x"}`, "Fn with specified name already exists"},
		{"/v2/triggers", `{"name":"t","app_id":"` + app + `","fn_id":"` + fn + `","type":"http","source":"/t"}`, "Trigger"},
	} {
		var wg sync.WaitGroup
		answers := make(chan string, 16)
		for range 16 {
			wg.Go(func() {
				status, body := n.do("POST", tt.path, tt.body)
				if status == http.StatusOK {
					body = "made"
				} else if status != http.StatusConflict || !strings.Contains(body, tt.conflict) {
					t.Errorf("%s: %d %s", tt.path, status, body)
				}
				answers <- body
			})
		}
		wg.Wait()
		close(answers)
		made := 0
		for a := range answers {
			if a == "made" {
				made++
			}
		}
		if made != 1 {
			t.Errorf("%s: made %d times", tt.path, made)
		}
	}
}

// TestFieldsStandInTheOrderOfFn holds objects that have every field against the
// order in which a Fn server writes them (spec of the API; the transcript has all
// but shape).
func TestFieldsStandInTheOrderOfFn(t *testing.T) {
	n := newNode(t)
	app := n.must("POST", "/v2/apps", `{"name":"a","config":{"B":"1","A":"2"},"annotations":{"y":1,"x":2},"syslog_url":"tcp://h:1","shape":"GENERIC_X86"}`)["id"].(string)
	fn := n.must("POST", "/v2/fns", `{"name":"f","app_id":"`+app+`","image":"x","config":{"B":"1","A":"2"},"shape":"GENERIC_ARM"}`)["id"].(string)
	trigger := n.newTrigger(app, fn, "t", "/t")
	call := faas.Call{ID: faas.NewID(), FuncID: fn, State: faas.CallRunning}
	n.caller.live = []faas.Call{call}
	for path, want := range map[string]string{
		"/v2/apps/" + app:                     "id name config A B annotations x y syslog_url shape created_at updated_at",
		"/v2/fns/" + fn:                       "id name app_id image memory timeout idle_timeout config A B annotations fnproject.io/fn/invokeEndpoint shape created_at updated_at",
		"/v2/triggers/" + trigger:             "id name app_id fn_id created_at updated_at type source annotations fnproject.io/trigger/httpEndpoint",
		"/v2/apps?per_page=1":                 "next_cursor items id name config A B annotations x y syslog_url shape created_at updated_at",
		"/v2/fns/" + fn + "/calls/" + call.ID: "message call id status app_id fn_id created_at",
	} {
		_, body := n.do("GET", path, "")
		if got := strings.Join(fields(t, body), " "); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", path, got, want)
		}
	}
}

// fields are the names in an answer, as they follow each other.
func fields(t *testing.T, body string) (names []string) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(body))
	var read func()
	read = func() {
		token, err := dec.Token()
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		switch token {
		case json.Delim('{'):
			for dec.More() {
				name, _ := dec.Token()
				names = append(names, name.(string))
				read()
			}
			_, _ = dec.Token()
		case json.Delim('['):
			for dec.More() {
				read()
			}
			_, _ = dec.Token()
		}
	}
	read()
	return names
}

func BenchmarkFirstPageOfTenThousand(b *testing.B) {
	n := newNode(b)
	app := n.seed(10_000)
	for b.Loop() {
		if status, body := n.do("GET", "/v2/fns?app_id="+app, ""); status != http.StatusOK {
			b.Fatal(body)
		}
	}
}

// TestWhatIsRemovedWhileItIsChangedIsNotFound removes an app while clients change
// what is in it: each change has been made, or there is nothing to be changed.
func TestWhatIsRemovedWhileItIsChangedIsNotFound(t *testing.T) {
	n := newNode(t)
	for range 20 {
		app := n.newApp("a")
		fn := n.newFn(app, "f")
		trigger := n.newTrigger(app, fn, "t", "/t")
		var wg sync.WaitGroup
		for i := range 12 {
			target := []struct{ method, path, body string }{
				{"PUT", "/v2/apps/" + app, fmt.Sprintf(`{"config":{"A%d":"1"}}`, i)},
				{"PUT", "/v2/fns/" + fn, fmt.Sprintf(`{"config":{"A%d":"1"}}`, i)},
				{"PUT", "/v2/triggers/" + trigger, fmt.Sprintf(`{"annotations":{"a%d":1}}`, i)},
				{"POST", "/v2/triggers", fmt.Sprintf(`{"name":"n%d","app_id":%q,"fn_id":%q,"type":"http","source":"/n%d"}`, i, app, fn, i)},
			}[i%4]
			wg.Go(func() {
				status, body := n.do(target.method, target.path, target.body)
				if status != http.StatusOK && (status != http.StatusNotFound || !strings.HasSuffix(body, " not found\"}\n")) {
					t.Errorf("%v: %d %s", target, status, body)
				}
			})
		}
		n.want("DELETE", "/v2/apps/"+app, "", http.StatusNoContent, "")
		wg.Wait()
	}
}
