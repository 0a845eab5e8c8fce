package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hob/faas"
	"hob/internal/store"
)

// Equal runs the same random operations on two engines and wants the same
// answers: errors to the letter, values but for the clock, and in the end the
// same content and the same changes seen. Each of open returns a new store that
// closes itself with t.Cleanup.
func Equal(t *testing.T, openA, openB func(t *testing.T) store.Store) {
	check(t, func(t *testing.T, r *rapid.T) { equal(t, r, openA(t), openB(t)) })
}

// check runs rapid.Check with a test of its own for each run, so that what a run
// opens is closed after it.
func check(t *testing.T, run func(*testing.T, *rapid.T)) {
	rapid.Check(t, func(r *rapid.T) {
		var panicked any // rapid speaks in panics, and listens in this goroutine
		done := t.Run("", func(t *testing.T) {
			defer func() { panicked = recover() }()
			run(t, r)
		})
		if panicked != nil {
			panic(panicked)
		}
		if !done {
			r.FailNow()
		}
	})
}

// names are few, so that operations meet.
func names() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"a", "b", "default", "ä", "B"})
}

func equal(t *testing.T, r *rapid.T, a, b store.Store) {
	ctx := t.Context()
	watchA, watchB := a.Watch(ctx), b.Watch(ctx)
	// The default app has another ID in each engine: tokens stand for IDs.
	ids := map[string][2]string{"default": {defaultApp(t, a).ID, defaultApp(t, b).ID}}
	appTokens := []string{"default", "app1", "app2", "app3"}
	fnTokens := []string{"fn1", "fn2", "fn3", "fn4", "fn5"}
	for _, token := range append(appTokens[1:], fnTokens...) {
		ids[token] = [2]string{token, token}
	}
	changes := 0
	n := rapid.IntRange(1, 40).Draw(r, "operations")
	for range n {
		app := rapid.SampledFrom(appTokens).Draw(r, "app")
		id := rapid.SampledFrom(fnTokens).Draw(r, "function")
		name := names().Draw(r, "name")
		revision := rapid.Int64Range(-1, 3).Draw(r, "revision")
		op := rapid.SampledFrom([]string{"PutApp", "PutFunction", "PutFunction", "PutFunction", "DeleteApp", "DeleteFunction", "Function", "App"}).Draw(r, "operation")
		env := rapid.MapOfN(rapid.StringMatching("[A-Z]{1,3}"), rapid.String(), 0, 3).Draw(r, "env")
		fn := faas.Function{Name: name, Env: env, Command: rapid.SliceOfN(rapid.String(), 0, 2).Draw(r, "command")}
		var got [2]any
		var errs [2]error
		for i, s := range []store.Store{a, b} {
			switch op {
			case "PutApp":
				var v faas.App
				v, errs[i] = s.PutApp(ctx, faas.App{ID: ids[app][i], Name: name, Env: env, MaxConcurrency: int(revision)}, revision)
				got[i] = plainApp(v, ids, i)
			case "PutFunction":
				fn.ID, fn.App = id, ids[app][i]
				fn.Memory = faas.Bytes(revision)
				var v faas.Function
				v, errs[i] = s.PutFunction(ctx, fn, revision)
				got[i] = plainFunction(v, ids, i)
			case "DeleteApp":
				before, err := s.Functions(ctx, ids[app][i])
				if err != nil {
					t.Fatal(err)
				}
				if errs[i] = s.DeleteApp(ctx, ids[app][i]); errs[i] == nil && i == 0 {
					changes += len(before)
				}
			case "DeleteFunction":
				errs[i] = s.DeleteFunction(ctx, id)
			case "Function":
				var v faas.Function
				v, errs[i] = s.Function(ctx, ids[app][i], name)
				got[i] = plainFunction(v, ids, i)
			case "App":
				var v faas.App
				v, errs[i] = s.App(ctx, name)
				got[i] = plainApp(v, ids, i)
			}
		}
		what := fmt.Sprintf("%s(app %s, function %s, name %q, revision %d)", op, app, id, name, revision)
		if faas.KindOf(errs[0]) != faas.KindOf(errs[1]) || app != "default" && fmt.Sprint(errs[0]) != fmt.Sprint(errs[1]) {
			t.Fatalf("%s: errors differ:\n%v\n%v", what, errs[0], errs[1])
		}
		if !reflect.DeepEqual(got[0], got[1]) {
			t.Fatalf("%s: answers differ:\n%+v\n%+v", what, got[0], got[1])
		}
		if errs[0] == nil && op != "Function" && op != "App" {
			changes++
		}
	}
	var content [2][]any
	for i, s := range []store.Store{a, b} {
		apps, err := s.Apps(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range apps {
			content[i] = append(content[i], plainApp(v, ids, i))
		}
		functions, err := s.Functions(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range functions {
			content[i] = append(content[i], plainFunction(v, ids, i))
		}
	}
	wantEqual(t, "content", content[0], content[1])
	if changes > 0 {
		seen := [2][]store.Change{take(t, watchA, changes), take(t, watchB, changes)}
		for i := range seen {
			for j, c := range seen[i] {
				if c.App != nil {
					v := plainApp(*c.App, ids, i)
					seen[i][j].App = &v
				}
				if c.Function != nil {
					v := plainFunction(*c.Function, ids, i)
					seen[i][j].Function = &v
				}
			}
		}
		wantEqual(t, "changes", seen[0], seen[1])
	}
}

// token is the other way round of ids.
func token(id string, ids map[string][2]string, engine int) string {
	for token, id2 := range ids {
		if id2[engine] == id {
			return token
		}
	}
	return id
}

// plainApp is app without what two engines cannot have in common.
func plainApp(app faas.App, ids map[string][2]string, engine int) faas.App {
	app.ID = token(app.ID, ids, engine)
	app.Created, app.Updated = time.Time{}, time.Time{}
	return app
}

// plainFunction is fn without what two engines cannot have in common.
func plainFunction(fn faas.Function, ids map[string][2]string, engine int) faas.Function {
	fn.App = token(fn.App, ids, engine)
	fn.Created, fn.Updated = time.Time{}, time.Time{}
	fn.Command = slices.Clone(fn.Command)
	return fn
}
