// Package deliver sends the results of asynchronous calls to the destinations of
// their functions: an HTTP address, or another function. It carries out what the
// store has as deliveries, which were written as part of the change that ended
// the call.
//
// A delivery is made at least once: when the node dies, or the answer is lost on
// its way, between the destination's yes and the store's knowledge of it, it is
// made again. The ID of the delivery is the same then. It is in the header
// Idempotency-Key, and it is the ID of the call that a delivery to a function
// makes, so that a function is called once.
//
// A delivery that fails is tried again for a day, at growing distances; one that
// can never succeed, or ran out of time, is given up. What became of it is kept
// with the call, in words, and is all that is left to others: when a result is
// delivered at all is decided by whoever ends calls.
package deliver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// Limits of the runner.
const (
	atOnce       = 16                     // tries at the same time
	atOncePer    = 4                      // of one destination; 1 while it does not answer
	tryTime      = 30 * time.Second       // of one try
	maxAnswer    = 64 << 10               // bytes read of an answer, so that its connection can be used again
	maxHops      = 16                     // deliveries that lead to one another
	longestSleep = time.Minute            // between two looks, as clocks may jump, when something is to come
	storeRetry   = 5 * time.Second        // after an error of the store
	lookPause    = 100 * time.Millisecond // between two looks because of new deliveries
)

// Hops is the header with the number of deliveries, one upon the other, that led
// to a request; whoever makes a call of it puts the number into faas.Call.Hops.
const Hops = "Hob-Hops"

// Calls is what is needed of store.Calls.
type Calls interface {
	Deliveries(ctx context.Context, limit int) (due []store.Delivery, next time.Duration, err error)
	Delivered(ctx context.Context, id string, done bool, retry time.Duration, outcome string) error
	Call(ctx context.Context, id string) (faas.Call, error)
	Result(ctx context.Context, id string) (faas.Result, store.Reader, error)
}

// Functions makes calls.
type Functions interface {
	// Enqueue accepts an asynchronous call of a function under the given ID.
	// Conflict if there is a call with this ID, NotFound if there is no such
	// function, Busy if it may be accepted later. It reads all of req.Body.
	Enqueue(ctx context.Context, app, function, id string, req *faas.Request) error
}

// Deliverer makes the deliveries of a store. Make one with New; Run does the work.
type Deliverer struct {
	calls     Calls
	functions Functions
	transport func(of faas.Call) http.RoundTripper
	log       *slog.Logger
	wake      chan struct{}
}

// New returns a Deliverer. transport carries the deliveries of a call over HTTP: what
// the call's function may reach is its business, and an error of kind Denied says
// that it may not reach a destination. Redirects are not followed.
func New(calls Calls, functions Functions, transport func(of faas.Call) http.RoundTripper, log *slog.Logger) *Deliverer {
	return &Deliverer{calls: calls, functions: functions, transport: transport, log: log, wake: make(chan struct{}, 1)}
}

// Wake says that the store may have a delivery that is due. It never waits.
func (d *Deliverer) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run makes deliveries until ctx ends, and returns nil when all tries have ended.
// Those that were cut off are due at the next start.
func (d *Deliverer) Run(ctx context.Context) error {
	var tries sync.WaitGroup
	defer tries.Wait()
	ended := make(chan end)
	tell := func(e end) {
		select {
		case ended <- e:
		case <-ctx.Done(): // nobody reads
		}
	}
	l := newLine()
	look := true
	var next time.Time // when something may be due; zero: not known of anything
	var looked time.Time
	for {
		if look {
			looked = time.Now()
			due, wait, err := d.calls.Deliveries(ctx, l.want())
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				d.log.Error("deliveries cannot be read, trying again", "err", err, "in", storeRetry)
				next, l.full = time.Now().Add(storeRetry), false
			default:
				l.add(due)
				next = time.Time{}
				if wait > 0 {
					next = time.Now().Add(min(wait, longestSleep))
				}
			}
			look = false
		}
		for one, ok := l.start(); ok; one, ok = l.start() {
			tries.Go(func() {
				t := d.try(ctx, one)
				tell(end{one, t, d.settle(ctx, one, t), true})
			})
		}
		if l.more() {
			look = true
			continue
		}
		var alarm <-chan time.Time
		if !next.IsZero() {
			alarm = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
			if at := looked.Add(lookPause); time.Now().After(at) {
				look = true
			} else if next.IsZero() || at.Before(next) {
				next = at
			}
		case <-alarm:
			look = true
		case e := <-ended:
			if behind := l.end(e); len(behind) > 0 {
				tries.Go(func() {
					for _, one := range behind {
						tell(end{one, e.try, d.settle(ctx, one, e.try), false})
					}
				})
			}
			if at := time.Now().Add(e.retry); e.retry > 0 && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
}

// end is a try that is over and written down.
type end struct {
	delivery store.Delivery
	try      try
	retry    time.Duration // until it is due again; 0: never
	own      bool          // not that of another one to the same destination, which does not answer
}

// settle writes down what came of a try until the store has it: a delivery that
// was made must not be made again because a disk is full. It returns after what
// time the delivery is due again; 0: never, or ctx has ended a try that failed.
func (d *Deliverer) settle(ctx context.Context, one store.Delivery, t try) time.Duration {
	if t.reason != "" && ctx.Err() != nil {
		return 0 // we ended it, not the destination
	}
	v := decide(one, t, time.Since(one.Since), rand.Float64())
	for told := false; ; told = true {
		// The delivery may be made: that is written down, whatever has ended meanwhile.
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeRetry)
		err := d.calls.Delivered(within, one.ID, v.done, v.retry, v.words)
		cancel()
		if err == nil || faas.KindOf(err) == faas.NotFound {
			break
		}
		if !told {
			d.log.Error("what became of a delivery cannot be written down, trying again", "call", one.Call, "err", err, "in", storeRetry)
		}
		select {
		case <-ctx.Done():
			return 0
		case <-time.After(storeRetry):
		}
	}
	if v.done && t.reason != "" {
		d.log.Warn("a result was not delivered", "call", one.Call, "to", shown(one.Target), "err", v.words)
	}
	return v.retry
}

// try makes one try.
func (d *Deliverer) try(ctx context.Context, one store.Delivery) try {
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	call, err := d.calls.Call(ctx, one.Call)
	if err != nil {
		return unread(err)
	}
	if call.Hops >= maxHops {
		return try{final: true, reason: fmt.Sprintf("%d deliveries, one upon the other, led to this call, which is the limit: do these functions call each other?", call.Hops)}
	}
	header := http.Header{
		"Hob-Call": {call.ID}, "Hob-App": {call.App}, "Hob-Function": {call.Function},
		"Hob-State": {string(call.State)}, "Hob-Attempts": {strconv.Itoa(call.Attempt)},
		Hops: {strconv.Itoa(call.Hops + 1)}, "Idempotency-Key": {one.ID}, "User-Agent": {"hob"},
	}
	body, err := d.body(ctx, call, header)
	if err != nil {
		return unread(err)
	}
	if strings.Contains(one.Target, "://") {
		return d.post(ctx, call, one.Target, header, body)
	}
	defer body.Close()
	app, function, _ := strings.Cut(one.Target, "/")
	return enqueued(d.functions.Enqueue(ctx, app, function, one.ID, &faas.Request{
		Method: http.MethodPost, URL: "http://localhost/api/calls/" + call.ID + "/result",
		Header: header, Body: body, Size: body.Size(),
	}))
}

// body is what is sent of a call, and adds to header what describes it: the result
// of one that succeeded, else why it did not.
func (d *Deliverer) body(ctx context.Context, call faas.Call, header http.Header) (store.Reader, error) {
	if call.State == faas.CallSucceeded {
		result, body, err := d.calls.Result(ctx, call.ID)
		if err != nil {
			return nil, err
		}
		header.Set("Content-Type", "application/octet-stream")
		for _, name := range []string{"Content-Type", "Content-Encoding"} {
			if v := result.Header.Get(name); v != "" {
				header.Set(name, v)
			}
		}
		return body, nil
	}
	type fault struct {
		Kind    faas.Kind `json:"kind"`
		Message string    `json:"message"`
	}
	data, err := json.Marshal(struct {
		Call     string         `json:"call"`
		App      string         `json:"app"`
		Function string         `json:"function"`
		State    faas.CallState `json:"state"`
		Attempt  int            `json:"attempt"`
		Error    fault          `json:"error"`
	}{call.ID, call.App, call.Function, call.State, call.Attempt, fault{call.ErrKind, call.Error}})
	if err != nil {
		return nil, err
	}
	header.Set("Content-Type", "application/json")
	return store.BytesReader(data), nil
}

// post sends a request, and closes body.
func (d *Deliverer) post(ctx context.Context, call faas.Call, target string, header http.Header, body store.Reader) try {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, body)
	if err != nil {
		body.Close()
		return try{final: true, reason: fmt.Sprintf("bad destination %q", shown(target))}
	}
	req.Header, req.ContentLength = header, body.Size()
	if req.ContentLength == 0 { // with a body it would be of unknown length
		body.Close()
		req.Body = http.NoBody
	}
	client := http.Client{Transport: d.transport(call), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return failed(err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // the status has said all
	return answered(resp.StatusCode, resp.Header, time.Now())
}

// shown is a destination without its query, where people put their secrets.
func shown(target string) string {
	if u, err := url.Parse(target); err == nil && u.RawQuery != "" {
		u.RawQuery = ""
		return u.String()
	}
	return target
}
