package records

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/logs"
	"hob/internal/store"
)

// A Page is a part of a list.
type Page struct {
	Live  []faas.Call // with Selection.Apart, on the first page: those in flight that are not in Calls
	Calls []faas.Call
	Next  Place // behind the last of Calls
	More  bool  // there is something behind Next
}

// Page returns the calls that fit, at most limit, the newest first, from a place on. A
// call that was there before is on one page, once, also if it begins or ends meanwhile;
// only one that was apart on the first page may come again when it is over. That a call
// is over counts, whoever says so; else what is known of it in flight.
func (b Book) Page(ctx context.Context, sel Selection, from Place, limit int) (Page, error) {
	p := Page{Next: from}
	live := b.Live() // before the others are asked: what leaves meanwhile is with them
	slices.SortFunc(live, func(a, b faas.Call) int { return strings.Compare(b.ID, a.ID) })
	shown := make(map[string]bool)
	for f, err := range b.merged(ctx, &sel, from, live) {
		if err != nil {
			return Page{}, err
		}
		if len(p.Calls) == limit {
			p.More = true
			break
		}
		p.Calls, p.Next = append(p.Calls, f.call), f.behind
		shown[f.call.ID] = true
	}
	if sel.Apart && from == (Place{}) {
		for _, c := range live {
			if sel.fits(&c) && !shown[c.ID] {
				p.Live = append(p.Live, c)
			}
		}
	}
	return p, nil
}

// found is a call, and the place behind it.
type found struct {
	call   faas.Call
	behind Place
}

// merged yields the calls behind a place. Those of the store come in its order, that of
// acceptance, which is nearly that of IDs; from elsewhere comes only what it has not.
func (b Book) merged(ctx context.Context, sel *Selection, at Place, live []faas.Call) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		byID := make(map[string]*faas.Call, len(live))
		for i := range live {
			byID[live[i].ID] = &live[i]
		}
		kept := make(map[string]bool)
		o := origins{{next: b.stored(ctx, sel, at.stored)}, {next: b.past(ctx, sel, at.last, kept)}, {next: b.inFlight(ctx, sel, at.last, live, kept)}}
		defer o.open()()
		for {
			c, stored, err := o.newest()
			if err == nil && c == nil {
				return
			}
			if err != nil {
				yield(found{}, err)
				return
			}
			if at.last == "" || c.ID < at.last {
				at.last = c.ID
			}
			if stored {
				at.stored = c.ID
			}
			now := byID[c.ID]
			elsewhere := !stored && kept[c.ID]
			if elsewhere || !c.State.Final() && now != nil && sel.Apart {
				continue
			}
			if !c.State.Final() && now != nil {
				c = now
			}
			if !yield(found{*c, at}, nil) {
				return
			}
		}
	}
}

// origins are the store, the journal and what is in flight: each has calls, the newest
// first.
type origins [3]origin

const inStore = 0

type origin struct {
	next iter.Seq2[faas.Call, error]
	pull func() (faas.Call, error, bool)
	head faas.Call
	more bool // there is a head
	err  error
}

func (o *origin) advance() { o.head, o.err, o.more = o.pull() }

// open begins to read all; who reads calls what it returns at the end.
func (all *origins) open() (closeAll func()) {
	var stops [len(all)]func()
	for i := range all {
		all[i].pull, stops[i] = iter.Pull2(all[i].next)
		all[i].advance()
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// newest takes the newest call, from all that have it next, and says whether the store
// is one of them. nil: there is none.
func (all *origins) newest() (c *faas.Call, stored bool, err error) {
	for i := range all {
		if all[i].err != nil {
			return nil, false, all[i].err
		}
		head := all[i].head
		if all[i].more && (c == nil || head.ID > c.ID || head.ID == c.ID && !c.State.Final() && head.State.Final()) {
			c = &head
		}
	}
	for i := range all {
		if all[i].more && all[i].head.ID == c.ID {
			stored = stored || i == inStore
			all[i].advance()
		}
	}
	return c, stored, nil
}

// noteKept adds to kept those of calls that the store has.
func (b Book) noteKept(ctx context.Context, calls []faas.Call, kept map[string]bool) error {
	if b.Calls == nil || len(calls) == 0 {
		return nil
	}
	ids := make([]string, len(calls))
	for i := range calls {
		ids[i] = calls[i].ID
	}
	has, err := b.Calls.Has(ctx, ids)
	maps.Copy(kept, has)
	return err
}

// inFlight yields those of live that fit and are older than the call before. Those of
// them that the store has are in kept.
func (b Book) inFlight(ctx context.Context, sel *Selection, before string, live []faas.Call, kept map[string]bool) iter.Seq2[faas.Call, error] {
	return func(yield func(faas.Call, error) bool) {
		if sel.Apart {
			return
		}
		if err := b.noteKept(ctx, live, kept); err != nil {
			yield(faas.Call{}, err)
			return
		}
		for _, c := range live {
			if sel.fits(&c) && (before == "" || c.ID < before) && !yield(c, nil) {
				return
			}
		}
	}
}

// Calls that are read at once: more and more.
const (
	leastAtOnce = 100
	mostAtOnce  = 1000
)

// stored yields the calls of the store, accepted before the one with this ID. Where that
// one is not kept any more it looks at all whose IDs are older.
func (b Book) stored(ctx context.Context, sel *Selection, before string) iter.Seq2[faas.Call, error] {
	return func(yield func(faas.Call, error) bool) {
		if b.Calls == nil {
			return
		}
		f := store.CallFilter{App: sel.App, Function: sel.Function, FuncID: sel.FuncID, After: before, Limit: leastAtOnce}
		if sel.State != "" {
			f.States = []faas.CallState{sel.State}
		}
		older := ""
		for {
			calls, next, err := b.Calls.List(ctx, f)
			if faas.KindOf(err) == faas.NotFound && f.After != "" {
				older, f.After = f.After, ""
				continue
			}
			if err != nil {
				yield(faas.Call{}, err)
				return
			}
			for _, c := range calls {
				if !sel.From.IsZero() && !c.Queued.After(sel.From) {
					return // all that follow were accepted before
				}
				if (older == "" || c.ID < older) && sel.fits(&c) && !yield(c, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			f.After, f.Limit = next, min(2*f.Limit, mostAtOnce)
		}
	}
}

// slack is how far the time of a call's ID and that of its acceptance may be apart: it
// takes time to send a payload.
const slack = time.Hour

// past yields the calls of the journal that are older than the one with this ID. Those
// of them that the store has are in kept.
func (b Book) past(ctx context.Context, sel *Selection, before string, kept map[string]bool) iter.Seq2[faas.Call, error] {
	return func(yield func(faas.Call, error) bool) {
		f := logs.CallFilter{App: sel.App, Function: sel.Function, State: sel.State, After: before, Limit: leastAtOnce}
		if end := faas.FirstID(sel.To.Add(slack)); !sel.To.IsZero() && (before == "" || end < before) {
			f.After = end
		}
		first := ""
		if !sel.From.IsZero() {
			first = faas.FirstID(sel.From.Add(-slack))
		}
		for {
			calls, next, err := b.Logs.Calls(ctx, f)
			if err == nil {
				err = b.noteKept(ctx, calls, kept)
			}
			if err != nil {
				yield(faas.Call{}, err)
				return
			}
			for _, c := range calls {
				if c.ID < first {
					return
				}
				if sel.fits(&c) && !yield(c, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			f.After, f.Limit = next, min(2*f.Limit, mostAtOnce)
		}
	}
}
