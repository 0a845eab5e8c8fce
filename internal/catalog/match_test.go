package catalog_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"hob/faas"
	"hob/internal/catalog"
	"hob/internal/store"
	"hob/internal/store/memory"
)

// routed returns a catalog whose default app has a function and a trigger, of the
// same name, for each source.
func routed(t testing.TB, sources ...string) (*catalog.Catalog, faas.App) {
	t.Helper()
	c := load(t, memory.New())
	app, err := c.App(faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	for i, source := range sources {
		fn := mustPut(t, c, function(t, c, fmt.Sprint("f", i)), store.IfNew)
		if _, err := c.PutTrigger(t.Context(), trigger(fn, fmt.Sprint("t", i), source), store.IfNew); err != nil {
			t.Fatal(err)
		}
	}
	return c, app
}

func trigger(fn faas.Function, name, source string) faas.Trigger {
	return faas.Trigger{App: fn.App, Function: fn.ID, Name: name, Type: faas.TriggerHTTP, Source: source}
}

func TestMatch(t *testing.T) {
	c, app := routed(t,
		"/", "/users", "/users/:id", "/users/me", "/users/:id/posts", "/users/:user/posts/:post", "/static/*", "/users/*rest", "/users/", "/a/b/*", "/a/:x/c", "/:", "/x/*/y", "/größe/:n")
	for _, tt := range []struct {
		path, source string
		params       map[string]string
	}{
		{"/", "/", nil},
		{"/users", "/users", nil},
		{"/users/", "/users/", nil},
		{"/users/7", "/users/:id", map[string]string{"id": "7"}},
		{"/users/me", "/users/me", nil},
		{"/users/:id", "/users/:id", map[string]string{"id": ":id"}},
		{"/users/7/posts", "/users/:id/posts", map[string]string{"id": "7"}},
		{"/users/7/posts/8", "/users/:user/posts/:post", map[string]string{"user": "7", "post": "8"}},
		{"/users/7/photos/1/", "/users/*rest", map[string]string{"rest": "7/photos/1/"}},
		{"/static/", "/static/*", map[string]string{"*": ""}},
		{"/static/css/site.css", "/static/*", map[string]string{"*": "css/site.css"}},
		{"/static", "", nil},
		{"/static/../users/7", "/users/:id", map[string]string{"id": "7"}},
		{"//users//./7", "/users/:id", map[string]string{"id": "7"}},
		{"/../../users", "/users", nil},
		{"/a/b/c", "/a/b/*", map[string]string{"*": "c"}}, // exact before parameter where they differ
		{"/a/z/c", "/a/:x/c", map[string]string{"x": "z"}},
		{"/a/z/d", "", nil},
		{"/:", "/:", nil},
		{"/x/*/y", "/x/*/y", nil},
		{"/x/1/y", "", nil},
		{"/größe/5", "/größe/:n", map[string]string{"n": "5"}},
		{"/none", "", nil},
	} {
		_, got, params, err := c.Match(app, tt.path, true)
		if got.Source != tt.source || !maps.Equal(params, tt.params) || (err != nil) != (tt.source == "") {
			t.Errorf("%s leads to %q with %v, %v; want %q with %v", tt.path, got.Source, params, err, tt.source, tt.params)
		}
	}
}

func TestWithoutPatternsASourceIsThePath(t *testing.T) {
	c, app := routed(t, "/users/:id", "/static/*", "/a//b")
	for path, want := range map[string]string{
		"/users/7": "", "/users/:id": "/users/:id", "/static/*": "/static/*", "/static/x": "", "/a//b": "/a//b", "/a/b": "",
	} {
		fn, got, params, err := c.Match(app, path, false)
		if got.Source != want || params != nil || (err == nil) != (fn.ID != "") || (err == nil) != (want != "") {
			t.Errorf("%s leads to %q with %v, %v; want %q", path, got.Source, params, err, want)
		}
	}
}

func TestOlderOfTwoAlikePatternsCounts(t *testing.T) {
	c, app := routed(t, "/u/:one", "/u/:two")
	_, got, _, err := c.Match(app, "/u/x", true)
	if err != nil || got.Name != "t0" {
		t.Errorf("the trigger is %s, %v", got.Name, err)
	}
	if err := c.DeleteTrigger(t.Context(), got.ID); err != nil {
		t.Fatal(err)
	}
	_, got, params, err := c.Match(app, "/u/x", true)
	if err != nil || got.Name != "t1" || params["two"] != "x" {
		t.Errorf("then it is %s with %v, %v", got.Name, params, err)
	}
	got.Source = "/v/:one"
	if _, err := c.PutTrigger(t.Context(), got, got.Revision); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := c.Match(app, "/u/x", true); faas.KindOf(err) != faas.NotFound {
		t.Errorf("the old source of a changed trigger: %v", err)
	}
}

func TestTriggersGoWithTheirFunctionAndApp(t *testing.T) {
	s := memory.New()
	c := load(t, s)
	app, err := c.PutApp(t.Context(), faas.App{Name: "photos"}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, name := range []string{"one", "two"} {
		fn := function(t, c, name)
		fn.App = app.ID
		fn = mustPut(t, c, fn, store.IfNew)
		tr, err := c.PutTrigger(t.Context(), trigger(fn, name, "/"+name+"/:x"), store.IfNew)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, tr.ID)
		if name == "one" {
			if err := c.DeleteFunction(t.Context(), fn.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := func(id, source string) {
		t.Helper()
		_, byID := c.Trigger(id)
		_, bySource := c.TriggerBySource(app.ID, source)
		_, _, _, matched := c.Match(app, source, true)
		for _, err := range []error{byID, bySource, matched} {
			if faas.KindOf(err) != faas.NotFound {
				t.Errorf("trigger %s is there: %v", source, err)
			}
		}
	}
	gone(ids[0], "/one/:x")
	if left := slices.Collect(c.TriggersAfter(app.ID, "")); len(left) != 1 || left[0].ID != ids[1] {
		t.Errorf("triggers left: %+v", left)
	}
	if err := c.DeleteApp(t.Context(), app.ID); err != nil {
		t.Fatal(err)
	}
	gone(ids[1], "/two/:x")
	fresh := load(t, s)
	if left := slices.Collect(fresh.TriggersAfter(app.ID, "")); len(left) != 0 {
		t.Errorf("triggers after a reload: %+v", left)
	}
}

func TestListsBeginBehindAName(t *testing.T) {
	c, app := routed(t, "/0", "/1", "/2")
	other, err := c.PutApp(t.Context(), faas.App{Name: "zoo"}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	fn := function(t, c, "f1")
	fn.App = other.ID
	fn = mustPut(t, c, fn, store.IfNew)
	if _, err := c.PutTrigger(t.Context(), trigger(fn, "t1", "/1"), store.IfNew); err != nil {
		t.Fatal(err)
	}
	f0, err := c.Function(faas.DefaultApp, "f0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutTrigger(t.Context(), trigger(f0, "t1", "/again"), store.IfNew); err != nil { // the name is another function's, too
		t.Fatal(err)
	}
	var names []string
	for fn := range c.FunctionsAfter(app.ID, "f0") {
		names = append(names, fn.Name)
	}
	for tr := range c.TriggersAfter(app.ID, "t0") {
		names = append(names, tr.Source)
	}
	for tr := range c.TriggersAfter(app.ID, "t1") {
		names = append(names, tr.Source)
	}
	for a := range c.AppsAfter(faas.DefaultApp) {
		names = append(names, a.Name)
	}
	if want := []string{"f1", "f2", "/1", "/again", "/2", "/2", "zoo"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestAppIsFoundByItsHosts(t *testing.T) {
	c := load(t, memory.New())
	put := func(app faas.App, hosts string, revision int64) (faas.App, error) {
		app.Annotations = map[string]string{faas.AnnotationHosts: hosts}
		return c.PutApp(t.Context(), app, revision)
	}
	one, err := put(faas.App{Name: "one"}, `["api.one.example","one.example"]`, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := put(faas.App{Name: "two"}, `["one.example"]`, store.IfNew); faas.KindOf(err) != faas.Conflict {
		t.Errorf("a host that another app has: %v", err)
	}
	if app, err := c.AppByHost("api.one.example"); err != nil || app.ID != one.ID {
		t.Errorf("app %q, %v", app.Name, err)
	}
	if _, err := put(one, `["one.example"]`, one.Revision); err != nil {
		t.Fatal(err)
	}
	if app, err := c.AppByHost("one.example"); err != nil || app.Revision != 2 {
		t.Errorf("app %+v, %v", app, err)
	}
	if err := c.DeleteApp(t.Context(), one.ID); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"one.example", "api.one.example"} {
		if _, err := c.AppByHost(host); faas.KindOf(err) != faas.NotFound {
			t.Errorf("host %s: %v", host, err)
		}
	}
	for _, bad := range []string{`"one.example"`, `["One.example"]`, `["one.example:80"]`, `[""]`, `[1]`, `["localhost"]`, `["10.0.0.1"]`, `["a..b"]`, `["a."]`, `["-a.b"]`, `["::1"]`} {
		if _, err := put(faas.App{Name: "bad"}, bad, store.IfNew); faas.KindOf(err) != faas.Invalid {
			t.Errorf("hosts %s: %v", bad, err)
		}
	}
}

func TestLookUpsAllocateNothing(t *testing.T) {
	c, app := routed(t, "/exact")
	id := slices.Collect(c.FunctionsAfter(app.ID, ""))[0].ID
	for what, look := range map[string]func() error{
		"by name":   func() error { _, err := c.Function(faas.DefaultApp, "f0"); return err },
		"by ID":     func() error { _, err := c.FunctionByID(id); return err },
		"app by ID": func() error { _, err := c.AppByID(app.ID); return err },
		"by source": func() error { _, _, _, err := c.Match(app, "/exact", false); return err },
	} {
		if n := testing.AllocsPerRun(100, func() {
			if err := look(); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}

// FuzzMatch looks for a path that matches and leads elsewhere than its own values
// put into the source say.
func FuzzMatch(f *testing.F) {
	for _, path := range []string{"/", "/users/7", "/a/b/c/d", "//x/../y", "/%2e%2e/", "/:id", "/*"} {
		f.Add(path)
	}
	c, app := routed(f, "/users/:id", "/a/:b/*", "/:one/:two", "/*rest")
	f.Fuzz(func(t *testing.T, path string) {
		_, got, params, err := c.Match(app, path, true)
		if err != nil {
			t.Fatalf("%q: %v, and there is a wildcard for all", path, err)
		}
		var segments []string
		for segment := range strings.SplitSeq(got.Source, "/") {
			if name := strings.TrimLeft(segment, ":*"); name != segment {
				segment = params[name]
				if name == "" {
					segment = params["*"]
				}
			}
			segments = append(segments, segment)
		}
		if made := strings.Join(segments, "/"); made != catalog.Clean(path) {
			t.Errorf("%q leads to %s with %v, which is %q", path, got.Source, params, made)
		}
	})
}

func TestConcurrentPutsAndDeletionsLeaveWhatTheStoreHas(t *testing.T) {
	s := memory.New()
	c := load(t, s)
	app, err := c.App(faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				fn, err := c.PutFunction(t.Context(), function(t, c, fmt.Sprint("f", i%5)), store.AnyRevision)
				if err != nil {
					continue // another has the name
				}
				_, _ = c.PutTrigger(t.Context(), trigger(fn, "t", fmt.Sprint("/", (i+g)%4)), store.AnyRevision) // or the source
				if i%3 == 0 {
					_ = c.DeleteFunction(t.Context(), fn.ID)
				}
			}
		})
	}
	wg.Wait()
	kept, err := s.Functions(t.Context(), app.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(c.FunctionsAfter(app.ID, "")); fmt.Sprint(got) != fmt.Sprint(kept) {
		t.Errorf("the catalog has %d functions, and the store %d others", len(got), len(kept))
	}
	triggers, err := s.Triggers(t.Context(), app.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(c.TriggersAfter(app.ID, "")); fmt.Sprint(got) != fmt.Sprint(triggers) {
		t.Errorf("the catalog has triggers %v, and the store %v", got, triggers)
	}
}

// BenchmarkPatterns loads an app of 4,000 patterns and changes one.
func BenchmarkPatterns(b *testing.B) {
	s := memory.New()
	c := load(b, s)
	fn := mustPut(b, c, function(b, c, "f"), store.IfNew)
	for i := range 4000 {
		if _, err := c.PutTrigger(b.Context(), trigger(fn, fmt.Sprint("t", i), fmt.Sprint("/u", i, "/:id")), store.IfNew); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		c := load(b, s)
		tr, err := c.TriggerBySource(fn.App, "/u7/:id")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.PutTrigger(b.Context(), tr, tr.Revision); err != nil {
			b.Fatal(err)
		}
		if _, _, _, err := c.Match(faas.App{ID: fn.App}, "/u3999/x", true); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAppIsFoundWhateverTheCaseOfItsName(t *testing.T) {
	c := load(t, memory.New())
	for _, name := range []string{"Shop", "SHOP"} {
		if _, err := c.PutApp(t.Context(), faas.App{Name: name}, store.IfNew); err != nil {
			t.Fatal(err)
		}
	}
	want := func(name string) {
		t.Helper()
		if app, err := c.AppFolded("shop"); app.Name != name || (err == nil) != (name != "") {
			t.Errorf("shop is %q, %v; want %q", app.Name, err, name)
		}
	}
	want("SHOP")
	lower, err := c.PutApp(t.Context(), faas.App{Name: "shop"}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	want("shop")
	if err := c.DeleteApp(t.Context(), lower.ID); err != nil {
		t.Fatal(err)
	}
	want("SHOP")
	for _, name := range []string{"SHOP", "Shop"} {
		if app, err := c.App(name); err != nil || c.DeleteApp(t.Context(), app.ID) != nil {
			t.Errorf("app %s cannot be deleted", name)
		}
	}
	want("")
}

func TestPatternsOfOneShapeAreOneSource(t *testing.T) {
	for _, tt := range []struct {
		node       bool
		annotation string
		have, want string
		taken      bool
	}{
		{true, "", "/users/:id", "/users/:name", true},
		{false, "true", "/users/:id", "/users/:name", true},
		{true, "false", "/users/:id", "/users/:name", false},
		{false, "", "/users/:id", "/users/:name", false},
		{true, "", "/a/*", "/a/*rest", true},
		{true, "", "/a/:x/b/*y", "/a/:y/b/*", true},
		{true, "", "/a/*x/b", "/a/*y/b", false}, // in the middle it is itself
		{true, "", "/a/:x", "/a/:", false},
		{true, "", "/a/:x", "/a/:x/", false},
		{true, "", "/a/:x", "/a/*", false},
		{true, "", "/a/:x", "/a/x", false},
	} {
		c := load(t, memory.New())
		c.Patterns = tt.node
		app, err := c.PutApp(t.Context(), faas.App{Name: "shapes"}, store.IfNew)
		if err != nil {
			t.Fatal(err)
		}
		if tt.annotation != "" {
			app = app.Clone()
			app.Annotations = map[string]string{faas.AnnotationPatterns: tt.annotation}
			if app, err = c.PutApp(t.Context(), app, app.Revision); err != nil {
				t.Fatal(err)
			}
		}
		fn := faas.Function{App: app.ID, Name: "f", Image: "x/y:1"}.WithDefaults()
		fn = mustPut(t, c, fn, store.IfNew)
		first, err := c.PutTrigger(t.Context(), trigger(fn, "first", tt.have), store.IfNew)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.PutTrigger(t.Context(), trigger(fn, "second", tt.want), store.IfNew)
		if errors.Is(err, faas.ErrSourceTaken) != tt.taken || (err != nil) != tt.taken || err != nil && faas.KindOf(err) != faas.Conflict {
			t.Errorf("%s beside %s: %v, want a conflict: %t", tt.want, tt.have, err, tt.taken)
		}
		first = first.Clone()
		if tt.taken { // it may change its own names
			first.Source = tt.want
		}
		if _, err := c.PutTrigger(t.Context(), first, first.Revision); err != nil {
			t.Errorf("%s: %v", first.Source, err)
		}
	}
}

// TestOneOfManyPatternsOfAShapeIsMade, at once.
func TestOneOfManyPatternsOfAShapeIsMade(t *testing.T) {
	c, app := routed(t)
	c.Patterns = true
	fn := mustPut(t, c, function(t, c, "f"), store.IfNew)
	var made atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			_, err := c.PutTrigger(t.Context(), trigger(fn, fmt.Sprint("t", i), fmt.Sprint("/:n", i)), store.IfNew)
			if err == nil {
				made.Add(1)
			} else if !errors.Is(err, faas.ErrSourceTaken) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("%d were made in app %s", made.Load(), app.Name)
	}
}
