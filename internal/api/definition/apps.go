package definition

import (
	"context"
	"iter"
	"slices"

	"hob/faas"
	"hob/internal/catalog"
	"hob/internal/logs"
)

// Untouched reports whether a is the app that is there from the start and nobody has
// done anything with: in Fn there is none, so it is not listed and can be created.
func Untouched(c *catalog.Catalog, a faas.App) bool {
	if a.Name != faas.DefaultApp || a.Revision > 1 {
		return false
	}
	for range c.FunctionsAfter(a.ID, "") {
		return false
	}
	return true
}

// AppsAfter yields the apps to be listed whose names come after name.
func AppsAfter(c *catalog.Catalog, name string) iter.Seq[faas.App] {
	return func(yield func(faas.App) bool) {
		for a := range c.AppsAfter(name) {
			if !Untouched(c, a) && !yield(a) {
				return
			}
		}
	}
}

// CreateApp puts a new app. It is a Conflict if there is one of its name that is not
// Untouched.
func CreateApp(ctx context.Context, c *catalog.Catalog, a faas.App) (faas.App, error) {
	exists := faas.Errorf(faas.Conflict, "App already exists")
	if old, err := c.App(a.Name); err == nil {
		if !Untouched(c, old) {
			return a, exists
		}
		a.ID, a.Revision = old.ID, old.Revision
	}
	put, err := c.PutApp(ctx, a, a.Revision) // 0 is store.IfNew
	if _, known := c.App(a.Name); known == nil && faas.KindOf(err) == faas.Conflict {
		return a, exists // somebody else was first
	}
	return put, err
}

// hostTaken is the Conflict of an app whose host another has: to try again does not help.
type hostTaken struct{ error }

// Unwrap is for what the error is of.
func (h hostTaken) Unwrap() error { return h.error }

// UpdateApp changes the app that read returns by merge, as Update does.
func UpdateApp(ctx context.Context, c *catalog.Catalog, read func() (faas.App, error), merge func(faas.App) (faas.App, error)) (faas.App, error) {
	return Update(ctx, read, merge, func(a faas.App) (faas.App, error) {
		put, err := c.PutApp(ctx, a, a.Revision)
		if faas.KindOf(err) == faas.Conflict && slices.ContainsFunc(a.Hosts(), func(host string) bool {
			other, err := c.AppByHost(host)
			return err == nil && other.ID != a.ID
		}) {
			err = hostTaken{err}
		}
		return put, err
	})
}

// DeleteApp removes an app with all that is in it, and the lines of its functions.
// Calls that run go on to their end, those in line are canceled by the daemon, which
// sees that their functions are gone.
func DeleteApp(ctx context.Context, c *catalog.Catalog, lines *logs.Store, id string) error {
	functions := slices.Collect(c.FunctionsAfter(id, ""))
	if err := c.DeleteApp(ctx, id); err != nil {
		return err
	}
	for _, fn := range functions {
		lines.Forget(fn.ID)
	}
	return nil
}
