package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"hob/client"
)

func TestRulesThatAreAddedAtOnceAreAllThere(t *testing.T) {
	server := newServer(t)
	cl, err := client.New(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if _, err := cl.CreateFunction(t.Context(), "default", "f", client.Settings{Image: new("registry.invalid/none:1")}, pullLater); err != nil {
		t.Fatal(err)
	}
	hob := func(args ...string) {
		t.Helper()
		env, _, stderr := testEnv(map[string]string{"HOB_SERVER": server}, "")
		if code := run(t.Context(), env, args); code != 0 {
			t.Errorf("hob %q ends with %d: %s", args, code, stderr)
		}
	}
	var want []string
	var wg sync.WaitGroup
	for i := range mostTries / 2 { // who is overtaken has been overtaken by one of the others
		rule := fmt.Sprintf("10.1.2.%d:5432", i)
		want = append(want, rule)
		wg.Go(func() { hob("update", "f", "--allow", rule) })
		wg.Go(func() { hob("app", "update", "default", "--allow", rule) })
	}
	wg.Wait()
	fn, err := cl.Function(t.Context(), "default", "f")
	if slices.Sort(fn.Allow); err != nil || !slices.Equal(fn.Allow, want) {
		t.Errorf("the function is allowed %q, %v; want %q", fn.Allow, err, want)
	}
	app, err := cl.App(t.Context(), "default")
	if slices.Sort(app.Allow); err != nil || !slices.Equal(app.Allow, want) {
		t.Errorf("the app is allowed %q, %v; want %q", app.Allow, err, want)
	}
}

func TestChangeThatIsAlwaysOvertakenIsAConflict(t *testing.T) {
	changes := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			fmt.Fprintf(w, `{"name":"f","revision":%d}`, changes)
			return
		}
		changes++
		w.Header().Set("Hob-Fault", "conflict")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"error":{"kind":"conflict","message":"it was changed in between"}}`)
	}))
	t.Cleanup(server.Close)
	env, _, stderr := testEnv(map[string]string{"HOB_SERVER": server.URL}, "")
	code := run(t.Context(), env, []string{"update", "f", "--allow", "10.1.2.3:5432"})
	if code != 4 || changes != mostTries || !strings.Contains(stderr.String(), "it was changed in between") {
		t.Errorf("exit code %d after %d tries, %s", code, changes, stderr)
	}
}
