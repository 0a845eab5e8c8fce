package records_test

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/api/records"
	"hob/internal/logs"
	"hob/internal/store"
	"hob/internal/store/memory"
)

// node is a store and a journal, and calls that do as they are told.
type node struct {
	records.Book
	t  *testing.T
	db *memory.Store

	mu   sync.Mutex
	live map[string]faas.Call // guarded by mu
}

func newNode(t *testing.T) *node {
	t.Helper()
	db := memory.New()
	t.Cleanup(func() { db.Close() })
	lines, err := logs.Open(logs.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lines.Close() })
	n := &node{t: t, db: db, live: make(map[string]faas.Call)}
	n.Book = records.Book{Live: n.inFlight, Find: db.Call, Calls: db, Logs: lines}
	return n
}

func (n *node) inFlight() (all []faas.Call) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.live {
		all = append(all, c)
	}
	return all
}

// set has a call in flight in this state, or not any more if it is over.
func (n *node) set(c faas.Call) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if delete(n.live, c.ID); !c.State.Final() {
		n.live[c.ID] = c
	}
}

func newCall(kind faas.CallKind) faas.Call {
	return faas.Call{ID: faas.NewID(), App: "a", Function: "f", FuncID: "F", Kind: kind, State: faas.CallQueued, Attempt: 1, Queued: time.Now()}
}

// accept puts a call into the store.
func (n *node) accept(c faas.Call) faas.Call {
	n.t.Helper()
	kept, _, err := n.db.Accept(context.WithoutCancel(n.t.Context()), store.Acceptance{Call: c, Request: &faas.Request{Method: "POST"}})
	if err != nil {
		n.t.Fatal(err)
	}
	return kept
}

// begin and end take a call through the steps that packages invoke and dispatch have.
func (n *node) begin(c faas.Call) {
	n.set(c)
	_ = c.Advance(faas.CallRunning, time.Now())
	n.set(c)
}

func (n *node) end(c faas.Call) {
	ctx := context.WithoutCancel(n.t.Context())
	if c.Kind == faas.CallAsync {
		taken, _, err := n.db.Take(ctx, "me", []store.Lane{{Functions: []string{c.FuncID}, Limit: 1}})
		if err != nil || len(taken) != 1 {
			n.t.Errorf("took %v, %v", taken, err)
			return
		}
		c = taken[0]
		n.set(c)
		_ = c.Advance(faas.CallSucceeded, time.Now())
		n.set(c)
		if err := n.db.Settle(ctx, store.Settlement{Call: c}); err != nil {
			n.t.Error(err)
		}
		n.Logs.Record(c)
		return
	}
	c.State = faas.CallRunning
	_ = c.Advance(faas.CallSucceeded, time.Now())
	n.Logs.Record(c)
	n.set(c)
}

// listed are the IDs on all pages of this size.
func (n *node) listed(sel records.Selection, size int) (ids []string) {
	n.t.Helper()
	var at records.Place
	for {
		p, err := n.Page(n.t.Context(), sel, at, size)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, c := range slices.Concat(p.Live, p.Calls) {
			ids = append(ids, c.ID)
		}
		if !p.More {
			return ids
		}
		if len(p.Calls) != size {
			n.t.Fatalf("page of %d calls, want %d, as there are more", len(p.Calls), size)
		}
		var ok bool
		if at, ok = records.ParsePlace(p.Next.String()); !ok || at != p.Next {
			n.t.Fatalf("place %q is read as %q, %t", p.Next, at, ok)
		}
	}
}

// once reports calls that are not in a list exactly once.
func (n *node) once(listed, want []string) {
	n.t.Helper()
	times := make(map[string]int)
	for _, id := range listed {
		times[id]++
	}
	for i, id := range want {
		if times[id] != 1 {
			n.t.Errorf("call %d of %d is listed %d times", i, len(want), times[id])
		}
	}
	for id, k := range times {
		if k > 1 {
			n.t.Errorf("call %s is listed %d times", id, k)
		}
	}
}

func TestCallsThatMoveAreListedOnce(t *testing.T) {
	n := newNode(t)
	var mu sync.Mutex
	var begun []string // guarded by mu
	var movers sync.WaitGroup
	over := make(chan struct{})
	for _, kind := range []faas.CallKind{faas.CallSync, faas.CallSync, faas.CallAsync} {
		movers.Go(func() {
			for range 150 {
				c := newCall(kind)
				if kind == faas.CallAsync {
					c = n.accept(c)
				} else {
					n.begin(c)
				}
				mu.Lock()
				begun = append(begun, c.ID)
				mu.Unlock()
				n.end(c)
			}
		})
	}
	go func() { movers.Wait(); close(over) }()
	for size, ended := 1, false; !ended; size = size%70 + 1 {
		select {
		case <-over:
			ended = true
		default:
		}
		mu.Lock()
		want := slices.Clone(begun)
		mu.Unlock()
		n.once(n.listed(records.Selection{App: "a"}, 10*size), want)
		p, err := n.Page(t.Context(), records.Selection{FuncID: "F", Apart: true}, records.Place{}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, c := range slices.Concat(p.Live, p.Calls) {
			ids = append(ids, c.ID)
		}
		n.once(ids, want)
	}
}

// watched is a store that says when it is asked for a list.
type watched struct {
	store.Calls
	before, after func()
}

func (w watched) List(ctx context.Context, f store.CallFilter) ([]faas.Call, string, error) {
	w.before()
	defer w.after()
	return w.Calls.List(ctx, f)
}

func TestCallThatEndsBetweenTwoLooksIsListedOnce(t *testing.T) {
	for moment := range 4 {
		for _, kind := range []faas.CallKind{faas.CallSync, faas.CallAsync} {
			for _, apart := range []bool{false, true} {
				n := newNode(t)
				c := newCall(kind)
				if kind == faas.CallAsync {
					c = n.accept(c)
				}
				n.begin(c)
				at := func(m int) func() {
					return sync.OnceFunc(func() {
						if m == moment {
							n.end(c)
						}
					})
				}
				before, after := at(0), at(1)
				n.Live = func() []faas.Call {
					before()
					defer after()
					return n.inFlight()
				}
				n.Calls = watched{n.db, at(2), at(3)}
				got := n.listed(records.Selection{Apart: apart}, 5)
				if len(n.inFlight()) > 0 || len(got) != 1 || got[0] != c.ID {
					t.Errorf("a call (%s, apart %t) that ends at moment %d is listed as %v", kind, apart, moment, got)
				}
			}
		}
	}
}

func TestCallsAcceptedOutOfOrderAreListedOnce(t *testing.T) {
	n := newNode(t)
	var calls []faas.Call
	for i := range 12 {
		kind := faas.CallAsync
		if i%4 == 3 {
			kind = faas.CallSync
		}
		calls = append(calls, newCall(kind))
	}
	var want []string
	for _, i := range []int{2, 4, 0, 1, 9, 8, 10, 5, 6} { // the payload of some took long
		calls[i] = n.accept(calls[i])
	}
	for _, i := range []int{0, 1, 3, 4, 5, 6, 7, 9} { // all but 2, 8, 10, which wait, and 11, which runs
		c := calls[i]
		_ = c.Advance(faas.CallRunning, time.Now())
		_ = c.Advance(faas.CallFailed, time.Now())
		n.Logs.Record(c)
	}
	n.begin(calls[8])
	n.begin(calls[11])
	for _, c := range calls {
		want = append(want, c.ID)
	}
	for size := 1; size < 14; size++ {
		for _, apart := range []bool{false, true} {
			got := n.listed(records.Selection{App: "a", Function: "f", Apart: apart}, size)
			if n.once(got, want); len(got) != len(want) {
				t.Errorf("pages of %d: %d calls, want %d", size, len(got), len(want))
			}
		}
	}
	p, err := n.Page(t.Context(), records.Selection{}, records.Place{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Calls {
		if c.ID == calls[8].ID && c.State != faas.CallRunning {
			t.Errorf("the call that runs is %s", c.State)
		}
	}
}

// forgetful is a store that does not keep one call any more.
type forgetful struct {
	store.Calls
	gone string
}

func (f forgetful) List(ctx context.Context, filter store.CallFilter) ([]faas.Call, string, error) {
	if filter.After == f.gone {
		return nil, "", store.NoCall(f.gone)
	}
	return f.Calls.List(ctx, filter)
}

func TestListGoesOnBehindACallThatIsNotKeptAnyMore(t *testing.T) {
	n := newNode(t)
	var want []string
	for range 7 {
		want = append(want, n.accept(newCall(faas.CallAsync)).ID)
	}
	p, err := n.Page(t.Context(), records.Selection{}, records.Place{}, 3)
	if err != nil {
		t.Fatal(err)
	}
	n.Calls = forgetful{n.db, p.Calls[2].ID}
	rest, err := n.Page(t.Context(), records.Selection{}, p.Next, 10)
	if err != nil || len(rest.Calls) != 4 || rest.More || rest.Calls[0].ID != want[3] {
		t.Errorf("%d calls, more %t, %v; want the other 4", len(rest.Calls), rest.More, err)
	}
}

func TestSelectionIsOfNamesIDStateAndTime(t *testing.T) {
	n := newNode(t)
	at := time.Date(2026, 11, 21, 2, 0, 0, 0, time.UTC)
	for i, name := range []string{"f", "g", "f", "g", "f", "f"} {
		made := at.Add(time.Duration(i) * time.Hour)
		c := faas.Call{ID: faas.FirstID(made), App: "a", Function: name, FuncID: strings.ToUpper(name), State: faas.CallSucceeded, Queued: made.Add(time.Minute)}
		if i == 4 {
			c.FuncID = "older" // which had the name before
		}
		if i == 5 {
			c.App, c.State = "b", faas.CallFailed
		}
		n.Logs.Record(c)
	}
	hour := func(h int) time.Time { return at.Add(time.Duration(h)*time.Hour + time.Minute) }
	for _, c := range []struct {
		sel  records.Selection
		want string
	}{
		{records.Selection{}, "[5 4 3 2 1 0]"},
		{records.Selection{App: "a"}, "[4 3 2 1 0]"},
		{records.Selection{App: "a", Function: "f"}, "[4 2 0]"},
		{records.Selection{App: "a", Function: "f", FuncID: "F"}, "[2 0]"},
		{records.Selection{State: faas.CallFailed}, "[5]"},
		{records.Selection{From: hour(1), To: hour(4)}, "[3 2]"},
		{records.Selection{From: hour(3)}, "[5 4]"},
		{records.Selection{To: hour(2)}, "[1 0]"},
		{records.Selection{To: time.Unix(0, 0)}, "[]"},
		{records.Selection{From: time.Unix(-1<<40, 0), To: time.Unix(1<<50, 0)}, "[5 4 3 2 1 0]"},
		{records.Selection{From: time.Unix(1<<50, 0)}, "[]"},
	} {
		got := []int{}
		for _, id := range n.listed(c.sel, 2) {
			made, _ := faas.IDTime(id)
			got = append(got, int(made.Sub(at)/time.Hour))
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%+v: %v, want %s", c.sel, got, c.want)
		}
	}
}

func TestBadTimesAndPlacesAreRefused(t *testing.T) {
	for _, name := range []string{"from_time", "to_time"} {
		for _, value := range []string{"x", "1.5", "2026-11-21", "99999999999999999999"} {
			_, _, err := records.Between(url.Values{name: {value}})
			if faas.KindOf(err) != faas.Invalid || err.Error() != name+" is not an epoch time" {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
	}
	id := faas.NewID()
	for _, text := range []string{"-", "x", id + "-x", "x-" + id, id + "-" + id + "-" + id, strings.ToLower(id), "--"} {
		if p, ok := records.ParsePlace(text); ok {
			t.Errorf("%q is a place: %q", text, p)
		}
	}
	for _, text := range []string{"", id, id + "-" + id, "-" + id} {
		if p, ok := records.ParsePlace(text); !ok || p.String() != text {
			t.Errorf("%q is read as %q, %t", text, p, ok)
		}
	}
}

func TestCallIsFoundWhereverItIs(t *testing.T) {
	n := newNode(t)
	kept, past, live := n.accept(newCall(faas.CallAsync)), newCall(faas.CallSync), newCall(faas.CallSync)
	past.State = faas.CallSucceeded
	n.Logs.Record(past)
	n.begin(live)
	for _, id := range []string{kept.ID, past.ID} {
		if c, err := n.Call(t.Context(), id); err != nil || c.ID != id {
			t.Errorf("%+v, %v", c, err)
		}
	}
	n.Find = nil
	if c, err := n.Call(t.Context(), live.ID); err != nil || c.State != faas.CallRunning {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := n.Call(t.Context(), faas.NewID()); faas.KindOf(err) != faas.NotFound {
		t.Error(err)
	}
}

func TestLogIsCutAtAMegabyteOfWholeLines(t *testing.T) {
	n := newNode(t)
	c := newCall(faas.CallSync)
	c.Error = "it broke"
	if text, err := n.Log(t.Context(), c); err != nil || text != "it broke\n" {
		t.Errorf("of a call that wrote nothing: %q, %v", text, err)
	}
	line := strings.Repeat("x", 9_999) + "\n"
	text, err := "", error(nil)
	for range 11 {
		w := n.Logs.Writer("F", c.ID, "stderr")
		io.WriteString(w, strings.Repeat(line, 10))
		w.Close()
		text, err = n.Log(t.Context(), c) // brings them to the disk
	}
	if err != nil || text != strings.Repeat(line, 104)+"… the log of this call is longer: what is over the limit of 1 MB is not here\n" {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

// asked is a store that counts what it is asked about single calls.
type asked struct {
	store.Calls
	one, many int
}

func (a *asked) Call(ctx context.Context, id string) (faas.Call, error) {
	a.one++
	return a.Calls.Call(ctx, id)
}

func (a *asked) Has(ctx context.Context, ids []string) (map[string]bool, error) {
	a.many++
	return a.Calls.Has(ctx, ids)
}

func TestStoreIsNotAskedAboutEachCallOfTheJournal(t *testing.T) {
	n := newNode(t)
	for range 250 {
		c := newCall(faas.CallSync)
		n.begin(c)
		n.end(c)
	}
	n.begin(newCall(faas.CallSync))
	a := &asked{Calls: n.Calls}
	n.Calls = a
	if ids := n.listed(records.Selection{App: "a"}, 1000); len(ids) != 251 || a.one != 0 || a.many > 3 {
		t.Errorf("%d calls are listed; the store was asked %d times about one and %d times about many", len(ids), a.one, a.many)
	}
}
