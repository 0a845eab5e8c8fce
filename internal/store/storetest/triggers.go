package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// Trigger returns a trigger named name of a function with every field set.
func Trigger(fn faas.Function, name string) faas.Trigger {
	return faas.Trigger{
		ID: faas.NewID(), App: fn.App, Function: fn.ID, Name: name, Type: faas.TriggerHTTP, Source: "/" + fn.Name + "/" + name,
		Async: true, Header: map[string][]string{"X-A": {"1", "ü"}, "X-B": {}}, Key: "geheim", Convention: faas.ConventionFn,
		Annotations: map[string]string{"team": `"Bäcker"`, "": ""},
		Revision:    99, Created: time.Unix(1, 0), Updated: time.Unix(2, 0), // Put sets its own
	}
}

func mustPutTrigger(t *testing.T, s store.Store, trigger faas.Trigger, ifRevision int64) faas.Trigger {
	t.Helper()
	trigger, err := s.PutTrigger(t.Context(), trigger, ifRevision)
	if err != nil {
		t.Fatal(err)
	}
	return trigger
}

// wantTriggers compares the triggers of an app, or of all, with those wanted.
func wantTriggers(t *testing.T, s store.Store, appID string, want ...faas.Trigger) {
	t.Helper()
	got, err := s.Triggers(t.Context(), appID)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) > 0 || len(want) > 0 {
		wantEqual(t, "Triggers", got, want)
	}
}

func everyFieldOfTriggers(t *testing.T, s store.Store) {
	trigger := Trigger(mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew), "web")
	wantEveryField(t, trigger)
	put := mustPutTrigger(t, s, trigger, store.IfNew)
	want := trigger
	want.Revision, want.Created, want.Updated = put.Revision, put.Created, put.Updated
	wantEqual(t, "what Put returns", put, want)
	got, err := s.Trigger(t.Context(), trigger.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "Trigger", got, put)
	wantTriggers(t, s, trigger.App, put)
	wantTriggers(t, s, "", put)
}

func triggerNilAndEmpty(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	for name, annotations := range map[string]map[string]string{"nil": nil, "empty": {}} {
		trigger := Trigger(fn, name)
		trigger.Annotations = annotations
		put := mustPutTrigger(t, s, trigger, store.IfNew)
		got, err := s.Trigger(t.Context(), trigger.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "a trigger with annotations that are "+name, got, put)
		wantEqual(t, "its annotations", got.Annotations, annotations) // which tells nil from empty
	}
}

func ownTriggers(t *testing.T, s store.Store) {
	trigger := Trigger(mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew), "web")
	spoil := func(trigger faas.Trigger) {
		trigger.Annotations["team"], trigger.Header["X-B"], trigger.Header["X-A"][0] = "spoiled", nil, "spoiled"
	}
	put := mustPutTrigger(t, s, trigger, store.IfNew)
	want := put.Clone()
	spoil(trigger)
	spoil(put)
	for range 2 {
		got, err := s.Trigger(t.Context(), trigger.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "Trigger", got, want)
		spoil(got)
		wantTriggers(t, s, "", want)
		all, err := s.Triggers(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		spoil(all[0])
	}
	watch1, watch2 := s.Watch(t.Context()), s.Watch(t.Context())
	want = mustPutTrigger(t, s, want, store.AnyRevision)
	for _, c := range []store.Change{take(t, watch1, 1)[0], take(t, watch2, 1)[0]} {
		wantEqual(t, "changed trigger", *c.Trigger, want)
		spoil(*c.Trigger)
	}
}

func triggerRevisions(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	first := mustPutTrigger(t, s, Trigger(fn, "web"), store.IfNew)
	second := mustPutTrigger(t, s, first, 1)
	third := mustPutTrigger(t, s, second, store.AnyRevision)
	if first.Revision != 1 || second.Revision != 2 || third.Revision != 3 {
		t.Errorf("revisions %d, %d, %d; want 1, 2, 3", first.Revision, second.Revision, third.Revision)
	}
	if !first.Created.Equal(first.Updated) || !third.Created.Equal(first.Created) || third.Updated.Before(second.Updated) ||
		first.Created.Location() != time.UTC || first.Created.Nanosecond()%1000 != 0 || time.Since(first.Created) > time.Minute {
		t.Errorf("created %v and %v, updated %v, %v, %v; want the times of the Puts, in UTC, to the microsecond",
			first.Created, third.Created, first.Updated, second.Updated, third.Updated)
	}
	for _, ifRevision := range []int64{store.IfNew, 1, 2, 4} {
		_, err := s.PutTrigger(t.Context(), third, ifRevision)
		wantKind(t, fmt.Sprint("Put of revision 3 at ", ifRevision), err, faas.Conflict)
	}
	_, err := s.PutTrigger(t.Context(), Trigger(fn, "absent"), 1)
	wantKind(t, "Put of an absent trigger at a revision", err, faas.Conflict)
	if made := mustPutTrigger(t, s, Trigger(fn, "other"), store.AnyRevision); made.Revision != 1 {
		t.Errorf("revision %d of a new trigger, want 1", made.Revision)
	}
}

func refusedTrigger(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	trigger := mustPutTrigger(t, s, Trigger(fn, "web"), store.IfNew)
	other := mustPutTrigger(t, s, Trigger(fn, "other"), store.IfNew)
	watch := s.Watch(t.Context())
	changed := other
	changed.Source = trigger.Source
	_, err := s.PutTrigger(t.Context(), changed, store.AnyRevision)
	wantKind(t, "Put of a source that is taken", err, faas.Conflict)
	wantTriggers(t, s, fn.App, other, trigger)
	last := mustPutTrigger(t, s, trigger, store.AnyRevision)
	wantEqual(t, "the first change", take(t, watch, 1), []store.Change{{Trigger: &last}})
}

func badTrigger(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	other := mustPut(t, s, Function(mustPutApp(t, s, "photos"), "resize"), store.IfNew)
	for what, spoil := range map[string]func(*faas.Trigger){
		"no ID":                   func(t *faas.Trigger) { t.ID = "" },
		"no name":                 func(t *faas.Trigger) { t.Name = "" },
		"name not UTF-8":          func(t *faas.Trigger) { t.Name = "\xff" },
		"type not UTF-8":          func(t *faas.Trigger) { t.Type = "\xff" },
		"source not UTF-8":        func(t *faas.Trigger) { t.Source = "/\xff" },
		"header not UTF-8":        func(t *faas.Trigger) { t.Header = map[string][]string{"A": {"\xff"}} },
		"key not UTF-8":           func(t *faas.Trigger) { t.Key = "\xff" },
		"annotation not UTF-8":    func(t *faas.Trigger) { t.Annotations = map[string]string{"a": "\xff"} },
		"function of other app":   func(t *faas.Trigger) { t.Function = other.ID },
		"other app than function": func(t *faas.Trigger) { t.App = other.App },
	} {
		trigger := Trigger(fn, "web")
		spoil(&trigger)
		for _, ifRevision := range []int64{store.IfNew, store.AnyRevision} {
			_, err := s.PutTrigger(t.Context(), trigger, ifRevision)
			wantKind(t, what, err, faas.Invalid)
		}
	}
	_, err := s.PutTrigger(t.Context(), Trigger(fn, "web"), -2)
	wantKind(t, "revision -2", err, faas.Invalid)
	wantTriggers(t, s, "")
}

func triggerNeeds(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	trigger := Trigger(fn, "web")
	trigger.App = "absent"
	_, err := s.PutTrigger(t.Context(), trigger, store.IfNew)
	wantKind(t, "PutTrigger into an absent app", err, faas.NotFound)
	trigger = Trigger(fn, "web")
	trigger.Function = "absent"
	_, err = s.PutTrigger(t.Context(), trigger, store.IfNew)
	wantKind(t, "PutTrigger of an absent function", err, faas.NotFound)
	wantTriggers(t, s, "")
}

func triggerNames(t *testing.T, s store.Store) {
	app := defaultApp(t, s)
	fn, other := mustPut(t, s, Function(app, "resize"), store.IfNew), mustPut(t, s, Function(app, "shrink"), store.IfNew)
	mustPutTrigger(t, s, Trigger(fn, "web"), store.IfNew)
	moved := mustPutTrigger(t, s, Trigger(other, "web"), store.IfNew) // of another function it is no conflict
	renamed := mustPutTrigger(t, s, Trigger(fn, "Web"), store.IfNew)  // names differ by case
	second := Trigger(fn, "web")
	second.Source = "/second"
	renamed.Name = "web"
	moved.Function = fn.ID
	for what, trigger := range map[string]faas.Trigger{"second": second, "renamed": renamed, "moved": moved} {
		_, err := s.PutTrigger(t.Context(), trigger, store.AnyRevision)
		wantKind(t, what+" trigger of a name", err, faas.Conflict)
		if errors.Is(err, faas.ErrSourceTaken) {
			t.Errorf("%s trigger of a name: %v, and its source is free", what, err)
		}
	}
	_, err := s.PutTrigger(t.Context(), second, store.IfNew)
	wantKind(t, "new trigger of a name", err, faas.Conflict)
}

func triggerSources(t *testing.T, s store.Store) {
	app := defaultApp(t, s)
	fn, other := mustPut(t, s, Function(app, "resize"), store.IfNew), mustPut(t, s, Function(app, "shrink"), store.IfNew)
	with := func(fn faas.Function, name, source string) faas.Trigger {
		trigger := Trigger(fn, name)
		trigger.Source = source
		return trigger
	}
	first := mustPutTrigger(t, s, with(fn, "a", "/photos"), store.IfNew)
	mustPutTrigger(t, s, first, first.Revision) // its own source is no conflict
	changed := mustPutTrigger(t, s, with(other, "b", "/free"), store.IfNew)
	changed.Source = "/photos"
	for what, trigger := range map[string]faas.Trigger{
		"of the same function": with(fn, "b", "/photos"), "of another function": with(other, "a", "/photos"), "changed": changed,
	} {
		_, err := s.PutTrigger(t.Context(), trigger, store.AnyRevision)
		wantKind(t, "second trigger of a source, "+what, err, faas.Conflict)
		if !errors.Is(err, faas.ErrSourceTaken) {
			t.Errorf("second trigger of a source, %s: %v, want one that wraps ErrSourceTaken", what, err)
		}
	}
	_, err := s.PutTrigger(t.Context(), with(fn, "c", "/photos"), store.IfNew)
	if !errors.Is(err, faas.ErrSourceTaken) {
		t.Errorf("new trigger of a source: %v, want one that wraps ErrSourceTaken", err)
	}
	for i, source := range []string{"/Photos", "/photos/", "//photos", "/photos ", "/photo%73"} { // they are compared byte by byte
		mustPutTrigger(t, s, with(fn, fmt.Sprint("near", i), source), store.IfNew)
	}
	mustPutTrigger(t, s, with(mustPut(t, s, Function(mustPutApp(t, s, "photos"), "resize"), store.IfNew), "a", "/photos"), store.IfNew)
	ofOtherType := with(fn, "d", "/photos")
	ofOtherType.Type = "timer"
	mustPutTrigger(t, s, ofOtherType, store.IfNew)
}

func triggerMoves(t *testing.T, s store.Store) {
	app, otherApp := defaultApp(t, s), mustPutApp(t, s, "photos")
	fn, other := mustPut(t, s, Function(app, "resize"), store.IfNew), mustPut(t, s, Function(app, "shrink"), store.IfNew)
	first := mustPutTrigger(t, s, Trigger(fn, "web"), store.IfNew)
	want := Trigger(other, "renamed")
	want.ID, want.Annotations = first.ID, nil
	moved := mustPutTrigger(t, s, want, first.Revision)
	want.Revision, want.Created, want.Updated = 2, first.Created, moved.Updated
	wantEqual(t, "moved trigger", moved, want)
	wantTriggers(t, s, "", want)

	away := Trigger(mustPut(t, s, Function(otherApp, "resize"), store.IfNew), "web")
	away.ID = first.ID
	_, err := s.PutTrigger(t.Context(), away, store.AnyRevision)
	wantKind(t, "trigger moved to another app", err, faas.Conflict)
	timer := moved
	timer.Type = "timer"
	_, err = s.PutTrigger(t.Context(), timer, store.AnyRevision)
	wantKind(t, "trigger of another type", err, faas.Conflict)

	if err := s.DeleteFunction(t.Context(), fn.ID); err != nil { // where it is no more
		t.Fatal(err)
	}
	wantTriggers(t, s, "", want)
}

func triggerNotFound(t *testing.T, s store.Store) {
	trigger := mustPutTrigger(t, s, Trigger(mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew), "web"), store.IfNew)
	_, err := s.Trigger(t.Context(), "absent")
	wantKind(t, "Trigger", err, faas.NotFound)
	_, err = s.Trigger(t.Context(), trigger.Function)
	wantKind(t, "Trigger with the ID of a function", err, faas.NotFound)
	wantKind(t, "DeleteTrigger", s.DeleteTrigger(t.Context(), "absent"), faas.NotFound)
	if err := s.DeleteTrigger(t.Context(), trigger.ID); err != nil {
		t.Error(err)
	}
	wantKind(t, "second DeleteTrigger", s.DeleteTrigger(t.Context(), trigger.ID), faas.NotFound)
	_, err = s.Trigger(t.Context(), trigger.ID)
	wantKind(t, "Trigger after DeleteTrigger", err, faas.NotFound)
	wantTriggers(t, s, "absent")
}

func triggerOrder(t *testing.T, s store.Store) {
	names := []string{"b", "a", "B", "a.1", "ä", "a-1"}
	var all []faas.Trigger
	appName := make(map[string]string) // by ID
	ids := 999                         // they fall, so that their order is not that of the Puts
	for _, name := range names {
		app := mustPutApp(t, s, name)
		appName[app.ID] = name
		for _, function := range names[:3] {
			fn := mustPut(t, s, Function(app, function), store.IfNew)
			for _, name := range names {
				trigger := Trigger(fn, name)
				trigger.ID = fmt.Sprint("t", ids)
				ids--
				all = append(all, mustPutTrigger(t, s, trigger, store.IfNew))
			}
		}
	}
	slices.SortFunc(all, func(a, b faas.Trigger) int {
		return strings.Compare(appName[a.App]+"\x00"+a.Name+"\x00"+a.ID, appName[b.App]+"\x00"+b.Name+"\x00"+b.ID)
	})
	wantTriggers(t, s, "", all...)
	of := all[0].App
	wantTriggers(t, s, of, slices.DeleteFunc(all, func(trigger faas.Trigger) bool { return trigger.App != of })...)
}

func deleteFunctionTriggers(t *testing.T, s store.Store) {
	app := defaultApp(t, s)
	fn, other := mustPut(t, s, Function(app, "resize"), store.IfNew), mustPut(t, s, Function(app, "shrink"), store.IfNew)
	bare := mustPut(t, s, Function(app, "bare"), store.IfNew)
	b, a := mustPutTrigger(t, s, Trigger(fn, "b"), store.IfNew), mustPutTrigger(t, s, Trigger(fn, "a"), store.IfNew)
	kept := mustPutTrigger(t, s, Trigger(other, "a"), store.IfNew)
	watch := s.Watch(t.Context())
	for _, id := range []string{fn.ID, bare.ID} {
		if err := s.DeleteFunction(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	wantTriggers(t, s, "", kept)
	_, err := s.Trigger(t.Context(), a.ID)
	wantKind(t, "Trigger of a deleted function", err, faas.NotFound)
	changes := take(t, watch, 4)
	inOrder(t, changes, []string{a.ID, b.ID}, []string{fn.ID}, []string{bare.ID})
}

func deleteAppTriggers(t *testing.T, s store.Store) {
	app, other := mustPutApp(t, s, "photos"), mustPutApp(t, s, "other")
	a, b := mustPut(t, s, Function(app, "a"), store.IfNew), mustPut(t, s, Function(app, "b"), store.IfNew)
	mustPut(t, s, Function(app, "bare"), store.IfNew)
	kept := mustPutTrigger(t, s, Trigger(mustPut(t, s, Function(other, "a"), store.IfNew), "x"), store.IfNew)
	ofA, ofB := mustPutTrigger(t, s, Trigger(a, "z"), store.IfNew), mustPutTrigger(t, s, Trigger(b, "x"), store.IfNew)
	ofA2 := mustPutTrigger(t, s, Trigger(a, "y"), store.IfNew)
	watch := s.Watch(t.Context())
	if err := s.DeleteApp(t.Context(), app.ID); err != nil {
		t.Fatal(err)
	}
	wantTriggers(t, s, "", kept)
	wantTriggers(t, s, app.ID)
	_, err := s.Trigger(t.Context(), ofB.ID)
	wantKind(t, "Trigger of a deleted app", err, faas.NotFound)
	changes := take(t, watch, 7)
	inOrder(t, changes, []string{ofA.ID, ofA2.ID}, []string{a.ID}, []string{app.ID})
	inOrder(t, changes, []string{ofB.ID}, []string{b.ID}, []string{app.ID})
	next := mustPutApp(t, s, "next")
	wantEqual(t, "the change after these", take(t, watch, 1), []store.Change{{App: &next}})
}

// inOrder reports if not every change deletes something, or if what one group
// deletes is not told before what the next one does.
func inOrder(t *testing.T, changes []store.Change, groups ...[]string) {
	t.Helper()
	var told []string
	for _, c := range changes {
		if c.Deleted == "" || c.App != nil || c.Function != nil || c.Trigger != nil || slices.Contains(told, c.Deleted) {
			t.Errorf("change %+v, want another that deletes", c)
		}
		told = append(told, c.Deleted)
	}
	last := -1
	for _, group := range groups {
		before := last
		for _, id := range group {
			i := slices.Index(told, id)
			if i < 0 || i < before {
				t.Errorf("%s is told at %d of %v, want it after %d", id, i, told, before)
			}
			last = max(last, i)
		}
	}
}

func freeSource(t *testing.T, s store.Store) {
	app := mustPutApp(t, s, "photos")
	fn := mustPut(t, s, Function(app, "resize"), store.IfNew)
	trigger := mustPutTrigger(t, s, Trigger(fn, "web"), store.IfNew)
	if err := s.DeleteTrigger(t.Context(), trigger.ID); err != nil {
		t.Fatal(err)
	}
	if trigger = mustPutTrigger(t, s, Trigger(fn, "web"), store.IfNew); trigger.Revision != 1 {
		t.Errorf("revision %d of the new trigger, want 1", trigger.Revision)
	}
	moved := trigger
	moved.Name, moved.Source = "elsewhere", "/elsewhere"
	mustPutTrigger(t, s, moved, store.AnyRevision)
	mustPutTrigger(t, s, Trigger(fn, "web"), store.IfNew)
	if err := s.DeleteFunction(t.Context(), fn.ID); err != nil {
		t.Fatal(err)
	}
	fn = mustPut(t, s, Function(app, "resize"), store.IfNew)
	mustPutTrigger(t, s, Trigger(fn, "web"), store.IfNew)
	if err := s.DeleteApp(t.Context(), app.ID); err != nil {
		t.Fatal(err)
	}
	mustPutTrigger(t, s, Trigger(mustPut(t, s, Function(mustPutApp(t, s, "photos"), "resize"), store.IfNew), "web"), store.IfNew)
}

func watchTriggers(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	watch := s.Watch(t.Context())
	trigger := mustPutTrigger(t, s, Trigger(fn, "web"), store.IfNew)
	changed := mustPutTrigger(t, s, trigger, 1)
	if err := s.DeleteTrigger(t.Context(), trigger.ID); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "changes", take(t, watch, 3), []store.Change{{Trigger: &trigger}, {Trigger: &changed}, {Deleted: trigger.ID}})
}

func endedContextTriggers(t *testing.T, s store.Store) {
	fn := mustPut(t, s, Function(defaultApp(t, s), "resize"), store.IfNew)
	trigger := mustPutTrigger(t, s, Trigger(fn, "web"), store.IfNew)
	leaving := errors.New("the client has left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(leaving)
	if _, err := s.PutTrigger(ctx, Trigger(fn, "other"), store.IfNew); !errors.Is(err, leaving) {
		t.Errorf("PutTrigger = %v, want the cause %v", err, leaving)
	}
	if err := s.DeleteTrigger(ctx, trigger.ID); !errors.Is(err, leaving) {
		t.Errorf("DeleteTrigger = %v, want the cause %v", err, leaving)
	}
	wantTriggers(t, s, "", trigger)
}
