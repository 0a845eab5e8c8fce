// Package catalog is the definitions in memory: which function answers this
// request, without a lock and without the store. It is kept fresh from the
// store's changes, and definitions are changed through it, so that whoever has
// changed one reads the change at once.
//
// It owns what a definition must be to be kept (faas.Check); what it means and
// who may change it is for others to know.
package catalog

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// Catalog is an index of all definitions. Make one with Load. Its methods may
// be called from many goroutines.
//
// What it hands out is shared, to cost nothing: maps and slices in it are not
// to be changed. Clone a definition before changing it.
type Catalog struct {
	Log      *slog.Logger // of Run; set before it; nil: nothing is logged
	Patterns bool         // sources may be patterns, in apps that do not say whether they are; set before anybody puts one
	// Admit reports why this node cannot serve a function, or an app (with a zero Function), as it is put.
	// Set before anybody puts one; nil: it serves all.
	Admit func(ctx context.Context, app faas.App, fn faas.Function) error

	definitions store.Definitions
	index       atomic.Pointer[index] // what is read: a copy of next, never changed
	changed     chan struct{}         // holds one

	// turn is held over a change of the store and of the index together, and
	// over reading everything anew, so that the index sees our own changes in the
	// order in which the store made them. Functions and triggers that are put share
	// it, and so the store's transactions: revisions and the times at which they were
	// made keep these in order. It is the one lock of the system that waits for a
	// disk: definitions change seldom, and nobody who reads takes it.
	// Order: turn before mu.
	turn sync.RWMutex

	mu      sync.Mutex
	next    *index          // guarded by mu, as all below
	gone    map[string]bool // deleted through us, and Watch has not said so yet
	touched map[string]bool // IDs of apps and functions that were put or removed since Touched was asked
	all     bool            // all may have been
}

// Load reads all definitions.
func Load(ctx context.Context, definitions store.Definitions) (*Catalog, error) {
	c := &Catalog{definitions: definitions, changed: make(chan struct{}, 1)}
	if _, err := c.reload(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// retryEvery is how long Run waits before it reads all definitions again after
// that has failed.
const retryEvery = time.Second

// Run follows the changes of the store until ctx ends. Changes made between
// Load and Run are not missed. When the store cannot be read it tries again.
func (c *Catalog) Run(ctx context.Context) error {
	log := cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	for ctx.Err() == nil {
		changes, err := c.reload(ctx)
		if err != nil && ctx.Err() == nil {
			log.Error("definitions cannot be read, trying again", "err", err, "in", retryEvery)
		}
		if err != nil {
			select {
			case <-time.After(retryEvery):
			case <-ctx.Done():
			}
			continue
		}
		if !c.follow(changes) {
			return nil // ctx has ended, or the store is closed
		}
	}
	return nil
}

// follow applies changes until they end, or until one says to reload; it
// reports the latter.
func (c *Catalog) follow(changes func(func(store.Change) bool)) (reload bool) {
	for change := range changes {
		switch {
		case change.Reload:
			return true
		case change.App != nil:
			c.update(func(ix *index) {
				if !c.gone[change.App.ID] {
					ix.putApp(*change.App)
				}
			})
		case change.Function != nil:
			c.update(func(ix *index) {
				if !c.gone[change.Function.ID] {
					ix.putFunction(*change.Function)
				}
			})
		case change.Trigger != nil:
			c.update(func(ix *index) {
				if !c.gone[change.Trigger.ID] {
					ix.putTrigger(*change.Trigger)
				}
			})
		default:
			c.update(func(ix *index) {
				ix.remove(change.Deleted)
				delete(c.gone, change.Deleted)
			})
		}
	}
	return false
}

// reload reads all definitions, and returns the changes that follow them. No
// change of our own is under way meanwhile, and those before are in what is
// read, so what we remembered of them can go.
func (c *Catalog) reload(ctx context.Context) (func(func(store.Change) bool), error) {
	c.turn.Lock()
	defer c.turn.Unlock()
	changes := c.definitions.Watch(ctx)
	apps, err := c.definitions.Apps(ctx)
	if err != nil {
		return nil, err
	}
	functions, err := c.definitions.Functions(ctx, "")
	if err != nil {
		return nil, err
	}
	triggers, err := c.definitions.Triggers(ctx, "")
	if err != nil {
		return nil, err
	}
	ix := newIndex()
	for _, a := range apps {
		ix.putApp(a)
	}
	for _, fn := range functions {
		ix.putFunction(fn) // nothing, if its app came after we read the apps: a change follows
	}
	for _, t := range triggers {
		ix.putTrigger(t)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next, c.gone = ix, make(map[string]bool)
	c.touched, c.all = make(map[string]bool), true
	c.publish()
	return changes, nil
}

// update changes the index; change runs with c.mu held.
func (c *Catalog) update(change func(*index)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c.next)
	for _, id := range c.next.touched {
		c.touched[id] = true
	}
	c.next.touched = c.next.touched[:0]
	c.publish()
}

// publish shows what next is now. Precondition: c.mu is held.
func (c *Catalog) publish() {
	c.index.Store(c.next.clone())
	select {
	case c.changed <- struct{}{}:
	default: // somebody will look anyway
	}
}

// Changed says that definitions may have changed since it said so last. It is
// made for one reader, who asks Touched then.
func (c *Catalog) Changed() <-chan struct{} { return c.changed }

// Touched returns the IDs of the apps and functions that were made, changed or
// removed since it was asked last; all says that any may have been.
func (c *Catalog) Touched() (ids []string, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids, all = slices.Collect(maps.Keys(c.touched)), c.all
	clear(c.touched)
	c.all = false
	return ids, all
}

// App returns the app with this name; NotFound if there is none.
func (c *Catalog) App(name string) (faas.App, error) {
	if a := c.index.Load().apps.get(name, ""); a != nil {
		return *a, nil
	}
	return faas.App{}, faas.Errorf(faas.NotFound, "no app %q", name)
}

// AppByID returns the app with this ID; NotFound if there is none.
func (c *Catalog) AppByID(id string) (faas.App, error) {
	if a := c.index.Load().appByID.get(id, ""); a != nil {
		return *a, nil
	}
	return faas.App{}, faas.Errorf(faas.NotFound, "no app with the ID %q", id)
}

// AppByHost returns the app that has this host name of its own (faas.App.Hosts):
// lower case, without port. NotFound if there is none.
func (c *Catalog) AppByHost(host string) (faas.App, error) {
	if a := c.index.Load().hosts.get(host, ""); a != nil {
		return *a, nil
	}
	return faas.App{}, faas.Errorf(faas.NotFound, "no app has the host %q", host)
}

// AppsAfter returns the apps whose names come after name, by name.
func (c *Catalog) AppsAfter(name string) iter.Seq[faas.App] {
	return values(c.index.Load().apps.after(name, ""))
}

// Apps returns all apps, by name.
func (c *Catalog) Apps() []faas.App { return slices.Collect(c.AppsAfter("")) }

// Function returns the function with this name in the app with this name;
// NotFound if there is no such function or no such app. When there is one it
// takes no lock and allocates nothing.
func (c *Catalog) Function(app, name string) (faas.Function, error) {
	ix := c.index.Load()
	a := ix.apps.get(app, "")
	if a == nil {
		return faas.Function{}, faas.Errorf(faas.NotFound, "no app %q", app)
	}
	if fn := ix.functions.get(a.ID, name); fn != nil {
		return *fn, nil
	}
	return faas.Function{}, faas.Errorf(faas.NotFound, "no function %q in app %q", name, app)
}

// FunctionByID returns the function with this ID; NotFound if there is none. It
// costs as little as Function.
func (c *Catalog) FunctionByID(id string) (faas.Function, error) {
	if fn := c.index.Load().byID.get(id, ""); fn != nil {
		return *fn, nil
	}
	return faas.Function{}, faas.Errorf(faas.NotFound, "no function with the ID %q", id)
}

// ByAddress returns the function with this name and public address; NotFound if
// there is none. It takes as long for a wrong address as for a right one.
func (c *Catalog) ByAddress(name, address string) (faas.Function, error) {
	fn := c.index.Load().address.get(hashOf(address), "")
	if fn == nil || address == "" || fn.Name != name {
		return faas.Function{}, faas.Errorf(faas.NotFound, "no function %q with this address", name)
	}
	return *fn, nil
}

// FunctionsAfter returns the functions of the app with this ID whose names come
// after name, by name.
func (c *Catalog) FunctionsAfter(appID, name string) iter.Seq[faas.Function] {
	return values(within(appID, c.index.Load().functions.after(appID, name)))
}

// Functions returns the functions of the app with this name, by name; if app is
// empty, those of all apps by app name and name. An unknown app has none.
func (c *Catalog) Functions(app string) []faas.Function {
	ix := c.index.Load()
	var all []faas.Function
	for _, a := range ix.apps.after("", "") {
		if app == "" || app == a.Name {
			all = slices.AppendSeq(all, values(within(a.ID, ix.functions.after(a.ID, ""))))
		}
	}
	return all
}

// Digests returns the image digests that functions are pinned to: these images
// are in use.
func (c *Catalog) Digests() map[string]bool {
	all := make(map[string]bool)
	for _, fn := range c.index.Load().byID.after("", "") {
		if fn.Digest != "" {
			all[fn.Digest] = true
		}
	}
	return all
}

// Trigger returns the trigger with this ID; NotFound if there is none.
func (c *Catalog) Trigger(id string) (faas.Trigger, error) {
	if t := c.index.Load().triggers.get(id, ""); t != nil {
		return *t, nil
	}
	return faas.Trigger{}, faas.Errorf(faas.NotFound, "no trigger with the ID %q", id)
}

// TriggersAfter returns the triggers of the app with this ID whose names come after
// name, by name and ID. A name, a zero byte and an ID stand for the trigger with both.
func (c *Catalog) TriggersAfter(appID, name string) iter.Seq[faas.Trigger] {
	if name != "" {
		name += afterAll
	}
	return values(within(appID, c.index.Load().triggerNames.after(appID, name)))
}

// SourcesAfter returns the triggers of the app with this ID whose sources come after
// source, by source.
func (c *Catalog) SourcesAfter(appID, source string) iter.Seq[faas.Trigger] {
	return values(within(appID, c.index.Load().sources.after(appID, source)))
}

// TriggersOf returns the triggers of the function with this ID, by ID.
func (c *Catalog) TriggersOf(functionID string) iter.Seq[faas.Trigger] {
	return values(within(functionID, c.index.Load().ofFunction.after(functionID, "")))
}

// TriggerBySource returns the trigger with just this source in the app with this
// ID; NotFound if there is none.
func (c *Catalog) TriggerBySource(appID, source string) (faas.Trigger, error) {
	if t := c.index.Load().sources.get(appID, source); t != nil {
		return *t, nil
	}
	return faas.Trigger{}, noTrigger(source)
}

func noTrigger(source string) error {
	return faas.Errorf(faas.NotFound, "no trigger has the source %q", source)
}

// PutApp is store.Definitions.PutApp for an app that can work, else Invalid. An
// empty ID is given one.
func (c *Catalog) PutApp(ctx context.Context, app faas.App, ifRevision int64) (faas.App, error) {
	if err := app.Check(); err != nil {
		return faas.App{}, err
	}
	if app.ID == "" {
		app.ID = faas.NewID()
	}
	if c.Admit != nil {
		if err := c.Admit(ctx, app, faas.Function{}); err != nil {
			return faas.App{}, err
		}
	}
	c.turn.Lock()
	defer c.turn.Unlock()
	for _, host := range app.Hosts() {
		if other, err := c.AppByHost(host); err == nil && other.ID != app.ID {
			return faas.App{}, faas.Errorf(faas.Conflict, "app %s has the host %s", other.Name, host)
		}
	}
	put, err := c.definitions.PutApp(ctx, app, ifRevision)
	if err != nil {
		return faas.App{}, err
	}
	c.update(func(ix *index) { ix.putApp(put.Clone()) })
	return put, nil
}

// DeleteApp is store.Definitions.DeleteApp.
func (c *Catalog) DeleteApp(ctx context.Context, id string) error {
	c.turn.Lock()
	defer c.turn.Unlock()
	if err := c.definitions.DeleteApp(ctx, id); err != nil {
		return err
	}
	c.forget(id)
	return nil
}

// PutFunction is store.Definitions.PutFunction for a function that can work
// (faas.Function.Check). An empty ID is given one.
func (c *Catalog) PutFunction(ctx context.Context, fn faas.Function, ifRevision int64) (faas.Function, error) {
	if err := fn.Check(); err != nil {
		return faas.Function{}, err
	}
	if fn.ID == "" {
		fn.ID = faas.NewID()
	}
	if c.Admit != nil {
		app, _ := c.AppByID(fn.App) // the store says if there is none
		if err := c.Admit(ctx, app, fn); err != nil {
			return faas.Function{}, err
		}
	}
	put, err := c.putFunction(ctx, fn, ifRevision)
	return put, c.refused(err)
}

func (c *Catalog) putFunction(ctx context.Context, fn faas.Function, ifRevision int64) (faas.Function, error) {
	c.turn.RLock()
	defer c.turn.RUnlock()
	put, err := c.definitions.PutFunction(ctx, fn, ifRevision)
	if err != nil {
		return faas.Function{}, err
	}
	c.update(func(ix *index) { ix.putFunction(put.Clone()) })
	return put, nil
}

// refused is err. If it is a Conflict, what it is with is in the index from now on: who
// reads again, merges and puts must not read what was there before.
func (c *Catalog) refused(err error) error {
	if faas.KindOf(err) == faas.Conflict {
		c.turn.Lock() // which those who share it let go once the index has what they put
		defer c.turn.Unlock()
	}
	return err
}

// DeleteFunction is store.Definitions.DeleteFunction.
func (c *Catalog) DeleteFunction(ctx context.Context, id string) error {
	c.turn.Lock()
	defer c.turn.Unlock()
	if err := c.definitions.DeleteFunction(ctx, id); err != nil {
		return err
	}
	c.forget(id)
	return nil
}

// DeleteUntriggered is DeleteFunction for one that no trigger leads to; with one it
// is a Conflict.
func (c *Catalog) DeleteUntriggered(ctx context.Context, id string) error {
	c.turn.Lock()
	defer c.turn.Unlock()
	for t := range c.TriggersOf(id) {
		return faas.Errorf(faas.Conflict, "the trigger %q leads to the function", t.Name)
	}
	if err := c.definitions.DeleteFunction(ctx, id); err != nil {
		return err
	}
	c.forget(id)
	return nil
}

// PutTrigger is store.Definitions.PutTrigger for a trigger that can work
// (faas.Trigger.Check). An empty ID is given one. Where sources are patterns, one that
// stands for the very paths that another stands for is taken, too.
func (c *Catalog) PutTrigger(ctx context.Context, t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	if err := t.Check(); err != nil {
		return faas.Trigger{}, err
	}
	if t.ID == "" {
		t.ID = faas.NewID()
	}
	put, err := c.putTrigger(ctx, t, ifRevision)
	return put, c.refused(err)
}

func (c *Catalog) putTrigger(ctx context.Context, t faas.Trigger, ifRevision int64) (faas.Trigger, error) {
	if isPattern(t.Source) { // of two at once the second must see the first
		c.turn.Lock()
		defer c.turn.Unlock()
		if err := c.checkPattern(&t); err != nil {
			return faas.Trigger{}, err
		}
	} else {
		c.turn.RLock()
		defer c.turn.RUnlock()
	}
	put, err := c.definitions.PutTrigger(ctx, t, ifRevision)
	if err != nil {
		return faas.Trigger{}, err
	}
	c.update(func(ix *index) { ix.putTrigger(put.Clone()) })
	return put, nil
}

// DeleteTrigger is store.Definitions.DeleteTrigger.
func (c *Catalog) DeleteTrigger(ctx context.Context, id string) error {
	c.turn.Lock()
	defer c.turn.Unlock()
	if err := c.definitions.DeleteTrigger(ctx, id); err != nil {
		return err
	}
	c.forget(id)
	return nil
}

// forget takes a deleted definition, and what was in it, out of the index and keeps
// it out: changes from before the deletion may still be on their way through Watch.
// Of what is not there any more Watch has told already, and will tell no more.
func (c *Catalog) forget(id string) {
	c.update(func(ix *index) {
		for _, id := range ix.remove(id) {
			c.gone[id] = true
		}
	})
}
