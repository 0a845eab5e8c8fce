package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hob/faas"
	"hob/internal/store"
)

// EqualCalls runs the same random operations on the calls of two engines and
// wants the same answers: errors to the letter, values but for the clock. Each of
// open returns a new engine that closes itself with t.Cleanup.
func EqualCalls(t *testing.T, openA, openB func(t *testing.T, limits store.Limits) Engine) {
	limits := store.Limits{ // so low that they are met
		ResultsPerFunction: 100 * faas.KB, ResultsTotal: 150 * faas.KB,
		QueuePerFunction: 100 * faas.KB, QueueTotal: 150 * faas.KB,
	}
	check(t, func(t *testing.T, r *rapid.T) { equalCalls(t, r, openA(t, limits), openB(t, limits)) })
}

// A step is one operation, with what it answers.
type step func(*callTest) (any, error)

func equalCalls(t *testing.T, r *rapid.T, a, b Engine) {
	engines := [2]*callTest{{t, a}, {t, b}}
	known := &accepted{first: engines[0]}
	for range rapid.IntRange(1, 60).Draw(r, "operations") {
		what, do := known.step(r)
		var got [2]any
		var errs [2]error
		for i, c := range engines {
			got[i], errs[i] = do(c)
		}
		if fmt.Sprint(errs[0]) != fmt.Sprint(errs[1]) || faas.KindOf(errs[0]) != faas.KindOf(errs[1]) ||
			errors.Is(errs[0], faas.ErrGone) != errors.Is(errs[1], faas.ErrGone) {
			t.Fatalf("%s: errors differ:\n%v\n%v", what, errs[0], errs[1])
		}
		if !reflect.DeepEqual(got[0], got[1]) {
			t.Fatalf("%s: answers differ:\n%+v\n%+v", what, got[0], got[1])
		}
		<-time.After(2 * time.Microsecond) // two steps have two times
	}
	for _, id := range known.calls {
		for _, do := range []step{readCall(id), readRequest(id), readResult(id)} {
			var got [2]any
			for i, c := range engines {
				v, err := do(c)
				got[i] = []any{v, fmt.Sprint(err)}
			}
			wantEqual(t, "in the end, call "+id, got[0], got[1])
		}
	}
	for _, c := range engines {
		c.wantTallies()
	}
}

// accepted is what the steps know of the calls and deliveries that were made.
type accepted struct {
	first      *callTest
	calls      []string
	deliveries []string
}

// id is one of the calls, or an unknown one.
func (k *accepted) id(r *rapid.T) string {
	return rapid.SampledFrom(append([]string{"unknown"}, k.calls...)).Draw(r, "call")
}

// functions are few, so that calls meet.
func functions() *rapid.Generator[string] { return rapid.SampledFrom([]string{"f", "g", "h"}) }

// delays are over at once, or never.
func delays() *rapid.Generator[time.Duration] {
	return rapid.SampledFrom([]time.Duration{0, 0, 0, time.Hour})
}

func sizes() *rapid.Generator[int] { return rapid.SampledFrom([]int{0, 10, 30 << 10, 60 << 10}) }

func lists() *rapid.Generator[[]string] { return rapid.SliceOfN(functions(), 0, 3) }

// step draws an operation.
func (k *accepted) step(r *rapid.T) (string, step) {
	op := rapid.SampledFrom([]string{
		"Accept", "Accept", "Accept", "Accept", "Take", "Take", "Settle", "Settle", "Settle", "Cancel", "CancelQueued",
		"Lost", "Held", "Call", "Has", "List", "Line", "Place", "Tally", "Tallies", "Wait", "Request", "Result", "Fetched", "Deliveries", "Delivered", "Sweep",
	}).Draw(r, "operation")
	switch op {
	case "Accept":
		return k.accept(r)
	case "Take":
		return k.take(r)
	case "Settle":
		return k.settle(r)
	case "List":
		f := store.CallFilter{Limit: rapid.IntRange(0, 4).Draw(r, "limit")}
		if rapid.Bool().Draw(r, "of a function") {
			f.FuncID = functions().Draw(r, "function")
		}
		if rapid.Bool().Draw(r, "of a name") {
			f.Function = "name-of-" + functions().Draw(r, "name")
		}
		if rapid.Bool().Draw(r, "after") {
			f.After = k.id(r)
		}
		f.States = rapid.SliceOfN(rapid.SampledFrom(faas.CallStates()), 0, 3).Draw(r, "states")
		return fmt.Sprintf("List(%+v)", f), func(c *callTest) (any, error) {
			calls, next, err := c.List(c.Context(), f)
			return []any{plainCalls(calls), next}, err
		}
	case "Tallies", "Deliveries", "Lost", "Held", "Sweep":
		return op, map[string]step{
			"Tallies": func(c *callTest) (any, error) { return c.Tallies(c.Context()) },
			"Sweep":   func(c *callTest) (any, error) { return nil, c.Sweep(c.Context()) },
			"Lost": func(c *callTest) (any, error) {
				calls, err := c.Lost(c.Context(), "me")
				return plainCalls(calls), err
			},
			"Held": func(c *callTest) (any, error) {
				calls, err := c.Held(c.Context(), "me")
				return plainCalls(calls), err
			},
			"Deliveries": func(c *callTest) (any, error) {
				due, next, err := c.Deliveries(c.Context(), 3)
				for i := range due {
					due[i].Since = plainTime(due[i].Since)
				}
				return []any{len(due), slices.Clip(due), next > 0}, err
			},
		}[op]
	case "Delivered":
		id := rapid.SampledFrom(append([]string{"unknown"}, k.deliveries...)).Draw(r, "delivery")
		done, retry := rapid.Bool().Draw(r, "done"), delays().Draw(r, "retry")
		return fmt.Sprintf("Delivered(%s, done %t, retry %v)", id, done, retry), func(c *callTest) (any, error) {
			return nil, c.Delivered(c.Context(), id, done, retry, fmt.Sprintf("done %t", done))
		}
	case "CancelQueued", "Tally", "Line":
		fn, all, limit := functions().Draw(r, "function"), lists().Draw(r, "functions"), rapid.IntRange(1, 9).Draw(r, "limit")
		return fmt.Sprintf("%s(%s, %s, %d)", op, fn, all, limit), map[string]step{
			"CancelQueued": func(c *callTest) (any, error) { return c.CancelQueued(c.Context(), fn, "removed") },
			"Tally":        func(c *callTest) (any, error) { return c.Tally(c.Context(), fn) },
			"Line": func(c *callTest) (any, error) {
				calls, err := c.Line(c.Context(), all, limit)
				return plainCalls(calls), err
			},
		}[op]
	}
	id, all := k.id(r), lists().Draw(r, "functions")
	return fmt.Sprintf("%s(%s, %s)", op, id, all), map[string]step{
		"Call":    readCall(id),
		"Has":     func(c *callTest) (any, error) { return c.Has(c.Context(), []string{"another", id}) },
		"Request": readRequest(id),
		"Result":  readResult(id),
		"Fetched": func(c *callTest) (any, error) { return nil, c.Fetched(c.Context(), id) },
		"Cancel": func(c *callTest) (any, error) {
			call, err := c.Cancel(c.Context(), id, "the caller left")
			return plainCall(call), err
		},
		"Place": func(c *callTest) (any, error) {
			place, about, err := c.Place(c.Context(), id, all)
			return []any{place, about}, err
		},
		"Wait": func(c *callTest) (any, error) {
			if call, err := c.Call(c.Context(), id); err == nil && !call.State.Final() {
				return nil, nil
			}
			call, err := c.Wait(c.Context(), id)
			return plainCall(call), err
		},
	}[op]
}

func (k *accepted) accept(r *rapid.T) (string, step) {
	a := acceptance(functions().Draw(r, "function"), priority(rapid.IntRange(0, 2).Draw(r, "priority")), delay(delays().Draw(r, "delay")))
	if rapid.IntRange(0, 9).Draw(r, "twice") == 0 {
		a.Call.ID = k.id(r)
	}
	if rapid.IntRange(0, 3).Draw(r, "runs") == 0 {
		runningFor(rapid.SampledFrom([]string{"me", "old"}).Draw(r, "owner"))(&a)
	}
	if rapid.Bool().Draw(r, "keyed") {
		one := rapid.SampledFrom([]string{"1", "2"})
		key("", one.Draw(r, "key"), one.Draw(r, "hash"))(&a)
	}
	size := sizes().Draw(r, "payload")
	if !slices.Contains(k.calls, a.Call.ID) {
		k.calls = append(k.calls, a.Call.ID)
	}
	return fmt.Sprintf("Accept(%s of %s, %s, priority %d, delay %v, key %+v, %d bytes)", a.Call.ID, a.Call.FuncID, a.Call.State, a.Call.Priority, a.Delay, a.Key, size), func(c *callTest) (any, error) {
		a := a
		a.Body = c.body(noise(1, size))
		call, known, err := c.Accept(c.Context(), a)
		return []any{plainCall(call), known}, err
	}
}

func (k *accepted) take(r *rapid.T) (string, step) {
	limit := rapid.IntRange(0, 3)
	lanes := rapid.SampledFrom([][]store.Lane{
		{lane(0, "f", "g", "h")}, {lane(0, "f", "g"), lane(0, "h")}, {lane(0, "h"), lane(0, "f")}, {lane(0, "g")},
	}).Draw(r, "lanes")
	lanes = slices.Clone(lanes)
	for i := range lanes {
		lanes[i].Limit = limit.Draw(r, "limit")
	}
	return fmt.Sprintf("Take(%+v)", lanes), func(c *callTest) (any, error) {
		taken, due, err := c.Take(c.Context(), "me", lanes)
		return []any{plainCalls(taken), due > 0}, err
	}
}

func (k *accepted) settle(r *rapid.T) (string, step) {
	id := k.id(r)
	// Most of what is settled runs.
	if running, _ := k.first.list(store.CallFilter{States: []faas.CallState{faas.CallRunning}}); len(running) > 0 && rapid.IntRange(0, 4).Draw(r, "any") > 0 {
		id = running[rapid.IntRange(0, len(running)-1).Draw(r, "running")].ID
	}
	call, err := k.first.Call(k.first.Context(), id)
	if err != nil {
		call.ID = id
	}
	if rapid.IntRange(0, 9).Draw(r, "stale") == 0 {
		call.Attempt--
	}
	state := rapid.SampledFrom(append(faas.CallStates(), faas.CallQueued, faas.CallSucceeded)).Draw(r, "state")
	call.Failures, call.Losses = rapid.IntRange(0, 3).Draw(r, "failures"), rapid.IntRange(0, 3).Draw(r, "losses")
	call.Error, call.Waiting = rapid.String().Draw(r, "error"), rapid.String().Draw(r, "waiting")
	s := store.Settlement{
		Delay: delays().Draw(r, "delay"), Stay: rapid.Bool().Draw(r, "stay"),
		KeepPayload: rapid.Bool().Draw(r, "keep"), ForgetKey: rapid.Bool().Draw(r, "forget"),
	}
	size := -1
	if state != faas.CallQueued || rapid.IntRange(0, 9).Draw(r, "wrong") == 0 {
		if rapid.Bool().Draw(r, "answers") {
			size = sizes().Draw(r, "result")
		}
		for range rapid.IntRange(0, 2).Draw(r, "deliveries") {
			s.Deliveries = append(s.Deliveries, store.Delivery{ID: faas.NewID(), Call: id, Target: "a/b"})
			k.deliveries = append(k.deliveries, s.Deliveries[len(s.Deliveries)-1].ID)
		}
	}
	what := fmt.Sprintf("Settle(%s at %d as %s, result %d, %+v)", id, call.Attempt, state, size, s)
	return what, func(c *callTest) (any, error) {
		s := s
		s.Call = call
		s.Call.State = state
		if state.Final() {
			s.Call.Finished = time.Now()
		}
		if size >= 0 {
			s.Result = &store.NewResult{Status: 200, Header: http.Header{"A": {"b\xff"}}, Body: c.body(noise(2, size))}
		}
		return nil, c.Settle(c.Context(), s)
	}
}

func readCall(id string) step {
	return func(c *callTest) (any, error) {
		call, err := c.Call(c.Context(), id)
		return plainCall(call), err
	}
}

func readRequest(id string) step {
	return func(c *callTest) (any, error) {
		request, err := c.Request(c.Context(), id)
		if err != nil {
			return nil, err
		}
		content := c.content(request.Body.(io.ReadCloser))
		return []any{request.Method, request.URL, request.Size, bytes.Equal(content, noise(1, len(content)))}, nil
	}
}

func readResult(id string) step {
	return func(c *callTest) (any, error) {
		result, reader, err := c.Result(c.Context(), id)
		if err != nil {
			return nil, err
		}
		content := c.content(reader)
		return []any{result, bytes.Equal(content, noise(2, len(content)))}, nil
	}
}

// plainCall is call without what two clocks cannot have in common.
func plainCall(call faas.Call) faas.Call {
	late := call.Due.Sub(call.Queued) > time.Minute
	call.Queued, call.Due = plainTime(call.Queued), plainTime(call.Due)
	call.Started, call.Finished = plainTime(call.Started), plainTime(call.Finished)
	if late {
		call.Due = call.Due.Add(time.Hour)
	}
	return call
}

func plainCalls(calls []faas.Call) []faas.Call {
	plain := []faas.Call{}
	for _, call := range calls {
		plain = append(plain, plainCall(call))
	}
	return plain
}

// plainTime says whether there is a time.
func plainTime(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return time.Unix(1, 0)
}
