package catalog

import (
	"crypto/sha256"
	"iter"
	"strings"

	"github.com/tidwall/btree"

	"hob/faas"
)

// index is one state of all definitions.
type index struct {
	apps         tree[faas.App]      // by name
	appByID      tree[faas.App]      // the same
	folded       tree[faas.App]      // by name in lower case, and name
	hosts        tree[faas.App]      // those with host names of their own, by each
	functions    tree[faas.Function] // by ID of the app and name
	byID         tree[faas.Function] // the same
	address      tree[faas.Function] // those that have one, by the hash of it
	triggers     tree[faas.Trigger]  // by ID
	sources      tree[faas.Trigger]  // by ID of the app and source
	triggerNames tree[faas.Trigger]  // by ID of the app, and name and ID
	ofFunction   tree[faas.Trigger]  // by ID of the function and ID
	patternsOf   tree[faas.Trigger]  // those whose sources are patterns, by ID of the app and ID
	patterns     tree[patterns]      // by ID of the app: the same, to be matched

	touched []string // IDs of apps and functions that were put or removed, for who changes the index
}

func newIndex() *index {
	return &index{
		apps: newTree[faas.App](), appByID: newTree[faas.App](), folded: newTree[faas.App](), hosts: newTree[faas.App](),
		functions: newTree[faas.Function](), byID: newTree[faas.Function](), address: newTree[faas.Function](),
		triggers: newTree[faas.Trigger](), sources: newTree[faas.Trigger](), triggerNames: newTree[faas.Trigger](), ofFunction: newTree[faas.Trigger](),
		patternsOf: newTree[faas.Trigger](), patterns: newTree[patterns](),
	}
}

// clone returns a copy that shares all nodes with ix, until ix is changed.
func (ix *index) clone() *index {
	return &index{
		apps: ix.apps.clone(), appByID: ix.appByID.clone(), folded: ix.folded.clone(), hosts: ix.hosts.clone(),
		functions: ix.functions.clone(), byID: ix.byID.clone(), address: ix.address.clone(),
		triggers: ix.triggers.clone(), sources: ix.sources.clone(), triggerNames: ix.triggerNames.clone(), ofFunction: ix.ofFunction.clone(),
		patternsOf: ix.patternsOf.clone(), patterns: ix.patterns.clone(),
	}
}

// row is what stands in a tree under two keys, the second of which may be empty.
type row[V any] struct {
	a, b string
	v    *V
}

// tree is rows in order. A copy costs nothing, and changing one then copies the few
// nodes on the way to the row.
type tree[V any] struct{ rows *btree.BTreeG[row[V]] }

func newTree[V any]() tree[V] {
	return tree[V]{btree.NewBTreeGOptions(func(x, y row[V]) bool {
		if x.a != y.a {
			return x.a < y.a
		}
		return x.b < y.b
	}, btree.Options{NoLocks: true})}
}

func (t tree[V]) clone() tree[V]        { return tree[V]{t.rows.Copy()} }
func (t tree[V]) put(a, b string, v *V) { t.rows.Set(row[V]{a, b, v}) }
func (t tree[V]) drop(a, b string)      { t.rows.Delete(row[V]{a: a, b: b}) }
func (t tree[V]) get(a, b string) (found *V) {
	r, _ := t.rows.Get(row[V]{a: a, b: b})
	return r.v
}

// after returns the rows behind these keys, under their first key.
func (t tree[V]) after(a, b string) iter.Seq2[string, *V] {
	return func(yield func(string, *V) bool) {
		t.rows.Ascend(row[V]{a: a, b: b}, func(r row[V]) bool {
			return r.a == a && r.b == b || yield(r.a, r.v)
		})
	}
}

// afterAll is behind what follows a name in the second key.
const afterAll = "\x01"

// within ends rows where another first key begins.
func within[V any](a string, rows iter.Seq2[string, *V]) iter.Seq2[string, *V] {
	return func(yield func(string, *V) bool) {
		for of, v := range rows {
			if of != a || !yield(of, v) {
				return
			}
		}
	}
}

func values[V any](rows iter.Seq2[string, *V]) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range rows {
			if !yield(*v) {
				return
			}
		}
	}
}

// hashOf is what a secret is looked up by: how long that takes tells nothing of it.
func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return string(sum[:])
}

// putApp takes in a, unless a later revision of it is there, or an app that
// was given its name after it.
func (ix *index) putApp(a faas.App) {
	if namesake := ix.apps.get(a.Name, ""); namesake != nil && namesake.ID != a.ID && namesake.Created.After(a.Created) {
		return
	}
	old := ix.appByID.get(a.ID, "")
	if old != nil && old.Revision >= a.Revision {
		return
	}
	ix.touched = append(ix.touched, a.ID)
	ix.dropHosts(old)
	ix.apps.put(a.Name, "", &a)
	ix.folded.put(strings.ToLower(a.Name), a.Name, &a)
	ix.appByID.put(a.ID, "", &a)
	for _, host := range a.Hosts() {
		ix.hosts.put(host, "", &a)
	}
}

func (ix *index) dropHosts(a *faas.App) {
	if a == nil {
		return
	}
	for _, host := range a.Hosts() {
		if ix.hosts.get(host, "") == a {
			ix.hosts.drop(host, "")
		}
	}
}

// putFunction takes in fn, unless a later revision of it is there, or a
// function that was given its name after it.
func (ix *index) putFunction(fn faas.Function) {
	old := ix.byID.get(fn.ID, "")
	if ix.appByID.get(fn.App, "") == nil || old != nil && old.Revision >= fn.Revision {
		return
	}
	if namesake := ix.functions.get(fn.App, fn.Name); namesake != nil && namesake.ID != fn.ID && namesake.Created.After(fn.Created) {
		return
	}
	ix.touched = append(ix.touched, fn.ID)
	ix.dropAddress(old)
	ix.functions.put(fn.App, fn.Name, &fn)
	ix.byID.put(fn.ID, "", &fn)
	if fn.Address != "" {
		ix.address.put(hashOf(fn.Address), "", &fn)
	}
}

func (ix *index) dropAddress(fn *faas.Function) {
	if fn == nil || fn.Address == "" {
		return
	}
	if at := hashOf(fn.Address); ix.address.get(at, "") == fn {
		ix.address.drop(at, "")
	}
}

// putTrigger takes in t, unless a later revision of it is there, or a trigger that
// was given its source after it.
func (ix *index) putTrigger(t faas.Trigger) {
	old := ix.triggers.get(t.ID, "")
	if ix.byID.get(t.Function, "") == nil || old != nil && old.Revision >= t.Revision {
		return
	}
	if rival := ix.sources.get(t.App, t.Source); rival != nil && rival.ID != t.ID && rival.Created.After(t.Created) {
		return
	}
	ix.dropTrigger(old)
	ix.triggers.put(t.ID, "", &t)
	ix.sources.put(t.App, t.Source, &t)
	ix.triggerNames.put(t.App, nameKey(&t), &t)
	ix.ofFunction.put(t.Function, t.ID, &t)
	if isPattern(t.Source) {
		ix.patternsOf.put(t.App, t.ID, &t)
		ix.patterns.put(t.App, "", new(patterns))
	}
}

// nameKey is the second key of a trigger among those of its app.
func nameKey(t *faas.Trigger) string { return t.Name + "\x00" + t.ID }

func (ix *index) dropTrigger(t *faas.Trigger) {
	if t == nil {
		return
	}
	ix.triggers.drop(t.ID, "")
	ix.triggerNames.drop(t.App, nameKey(t))
	ix.ofFunction.drop(t.Function, t.ID)
	if ix.sources.get(t.App, t.Source) == t {
		ix.sources.drop(t.App, t.Source)
	}
	if isPattern(t.Source) {
		ix.patternsOf.drop(t.App, t.ID)
		ix.patterns.put(t.App, "", new(patterns))
	}
}

// remove takes out the app, function or trigger with this ID, if it is there, with
// all that is in it, and returns the IDs of all that it has taken out.
func (ix *index) remove(id string) (taken []string) {
	if a := ix.appByID.get(id, ""); a != nil {
		taken = append(ix.removeFunctions(a), id)
		ix.dropHosts(a)
		ix.patterns.drop(id, "")
		ix.appByID.drop(id, "")
		if ix.apps.get(a.Name, "") == a {
			ix.apps.drop(a.Name, "")
			ix.folded.drop(strings.ToLower(a.Name), a.Name)
		}
	}
	if fn := ix.byID.get(id, ""); fn != nil {
		ix.touched = append(ix.touched, id)
		taken = append(append(taken, ix.removeTriggers(id)...), id)
		ix.dropAddress(fn)
		ix.byID.drop(id, "")
		if ix.functions.get(fn.App, fn.Name) == fn {
			ix.functions.drop(fn.App, fn.Name)
		}
	}
	if t := ix.triggers.get(id, ""); t != nil {
		ix.dropTrigger(t)
		taken = append(taken, id)
	}
	return taken
}

// removeFunctions removes the functions of an app.
func (ix *index) removeFunctions(a *faas.App) (ids []string) {
	for _, fn := range within(a.ID, ix.functions.clone().after(a.ID, "")) {
		ids = append(ids, ix.remove(fn.ID)...)
	}
	return ids
}

// removeTriggers removes the triggers of a function.
func (ix *index) removeTriggers(function string) (ids []string) {
	for _, t := range within(function, ix.ofFunction.clone().after(function, "")) {
		ix.dropTrigger(t)
		ids = append(ids, t.ID)
	}
	return ids
}
