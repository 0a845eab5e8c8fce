package logs

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"hob/faas"
)

// The rest of a record's frame is four strings, each a byte of length and then
// its bytes: the ID of the call, its state, the names of the app and of the
// function. Those are what is looked for. Behind them stands the rest as JSON.

// recordJSON is the JSON of a record, as it is read; appendRecord writes it. A
// field that is absent is zero.
type recordJSON struct {
	FuncID     string           `json:"func_id,omitempty"`
	Revision   int64            `json:"revision,omitempty"`
	Kind       faas.CallKind    `json:"kind,omitempty"`
	Attempt    int              `json:"attempt,omitempty"`
	Priority   int              `json:"priority,omitempty"`
	Due        int64            `json:"due,omitempty"` // nanoseconds since 1970, as all times
	RetryOf    string           `json:"retry_of,omitempty"`
	Losses     int              `json:"losses,omitempty"`
	Failures   int              `json:"failures,omitempty"`
	Hops       int              `json:"hops,omitempty"`
	Once       bool             `json:"once,omitempty"`
	Waiting    string           `json:"waiting,omitempty"`
	Queued     int64            `json:"queued,omitempty"`
	Started    int64            `json:"started,omitempty"`
	Finished   int64            `json:"finished,omitempty"`
	Queue      time.Duration    `json:"queue,omitempty"` // nanoseconds, as all durations
	Image      time.Duration    `json:"image,omitempty"`
	Sandbox    time.Duration    `json:"sandbox,omitempty"`
	Run        time.Duration    `json:"run,omitempty"`
	Error      string           `json:"error,omitempty"`
	ErrKind    faas.Kind        `json:"err_kind,omitempty"`
	Status     int              `json:"status,omitempty"`
	In         int64            `json:"in,omitempty"`
	Out        int64            `json:"out,omitempty"`
	Start      faas.Start       `json:"start,omitempty"`
	Hot        bool             `json:"hot,omitempty"` // of records from before Start: what is StartHot now
	Keep       bool             `json:"keep,omitempty"`
	Exit       *exitJSON        `json:"exit,omitempty"`
	PeakMemory faas.Bytes       `json:"peak_memory,omitempty"`
	CPUTime    time.Duration    `json:"cpu_time,omitempty"`
	OutImage   time.Duration    `json:"outcome_image,omitempty"`
	OutSandbox time.Duration    `json:"outcome_sandbox,omitempty"`
	OutRun     time.Duration    `json:"outcome_run,omitempty"`
	Result     faas.ResultState `json:"result,omitempty"`
	Delivery   string           `json:"delivery,omitempty"`
}

type exitJSON struct {
	Code   int    `json:"code"`
	Signal string `json:"signal,omitempty"`
	OOM    bool   `json:"oom,omitempty"`
}

// appendRecord appends the frame of a call to dst.
func appendRecord(dst []byte, now time.Time, c *faas.Call) []byte {
	dst, start := beginFrame(dst, kindRecord, now)
	for _, s := range [...]string{c.ID, string(c.State), c.App, c.Function} {
		s = callOf(s)
		dst = append(append(dst, byte(len(s))), s...)
	}
	o := object{append(dst, '{')}
	o.text("func_id", c.FuncID)
	o.number("revision", c.Revision)
	o.text("kind", string(c.Kind))
	o.number("attempt", int64(c.Attempt))
	o.number("priority", int64(c.Priority))
	o.number("due", nanoseconds(c.Due))
	o.text("retry_of", c.RetryOf)
	o.number("losses", int64(c.Losses))
	o.number("failures", int64(c.Failures))
	o.number("hops", int64(c.Hops))
	o.flag("once", c.Once)
	o.text("waiting", c.Waiting)
	o.number("queued", nanoseconds(c.Queued))
	o.number("started", nanoseconds(c.Started))
	o.number("finished", nanoseconds(c.Finished))
	o.number("queue", int64(c.Queue))
	o.number("image", int64(c.Image))
	o.number("sandbox", int64(c.Sandbox))
	o.number("run", int64(c.Run))
	o.text("error", c.Error)
	o.text("err_kind", string(c.ErrKind))
	o.number("status", int64(c.Outcome.Status))
	o.number("in", c.Outcome.In)
	o.number("out", c.Outcome.Out)
	o.text("start", string(c.Outcome.Start))
	o.flag("keep", c.Outcome.Keep)
	if exit := c.Outcome.Exit; exit != nil {
		o.key("exit")
		o.b = strconv.AppendInt(append(o.b, `{"code":`...), int64(exit.Code), 10)
		o.text("signal", exit.Signal)
		o.flag("oom", exit.OOM)
		o.b = append(o.b, '}')
	}
	o.number("peak_memory", int64(c.Outcome.PeakMemory))
	o.number("cpu_time", int64(c.Outcome.CPUTime))
	o.number("outcome_image", int64(c.Outcome.Image))
	o.number("outcome_sandbox", int64(c.Outcome.Sandbox))
	o.number("outcome_run", int64(c.Outcome.Run))
	o.text("result", string(c.Result))
	o.text("delivery", c.Delivery)
	return endFrame(append(o.b, '}'), start)
}

// object writes the fields of a JSON object, but for those that are zero. It is
// what a record costs, and encoding/json takes four times as long.
type object struct{ b []byte }

func (o *object) key(name string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(append(append(o.b, '"'), name...), `":`...)
}

func (o *object) number(name string, n int64) {
	if n != 0 {
		o.key(name)
		o.b = strconv.AppendInt(o.b, n, 10)
	}
}

func (o *object) flag(name string, set bool) {
	if set {
		o.key(name)
		o.b = append(o.b, "true"...)
	}
}

func (o *object) text(name, s string) {
	if s == "" {
		return
	}
	s = shorten(s)
	o.key(name)
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			b, _ := json.Marshal(s) // of a string it has no error
			o.b = append(o.b, b...)
			return
		}
	}
	o.b = append(append(append(o.b, '"'), s...), '"')
}

// recordKeys are the parts of a record that are looked for; slices of its frame.
type recordKeys struct{ id, state, app, function, rest []byte }

func parseKeys(rest []byte) (k recordKeys, ok bool) {
	for _, key := range []*[]byte{&k.id, &k.state, &k.app, &k.function} {
		if len(rest) < 1 || len(rest) < 1+int(rest[0]) {
			return recordKeys{}, false
		}
		n := 1 + int(rest[0])
		*key, rest = rest[1:n], rest[n:]
	}
	k.rest = rest
	return k, true
}

// recordID is series.id of the journal.
func recordID(rest []byte) (string, bool) {
	k, ok := parseKeys(rest)
	return string(k.id), ok && len(k.id) > 0
}

// call is the record as it was handed to Record, with its times in UTC.
func (k recordKeys) call() (faas.Call, error) {
	var r recordJSON
	if err := json.Unmarshal(k.rest, &r); err != nil {
		return faas.Call{}, fmt.Errorf("record of call %s: %w", k.id, err)
	}
	c := faas.Call{
		ID: string(k.id), State: faas.CallState(k.state), App: string(k.app), Function: string(k.function),
		FuncID: r.FuncID, Revision: r.Revision, Kind: r.Kind, Attempt: r.Attempt, Waiting: r.Waiting,
		Priority: r.Priority, Due: timeOf(r.Due), RetryOf: r.RetryOf, Losses: r.Losses, Failures: r.Failures, Hops: r.Hops, Once: r.Once,
		Queued: timeOf(r.Queued), Started: timeOf(r.Started), Finished: timeOf(r.Finished),
		Queue: r.Queue, Image: r.Image, Sandbox: r.Sandbox, Run: r.Run,
		Error: r.Error, ErrKind: r.ErrKind, Result: r.Result, Delivery: r.Delivery,
		Outcome: faas.Outcome{
			Status: r.Status, In: r.In, Out: r.Out, Start: r.Start, Keep: r.Keep,
			PeakMemory: r.PeakMemory, CPUTime: r.CPUTime,
			Image: r.OutImage, Sandbox: r.OutSandbox, Run: r.OutRun,
		},
	}
	if r.Hot {
		c.Outcome.Start = faas.StartHot
	}
	if r.Exit != nil {
		c.Outcome.Exit = &faas.Exit{Code: r.Exit.Code, Signal: r.Exit.Signal, OOM: r.Exit.OOM}
	}
	return c, nil
}

// nanoseconds and timeOf keep the zero time, which has no number of nanoseconds.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeOf(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
