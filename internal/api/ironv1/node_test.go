package ironv1_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/api/fnv2"
	"hob/internal/api/ironv1"
	"hob/internal/catalog"
	"hob/internal/image"
	"hob/internal/logs"
	"hob/internal/store"
	"hob/internal/store/memory"
)

// knownImages are the digests of the images on the node.
type knownImages map[string]string

func (k knownImages) Local(ref string) (string, error) {
	_, err := image.Normalize(ref)
	return k[ref], err
}

// idleCaller knows of the calls of a store and runs none.
type idleCaller struct{ calls store.Calls }

func (c idleCaller) Live() []faas.Call { return nil }

func (c idleCaller) Find(ctx context.Context, id string) (faas.Call, error) {
	return c.calls.Call(ctx, id)
}

func (c idleCaller) Call(context.Context, faas.Function, *faas.Call, *faas.Request, http.ResponseWriter) error {
	return faas.Errorf(faas.Unsupported, "nothing is run here")
}

func (c idleCaller) Enqueue(context.Context, faas.Function, *faas.Call, *faas.Request, time.Duration) (faas.Call, error) {
	return faas.Call{}, faas.Errorf(faas.Unsupported, "nothing is run here")
}

// node is a server of which everything is real but what runs calls.
type node struct {
	*ironv1.Server
	t       testing.TB
	handler http.Handler
	db      *memory.Store
}

func newNode(t testing.TB) *node {
	t.Helper()
	db := memory.New()
	t.Cleanup(func() { db.Close() })
	return newNodeOn(t, db, db)
}

func newNodeOn(t testing.TB, definitions store.Definitions, db *memory.Store) *node {
	t.Helper()
	index, err := catalog.Load(t.Context(), definitions)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := logs.Open(logs.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lines.Close() })
	s := &ironv1.Server{
		Catalog: index, Images: knownImages{"here": "sha256:" + strings.Repeat("0", 64)}, Logs: lines, Calls: db, Caller: idleCaller{db},
		Log: slog.New(slog.DiscardHandler),
	}
	return &node{Server: s, t: t, handler: s.Handler(), db: db}
}

// fn is the API of /v2 on the same definitions.
func (n *node) fn() http.Handler {
	s := &fnv2.Server{Catalog: n.Catalog, Images: n.Images, Logs: n.Logs, Calls: n.db, Caller: idleCaller{n.db}, Log: n.Log}
	return s.Handler()
}

func send(handler http.Handler, method, target, body string) (int, string) {
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// do sends a request, and returns status and body of the answer.
func (n *node) do(method, target, body string) (int, string) {
	return send(n.handler, method, target, body)
}

// must sends a request that succeeds, and returns what is answered.
func (n *node) must(method, target, body string) map[string]any {
	n.t.Helper()
	status, answer := n.do(method, target, body)
	var object map[string]any
	if err := json.Unmarshal([]byte(answer), &object); err != nil || status != http.StatusOK {
		n.t.Fatalf("%s %s %.200s: %d %s %v", method, target, body, status, answer, err)
	}
	return object
}

// want sends a request that is answered with just this status and body.
func (n *node) want(method, target, body string, status int, want string) {
	n.t.Helper()
	if got, answer := n.do(method, target, body); got != status || answer != want {
		n.t.Errorf("%s %s %.200s\ngot  %d %.300s\nwant %d %.300s", method, target, body, got, answer, status, want)
	}
}

// refused sends a request that is refused with this status and message.
func (n *node) refused(method, target, body string, status int, message string) {
	n.t.Helper()
	text, err := json.Marshal(message)
	if err != nil {
		n.t.Fatal(err)
	}
	n.want(method, target, body, status, `{"error":{"message":`+string(text)+"}}\n")
}

// newRoute makes a route of the image "x/y:1" with more fields: `"a":1,"b":2`.
func (n *node) newRoute(app, path, fields string) map[string]any {
	n.t.Helper()
	if fields != "" {
		fields = "," + fields
	}
	return n.must("POST", "/v1/apps/"+app+"/routes", fmt.Sprintf(`{"route":{"path":%q,"image":"x/y:1"%s}}`, path, fields))["route"].(map[string]any)
}

// patch changes a route, and returns it.
func (n *node) patch(app, path, fields string) map[string]any {
	n.t.Helper()
	return n.must("PATCH", "/v1/apps/"+app+"/routes"+path, `{"route":{`+fields+`}}`)["route"].(map[string]any)
}

func (n *node) getRoute(app, path string) map[string]any {
	n.t.Helper()
	return n.must("GET", "/v1/apps/"+app+"/routes"+path, "")["route"].(map[string]any)
}

// holds reports fields of an object that are not as wanted.
func (n *node) holds(object map[string]any, want map[string]any) {
	n.t.Helper()
	for field, value := range want {
		got, _ := json.Marshal(object[field])
		if want, _ := json.Marshal(value); string(got) != string(want) {
			n.t.Errorf("%s is %s, want %s", field, got, want)
		}
	}
}

// function is that of a route.
func (n *node) function(app, path string) (faas.Function, faas.Trigger) {
	n.t.Helper()
	a, err := n.Catalog.App(app)
	if err != nil {
		n.t.Fatal(err)
	}
	t, err := n.Catalog.TriggerBySource(a.ID, path)
	if err != nil {
		n.t.Fatal(err)
	}
	fn, err := n.Catalog.FunctionByID(t.Function)
	if err != nil {
		n.t.Fatal(err)
	}
	return fn, t
}

// names are those of all functions of an app.
func (n *node) names(app string) (names []string) {
	for _, fn := range n.Catalog.Functions(app) {
		names = append(names, fn.Name)
	}
	return names
}
