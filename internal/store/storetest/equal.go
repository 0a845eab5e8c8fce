package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
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

// An operation is a random one on a store. What it names are tokens that stand for
// IDs, as the default app has another ID in each engine.
type operation struct {
	do       string
	app      string
	function string
	trigger  string
	name     string
	source   string
	kind     string
	revision int64
	texts    map[string]string
	command  []string
}

func appTokens() []string      { return []string{"default", "app1", "app2"} }
func functionTokens() []string { return []string{"fn1", "fn2", "fn3", "fn4"} }
func triggerTokens() []string  { return []string{"t1", "t2", "t3", "t4", "t5"} }

// drawOperation draws one. They are of few names, so that they meet, and a trigger
// is often put of one of the functions that are there.
func drawOperation(r *rapid.T, there []faas.Function) operation {
	o := operation{
		do: rapid.SampledFrom([]string{
			"PutTrigger", "PutTrigger", "PutTrigger", "PutTrigger", "PutTrigger", "PutTrigger",
			"PutFunction", "PutFunction", "PutFunction", "PutFunction", "PutApp", "PutApp",
			"Function", "App", "Trigger", "Triggers", "DeleteApp", "DeleteFunction", "DeleteTrigger",
		}).Draw(r, "operation"),
		app:      rapid.SampledFrom(appTokens()).Draw(r, "app"),
		function: rapid.SampledFrom(functionTokens()).Draw(r, "function"),
		trigger:  rapid.SampledFrom(triggerTokens()).Draw(r, "trigger"),
		name:     rapid.SampledFrom([]string{"a", "b", "default", "ä", "B"}).Draw(r, "name"),
		source:   rapid.SampledFrom([]string{"/a", "/b", "/b/", "/ä"}).Draw(r, "source"),
		kind:     rapid.SampledFrom([]string{"http", "http", "http", "timer"}).Draw(r, "type"),
		revision: rapid.SampledFrom([]int64{-1, -1, -1, 0, 0, 1, 2, 3}).Draw(r, "revision"),
		texts:    rapid.MapOfN(rapid.StringMatching("[A-Z]{1,3}"), rapid.String(), 0, 3).Draw(r, "texts"),
		command:  rapid.SliceOfN(rapid.String(), 0, 2).Draw(r, "command"),
	}
	if o.do == "PutTrigger" && len(there) > 0 && rapid.IntRange(0, 7).Draw(r, "anywhere") > 0 {
		fn := rapid.SampledFrom(there).Draw(r, "of")
		o.app, o.function = fn.App, fn.ID
	}
	return o
}

// side is one of two engines.
type side struct {
	store.Store
	watch iter.Seq[store.Change]
	ids   map[string]string // by token
}

func newSide(t *testing.T, s store.Store) *side {
	ids := map[string]string{"default": defaultApp(t, s).ID}
	for _, token := range slices.Concat(appTokens()[1:], functionTokens(), triggerTokens()) {
		ids[token] = token
	}
	return &side{Store: s, watch: s.Watch(t.Context()), ids: ids}
}

// run returns the answer to o, without what two engines cannot have in common, and
// how many changes it made.
func (s *side) run(ctx context.Context, o operation) (answer any, changes int, err error) {
	app := s.ids[o.app]
	switch o.do {
	case "PutApp":
		var v faas.App
		v, err = s.PutApp(ctx, faas.App{
			ID: app, Name: o.name, Env: o.texts, MaxConcurrency: int(o.revision), Syslog: o.source, Shape: o.kind, Annotations: o.texts,
		}, o.revision)
		answer, changes = s.plainApp(v), 1
	case "PutFunction":
		var v faas.Function
		v, err = s.PutFunction(ctx, faas.Function{
			ID: o.function, App: app, Name: o.name, Env: o.texts, Command: o.command, Memory: faas.Bytes(o.revision), Beside: o.texts,
		}, o.revision)
		answer, changes = s.plainFunction(v), 1
	case "PutTrigger":
		var v faas.Trigger
		v, err = s.PutTrigger(ctx, faas.Trigger{
			ID: o.trigger, App: app, Function: o.function, Name: o.name, Type: o.kind, Source: o.source, Annotations: o.texts,
		}, o.revision)
		answer, changes = s.plainTrigger(v), 1
	case "DeleteApp", "DeleteFunction", "DeleteTrigger":
		return s.delete(ctx, o)
	case "Function":
		var v faas.Function
		v, err = s.Function(ctx, app, o.name)
		answer = s.plainFunction(v)
	case "App":
		var v faas.App
		v, err = s.App(ctx, o.name)
		answer = s.plainApp(v)
	case "Trigger":
		var v faas.Trigger
		v, err = s.Trigger(ctx, o.trigger)
		answer = s.plainTrigger(v)
	case "Triggers":
		var all []faas.Trigger
		all, err = s.Triggers(ctx, app)
		for i, v := range all {
			all[i] = s.plainTrigger(v)
		}
		answer = all
	}
	if err != nil {
		changes = 0
	}
	return answer, changes, err
}

// delete is run of what takes others with it: each is a change.
func (s *side) delete(ctx context.Context, o operation) (_ any, changes int, err error) {
	before, err := s.count(ctx)
	if err != nil {
		return nil, 0, err
	}
	switch o.do {
	case "DeleteApp":
		err = s.DeleteApp(ctx, s.ids[o.app])
	case "DeleteFunction":
		err = s.DeleteFunction(ctx, o.function)
	case "DeleteTrigger":
		err = s.DeleteTrigger(ctx, o.trigger)
	}
	after, errAfter := s.count(ctx)
	return nil, before - after, cmp.Or(err, errAfter)
}

// count returns how many definitions there are.
func (s *side) count(ctx context.Context) (int, error) {
	all, err := s.content(ctx)
	return len(all), err
}

// content returns all definitions, without what two engines cannot have in common.
func (s *side) content(ctx context.Context) (all []any, err error) {
	apps, errApps := s.Apps(ctx)
	functions, errFunctions := s.Functions(ctx, "")
	triggers, errTriggers := s.Triggers(ctx, "")
	for _, v := range apps {
		all = append(all, s.plainApp(v))
	}
	for _, v := range functions {
		all = append(all, s.plainFunction(v))
	}
	for _, v := range triggers {
		all = append(all, s.plainTrigger(v))
	}
	return all, errors.Join(errApps, errFunctions, errTriggers)
}

// seen returns the next n changes, without what two engines cannot have in common.
func (s *side) seen(t *testing.T, n int) (changes []store.Change) {
	if n == 0 {
		return nil
	}
	for _, c := range take(t, s.watch, n) {
		if c.App != nil {
			*c.App = s.plainApp(*c.App)
		}
		if c.Function != nil {
			*c.Function = s.plainFunction(*c.Function)
		}
		if c.Trigger != nil {
			*c.Trigger = s.plainTrigger(*c.Trigger)
		}
		changes = append(changes, c)
	}
	return changes
}

func equal(t *testing.T, r *rapid.T, a, b store.Store) {
	ctx := t.Context()
	sides := [2]*side{newSide(t, a), newSide(t, b)}
	changes := 0
	for range rapid.IntRange(1, 60).Draw(r, "operations") {
		there, err := a.Functions(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		for i, fn := range there {
			there[i] = sides[0].plainFunction(fn)
		}
		o := drawOperation(r, there)
		answer, changed, err := sides[0].run(ctx, o)
		answerB, changedB, errB := sides[1].run(ctx, o)
		if faas.KindOf(err) != faas.KindOf(errB) || o.app != "default" && fmt.Sprint(err) != fmt.Sprint(errB) {
			t.Fatalf("%+v: errors differ:\n%v\n%v", o, err, errB)
		}
		if !reflect.DeepEqual(answer, answerB) || changed != changedB {
			t.Fatalf("%+v: answers differ:\n%+v, %d changes\n%+v, %d changes", o, answer, changed, answerB, changedB)
		}
		changes += changed
	}
	content, err := sides[0].content(ctx)
	contentB, errB := sides[1].content(ctx)
	if err := errors.Join(err, errB); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "content", content, contentB)
	wantEqual(t, "changes", sides[0].seen(t, changes), sides[1].seen(t, changes))
}

// token is the other way round of ids.
func (s *side) token(id string) string {
	for token, i := range s.ids {
		if i == id {
			return token
		}
	}
	return id
}

func (s *side) plainApp(app faas.App) faas.App {
	app.ID = s.token(app.ID)
	app.Created, app.Updated = time.Time{}, time.Time{}
	return app
}

func (s *side) plainFunction(fn faas.Function) faas.Function {
	fn.App = s.token(fn.App)
	fn.Created, fn.Updated = time.Time{}, time.Time{}
	return fn
}

func (s *side) plainTrigger(trigger faas.Trigger) faas.Trigger {
	trigger.App = s.token(trigger.App)
	trigger.Created, trigger.Updated = time.Time{}, time.Time{}
	return trigger
}
