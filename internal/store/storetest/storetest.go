// Package storetest is the contract of package store as tests. An engine that
// passes them may be used anywhere in the system; an engine that needs a test
// changed needs the contract changed first.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// Run runs the contract: at least one case for each sentence of its comments.
// open returns a new store that closes itself with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"DefaultAppIsThereFromTheStart", defaultAppIsThere},
		{"DefaultAppCannotBeDeleted", defaultAppStays},
		{"PutAppThenReadIt", putApp},
		{"EveryFieldOfAFunctionIsKept", everyField},
		{"NilAndEmptyStayApart", nilAndEmpty},
		{"ValuesAreTheCallersOwn", ownValues},
		{"PutSetsRevisionAndTimes", revisionAndTimes},
		{"IfNewWantsNothingThere", ifNew},
		{"PositiveRevisionMustMatch", positiveRevision},
		{"AnyRevisionMakesAndReplaces", anyRevision},
		{"RefusedPutChangesNothing", refusedPut},
		{"BadPutIsInvalid", badPut},
		{"NamesAreUniqueWhereTheyMustBe", uniqueNames},
		{"NamesAndAppsDoNotChange", fixedNames},
		{"UnknownThingsAreNotFound", notFound},
		{"FunctionNeedsItsApp", functionNeedsApp},
		{"ListsAreInOrder", listOrder},
		{"DeleteAppTakesItsFunctions", deleteApp},
		{"DeletedNameIsFreeAgain", freeName},
		{"WatchTellsEveryChangeInOrder", watchOrder},
		{"WatchBeginsWithItsCall", watchBegins},
		{"WatchEndsWithItsContext", watchEnds},
		{"WatchGoesOnWhereItWasLeft", watchGoesOn},
		{"SlowWatcherIsToldToReload", watchReload},
		{"EndedContextChangesNothing", endedContext},
		{"ConcurrentPutsLoseNoUpdate", concurrentPuts},
		{"ConcurrentMakersOfOneNameGiveOne", concurrentNames},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
	t.Run("WatchEndsWithTheStore", func(t *testing.T) {
		s := open(t)
		changes := s.Watch(t.Context())
		ended := make(chan struct{})
		go func() {
			for range changes {
			}
			close(ended)
		}()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		<-ended
	})
}

// Function returns a function named name in app with every field set, each to
// a value of its own that is not the default.
func Function(app faas.App, name string) faas.Function {
	fn := faas.Function{
		ID: faas.NewID(), App: app.ID, Name: name,
		Image: "registry.example/photos/" + name + ":7", Digest: "sha256:" + strings.Repeat("ab", 32), Format: faas.FormatPort,
		Entrypoint: []string{"/bin/sh", "-c"}, Command: []string{"convert - -resize 50% fd:1", ""},
		Env:     map[string]string{"A": "1", "PATH": "/bin:/usr/bin", "EMPTY": "", "GRUSS": "Grüß Gott \u2028 <&>\n"},
		Workdir: "/work", User: "12:34", Writable: true, Network: "host",
		Memory: 65 * faas.MB, CPU: 510, TmpSize: 3 * faas.MB,
		Timeout: 31 * time.Second, Wait: 32 * time.Second, StartTimeout: 33 * time.Second, Idle: 34*time.Second + time.Nanosecond,
		MaxConcurrency: 35, Line: 36,
		Port: 37, Concurrency: 38, Min: 39, MaxCalls: 40, Freeze: faas.FreezeNever,
		AsyncTimeout: 41 * time.Second, Delay: 42 * time.Second, Retries: 43, RetryDelay: 44 * time.Second, RetryMax: 45 * time.Second,
		OnSuccess: "https://there.example/done", OnFailure: "app/mourn", OnNodeLoss: faas.NodeLossFail, MaxResult: 46 * faas.KB, LogPayload: true,
		Profile: faas.ProfileFn, Address: "a7f1c0de-0000-4000-8000-000000000047", Shape: "GENERIC_ARM",
		Annotations: map[string]string{"team": `"Bäcker"`, "": ""}, Beside: map[string]string{"hyper/labels": `{"a":"Grüße"}`},
		Revision: 99, Created: time.Unix(1, 0), Updated: time.Unix(2, 0), // Put sets its own
	}
	return fn
}

// Trigger returns a trigger named name of a function with every field set.
func Trigger(fn faas.Function, name string) faas.Trigger {
	return faas.Trigger{
		ID: faas.NewID(), App: fn.App, Function: fn.ID, Name: name, Type: faas.TriggerHTTP, Source: "/" + fn.Name + "/" + name,
		Annotations: map[string]string{"team": `"Bäcker"`, "": ""},
		Revision:    99, Created: time.Unix(1, 0), Updated: time.Unix(2, 0), // Put sets its own
	}
}

func defaultApp(t *testing.T, s store.Store) faas.App {
	t.Helper()
	app, err := s.App(t.Context(), faas.DefaultApp)
	if err != nil {
		t.Fatal(err)
	}
	return app
}

func mustPutApp(t *testing.T, s store.Store, name string) faas.App {
	t.Helper()
	app, err := s.PutApp(t.Context(), faas.App{ID: faas.NewID(), Name: name}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	return app
}

func mustPut(t *testing.T, s store.Store, fn faas.Function, ifRevision int64) faas.Function {
	t.Helper()
	fn, err := s.PutFunction(t.Context(), fn, ifRevision)
	if err != nil {
		t.Fatal(err)
	}
	return fn
}

func wantKind(t *testing.T, what string, err error, want faas.Kind) {
	t.Helper()
	if got := faas.KindOf(err); got != want {
		t.Errorf("%s = %v: kind %q, want %q", what, err, got, want)
	}
}

func wantEqual[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func defaultAppIsThere(t *testing.T, s store.Store) {
	app := defaultApp(t, s)
	if app.ID == "" || app.Revision != 1 || app.Created.IsZero() {
		t.Errorf("default app = %+v, want an ID, revision 1 and a time", app)
	}
	apps, err := s.Apps(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "Apps of a new store", apps, []faas.App{app})
}

func defaultAppStays(t *testing.T, s store.Store) {
	app := defaultApp(t, s)
	err := s.DeleteApp(t.Context(), app.ID)
	wantKind(t, "DeleteApp of the default app", err, faas.Invalid)
	if err != nil && !strings.Contains(err.Error(), `"default" cannot be deleted`) {
		t.Errorf("DeleteApp = %v, want a sentence that says so", err)
	}
	wantEqual(t, "the default app afterwards", defaultApp(t, s), app)
}

func putApp(t *testing.T, s store.Store) {
	put, err := s.PutApp(t.Context(), faas.App{ID: faas.NewID(), Name: "photos", Env: map[string]string{"A": "ü"}, MaxConcurrency: 7}, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.App(t.Context(), "photos")
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "App after PutApp", got, put)
	wantEqual(t, "Env", got.Env, map[string]string{"A": "ü"})
	wantEqual(t, "MaxConcurrency", got.MaxConcurrency, 7)
}

func everyField(t *testing.T, s store.Store) {
	fn := Function(defaultApp(t, s), "resize")
	for i := range reflect.ValueOf(fn).NumField() {
		if reflect.ValueOf(fn).Field(i).IsZero() {
			t.Fatalf("storetest.Function leaves the field %s zero: give it a value", reflect.TypeFor[faas.Function]().Field(i).Name)
		}
	}
	put := mustPut(t, s, fn, store.IfNew)
	want := fn
	want.Revision, want.Created, want.Updated = put.Revision, put.Created, put.Updated
	wantEqual(t, "what Put returns", put, want)
	got, err := s.Function(t.Context(), fn.App, fn.Name)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "Function", got, put)
	all, err := s.Functions(t.Context(), fn.App)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "Functions", all, []faas.Function{put})
}

func nilAndEmpty(t *testing.T, s store.Store) {
	app := defaultApp(t, s)
	for name, fn := range map[string]faas.Function{
		"nil":   {},
		"empty": {Entrypoint: []string{}, Command: []string{}, Env: map[string]string{}},
	} {
		fn.ID, fn.App, fn.Name = faas.NewID(), app.ID, name
		put := mustPut(t, s, fn, store.IfNew)
		got, err := s.Function(t.Context(), app.ID, name)
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "a function of zero fields, "+name, got, put)
		if (got.Entrypoint == nil) != (fn.Entrypoint == nil) || (got.Command == nil) != (fn.Command == nil) || (got.Env == nil) != (fn.Env == nil) {
			t.Errorf("%s: got %#v", name, got)
		}
	}
}

func ownValues(t *testing.T, s store.Store) {
	fn := Function(defaultApp(t, s), "resize")
	spoil := func(fn faas.Function) {
		fn.Entrypoint[0], fn.Command[0], fn.Env["A"] = "spoiled", "spoiled", "spoiled"
		fn.Annotations["team"], fn.Beside["hyper/labels"] = "spoiled", "spoiled"
	}
	put := mustPut(t, s, fn, store.IfNew)
	want := put.Clone()
	spoil(fn)
	spoil(put)
	for range 2 {
		got, err := s.Function(t.Context(), fn.App, fn.Name)
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "Function", got, want)
		spoil(got)
		all, err := s.Functions(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "Functions", all, []faas.Function{want})
		spoil(all[0])
	}
	watch1, watch2 := s.Watch(t.Context()), s.Watch(t.Context())
	want = mustPut(t, s, want, store.AnyRevision)
	for _, watch := range []iter.Seq[store.Change]{watch1, watch2} {
		c := take(t, watch, 1)[0]
		wantEqual(t, "changed function", *c.Function, want)
		spoil(*c.Function)
	}
}

func revisionAndTimes(t *testing.T, s store.Store) {
	before := time.Now().Add(-time.Millisecond)
	first := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	second := mustPut(t, s, first, first.Revision)
	after := time.Now().Add(time.Millisecond)
	if first.Revision != 1 || second.Revision != 2 {
		t.Errorf("revisions %d, %d; want 1, 2", first.Revision, second.Revision)
	}
	if !first.Created.Equal(first.Updated) || !second.Created.Equal(first.Created) {
		t.Errorf("created %v and %v, first updated %v; want the time of the first Put", first.Created, second.Created, first.Updated)
	}
	for _, at := range []time.Time{first.Updated, second.Updated} {
		if at.Before(before) || at.After(after) || at.Location() != time.UTC || at.Nanosecond()%1000 != 0 {
			t.Errorf("updated %v, want the time of the Put, in UTC, to the microsecond", at)
		}
	}
	if second.Updated.Before(first.Updated) {
		t.Errorf("updated %v, then %v", first.Updated, second.Updated)
	}
}

func ifNew(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	_, err := s.PutFunction(t.Context(), fn, store.IfNew)
	wantKind(t, "second PutFunction", err, faas.Conflict)
	app := mustPutApp(t, s, "photos")
	_, err = s.PutApp(t.Context(), app, store.IfNew)
	wantKind(t, "second PutApp", err, faas.Conflict)
}

func positiveRevision(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	mustPut(t, s, fn, 1)
	_, err := s.PutFunction(t.Context(), fn, 1)
	wantKind(t, "Put at an old revision", err, faas.Conflict)
	_, err = s.PutFunction(t.Context(), fn, 3)
	wantKind(t, "Put at a revision to come", err, faas.Conflict)
	_, err = s.PutFunction(t.Context(), Function(defaultApp(t, s), "absent"), 1)
	wantKind(t, "Put of an absent function at a revision", err, faas.Conflict)
	_, err = s.PutApp(t.Context(), faas.App{ID: faas.NewID(), Name: "absent"}, 1)
	wantKind(t, "PutApp of an absent app at a revision", err, faas.Conflict)
	app := mustPutApp(t, s, "photos")
	if app, err = s.PutApp(t.Context(), app, 1); err != nil || app.Revision != 2 {
		t.Errorf("PutApp at its revision = revision %d, %v; want 2", app.Revision, err)
	}
}

func anyRevision(t *testing.T, s store.Store) {
	fn := Function(defaultApp(t, s), "resize")
	for want := int64(1); want <= 3; want++ {
		if got := mustPut(t, s, fn, store.AnyRevision); got.Revision != want {
			t.Errorf("revision %d, want %d", got.Revision, want)
		}
	}
}

func refusedPut(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	watch := s.Watch(t.Context())
	changed := fn.Clone()
	changed.Image = "other"
	_, err := s.PutFunction(t.Context(), changed, 7)
	wantKind(t, "Put at a wrong revision", err, faas.Conflict)
	got, err := s.Function(t.Context(), fn.App, fn.Name)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "Function after a refused Put", got, fn)
	last := mustPut(t, s, fn, store.AnyRevision)
	if first := take(t, watch, 1)[0]; first.Function == nil || first.Function.Revision != last.Revision {
		t.Errorf("first change %+v, want the Put that was not refused", first)
	}
}

func badPut(t *testing.T, s store.Store) {
	app := defaultApp(t, s)
	for what, spoil := range map[string]func(*faas.Function){
		"no ID":                func(fn *faas.Function) { fn.ID = "" },
		"no name":              func(fn *faas.Function) { fn.Name = "" },
		"variable not UTF-8":   func(fn *faas.Function) { fn.Env = map[string]string{"A": "\xff"} },
		"name not UTF-8":       func(fn *faas.Function) { fn.Name = "a\xff" },
		"argument not UTF-8":   func(fn *faas.Function) { fn.Command = []string{"\xff"} },
		"entrypoint not UTF-8": func(fn *faas.Function) { fn.Entrypoint = []string{"\xff"} },
		"image not UTF-8":      func(fn *faas.Function) { fn.Image = "\xff" },
		"workdir not UTF-8":    func(fn *faas.Function) { fn.Workdir = "/\xff" },
	} {
		fn := Function(app, "resize")
		spoil(&fn)
		_, err := s.PutFunction(t.Context(), fn, store.IfNew)
		wantKind(t, what, err, faas.Invalid)
	}
	_, err := s.PutFunction(t.Context(), Function(app, "resize"), -2)
	wantKind(t, "revision -2", err, faas.Invalid)
	for what, bad := range map[string]faas.App{
		"no ID": {Name: "x"}, "no name": {ID: "x"}, "variable not UTF-8": {ID: "x", Name: "x", Env: map[string]string{"\xff": ""}},
	} {
		_, err := s.PutApp(t.Context(), bad, store.IfNew)
		wantKind(t, "app with "+what, err, faas.Invalid)
	}
}

func uniqueNames(t *testing.T, s store.Store) {
	photos := mustPutApp(t, s, "photos")
	for _, ifRevision := range []int64{store.IfNew, store.AnyRevision} {
		_, err := s.PutApp(t.Context(), faas.App{ID: faas.NewID(), Name: "photos"}, ifRevision)
		wantKind(t, "second app of a name", err, faas.Conflict)
	}
	mustPut(t, s, Function(photos, "resize"), store.IfNew)
	for _, ifRevision := range []int64{store.IfNew, store.AnyRevision} {
		_, err := s.PutFunction(t.Context(), Function(photos, "resize"), ifRevision)
		wantKind(t, "second function of a name", err, faas.Conflict)
	}
	mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew) // in another app it is no conflict
	mustPut(t, s, Function(photos, "Resize"), store.IfNew)           // names differ by case
}

func fixedNames(t *testing.T, s store.Store) {
	app := mustPutApp(t, s, "photos")
	renamed := app
	renamed.Name = "pictures"
	_, err := s.PutApp(t.Context(), renamed, store.AnyRevision)
	wantKind(t, "renamed app", err, faas.Conflict)

	fn := mustPut(t, s, Function(app, "resize"), store.IfNew)
	other := fn
	other.Name = "shrink"
	_, err = s.PutFunction(t.Context(), other, store.AnyRevision)
	wantKind(t, "renamed function", err, faas.Conflict)
	other = fn
	other.App = defaultApp(t, s).ID
	_, err = s.PutFunction(t.Context(), other, store.AnyRevision)
	wantKind(t, "function moved to another app", err, faas.Conflict)
}

func notFound(t *testing.T, s store.Store) {
	_, err := s.App(t.Context(), "absent")
	wantKind(t, "App", err, faas.NotFound)
	_, err = s.Function(t.Context(), defaultApp(t, s).ID, "absent")
	wantKind(t, "Function", err, faas.NotFound)
	_, err = s.Function(t.Context(), "absent", "absent")
	wantKind(t, "Function of an absent app", err, faas.NotFound)
	wantKind(t, "DeleteApp", s.DeleteApp(t.Context(), "absent"), faas.NotFound)
	wantKind(t, "DeleteFunction", s.DeleteFunction(t.Context(), "absent"), faas.NotFound)
	all, err := s.Functions(t.Context(), "absent")
	if err != nil || len(all) != 0 {
		t.Errorf("Functions of an absent app = %v, %v; want none", all, err)
	}
}

func functionNeedsApp(t *testing.T, s store.Store) {
	_, err := s.PutFunction(t.Context(), Function(faas.App{ID: "absent"}, "resize"), store.IfNew)
	wantKind(t, "PutFunction into an absent app", err, faas.NotFound)
}

func listOrder(t *testing.T, s store.Store) {
	names := []string{"b", "a", "B", "a.1", "a-1", "0"}
	sorted := slices.Sorted(slices.Values(names))
	for _, name := range names {
		app := mustPutApp(t, s, name)
		for _, fn := range names {
			mustPut(t, s, Function(app, fn), store.IfNew)
		}
	}
	apps, err := s.Apps(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	app := make(map[string]string) // name by ID
	for _, a := range apps {
		got = append(got, a.Name)
		app[a.ID] = a.Name
	}
	wantEqual(t, "names of Apps", got, slices.Sorted(slices.Values(append(names, faas.DefaultApp))))

	of, err := s.App(t.Context(), "a.1")
	if err != nil {
		t.Fatal(err)
	}
	functions, err := s.Functions(t.Context(), of.ID)
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, fn := range functions {
		got = append(got, fn.Name)
	}
	wantEqual(t, "names of Functions of an app", got, sorted)

	var want []string
	for _, a := range sorted {
		for _, fn := range sorted {
			want = append(want, a+"/"+fn)
		}
	}
	if functions, err = s.Functions(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, fn := range functions {
		got = append(got, app[fn.App]+"/"+fn.Name)
	}
	wantEqual(t, "names of all Functions", got, want)
}

func deleteApp(t *testing.T, s store.Store) {
	app, other := mustPutApp(t, s, "photos"), mustPutApp(t, s, "other")
	a := mustPut(t, s, Function(app, "a"), store.IfNew)
	b := mustPut(t, s, Function(app, "b"), store.IfNew)
	kept := mustPut(t, s, Function(other, "a"), store.IfNew)
	watch := s.Watch(t.Context())
	if err := s.DeleteApp(t.Context(), app.ID); err != nil {
		t.Fatal(err)
	}
	_, err := s.App(t.Context(), "photos")
	wantKind(t, "App after DeleteApp", err, faas.NotFound)
	all, err := s.Functions(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "functions that are left", all, []faas.Function{kept})
	changes := take(t, watch, 3)
	if last := changes[2].Deleted; last != app.ID {
		t.Errorf("last change deletes %q, want the app %q", last, app.ID)
	}
	got := []string{changes[0].Deleted, changes[1].Deleted}
	slices.Sort(got)
	want := []string{a.ID, b.ID}
	slices.Sort(want)
	wantEqual(t, "deleted functions", got, want)
}

func freeName(t *testing.T, s store.Store) {
	app := mustPutApp(t, s, "photos")
	fn := mustPut(t, s, Function(app, "resize"), store.IfNew)
	if err := s.DeleteFunction(t.Context(), fn.ID); err != nil {
		t.Fatal(err)
	}
	_, err := s.Function(t.Context(), app.ID, "resize")
	wantKind(t, "deleted function", err, faas.NotFound)
	wantKind(t, "second DeleteFunction", s.DeleteFunction(t.Context(), fn.ID), faas.NotFound)
	if again := mustPut(t, s, Function(app, "resize"), store.IfNew); again.Revision != 1 {
		t.Errorf("revision %d of the new function, want 1", again.Revision)
	}
	if err := s.DeleteApp(t.Context(), app.ID); err != nil {
		t.Fatal(err)
	}
	mustPutApp(t, s, "photos")
}

// take returns the next n changes.
func take(t *testing.T, changes iter.Seq[store.Change], n int) []store.Change {
	t.Helper()
	var got []store.Change
	for c := range changes {
		if got = append(got, c); len(got) == n {
			return got
		}
	}
	t.Fatalf("Watch ended after %d changes, want %d", len(got), n)
	return nil
}

func watchOrder(t *testing.T, s store.Store) {
	watch := s.Watch(t.Context())
	app := mustPutApp(t, s, "photos")
	fn := mustPut(t, s, Function(app, "resize"), store.IfNew)
	changed := mustPut(t, s, fn, 1)
	if err := s.DeleteFunction(t.Context(), fn.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteApp(t.Context(), app.ID); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "changes", take(t, watch, 5), []store.Change{
		{App: &app}, {Function: &fn}, {Function: &changed}, {Deleted: fn.ID}, {Deleted: app.ID},
	})
}

func watchBegins(t *testing.T, s store.Store) {
	mustPutApp(t, s, "before")
	watch := s.Watch(t.Context())
	app := mustPutApp(t, s, "after")
	wantEqual(t, "first change", take(t, watch, 1), []store.Change{{App: &app}})

	next := make(chan store.Change)
	watch = s.Watch(t.Context())
	go func() {
		for c := range watch {
			next <- c
			return
		}
	}()
	app = mustPutApp(t, s, "while someone waits")
	wantEqual(t, "change that was waited for", <-next, store.Change{App: &app})
}

func watchEnds(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	watch := s.Watch(ctx)
	ended := make(chan struct{})
	go func() {
		for range watch {
		}
		close(ended)
	}()
	cancel()
	<-ended
}

func watchGoesOn(t *testing.T, s store.Store) {
	watch := s.Watch(t.Context())
	a, b := mustPutApp(t, s, "a"), mustPutApp(t, s, "b")
	wantEqual(t, "first change", take(t, watch, 1), []store.Change{{App: &a}})
	wantEqual(t, "second change", take(t, watch, 1), []store.Change{{App: &b}})
}

func watchReload(t *testing.T, s store.Store) {
	const many = 3000 // more than any engine keeps for a slow consumer
	watch := s.Watch(t.Context())
	fn := Function(defaultApp(t, s), "resize")
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range many / 10 {
				if _, err := s.PutFunction(t.Context(), fn, store.AnyRevision); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	last := mustPut(t, s, fn, store.AnyRevision)
	var revision int64
	for c := range watch {
		switch {
		case c.Reload:
			all, err := s.Functions(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			revision = all[0].Revision
		case c.Function.Revision != revision+1:
			t.Fatalf("revision %d after %d without a word to reload", c.Function.Revision, revision)
		default:
			revision = c.Function.Revision
		}
		if revision == last.Revision {
			return
		}
	}
}

func endedContext(t *testing.T, s store.Store) {
	leaving := errors.New("the client has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(leaving)
	if _, err := s.PutApp(ctx, faas.App{ID: faas.NewID(), Name: "photos"}, store.IfNew); !errors.Is(err, leaving) {
		t.Errorf("PutApp = %v, want the cause %v", err, leaving)
	}
	_, err := s.App(t.Context(), "photos")
	wantKind(t, "App", err, faas.NotFound)
}

func concurrentPuts(t *testing.T, s store.Store) {
	const workers, each = 8, 25
	app := mustPutApp(t, s, "photos")
	fn := mustPut(t, s, Function(app, "count"), store.IfNew)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				for { // as a client that reads, changes and puts
					got, err := s.Function(t.Context(), app.ID, "count")
					if err != nil {
						t.Error(err)
						return
					}
					got.MaxConcurrency++
					_, err = s.PutFunction(t.Context(), got, got.Revision)
					if err == nil {
						break
					}
					if faas.KindOf(err) != faas.Conflict {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	got, err := s.Function(t.Context(), app.ID, "count")
	if err != nil {
		t.Fatal(err)
	}
	if want := fn.MaxConcurrency + workers*each; got.MaxConcurrency != want || got.Revision != int64(1+workers*each) {
		t.Errorf("count %d at revision %d, want %d at %d", got.MaxConcurrency, got.Revision, want, 1+workers*each)
	}
}

func concurrentNames(t *testing.T, s store.Store) {
	const makers = 16
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		made int
	)
	for range makers {
		wg.Go(func() {
			_, err := s.PutApp(t.Context(), faas.App{ID: faas.NewID(), Name: "photos"}, store.IfNew)
			if err != nil && faas.KindOf(err) != faas.Conflict {
				t.Error(fmt.Errorf("PutApp: %w", err))
			}
			if err == nil {
				mu.Lock()
				made++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("%d makers of one name succeeded, want 1", made)
	}
}
