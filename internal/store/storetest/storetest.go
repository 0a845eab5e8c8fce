// Package storetest is the contract of package store as tests. An engine that
// passes them may be used anywhere in the system; an engine that needs a test
// changed needs the contract changed first.
package storetest

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
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
		{"EveryFieldOfAnAppIsKept", everyFieldOfApps},
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

		{"EveryFieldOfATriggerIsKept", everyFieldOfTriggers},
		{"NilAndEmptyAnnotationsOfATriggerStayApart", triggerNilAndEmpty},
		{"TriggersAreTheCallersOwn", ownTriggers},
		{"TriggersHaveRevisionsAndTimes", triggerRevisions},
		{"RefusedTriggerChangesNothing", refusedTrigger},
		{"BadTriggerIsInvalid", badTrigger},
		{"TriggerNeedsItsAppAndItsFunction", triggerNeeds},
		{"TriggerNamesAreUniqueOfAFunction", triggerNames},
		{"TriggerSourcesAreUniqueOfAnAppAndType", triggerSources},
		{"TriggerMovesInsideItsAppAlone", triggerMoves},
		{"UnknownTriggerIsNotFound", triggerNotFound},
		{"TriggersAreInOrder", triggerOrder},
		{"DeleteFunctionTakesItsTriggers", deleteFunctionTriggers},
		{"DeleteAppTakesItsTriggers", deleteAppTriggers},
		{"FreedSourceAndNameCanBeTaken", freeSource},
		{"WatchTellsOfTriggers", watchTriggers},
		{"EndedContextLeavesTriggers", endedContextTriggers},
		{"ConcurrentTakersOfOneSourceGiveOne", concurrentSources},
		{"NoTriggerOutlivesItsFunction", noOrphans},
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

func everyFieldOfApps(t *testing.T, s store.Store) {
	app := App("photos")
	wantEveryField(t, app)
	put, err := s.PutApp(t.Context(), app, store.IfNew)
	if err != nil {
		t.Fatal(err)
	}
	want := app
	want.Revision, want.Created, want.Updated = put.Revision, put.Created, put.Updated
	wantEqual(t, "what PutApp returns", put, want)
	got, err := s.App(t.Context(), app.Name)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "App", got, put)
	all, err := s.Apps(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "Apps", all, []faas.App{defaultApp(t, s), put})
	put.Syslog, put.Annotations = "", nil
	if put, err = s.PutApp(t.Context(), put, put.Revision); err != nil {
		t.Fatal(err)
	}
	if got, err = s.App(t.Context(), app.Name); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "App after a change", got, put)
}

func everyField(t *testing.T, s store.Store) {
	fn := Function(defaultApp(t, s), "resize")
	wantEveryField(t, fn)
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
		"nil": {},
		"empty": {
			Entrypoint: []string{}, Command: []string{}, Allow: []string{}, Devices: []string{},
			Env: map[string]string{}, Annotations: map[string]string{}, Beside: map[string]string{},
		},
	} {
		fn.ID, fn.App, fn.Name = faas.NewID(), app.ID, name
		put := mustPut(t, s, fn, store.IfNew)
		got, err := s.Function(t.Context(), app.ID, name)
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "a function of zero fields, "+name, got, put)
		want := fn
		want.Revision, want.Created, want.Updated = got.Revision, got.Created, got.Updated
		wantEqual(t, "a function of fields that are "+name, got, want) // which tells nil from empty
	}
	for name, app := range map[string]faas.App{
		"nil":   {},
		"empty": {Env: map[string]string{}, Allow: []string{}, Annotations: map[string]string{}, Beside: map[string]string{}},
	} {
		app.ID, app.Name = faas.NewID(), name
		if _, err := s.PutApp(t.Context(), app, store.IfNew); err != nil {
			t.Fatal(err)
		}
		got, err := s.App(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		app.Revision, app.Created, app.Updated = got.Revision, got.Created, got.Updated
		wantEqual(t, "an app of fields that are "+name, got, app)
	}
}

func ownValues(t *testing.T, s store.Store) {
	fn := Function(defaultApp(t, s), "resize")
	spoil := func(fn faas.Function) {
		fn.Entrypoint[0], fn.Command[0], fn.Env["A"] = "spoiled", "spoiled", "spoiled"
		fn.Allow[0], fn.Devices[0] = "spoiled", "spoiled"
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
