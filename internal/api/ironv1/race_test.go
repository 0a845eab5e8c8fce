package ironv1_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"hob/faas"
	"hob/internal/store"
	"hob/internal/store/memory"
)

const clients = 32

// all lets every client do something at once, and counts what they are answered.
func all(do func(client int) (status int, answer string)) map[int]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	statuses := make(map[int]int)
	for client := range clients {
		wg.Go(func() {
			status, _ := do(client)
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
		})
	}
	wg.Wait()
	return statuses
}

func TestOneOfManyMakesTheRouteAndNothingIsLeftOfTheOthers(t *testing.T) {
	n := newNode(t)
	for round := range 8 {
		app := fmt.Sprint("a", round)
		got := all(func(client int) (int, string) {
			return n.do("POST", "/v1/apps/"+app+"/routes", fmt.Sprintf(`{"route":{"path":"/r","image":"i%d","config":{"C":"%d"}}}`, client, client))
		})
		if got[http.StatusOK] != 1 || got[http.StatusConflict] != clients-1 {
			t.Fatalf("answers %v", got)
		}
		fn, _ := n.function(app, "/r")
		if fn.Image != "i"+fn.Env["C"] || len(n.names(app)) != 1 {
			t.Errorf("functions %v; the route has %+v", n.names(app), fn)
		}
	}
}

func TestNoneOfManyChangesIsLost(t *testing.T) {
	n := newNode(t)
	n.newRoute("a", "/r", "")
	for what, body := range map[string]string{
		"/v1/apps/a":          `{"app":{"config":{"K%d":"1"},"annotations":{"k%d":1}}}`,
		"/v1/apps/a/routes/r": `{"route":{"config":{"K%d":"1"},"headers":{"X-%d":["1"]}}}`,
	} {
		got := all(func(client int) (int, string) {
			return n.do("PATCH", what, fmt.Sprintf(body, client, client))
		})
		if got[http.StatusOK] != clients {
			t.Errorf("%s: answers %v", what, got)
		}
	}
	app, _ := n.Catalog.App("a")
	fn, trigger := n.function("a", "/r")
	if len(app.Env) != clients || len(app.Annotations) != clients || len(fn.Env) != clients || len(trigger.Header) != clients {
		t.Errorf("%d, %d, %d, %d of %d changes are there", len(app.Env), len(app.Annotations), len(fn.Env), len(trigger.Header), clients)
	}
}

func TestManyPutsAreOneRouteWithAllTheyBring(t *testing.T) {
	n := newNode(t)
	got := all(func(client int) (int, string) {
		return n.do("PUT", "/v1/apps/a/routes/r", fmt.Sprintf(`{"route":{"image":"i","config":{"K%d":"1"}}}`, client))
	})
	if fn, _ := n.function("a", "/r"); got[http.StatusOK] != clients || len(fn.Env) != clients || len(n.names("a")) != 1 {
		t.Errorf("answers %v, %d of %d changes, functions %v", got, len(fn.Env), clients, n.names("a"))
	}
}

// TestRoutesComeAndGoAtOnce makes, changes and removes one route from all sides. What
// is left in the end is a whole route, or nothing.
func TestRoutesComeAndGoAtOnce(t *testing.T) {
	n := newNode(t)
	var failed atomic.Value
	all(func(client int) (int, string) {
		for range 20 {
			status, answer := n.do([]string{"POST", "PUT", "PATCH", "DELETE"}[client%4], "/v1/apps/a/routes"+map[bool]string{true: "", false: "/r"}[client%4 == 0],
				`{"route":{"path":"/r","image":"i","config":{"A":"`+fmt.Sprint(client)+`"}}}`)
			if status != 200 && status != 404 && status != 409 {
				failed.Store(fmt.Sprint(status, " ", answer))
			}
		}
		return 0, ""
	})
	if why := failed.Load(); why != nil {
		t.Error(why)
	}
	n.must("PUT", "/v1/apps/a/routes/r", `{"route":{"image":"i"}}`)
	n.must("DELETE", "/v1/apps/a/routes/r", "")
	if names := n.names("a"); len(names) != 0 {
		t.Errorf("functions %v are left", names)
	}
}

// brokenStore does not put triggers.
type brokenStore struct {
	*memory.Store
	put func() error
}

func (s brokenStore) PutTrigger(ctx context.Context, t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	if err := s.put(); err != nil {
		return faas.Trigger{}, err
	}
	return s.Store.PutTrigger(ctx, t, ifRevision)
}

func TestRouteThatCannotBeMadeLeavesNothing(t *testing.T) {
	db := memory.New()
	defer db.Close()
	full := errors.New("disk full")
	n := newNodeOn(t, brokenStore{db, func() error { return full }}, db)
	n.refused("POST", "/v1/apps/a/routes", `{"route":{"path":"/r","image":"i"}}`, 500, "internal server error")
	if names := n.names("a"); len(names) != 0 {
		t.Errorf("functions %v are left", names)
	}
	full = nil
	n.newRoute("a", "/r", "")
	if got := n.names("a"); len(got) != 1 || got[0] != "r" {
		t.Errorf("functions %v", got)
	}
	full = errors.New("disk full")
	n.refused("PATCH", "/v1/apps/a/routes/r", `{"route":{"config":{"A":"1"},"headers":{"X":"1"}}}`, 500, "internal server error")
	full = nil
	n.holds(n.patch("a", "/r", `"config":{"A":"1"},"headers":{"X":"1"}`), map[string]any{"config": map[string]any{"A": "1"}, "headers": map[string]any{"X": []string{"1"}}})
}

func TestAppThatGoesWhileItsRouteIsMadeIsNotFound(t *testing.T) {
	db := memory.New()
	defer db.Close()
	n := newNodeOn(t, brokenStore{db, func() error {
		app, err := db.App(t.Context(), "a")
		if err != nil {
			return nil
		}
		return db.DeleteApp(t.Context(), app.ID) // the catalog is told later
	}}, db)
	n.refused("POST", "/v1/apps/a/routes", `{"route":{"path":"/r","image":"i"}}`, 404, "App not found")
}

func TestTriggerThatIsMadeWhileItsRouteIsDeletedKeepsTheFunction(t *testing.T) {
	n := newNode(t)
	for round := range 50 {
		n.newRoute("a", "/r", "")
		fn, _ := n.function("a", "/r")
		var made faas.Trigger
		var refused error
		var wg sync.WaitGroup
		wg.Go(func() {
			made, refused = n.Catalog.PutTrigger(t.Context(), faas.Trigger{App: fn.App, Function: fn.ID, Name: "other", Type: faas.TriggerHTTP, Source: fmt.Sprint("/", round)}, store.IfNew)
		})
		n.must("DELETE", "/v1/apps/a/routes/r", "")
		wg.Wait()
		_, gone := n.Catalog.FunctionByID(fn.ID)
		if (refused == nil) != (gone == nil) {
			t.Fatalf("round %d: the other trigger: %v, the function: %v", round, refused, gone)
		}
		if refused == nil {
			n.must("DELETE", "/v1/apps/a/routes"+made.Source, "")
		}
		if names := n.names("a"); len(names) != 0 {
			t.Fatalf("round %d: functions %v are left", round, names)
		}
	}
}
