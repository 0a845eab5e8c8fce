// Package records finds calls wherever they are: those in flight, those of the store
// and those of the journal, as one list, and what a call has written.
//
// It owns what is one call in it and in which order, and where a list goes on. Which
// calls somebody may see, and how they are shown, is of the edges.
package records

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/logs"
	"hob/internal/store"
)

// A Book is where the calls of a node are.
type Book struct {
	Live  func() []faas.Call                                      // those in flight; one leaves only after it was recorded
	Find  func(ctx context.Context, id string) (faas.Call, error) // of those in flight and those of the store; nil: there is no store
	Calls store.Calls                                             // nil: there is none
	Logs  *logs.Store
}

// Selection says which calls are wanted. An empty field asks for nothing. Beside FuncID
// the names are those of that function: the journal is looked through by them.
type Selection struct {
	App, Function string // names
	FuncID        string
	State         faas.CallState
	From, To      time.Time             // accepted after From and before To
	Of            func(*faas.Call) bool // nil: all
	Apart         bool                  // those in flight are for themselves: Page.Live
}

func (sel *Selection) fits(c *faas.Call) bool {
	is := c.FuncID == sel.FuncID
	if sel.FuncID == "" {
		is = (sel.App == "" || c.App == sel.App) && (sel.Function == "" || c.Function == sel.Function)
	}
	return is && (sel.State == "" || c.State == sel.State) &&
		(sel.From.IsZero() || c.Queued.After(sel.From)) && (sel.To.IsZero() || c.Queued.Before(sel.To)) &&
		(sel.Of == nil || sel.Of(c))
}

// Between reads from_time and to_time, in whole seconds since 1970; one that is absent
// is the zero time. The error is Invalid, in the words of Fn.
func Between(q url.Values) (from, to time.Time, err error) {
	for name, t := range map[string]*time.Time{"from_time": &from, "to_time": &to} {
		text := q.Get(name)
		if text == "" {
			continue
		}
		n, bad := strconv.ParseInt(text, 10, 64)
		if bad != nil {
			return from, to, faas.Errorf(faas.Invalid, "%s is not an epoch time", name)
		}
		*t = time.Unix(n, 0)
	}
	return from, to, nil
}

// A Place is where a list of calls goes on: behind the call last and, of the store,
// which has them in the order of their acceptance, behind the call stored. Either may
// be empty: nothing was listed yet.
type Place struct{ last, stored string } // IDs

// String is p in letters, digits and '-'; empty at the beginning of a list.
func (p Place) String() string { return strings.TrimSuffix(p.last+"-"+p.stored, "-") }

// ParsePlace reads what String has returned; false if it never has.
func ParsePlace(text string) (p Place, ok bool) {
	p.last, p.stored, _ = strings.Cut(text, "-")
	for _, id := range []string{p.last, p.stored} {
		if _, ok := faas.IDTime(id); !ok && id != "" {
			return Place{}, false
		}
	}
	return p, text == "" || p != Place{}
}

// Call returns a call wherever it is; NotFound if there is none, or none any more.
func (b Book) Call(ctx context.Context, id string) (faas.Call, error) {
	if b.Find != nil {
		if c, err := b.Find(ctx, id); faas.KindOf(err) != faas.NotFound {
			return c, err
		}
		return b.Logs.Call(id)
	}
	for _, c := range b.Live() {
		if c.ID == id {
			return c, nil
		}
	}
	return b.Logs.Call(id)
}

// Status is the state of a call in the words of Fn, whose calls that are queued and
// not due yet are "delayed".
func Status(c faas.Call, now time.Time) string {
	switch c.State {
	case faas.CallQueued:
		if c.Due.After(now) {
			return "delayed"
		}
	case faas.CallSucceeded:
		return "success"
	case faas.CallFailed:
		return "error"
	case faas.CallTimedOut:
		return "timeout"
	case faas.CallCanceled:
		return "cancelled"
	}
	return string(c.State)
}
