package sqlite

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"hob/faas"
)

// recordJSON is the column record of a call: what nobody asks for by value.
// A field that is absent is zero.
type recordJSON struct {
	Revision int64         `json:"revision,omitzero"`
	Kind     faas.CallKind `json:"kind,omitzero"`
	RetryOf  string        `json:"retry_of,omitzero"`
	Once     bool          `json:"once,omitzero"`
	Failures int           `json:"failures,omitzero"`
	Losses   int           `json:"losses,omitzero"`
	Hops     int           `json:"hops,omitzero"`
	Waiting  string        `json:"waiting,omitzero"`
	Queue    time.Duration `json:"queue,omitzero"` // nanoseconds, as all durations
	Image    time.Duration `json:"image,omitzero"`
	Sandbox  time.Duration `json:"sandbox,omitzero"`
	Run      time.Duration `json:"run,omitzero"`
	Outcome  outcomeJSON   `json:"outcome,omitzero"`
	Error    string        `json:"error,omitzero"`
	ErrKind  faas.Kind     `json:"err_kind,omitzero"`
	Delivery string        `json:"delivery,omitzero"`
}

// outcomeJSON is faas.Outcome with names of our own.
type outcomeJSON struct {
	Status     int           `json:"status,omitzero"`
	In         int64         `json:"in,omitzero"`
	Out        int64         `json:"out,omitzero"`
	Start      faas.Start    `json:"start,omitzero"`
	Keep       bool          `json:"keep,omitzero"`
	Again      bool          `json:"again,omitzero"`
	Exit       *faas.Exit    `json:"exit,omitzero"`
	PeakMemory faas.Bytes    `json:"peak_memory,omitzero"`
	CPUTime    time.Duration `json:"cpu_time,omitzero"`
	Stderr     string        `json:"stderr,omitzero"`
	Image      time.Duration `json:"image,omitzero"`
	Sandbox    time.Duration `json:"sandbox,omitzero"`
	Run        time.Duration `json:"run,omitzero"`
}

func recordOf(c faas.Call) (string, error) {
	b, err := json.Marshal(recordJSON{
		Revision: c.Revision, Kind: c.Kind, RetryOf: c.RetryOf, Once: c.Once,
		Failures: c.Failures, Losses: c.Losses, Hops: c.Hops, Waiting: c.Waiting,
		Queue: c.Queue, Image: c.Image, Sandbox: c.Sandbox, Run: c.Run,
		Outcome: outcomeJSON(c.Outcome), Error: c.Error, ErrKind: c.ErrKind, Delivery: c.Delivery,
	})
	return string(b), err
}

// readRecord sets what the column record says of c.
func readRecord(c *faas.Call, record string) error {
	var j recordJSON
	if err := json.Unmarshal([]byte(record), &j); err != nil {
		return fmt.Errorf("%w: the record of call %s cannot be read: %w", errDamaged, c.ID, err)
	}
	c.Revision, c.Kind, c.RetryOf, c.Once = j.Revision, j.Kind, j.RetryOf, j.Once
	c.Failures, c.Losses, c.Hops, c.Waiting = j.Failures, j.Losses, j.Hops, j.Waiting
	c.Queue, c.Image, c.Sandbox, c.Run = j.Queue, j.Image, j.Sandbox, j.Run
	c.Outcome, c.Error, c.ErrKind, c.Delivery = faas.Outcome(j.Outcome), j.Error, j.ErrKind, j.Delivery
	return nil
}

// requestJSON is the column request of a payload.
type requestJSON struct {
	Latin1     bool              `json:"latin1,omitzero"` // the strings hold bytes as characters, for they are not UTF-8
	Method     string            `json:"method,omitzero"`
	URL        string            `json:"url,omitzero"`
	Target     string            `json:"target,omitzero"`
	Route      string            `json:"route,omitzero"`
	Caller     string            `json:"caller,omitzero"`
	Header     http.Header       `json:"header,omitzero"`
	Params     map[string]string `json:"params,omitzero"`
	Convention faas.Convention   `json:"convention,omitzero"`
	Env        []string          `json:"env,omitzero"`
}

func requestOf(r *faas.Request) (string, error) {
	j := requestJSON{
		Method: r.Method, URL: r.URL, Target: r.Target, Route: r.Route, Caller: r.Caller,
		Header: r.Header, Params: r.Params, Convention: r.Convention, Env: r.Env,
	}
	if !j.valid() {
		j.Latin1 = true
		j.convert(toLatin1)
	}
	b, err := json.Marshal(j)
	return string(b), err
}

func readRequest(id, text string) (*faas.Request, error) {
	var j requestJSON
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return nil, fmt.Errorf("%w: the request of call %s cannot be read: %w", errDamaged, id, err)
	}
	if j.Latin1 {
		j.convert(fromLatin1)
	}
	return &faas.Request{
		Method: j.Method, URL: j.URL, Target: j.Target, Route: j.Route, Caller: j.Caller,
		Header: j.Header, Params: j.Params, Convention: j.Convention, Env: j.Env,
	}, nil
}

func (j *requestJSON) valid() bool {
	for name, value := range j.Params {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return false
		}
	}
	return utf8.ValidString(j.Method) && utf8.ValidString(j.URL) && utf8.ValidString(j.Target) &&
		utf8.ValidString(j.Route) && utf8.ValidString(j.Caller) && validHeader(j.Header) &&
		!slices.ContainsFunc(j.Env, notUTF8)
}

func (j *requestJSON) convert(by func(string) string) {
	for _, s := range []*string{&j.Method, &j.URL, &j.Target, &j.Route, &j.Caller} {
		*s = by(*s)
	}
	j.Header, j.Env = convertHeader(j.Header, by), convertAll(j.Env, by)
	if j.Params != nil {
		params := make(map[string]string, len(j.Params))
		for name, value := range j.Params {
			params[by(name)] = by(value)
		}
		j.Params = params
	}
}

// headerJSON is the column header of a result.
type headerJSON struct {
	Latin1 bool        `json:"latin1,omitzero"`
	Header http.Header `json:"header,omitzero"`
}

func headerText(h http.Header) (string, error) {
	j := headerJSON{Header: h}
	if !validHeader(h) {
		j = headerJSON{Latin1: true, Header: convertHeader(h, toLatin1)}
	}
	b, err := json.Marshal(j)
	return string(b), err
}

func readHeader(id, text string) (http.Header, error) {
	var j headerJSON
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return nil, fmt.Errorf("%w: the headers of the result of call %s cannot be read: %w", errDamaged, id, err)
	}
	if j.Latin1 {
		j.Header = convertHeader(j.Header, fromLatin1)
	}
	return j.Header, nil
}

func validHeader(h http.Header) bool {
	for name, values := range h {
		if !utf8.ValidString(name) || slices.ContainsFunc(values, notUTF8) {
			return false
		}
	}
	return true
}

func notUTF8(s string) bool { return !utf8.ValidString(s) }

func convertHeader(h http.Header, by func(string) string) http.Header {
	if h == nil {
		return nil
	}
	converted := make(http.Header, len(h))
	for name, values := range h {
		converted[by(name)] = convertAll(values, by)
	}
	return converted
}

func convertAll(all []string, by func(string) string) []string {
	all = slices.Clone(all)
	for i, s := range all {
		all[i] = by(s)
	}
	return all
}

// toLatin1 makes a character of each byte of s, as JSON keeps characters only.
func toLatin1(s string) string {
	runes := make([]rune, len(s))
	for i := range len(s) {
		runes[i] = rune(s[i])
	}
	return string(runes)
}

func fromLatin1(s string) string {
	var b []byte
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}
