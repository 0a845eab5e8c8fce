package protocol

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"hob/faas"
)

// deliver brings the answer to the caller, or says why there is none.
func (c *lambdaConn) deliver(a *lambdaAnswer) error {
	t := &c.turn
	triggered := c.call.triggered
	switch {
	case len(a.contentType) > t.in.most:
		a.refusal = faultTooLarge(t.in.most)
		return faas.Errorf(faas.FuncFailed, "%w", headOver(t.in.most))
	case a.request != nil:
		return c.deliverStream(a, triggered)
	case errors.Is(a.err, errPosted):
		return c.brokenOff()
	case a.err != nil:
		return a.err
	case a.failed:
		return c.failure(a, triggered)
	}
	answer := urlAnswer{status: http.StatusOK, body: a.body}
	if triggered {
		var err error
		if answer, err = urlAnswerOf(a, t.in.most); err != nil {
			return err
		}
	}
	header := t.w.Header()
	answer.copyTo(header)
	setType(header, a.contentType)
	if answer.status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(answer.body)))
	}
	t.start(answer.status)
	t.give(answer.body)
	t.answered()
	return t.failed()
}

// setType gives an answer a type that has none.
func setType(h http.Header, contentType string) {
	switch {
	case h["Content-Type"] != nil: // an empty one says that the writer wants it so
	case contentType == "" || !isPlainValue(contentType):
		h["Content-Type"] = typeJSON
	default:
		h["Content-Type"] = []string{contentType}
	}
}

// failure is an error that the function has answered with.
func (c *lambdaConn) failure(a *lambdaAnswer, triggered bool) error {
	if !triggered && !c.turn.begun {
		c.turn.w.Header().Set("X-Amz-Function-Error", "Unhandled")
	}
	return fault(faas.FuncFailed, faas.ErrFunction, "%s", lambdaWords(a.body, a.errorType))
}

// lambdaWords says an error that a runtime reports: "message (type)", or what there
// is.
func lambdaWords(body []byte, errorType string) string {
	var e struct{ ErrorMessage, ErrorType string }
	text := string(body)
	if json.Unmarshal(body, &e) == nil {
		text = e.ErrorMessage
		if e.ErrorType != "" {
			errorType = e.ErrorType
		}
	}
	if text = strings.TrimSpace(text); text == "" && errorType == "" {
		return "the function said that it failed"
	}
	if len(text) > maxWords {
		text = text[:maxWords] + "…"
	}
	if errorType != "" {
		text = strings.TrimSpace(fmt.Sprintf("%s (%.100s)", text, errorType))
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// brokenOff says why an answer has no end.
func (c *lambdaConn) brokenOff() error {
	t := &c.turn
	if cause := t.failed(); cause != nil {
		return cause
	}
	if c.overSoon(t.ctx, mourning) {
		return c.died()
	}
	if cause := t.failed(); cause != nil {
		return cause
	}
	return fault(faas.FuncFailed, faas.ErrBroken, "the function closed its connection in the middle of its answer")
}

// deliverStream passes an answer on as it comes. Until the first byte it can still be
// an error.
func (c *lambdaConn) deliverStream(a *lambdaAnswer, triggered bool) error {
	t := &c.turn
	if cause := t.failed(); cause != nil { // before this answer could be cut
		return cause
	}
	if c.over() {
		c.hurry()
	}
	buf, n, total := *t.buf, 0, 0
	begin := func() bool {
		setType(t.w.Header(), a.contentType)
		t.start(http.StatusOK)
		return t.begun
	}
	if triggered && isType(a.contentType, typeIntegration) {
		begin = nil
	}
	for {
		k, err := a.request.Body.Read(buf[n:])
		if cause := t.failed(); cause != nil {
			return cause
		}
		n += k
		if total += k; total > maxStream {
			a.refusal = faultTooLarge(maxStream)
			return fault(faas.FuncFailed, faas.ErrMalformed, "the function's answer is over the limit of %v of one that is streamed", faas.Bytes(maxStream))
		}
		rest := buf[:n]
		if begin == nil {
			head, body, whole := bytes.Cut(rest, prelude)
			if whole {
				if wrong := c.beginPrelude(head); wrong != nil {
					return wrong
				}
				begin, rest = func() bool { return t.begun }, body
			} else if n == len(buf) {
				return fault(faas.FuncFailed, faas.ErrMalformed, "the function's answer has no end of its head, %d zero bytes, in its first %v", len(prelude), faas.Bytes(n))
			}
		}
		if begin != nil && (len(rest) > 0 || t.begun) && begin() {
			if t.give(rest); t.refused() {
				a.refusal = faultUnknownID
				return canceled(t.gone)
			}
			t.flush()
			n = 0
		}
		if err != nil {
			return c.endStream(a, err, begin)
		}
	}
}

// endStream is the end of an answer that is passed on as it comes.
func (c *lambdaConn) endStream(a *lambdaAnswer, err error, begin func() bool) error {
	t := &c.turn
	if err != io.EOF {
		a.refusal = faultTruncated
		return c.brokenOff()
	}
	if a.fail(a.request.Trailer); a.failed {
		return c.failure(a, c.call.triggered)
	}
	if begin == nil {
		return fault(faas.FuncFailed, faas.ErrMalformed, "the function's answer ends before the end of its head, %d zero bytes", len(prelude))
	}
	begin()
	t.answered()
	return t.failed()
}

// prelude stands between status and header, and the body.
var prelude = make([]byte, 8)

// beginPrelude begins an answer with the head that the function gives it.
func (c *lambdaConn) beginPrelude(head []byte) error {
	t := &c.turn
	var object urlObject
	if err := json.Unmarshal(head, &object); err != nil {
		return fault(faas.FuncFailed, faas.ErrMalformed, "the head of the function's answer is not a JSON object: %v", err)
	}
	answer, err := urlHead(&object, t.in.most)
	if err != nil {
		return err
	}
	header := t.w.Header()
	answer.copyTo(header)
	setType(header, "application/octet-stream")
	t.start(answer.status)
	t.flush()
	return t.failed()
}

// urlAnswer is what a function answers to an HTTP request.
type urlAnswer struct {
	status int
	header http.Header
	body   []byte
}

func (a *urlAnswer) copyTo(h http.Header) {
	for name, values := range a.header {
		h[name] = append(h[name], values...)
	}
}

// urlObject is an answer to an event of urlEventOf as it comes from the function. What
// may be large in memory has not been decoded.
type urlObject struct {
	// Only the exact names count: almost the same are in answers of the SDK of AWS.
	// What is written in any other way encoding/json gives to the first of these.
	S skipped `json:"STATUSCODE"`
	H skipped `json:"HEADERS"`
	M skipped `json:"MULTIVALUEHEADERS"`
	C skipped `json:"COOKIES"`
	B skipped `json:"BODY"`
	I skipped `json:"ISBASE64ENCODED"`

	StatusCode        json.RawMessage `json:"statusCode"`
	Headers           json.RawMessage `json:"headers"`
	MultiValueHeaders json.RawMessage `json:"multiValueHeaders"`
	Cookies           json.RawMessage `json:"cookies"`
	Body              json.RawMessage `json:"body"`
	IsBase64Encoded   json.RawMessage `json:"isBase64Encoded"`
}

// skipped is a value that nobody wants.
type skipped struct{}

func (*skipped) UnmarshalJSON([]byte) error { return nil }

// urlAnswerOf reads an answer to an event of urlEventOf: an object with a statusCode,
// or any other JSON, which is the body then.
func urlAnswerOf(a *lambdaAnswer, most int) (urlAnswer, error) {
	plain := urlAnswer{status: http.StatusOK, body: a.body}
	text := bytes.TrimSpace(a.body)
	if !json.Valid(text) {
		if a.contentType != "" && !isType(a.contentType, "application/json") {
			return plain, nil
		}
		return plain, fault(faas.FuncFailed, faas.ErrMalformed, "the function answered with something that is not JSON: %q", excerpt(text))
	}
	plain.header = http.Header{"Content-Type": typeJSON}
	var object urlObject
	if text[0] != '{' || json.Unmarshal(text, &object) != nil || object.StatusCode == nil {
		return plain, nil
	}
	answer, err := urlHead(&object, most)
	if err != nil {
		return answer, err
	}
	var body *string
	var encoded bool
	if raw := object.Body; raw != nil && json.Unmarshal(raw, &body) != nil {
		return answer, fault(faas.FuncFailed, faas.ErrMalformed, "the body of the function's answer is not a string: %.40q", raw)
	}
	if raw := object.IsBase64Encoded; raw != nil && json.Unmarshal(raw, &encoded) != nil {
		return answer, fault(faas.FuncFailed, faas.ErrMalformed, "isBase64Encoded of the function's answer is neither true nor false: %.40q", raw)
	}
	switch {
	case body == nil:
	case !encoded:
		answer.body = []byte(*body)
	default:
		if answer.body, err = base64.StdEncoding.DecodeString(*body); err != nil {
			return answer, fault(faas.FuncFailed, faas.ErrMalformed, "the body of the function's answer is not base64: %v", err)
		}
	}
	return answer, nil
}

// urlHead reads status and header of an answer. The header has most bytes at most.
func urlHead(object *urlObject, most int) (urlAnswer, error) {
	a := urlAnswer{status: http.StatusOK, header: http.Header{}}
	if raw := object.StatusCode; raw != nil {
		status, err := strconv.Atoi(strings.Trim(string(raw), `"`))
		if err != nil || status < 200 || status > 599 {
			return a, fault(faas.FuncFailed, faas.ErrMalformed, "the function answered with statusCode %.40s, which is not between 200 and 599", raw)
		}
		a.status = status
	}
	// As text it is larger: the same may be in both objects, for the sake of those who
	// know one only.
	if len(object.Headers)+len(object.MultiValueHeaders)+len(object.Cookies) > 2*most {
		return a, faas.Errorf(faas.FuncFailed, "%w", headOver(most))
	}
	var headers map[string]urlValue
	var several map[string][]urlValue
	var cookies []string
	for _, part := range []struct {
		name string
		raw  json.RawMessage
		to   any
	}{{"headers", object.Headers, &headers}, {"multiValueHeaders", object.MultiValueHeaders, &several}, {"cookies", object.Cookies, &cookies}} {
		if part.raw != nil && json.Unmarshal(part.raw, part.to) != nil {
			return a, fault(faas.FuncFailed, faas.ErrMalformed, "%s of the function's answer are not what they should be: %.100s", part.name, part.raw)
		}
	}
	for name, v := range headers {
		a.add(name, v)
	}
	for name, values := range several {
		a.header.Del(name)
		for _, v := range values {
			a.add(name, v)
		}
	}
	for _, v := range cookies {
		a.add("Set-Cookie", urlValue{v, true})
	}
	size := 0
	for name, values := range a.header {
		for _, v := range values {
			size += len(name) + len(": \r\n") + len(v)
		}
	}
	if size > most {
		return a, faas.Errorf(faas.FuncFailed, "%w", headOver(most))
	}
	return a, nil
}

// urlValue is the value of a header: a string, a number, true or false. Any other is
// none.
type urlValue struct {
	text string
	is   bool
}

// UnmarshalJSON implements json.Unmarshaler.
func (u *urlValue) UnmarshalJSON(text []byte) error {
	*u = urlValue{}
	if text[0] == '{' || text[0] == '[' {
		return nil
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case string:
		*u = urlValue{v, true}
	case float64:
		*u = urlValue{strconv.FormatFloat(v, 'f', -1, 64), true}
	case bool:
		*u = urlValue{strconv.FormatBool(v), true}
	}
	return nil
}

// add adds a header that the function may set.
func (a *urlAnswer) add(name string, v urlValue) {
	name = http.CanonicalHeaderKey(name)
	if v.is && isToken(name) && isPlainValue(v.text) && !isHop(name) && !strings.HasPrefix(name, "Hob-") {
		a.header[name] = append(a.header[name], v.text)
	}
}
