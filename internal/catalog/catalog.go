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
	"crypto/sha256"
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
	Log *slog.Logger // of Run; set before it; nil: nothing is logged

	definitions store.Definitions
	index       atomic.Pointer[index] // replaced, never changed
	changed     chan struct{}         // holds one

	// turn is held over a change of the store and of the index together, and
	// over reading everything anew, so that the index sees our own changes in the
	// order in which the store made them. It is the one lock of the system that
	// waits for a disk: definitions change seldom, and nobody who reads takes it.
	// Order: turn before mu.
	turn sync.Mutex

	mu   sync.Mutex      // held to replace index
	gone map[string]bool // guarded by mu; deleted through us, and Watch has not said so yet
}

// index is one state of all definitions. It is never changed.
type index struct {
	apps    map[string]*app   // by name
	appByID map[string]*app   // the same
	byID    map[string]*entry // functions
	address map[string]*entry // those that have one, by the hash of it
}

// app is an app and its functions.
type app struct {
	faas.App
	functions map[string]*entry // by name
}

// entry is a function. It is a pointer away so that replacing one copies little.
type entry struct{ faas.Function }

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
	ix := &index{apps: make(map[string]*app), appByID: make(map[string]*app), byID: make(map[string]*entry), address: make(map[string]*entry)}
	for _, a := range apps {
		ix.setApp(&app{App: a, functions: make(map[string]*entry)})
	}
	for _, fn := range functions {
		if a := ix.appByID[fn.App]; a != nil { // else the app came after we read the apps: a change follows
			e := &entry{fn}
			a.functions[fn.Name] = e
			ix.setFunction(e)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = make(map[string]bool)
	c.replace(ix)
	return changes, nil
}

// update replaces the index by a copy that change has changed; change runs with
// c.mu held.
func (c *Catalog) update(change func(*index)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.index.Load()
	ix := &index{apps: maps.Clone(old.apps), appByID: maps.Clone(old.appByID), byID: maps.Clone(old.byID), address: maps.Clone(old.address)}
	change(ix)
	c.replace(ix)
}

func (c *Catalog) replace(ix *index) {
	c.index.Store(ix)
	select {
	case c.changed <- struct{}{}:
	default: // somebody will look anyway
	}
}

// Changed says that definitions may have changed since it said so last. It is
// made for one reader.
func (c *Catalog) Changed() <-chan struct{} { return c.changed }

// setFunction puts e in the place of what has its ID.
func (ix *index) setFunction(e *entry) {
	ix.dropFunction(e.ID)
	ix.byID[e.ID] = e
	if e.Address != "" {
		ix.address[hashOf(e.Address)] = e
	}
}

func (ix *index) dropFunction(id string) {
	if old := ix.byID[id]; old != nil {
		delete(ix.byID, id)
		if at := hashOf(old.Address); ix.address[at] == old {
			delete(ix.address, at)
		}
	}
}

// hashOf is what a secret is looked up by: how long that takes tells nothing of it.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return string(sum[:])
}

func (ix *index) setApp(a *app) { ix.apps[a.Name], ix.appByID[a.ID] = a, a }

// putApp takes in a, unless a later revision of it is there, or an app that
// was given its name after it.
func (ix *index) putApp(a faas.App) {
	functions := make(map[string]*entry)
	if namesake := ix.apps[a.Name]; namesake != nil && namesake.ID != a.ID && namesake.Created.After(a.Created) {
		return
	}
	if old := ix.appByID[a.ID]; old != nil {
		if old.Revision >= a.Revision {
			return
		}
		functions = old.functions
	}
	ix.setApp(&app{App: a, functions: functions})
}

// putFunction takes in fn, unless a later revision of it is there, or a
// function that was given its name after it.
func (ix *index) putFunction(fn faas.Function) {
	a := ix.appByID[fn.App]
	if old := ix.byID[fn.ID]; a == nil || old != nil && old.Revision >= fn.Revision {
		return
	}
	if namesake := a.functions[fn.Name]; namesake != nil && namesake.ID != fn.ID && namesake.Created.After(fn.Created) {
		return
	}
	a = &app{App: a.App, functions: maps.Clone(a.functions)}
	e := &entry{fn}
	a.functions[fn.Name] = e
	ix.setFunction(e)
	ix.setApp(a)
}

// remove takes out the app or function with this ID, if it is there.
func (ix *index) remove(id string) {
	if a := ix.appByID[id]; a != nil {
		for _, e := range a.functions {
			ix.dropFunction(e.ID)
		}
		delete(ix.appByID, id)
		if ix.apps[a.Name] == a {
			delete(ix.apps, a.Name)
		}
	}
	if e := ix.byID[id]; e != nil {
		ix.dropFunction(id)
		if a := ix.appByID[e.App]; a != nil && a.functions[e.Name] == e {
			a = &app{App: a.App, functions: maps.Clone(a.functions)}
			delete(a.functions, e.Name)
			ix.setApp(a)
		}
	}
}

// App returns the app with this name; NotFound if there is none.
func (c *Catalog) App(name string) (faas.App, error) {
	if a := c.index.Load().apps[name]; a != nil {
		return a.App, nil
	}
	return faas.App{}, faas.Errorf(faas.NotFound, "no app %q", name)
}

// AppByID returns the app with this ID; NotFound if there is none.
func (c *Catalog) AppByID(id string) (faas.App, error) {
	if a := c.index.Load().appByID[id]; a != nil {
		return a.App, nil
	}
	return faas.App{}, faas.Errorf(faas.NotFound, "no app with the ID %q", id)
}

// Apps returns all apps, by name.
func (c *Catalog) Apps() []faas.App {
	var all []faas.App
	for _, a := range c.index.Load().apps {
		all = append(all, a.App)
	}
	slices.SortFunc(all, func(a, b faas.App) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Function returns the function with this name in the app with this name;
// NotFound if there is no such function or no such app. When there is one it
// takes no lock and allocates nothing.
func (c *Catalog) Function(app, name string) (faas.Function, error) {
	a := c.index.Load().apps[app]
	if a == nil {
		return faas.Function{}, faas.Errorf(faas.NotFound, "no app %q", app)
	}
	if e := a.functions[name]; e != nil {
		return e.Function, nil
	}
	return faas.Function{}, faas.Errorf(faas.NotFound, "no function %q in app %q", name, app)
}

// FunctionByID returns the function with this ID; NotFound if there is none.
func (c *Catalog) FunctionByID(id string) (faas.Function, error) {
	if e := c.index.Load().byID[id]; e != nil {
		return e.Function, nil
	}
	return faas.Function{}, faas.Errorf(faas.NotFound, "no function with the ID %q", id)
}

// ByAddress returns the function with this name and public address; NotFound if
// there is none. It takes as long for a wrong address as for a right one.
func (c *Catalog) ByAddress(name, address string) (faas.Function, error) {
	e := c.index.Load().address[hashOf(address)]
	if e == nil || address == "" || e.Name != name {
		return faas.Function{}, faas.Errorf(faas.NotFound, "no function %q with this address", name)
	}
	return e.Function, nil
}

// Functions returns the functions of the app with this name, by name; if app is
// empty, those of all apps by app name and name. An unknown app has none.
func (c *Catalog) Functions(app string) []faas.Function {
	ix := c.index.Load()
	var all []faas.Function
	for _, name := range slices.Sorted(maps.Keys(ix.apps)) {
		if app != "" && app != name {
			continue
		}
		functions := ix.apps[name].functions
		for _, fn := range slices.Sorted(maps.Keys(functions)) {
			all = append(all, functions[fn].Function)
		}
	}
	return all
}

// Digests returns the image digests that functions are pinned to: these images
// are in use.
func (c *Catalog) Digests() map[string]bool {
	all := make(map[string]bool)
	for _, e := range c.index.Load().byID {
		if e.Digest != "" {
			all[e.Digest] = true
		}
	}
	return all
}

// PutApp is store.Definitions.PutApp for an app that can work, else Invalid. An
// empty ID is given one.
func (c *Catalog) PutApp(ctx context.Context, app faas.App, ifRevision int64) (faas.App, error) {
	if err := faas.CheckName("app", app.Name); err != nil {
		return faas.App{}, err
	}
	if err := faas.CheckEnv(app.Env); err != nil {
		return faas.App{}, err
	}
	if app.MaxConcurrency < 0 {
		return faas.App{}, faas.Errorf(faas.Invalid, "max-concurrency %d of app %s is negative", app.MaxConcurrency, app.Name)
	}
	if app.ID == "" {
		app.ID = faas.NewID()
	}
	c.turn.Lock()
	defer c.turn.Unlock()
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
	c.turn.Lock()
	defer c.turn.Unlock()
	put, err := c.definitions.PutFunction(ctx, fn, ifRevision)
	if err != nil {
		return faas.Function{}, err
	}
	c.update(func(ix *index) { ix.putFunction(put.Clone()) })
	return put, nil
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

// forget takes a deleted definition out of the index and keeps it out: changes
// from before the deletion may still be on their way through Watch.
func (c *Catalog) forget(id string) {
	c.update(func(ix *index) {
		c.gone[id] = true
		if a := ix.appByID[id]; a != nil {
			for _, e := range a.functions {
				c.gone[e.ID] = true
			}
		}
		ix.remove(id)
	})
}
