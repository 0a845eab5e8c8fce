// Package store says what the system asks of a database. Every engine under it
// must pass storetest; nothing above it may know which engine runs.
//
// Beside the contract it holds the parts of it that are the same in every
// engine: the rules of a Put (NextApp, NextFunction), the way of a change to
// those who watch in this process (Feed), and what a payload or result is before
// it is kept (Body).
package store

import (
	"context"
	"iter"

	"hob/faas"
)

// Definitions keeps apps, functions and triggers. What a method returns nil for survives
// a power cut. Values handed in and out are the caller's own: an engine copies,
// and keeps the difference between nil and empty.
//
// Put makes or replaces. Its second argument guards against lost updates: with
// IfNew the definition must not exist, with AnyRevision whatever is there is
// replaced, with a positive number the stored revision must be just that; else
// the answer is a Conflict and nothing has changed. The definition is identified
// by its ID; an empty ID or name is Invalid, and so is text that is not UTF-8.
// Put sets Revision (1 for a new one, else one more than before), Created (kept
// from the first Put) and Updated, and returns the result. Times are in UTC, to
// the microsecond. An engine checks no more than that: whether a definition can
// work is for the catalog to know.
//
// The app faas.DefaultApp exists from the start of a store.
//
// A full disk is Busy, and the error names the file; the store serves on and
// takes writes again when there is room.
type Definitions interface {
	// App returns the app with this name; NotFound if there is none.
	App(ctx context.Context, name string) (faas.App, error)
	// Apps returns all apps, by name (as bytes).
	Apps(ctx context.Context) ([]faas.App, error)
	// PutApp makes or replaces an app. A name that another app has is a Conflict,
	// and so is a changed name: names do not change.
	PutApp(ctx context.Context, app faas.App, ifRevision int64) (faas.App, error)
	// DeleteApp removes an app and all functions and triggers in it, in one transaction.
	// NotFound if there is no app with this ID; Invalid for the default app.
	DeleteApp(ctx context.Context, id string) error

	// Function returns the function with this name in the app with this ID;
	// NotFound if there is none, or no such app.
	Function(ctx context.Context, appID, name string) (faas.Function, error)
	// Functions returns the functions of an app by name, or of all apps by
	// app name and name if appID is empty. An unknown app has none.
	Functions(ctx context.Context, appID string) ([]faas.Function, error)
	// PutFunction makes or replaces a function. NotFound if its app does not
	// exist; a name that another function of the app has is a Conflict, and so
	// is a changed name or app.
	PutFunction(ctx context.Context, fn faas.Function, ifRevision int64) (faas.Function, error)
	// DeleteFunction removes a function and its triggers, in one transaction.
	// NotFound if there is none with this ID.
	DeleteFunction(ctx context.Context, id string) error

	// Trigger returns the trigger with this ID; NotFound if there is none.
	Trigger(ctx context.Context, id string) (faas.Trigger, error)
	// Triggers returns the triggers of an app by name and ID, or of all apps by app
	// name, name and ID if appID is empty. An unknown app has none.
	Triggers(ctx context.Context, appID string) ([]faas.Trigger, error)
	// PutTrigger makes or replaces a trigger. NotFound if its app or its function
	// does not exist; Invalid if the function is in another app. A name that another
	// trigger of the function has is a Conflict, and so is a changed app or type; a
	// source that another trigger of its type has in the app is a Conflict that
	// wraps faas.ErrSourceTaken.
	PutTrigger(ctx context.Context, t faas.Trigger, ifRevision int64) (faas.Trigger, error)
	// DeleteTrigger removes a trigger. NotFound if there is none with this ID.
	DeleteTrigger(ctx context.Context, id string) error

	// Watch yields a Change after each change of any definition, in the order of
	// the changes, beginning with those made after Watch was called (the call,
	// not the first step of the loop, decides). When the method that made a
	// change returns, the Change is there to be taken. A consumer that is slow
	// may get one Change with Reload set in place of those it missed. It ends
	// with ctx, and when the store is closed; a loop that is left may be entered
	// again and goes on.
	Watch(ctx context.Context) iter.Seq[Change]
}

// Values of ifRevision.
const (
	IfNew       int64 = 0
	AnyRevision int64 = -1
)

// Change says what a definition became.
type Change struct {
	Reload   bool           // read everything anew; the other fields are empty
	App      *faas.App      // made or changed
	Function *faas.Function // made or changed
	Trigger  *faas.Trigger  // made or changed
	Deleted  string         // ID of an app, function or trigger that is gone; what was in a deleted one is named one by one, before it
}

// Store is an open database.
type Store interface {
	Definitions
	// Close waits for what is being written and closes the database. No other
	// method may follow.
	Close() error
}
