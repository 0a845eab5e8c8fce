package fnv2_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/api/fnv2"
	"hob/internal/catalog"
	"hob/internal/logs"
	"hob/internal/store/memory"
)

// knownImages are the digests of the images on the node.
type knownImages map[string]string

func (k knownImages) Local(ref string) (string, error) {
	if strings.ContainsAny(ref, " \n") {
		return "", faas.Errorf(faas.Invalid, "bad image name %q", ref)
	}
	return k[ref], nil
}

// idleCaller knows of calls and runs none.
type idleCaller struct {
	db   *memory.Store
	live []faas.Call
}

func (c *idleCaller) Live() []faas.Call { return c.live }

func (c *idleCaller) Find(ctx context.Context, id string) (faas.Call, error) {
	for _, live := range c.live {
		if live.ID == id {
			return live, nil
		}
	}
	return c.db.Call(ctx, id)
}

func (c *idleCaller) Call(context.Context, faas.Function, *faas.Call, *faas.Request, http.ResponseWriter) error {
	return faas.Errorf(faas.Unsupported, "nothing is run here")
}

func (c *idleCaller) Enqueue(context.Context, faas.Function, *faas.Call, *faas.Request, time.Duration) (faas.Call, error) {
	return faas.Call{}, faas.Errorf(faas.Unsupported, "nothing is run here")
}

// node is a server of which everything is real but what runs calls.
type node struct {
	*fnv2.Server
	t       testing.TB
	handler http.Handler
	caller  *idleCaller
	db      *memory.Store
}

func newNode(t testing.TB) *node {
	t.Helper()
	db := memory.New()
	t.Cleanup(func() { db.Close() })
	index, err := catalog.Load(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := logs.Open(logs.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lines.Close() })
	caller := &idleCaller{db: db}
	s := &fnv2.Server{
		Catalog: index, Images: knownImages{"here": "sha256:" + strings.Repeat("0", 64)}, Logs: lines, Calls: db, Caller: caller,
		Log: slog.New(slog.DiscardHandler),
	}
	return &node{Server: s, t: t, handler: s.Handler(), caller: caller, db: db}
}

// do sends a request, and returns status and body of the answer.
func (n *node) do(method, target, body string) (int, string) {
	w := httptest.NewRecorder()
	n.handler.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// must sends a request that succeeds, and returns what is answered.
func (n *node) must(method, target, body string) map[string]any {
	n.t.Helper()
	status, answer := n.do(method, target, body)
	if status != http.StatusOK {
		n.t.Fatalf("%s %s %s: %d %s", method, target, body, status, answer)
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(answer), &object); err != nil {
		n.t.Fatal(err)
	}
	return object
}

// want sends a request that is answered with just this status and body.
func (n *node) want(method, target, body string, status int, want string) {
	n.t.Helper()
	got, answer := n.do(method, target, body)
	if got != status || answer != want {
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
	n.want(method, target, body, status, `{"message":`+string(text)+"}\n")
}

func (n *node) newApp(name string) (id string) {
	n.t.Helper()
	return n.must("POST", "/v2/apps", fmt.Sprintf(`{"name":%q}`, name))["id"].(string)
}

func (n *node) newFn(app, name string) (id string) {
	n.t.Helper()
	return n.must("POST", "/v2/fns", fmt.Sprintf(`{"name":%q,"app_id":%q,"image":"x/y:1"}`, name, app))["id"].(string)
}

func (n *node) newTrigger(app, fn, name, source string) (id string) {
	n.t.Helper()
	return n.must("POST", "/v2/triggers", fmt.Sprintf(`{"name":%q,"app_id":%q,"fn_id":%q,"type":"http","source":%q}`, name, app, fn, source))["id"].(string)
}

// header sends a request without a body and returns the header of the answer.
func (n *node) header(method, target string, with http.Header) (int, http.Header, string) {
	r := httptest.NewRequest(method, target, nil)
	for name, values := range with {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	n.handler.ServeHTTP(w, r)
	body, _ := io.ReadAll(w.Result().Body)
	return w.Code, w.Header(), string(body)
}
