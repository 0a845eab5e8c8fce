package protocol

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"hob/faas"
)

// maxObject is the most that a function may answer with in one object.
const maxObject = 16 << 20

// objectConn speaks the formats json and cloudevent: an object on the standard
// input of the process, one on its standard output, as Fn v1 has them.
type objectConn struct {
	stdio

	// encode makes the object that asks; plain says that the caller did not send
	// one. decode is its counterpart.
	encode func(req *faas.Request, body []byte) (object []byte, plain bool, err error)
	decode func(object []byte, plain bool) (objectAnswer, error)
}

// objectAnswer is what an object says.
type objectAnswer struct {
	status int
	header http.Header
	body   []byte
}

func openObject(fn faas.Function, p Process) *objectConn {
	c := &objectConn{encode: encodeJSON, decode: decodeJSON}
	if fn.Format == faas.FormatCloudEvent {
		c.encode, c.decode = encodeEvent, decodeEvent
	}
	c.open(fn, p)
	return c
}

// Exchange implements Conn.
func (c *objectConn) Exchange(ctx context.Context, req *faas.Request, w http.ResponseWriter) (faas.Outcome, error) {
	return c.turn.exchange(ctx, req, w, c.exchange)
}

func (c *objectConn) exchange(out *faas.Outcome) error {
	t := &c.turn
	if err := c.clean(out); err != nil {
		return err
	}
	body, err := t.readAll(faas.FormatJSON)
	if err != nil {
		out.Keep = true
		return err
	}
	object, plain, err := c.encode(t.req, body)
	if err != nil {
		out.Keep = true
		return err
	}
	c.calls++
	if t.whole = true; len(object) <= atOnce {
		t.write(object)
	} else {
		t.uploaded = make(chan struct{})
		go t.upload(object, 0)
	}
	text, err := t.in.readObject()
	if err != nil {
		t.silent = err == io.EOF
		err = t.broken(err)
		lost := c.UnreadInput() // before join closes the pipe
		t.join(t.patience())
		if out.Again = t.silent && c.over() && lost == t.sent && t.failed() == nil; out.Again {
			t.req.Body, t.req.Size = bytes.NewReader(body), int64(len(body))
		}
		return err
	}
	answer, err := c.decode(text, plain)
	if err != nil {
		if _, broken := errors.AsType[malformed](err); broken {
			t.join(0)
			return t.broken(err)
		}
		out.Keep = t.settled()
		return err
	}
	header := t.w.Header()
	for name, values := range answer.header {
		header[name] = append(header[name], values...)
	}
	if header["Content-Type"] == nil {
		header.Set("Content-Type", "application/octet-stream") // else net/http guesses
	}
	if answer.status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(answer.body)))
	}
	t.start(answer.status)
	if answer.status != http.StatusNoContent && answer.status != http.StatusNotModified {
		t.give(answer.body)
	}
	t.answered()
	if err := t.failed(); err != nil {
		t.join(0)
		return err
	}
	out.Keep = t.settled()
	if t.gone != nil {
		return canceled(t.gone)
	}
	return nil
}

// settled reports whether the function has read all it was given, and has written
// nothing behind its answer.
func (t *turn) settled() bool {
	return t.join(settle) && len(t.in.rest()) == 0 && t.taken()
}

// readObject takes a JSON object and the white space before it. io.EOF means that
// not a byte of one has arrived. Whether it is one in all its parts is not looked
// at, only where it ends.
func (b *reader) readObject() ([]byte, error) {
	depth, quoted, escaped := 0, false, false
	for at := 0; ; { // b.buf[b.r:b.r+at] has been looked at
		if at == 0 {
			for b.r < b.w && isSpace(b.buf[b.r]) {
				b.r++
			}
		}
		got := b.buf[b.r:b.w]
		for ; at < len(got); at++ {
			switch c := got[at]; {
			case escaped:
				escaped = false
			case quoted:
				escaped, quoted = c == '\\', c != '"'
			case c == '"':
				quoted = true
			case c == '{' || c == '[':
				depth++
			case c == '}' || c == ']':
				depth--
			}
			if at == 0 && got[0] != '{' {
				return nil, notJSON(fmt.Errorf("it begins with %q", excerpt(got)))
			}
			if depth == 0 {
				b.r += at + 1
				return got[:at+1], nil
			}
		}
		if at > maxObject {
			return nil, reason{faas.ErrAnswerTooLarge, fmt.Sprintf("the function answered with an object of more than %d MB", maxObject>>20)}
		}
		if err := b.fill(); err != nil {
			if err == io.EOF && at > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// notJSON has the words of Fn v1.
func notJSON(err error) error {
	return malformed("invalid json response from function: " + err.Error())
}

// httpPart is what an object says of HTTP.
type httpPart struct {
	Type       string      `json:"type"`
	Method     string      `json:"method"`
	RequestURL string      `json:"request_url"`
	Headers    http.Header `json:"headers"`
}

func asked(req *faas.Request) httpPart {
	h := make(http.Header, len(req.Header))
	named := connectionNames(req.Header["Connection"])
	for name, values := range req.Header {
		if !isHop(name) && !contains(named, name) {
			h[name] = values
		}
	}
	return httpPart{Type: "http", Method: req.Method, RequestURL: req.URL, Headers: h}
}

func deadline(req *faas.Request) string {
	if req.Deadline.IsZero() {
		return ""
	}
	return req.Deadline.UTC().Format(deadlineLayout)
}

// encoded is v on a line of its own.
func encoded(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("write the request as JSON: %w", err)
	}
	return b.Bytes(), nil
}

func encodeJSON(req *faas.Request, body []byte) ([]byte, bool, error) {
	b, err := encoded(struct {
		CallID      string   `json:"call_id"`
		Deadline    string   `json:"deadline"`
		Body        string   `json:"body"`
		ContentType string   `json:"content_type"`
		Protocol    httpPart `json:"protocol"`
	}{req.Call, deadline(req), string(body), req.Header.Get("Content-Type"), asked(req)})
	return b, true, err
}

// said is what an object answers about HTTP.
type said struct {
	StatusCode int              `json:"status_code"`
	Headers    map[string]texts `json:"headers"`
}

// texts are the values of a header: a list of strings, or one.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*t = make(texts, 1)
		return json.Unmarshal(b, &(*t)[0])
	}
	return json.Unmarshal(b, (*[]string)(t))
}

// answer is what s says, with this body. contentType wins.
func (s said) answer(body []byte, contentType string) (objectAnswer, error) {
	a := objectAnswer{status: s.StatusCode, header: http.Header{}, body: body}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	if a.status < 200 || a.status > 599 {
		return a, fault(faas.FuncFailed, faas.ErrStatus, "the function answered with status %d, which is not between 200 and 599", a.status)
	}
	for name, values := range s.Headers {
		name = http.CanonicalHeaderKey(name)
		if !isToken(name) || isHop(name) || strings.HasPrefix(name, "Hob-") || slices.ContainsFunc(values, func(v string) bool { return !isPlainValue(v) }) {
			continue
		}
		a.header[name] = append(a.header[name], values...)
	}
	if contentType != "" && isPlainValue(contentType) {
		a.header.Set("Content-Type", contentType)
	}
	return a, nil
}

func decodeJSON(object []byte, _ bool) (objectAnswer, error) {
	var o struct {
		Body        string `json:"body"`
		ContentType string `json:"content_type"`
		Protocol    said   `json:"protocol"`
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return objectAnswer{}, notJSON(err)
	}
	return o.Protocol.answer([]byte(o.Body), o.ContentType)
}

const typeCloudEvent = "application/cloudevents+json"

func encodeEvent(req *faas.Request, body []byte) (object []byte, plain bool, err error) {
	contentType := req.Header.Get("Content-Type")
	if media, _, _ := mime.ParseMediaType(contentType); media == typeCloudEvent {
		object, err = extend(req, body)
		return object, false, err
	}
	data := json.RawMessage("null")
	if len(bytes.TrimSpace(body)) > 0 {
		if !json.Valid(body) {
			return nil, true, faas.Errorf(faas.Invalid, "the payload is not JSON: a function of format cloudevent is given JSON, or an event as %s", typeCloudEvent)
		}
		data = body
	}
	type extensions struct {
		Protocol httpPart `json:"protocol"`
		Deadline string   `json:"deadline"`
	}
	object, err = encoded(struct {
		Version     string          `json:"cloudEventsVersion"`
		ID          string          `json:"eventID"`
		Source      string          `json:"source"`
		Type        string          `json:"eventType"`
		TypeVersion string          `json:"eventTypeVersion"`
		Time        time.Time       `json:"eventTime"`
		SchemaURL   string          `json:"schemaURL"`
		ContentType string          `json:"contentType"`
		Extensions  extensions      `json:"extensions"`
		Data        json.RawMessage `json:"data"`
	}{"0.1", req.Call, req.URL, "http", "", time.Now().UTC(), "", contentType, extensions{asked(req), deadline(req)}, data})
	return object, true, err
}

// extend adds what is known of the call to the extensions of an event.
func extend(req *faas.Request, body []byte) ([]byte, error) {
	var event, extensions map[string]json.RawMessage
	if err := json.Unmarshal(body, &event); err != nil || event == nil {
		return nil, faas.Errorf(faas.Invalid, "the payload is not the CloudEvent that its type promises: %w", orNotObject(err))
	}
	if old := event["extensions"]; old != nil {
		if err := json.Unmarshal(old, &extensions); err != nil {
			return nil, faas.Errorf(faas.Invalid, "the extensions of the CloudEvent are not an object: %w", err)
		}
	}
	if extensions == nil {
		extensions = make(map[string]json.RawMessage)
	}
	protocol, err := encoded(asked(req))
	if err != nil {
		return nil, err
	}
	extensions["protocol"] = protocol
	if d := deadline(req); d != "" {
		extensions["deadline"] = json.RawMessage(strconv.Quote(d))
	}
	if event["extensions"], err = json.Marshal(extensions); err != nil {
		return nil, fmt.Errorf("write the extensions of an event: %w", err)
	}
	return encoded(event)
}

func orNotObject(err error) error {
	if err == nil {
		return fmt.Errorf("it is null")
	}
	return err
}

func decodeEvent(object []byte, plain bool) (objectAnswer, error) {
	var o struct {
		ContentType string          `json:"contentType"`
		Data        json.RawMessage `json:"data"`
		Extensions  struct {
			Protocol said `json:"protocol"`
		} `json:"extensions"`
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return objectAnswer{}, notJSON(err)
	}
	s := o.Extensions.Protocol
	if !plain {
		return s.answer(bytes.Clone(object), typeCloudEvent)
	}
	media, _, _ := mime.ParseMediaType(o.ContentType)
	switch media {
	case "application/json", "":
		return s.answer(o.Data, "application/json")
	case "text/plain":
		var text string
		if json.Unmarshal(o.Data, &text) != nil {
			text = string(o.Data) // not a string: as it is written
		}
		return s.answer([]byte(text), o.ContentType)
	}
	return objectAnswer{}, faas.Errorf(faas.FuncFailed, "the function answered with an event of contentType %q: for a request that is no event it must be application/json or text/plain", o.ContentType)
}
