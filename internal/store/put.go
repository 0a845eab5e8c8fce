package store

import (
	"slices"
	"time"
	"unicode/utf8"

	"hob/faas"
)

// NextApp decides a PutApp: it returns what is to be stored, or why nothing is.
// old is the app with the same ID and namesake the one with the same name; nil
// if there is none.
func NextApp(app faas.App, ifRevision int64, old, namesake *faas.App, now time.Time) (faas.App, error) {
	if err := checkPut("app", app.ID, app.Name, ifRevision, app.Env, append(texts(app.Annotations, app.Beside, app.Syslog, app.Shape, app.Network), app.Allow...)...); err != nil {
		return faas.App{}, err
	}
	var stored int64
	if old != nil {
		stored = old.Revision
	}
	switch {
	case namesake != nil && old == nil && ifRevision <= IfNew:
		return faas.App{}, faas.Errorf(faas.Conflict, "an app named %q exists", app.Name)
	case !revisionFits(ifRevision, stored):
		return faas.App{}, revisionConflict("app", app.Name, ifRevision, stored)
	case old != nil && old.Name != app.Name:
		return faas.App{}, faas.Errorf(faas.Conflict, "app %q cannot be renamed to %q: names do not change", old.Name, app.Name)
	}
	app = app.Clone()
	app.Revision, app.Updated = stored+1, now.UTC().Truncate(time.Microsecond)
	app.Created = app.Updated
	if old != nil {
		app.Created = old.Created
	}
	return app, nil
}

// NextFunction decides a PutFunction: it returns what is to be stored, or why
// nothing is. app is the app with the ID of fn.App, old the function with the
// same ID, namesake the one with the same name in that app; nil if there is none.
func NextFunction(fn faas.Function, ifRevision int64, app *faas.App, old, namesake *faas.Function, now time.Time) (faas.Function, error) {
	if err := checkPut("function", fn.ID, fn.Name, ifRevision, fn.Env, append([]string{
		fn.App, fn.Image, fn.Digest, string(fn.Format), fn.Workdir, fn.User, fn.Network, string(fn.Isolation), fn.Freeze, string(fn.Profile), fn.Shape,
	}, append(texts(fn.Annotations, fn.Beside), slices.Concat(fn.Entrypoint, fn.Command, fn.Allow, fn.Devices)...)...)...); err != nil {
		return faas.Function{}, err
	}
	if app == nil {
		return faas.Function{}, faas.Errorf(faas.NotFound, "the app of function %q does not exist: no app has the ID %q", fn.Name, fn.App)
	}
	var stored int64
	if old != nil {
		stored = old.Revision
	}
	switch {
	case namesake != nil && old == nil && ifRevision <= IfNew:
		return faas.Function{}, faas.Errorf(faas.Conflict, "a function named %q exists in app %q", fn.Name, app.Name)
	case !revisionFits(ifRevision, stored):
		return faas.Function{}, revisionConflict("function", fn.Name, ifRevision, stored)
	case old != nil && old.Name != fn.Name:
		return faas.Function{}, faas.Errorf(faas.Conflict, "function %q cannot be renamed to %q: names do not change", old.Name, fn.Name)
	case old != nil && old.App != fn.App:
		return faas.Function{}, faas.Errorf(faas.Conflict, "function %q cannot move to app %q: a function stays in its app", old.Name, app.Name)
	}
	fn = fn.Clone()
	fn.Revision, fn.Updated = stored+1, now.UTC().Truncate(time.Microsecond)
	fn.Created = fn.Updated
	if old != nil {
		fn.Created = old.Created
	}
	return fn, nil
}

// NextTrigger decides a PutTrigger: it returns what is to be stored, or why nothing
// is. app is the app with the ID of t.App, fn the function with that of t.Function,
// old the trigger with the same ID, namesake the one with the same name of that
// function, rival the one with the same source and type in that app; nil if there
// is none.
func NextTrigger(t faas.Trigger, ifRevision int64, app *faas.App, fn *faas.Function, old, namesake, rival *faas.Trigger, now time.Time) (faas.Trigger, error) {
	if err := checkPut("trigger", t.ID, t.Name, ifRevision, t.Annotations, append(headerTexts(t.Header), t.App, t.Function, t.Type, t.Source, t.Key, string(t.Convention))...); err != nil {
		return faas.Trigger{}, err
	}
	switch {
	case app == nil:
		return faas.Trigger{}, faas.Errorf(faas.NotFound, "the app of trigger %q does not exist: no app has the ID %q", t.Name, t.App)
	case fn == nil:
		return faas.Trigger{}, faas.Errorf(faas.NotFound, "the function of trigger %q does not exist: none has the ID %q", t.Name, t.Function)
	case fn.App != t.App:
		return faas.Trigger{}, faas.Errorf(faas.Invalid, "function %q is not in app %q, where trigger %q is", fn.Name, app.Name, t.Name)
	}
	var stored int64
	if old != nil {
		stored = old.Revision
	}
	switch {
	case namesake != nil && old == nil && ifRevision <= IfNew:
		return faas.Trigger{}, faas.Errorf(faas.Conflict, "a trigger named %q of function %q exists", t.Name, fn.Name)
	case !revisionFits(ifRevision, stored):
		return faas.Trigger{}, revisionConflict("trigger", t.Name, ifRevision, stored)
	case old != nil && (old.App != t.App || old.Type != t.Type):
		return faas.Trigger{}, faas.Errorf(faas.Conflict, "trigger %q stays in its app and of its type", old.Name)
	case namesake != nil && namesake.ID != t.ID:
		return faas.Trigger{}, faas.Errorf(faas.Conflict, "a trigger named %q of function %q exists", t.Name, fn.Name)
	case rival != nil && rival.ID != t.ID:
		return faas.Trigger{}, faas.Errorf(faas.Conflict, "trigger %q of app %q has the source %q: %w", rival.Name, app.Name, t.Source, faas.ErrSourceTaken)
	}
	t = t.Clone()
	t.Revision, t.Updated = stored+1, now.UTC().Truncate(time.Microsecond)
	t.Created = t.Updated
	if old != nil {
		t.Created = old.Created
	}
	return t, nil
}

// KeepsDefaultApp is the answer to whoever deletes the default app.
func KeepsDefaultApp() error {
	return faas.Errorf(faas.Invalid, "app %q cannot be deleted: a function that names no app is in it", faas.DefaultApp)
}

// revisionFits compares what a Put asks for with the stored revision, 0 for none.
func revisionFits(ifRevision, stored int64) bool {
	return ifRevision == AnyRevision || ifRevision == stored
}

func revisionConflict(what, name string, ifRevision, stored int64) error {
	switch {
	case ifRevision == IfNew:
		return faas.Errorf(faas.Conflict, "%s %q exists", what, name)
	case stored == 0:
		return faas.Errorf(faas.Conflict, "%s %q is gone: it was at revision %d when you read it", what, name, ifRevision)
	}
	return faas.Errorf(faas.Conflict, "%s %q has changed: it is at revision %d, not at %d", what, name, stored, ifRevision)
}

// texts is all that two maps hold, and more.
func texts(a, b map[string]string, more ...string) []string {
	for _, m := range []map[string]string{a, b} {
		for k, v := range m {
			more = append(more, k, v)
		}
	}
	return more
}

func checkPut(what, id, name string, ifRevision int64, env map[string]string, texts ...string) error {
	switch {
	case id == "":
		return faas.Errorf(faas.Invalid, "the %s %q has no ID", what, name)
	case name == "":
		return faas.Errorf(faas.Invalid, "the %s needs a name", what)
	case ifRevision < AnyRevision:
		return faas.Errorf(faas.Invalid, "%d is no revision of %s %q", ifRevision, what, name)
	}
	for k, v := range env {
		texts = append(texts, k, v)
	}
	for _, s := range append(texts, id, name) {
		if !utf8.ValidString(s) {
			return faas.Errorf(faas.Invalid, "the %s %q holds %q, which is not UTF-8 text", what, name, s)
		}
	}
	return nil
}

// headerTexts lists what header holds.
func headerTexts(header map[string][]string) (all []string) {
	for name, values := range header {
		all = append(append(all, name), values...)
	}
	return all
}
