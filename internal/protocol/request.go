package protocol

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"hob/faas"
)

// Deadlines are written in UTC, as RFC 3339 with milliseconds.
const deadlineLayout = "2006-01-02T15:04:05.000Z"

// appendPlain appends the head of an HTTP/1.1 request for req, all but the line
// of its length and the empty line behind it: what the caller sent, and what the
// function is told of its call.
func appendPlain(b []byte, req *faas.Request) ([]byte, error) {
	b, err := appendLine(b, req.Method, req.Target)
	if err != nil {
		return b, err
	}
	b = appendHeader(b, req.Header)
	b = appendField(b, "Fn-Call-Id", req.Call)
	b = appendField(b, "Fn_call_id", req.Call)
	b = appendField(b, "Hob-Call-Id", req.Call)
	b = appendAttempt(b, req)
	b = appendField(b, "Fn-Method", req.Method)
	b = appendField(b, "Fn_method", req.Method)
	b = appendField(b, "Fn-Request-Url", req.URL)
	b = appendField(b, "Fn_request_url", req.URL)
	b = appendDeadline(b, "Fn-Deadline", req.Deadline)
	b = appendDeadline(b, "Fn_deadline", req.Deadline)
	return appendDeadline(b, "Hob-Deadline", req.Deadline), nil
}

// appendRoute is appendPlain for a function that may be made for IronFunctions: it is
// told the environment of its call in headers, too. What a caller sends under one of
// their names is left out, however its dashes are written.
func appendRoute(b []byte, req *faas.Request) ([]byte, error) {
	const task = "Task-ID"
	last := make(map[string]int, len(req.Env)) // where a name is for the last time: that one counts
	for i, entry := range req.Env {
		if name, value, ok := strings.Cut(entry, "="); ok && isToken(name) && isPlainValue(value) && !isHop(name) && !isOurs(name) {
			last[asVariable(name)] = i
		}
	}
	delete(last, asVariable(task))
	plain := *req
	plain.Header = make(http.Header, len(req.Header))
	for name, values := range req.Header {
		_, taken := last[asVariable(name)]
		if !taken && asVariable(name) != asVariable(task) && !strings.HasPrefix(asVariable(name), "PARAM_") {
			plain.Header[name] = values
		}
	}
	b, err := appendPlain(b, &plain)
	for i, entry := range req.Env {
		name, value, _ := strings.Cut(entry, "=")
		if at, counts := last[asVariable(name)]; counts && at == i {
			b = appendField(b, name, value)
		}
	}
	return appendField(b, task, req.Call), err
}

// asVariable is a name as a variable that a function takes it for.
func asVariable(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

// appendCall is appendPlain as functions with a listener are asked.
func appendCall(b []byte, req *faas.Request) ([]byte, error) {
	b, _ = appendLine(b, http.MethodPost, "/call")
	b = appendHeader(b, req.Header)
	b = appendField(b, "Fn-Call-Id", req.Call)
	b = appendAttempt(b, req)
	return appendDeadline(b, "Fn-Deadline", req.Deadline), nil
}

// headerAttempt tells a function how often its asynchronous call was begun.
const headerAttempt = "Hob-Attempt"

func appendAttempt(b []byte, req *faas.Request) []byte {
	if req.Attempt == 0 {
		return b
	}
	return appendField(b, headerAttempt, strconv.Itoa(req.Attempt))
}

func appendLine(b []byte, method, target string) ([]byte, error) {
	if method == "" {
		method = http.MethodGet
	}
	if target == "" {
		target = "/"
	}
	if !isToken(method) {
		return b, faas.Errorf(faas.Invalid, "bad method %q", method)
	}
	for i := range len(target) {
		if target[i] <= ' ' || target[i] == 0x7f {
			return b, faas.Errorf(faas.Invalid, "bad path %q: it holds a space or a control character", target)
		}
	}
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, target...)
	return append(b, " HTTP/1.1\r\nHost: localhost\r\n"...), nil
}

// appendLength ends a head: size is that of the body, -1 if it comes in chunks.
func appendLength(b []byte, size int64) []byte {
	if size < 0 {
		return append(b, "Transfer-Encoding: chunked\r\n\r\n"...)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, size, 10)
	return append(b, "\r\n\r\n"...)
}

// appendHeader appends what a function may see of the header of its caller.
func appendHeader(b []byte, h http.Header) []byte {
	var named []string // by Connection, to be dropped
	if connection := h["Connection"]; connection != nil {
		named = connectionNames(connection)
	}
	for name, values := range h {
		if isHop(name) || isOurs(name) || !isToken(name) || contains(named, name) {
			continue
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	for _, v := range h["Te"] {
		if strings.EqualFold(v, "trailers") {
			b = appendField(b, "Te", "trailers")
			break
		}
	}
	return b
}

// appendField appends a header line. What could end the line, or is not text, is
// written as a space.
func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	at := len(b)
	b = append(b, value...)
	for i := at; i < len(b); i++ {
		if !isValueByte(b[i]) {
			b[i] = ' '
		}
	}
	return append(b, '\r', '\n')
}

func appendDeadline(b []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	b = append(b, name...)
	b = append(b, ": "...)
	b = t.UTC().AppendFormat(b, deadlineLayout)
	return append(b, '\r', '\n')
}

func isValueByte(c byte) bool { return c >= ' ' && c != 0x7f || c == '\t' }

func isPlainValue(s string) bool {
	for i := range len(s) {
		if !isValueByte(s[i]) {
			return false
		}
	}
	return true
}

func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

// isTokenByte is tchar of RFC 9110, section 5.6.2.
func isTokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c > ' ' && c < 0x7f && strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// isHop reports whether a header is about one connection only, or about the
// framing of one message, which both legs decide for themselves.
func isHop(name string) bool {
	switch len(name) {
	case 2:
		return strings.EqualFold(name, "TE")
	case 4:
		return strings.EqualFold(name, "Host")
	case 6:
		return strings.EqualFold(name, "Expect")
	case 7:
		return strings.EqualFold(name, "Trailer") || strings.EqualFold(name, "Upgrade")
	case 10:
		return strings.EqualFold(name, "Connection") || strings.EqualFold(name, "Keep-Alive")
	case 14:
		return strings.EqualFold(name, "Content-Length")
	case 16:
		return strings.EqualFold(name, "Proxy-Connection")
	case 17:
		return strings.EqualFold(name, "Transfer-Encoding")
	case 18:
		return strings.EqualFold(name, "Proxy-Authenticate")
	case 19:
		return strings.EqualFold(name, "Proxy-Authorization")
	}
	return false
}

// isOurs reports whether a header tells a function of its call, however its
// dashes are written: many programs take both for one.
func isOurs(name string) bool {
	switch len(name) {
	case 9, 10, 11, 12, 14:
	default:
		return false
	}
	if c := name[0] | 0x20; c != 'f' && c != 'h' {
		return false
	}
	var plain [14]byte
	for i := range len(name) {
		switch c := name[i]; {
		case c == '_':
			plain[i] = '-'
		case c >= 'A' && c <= 'Z':
			plain[i] = c | 0x20
		default:
			plain[i] = c
		}
	}
	switch string(plain[:len(name)]) {
	case "fn-call-id", "fn-deadline", "fn-method", "fn-request-url", "hob-call-id", "hob-deadline", "hob-attempt":
		return true
	}
	return false
}

// connectionNames are the headers that values of Connection name, apart from its
// own words.
func connectionNames(values []string) (names []string) {
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			name = strings.Trim(name, " \t")
			if name != "" && !strings.EqualFold(name, "close") && !strings.EqualFold(name, "keep-alive") {
				names = append(names, name)
			}
		}
	}
	return names
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}
