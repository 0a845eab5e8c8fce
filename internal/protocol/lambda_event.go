package protocol

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"hob/faas"
)

// invocation makes the event of a request, and what goes with it.
func (c *lambdaConn) invocation(req *faas.Request, body []byte) (*invocation, error) {
	inv := &invocation{
		id: req.Call, event: body, triggered: req.Route != "",
		answers: make(chan *lambdaAnswer, 1), lost: make(chan struct{}, 1), over: make(chan struct{}),
	}
	trace := traceID(req.Header)
	switch {
	case inv.triggered:
		inv.event = urlEventOf(req, body, trace)
		if len(inv.event) > maxEvent {
			return nil, faas.Errorf(faas.TooLarge, "the event made of this request has %d bytes, and the limit of AWS Lambda is %d", len(inv.event), maxEvent)
		}
	case len(body) == 0:
		inv.event = []byte("{}")
	}
	deadline := req.Deadline
	if deadline.IsZero() {
		deadline = time.Now().Add(faas.MaxDelay) // there always is one
	}
	inv.head = http.Header{
		"Lambda-Runtime-Aws-Request-Id":       {req.Call},
		"Lambda-Runtime-Deadline-Ms":          {strconv.FormatInt(deadline.UnixMilli(), 10)},
		"Lambda-Runtime-Invoked-Function-Arn": {c.arn},
		"Lambda-Runtime-Trace-Id":             {trace},
	}
	return inv, nil
}

// traceID is the trace of a call as X-Ray has it: the caller's, if it says one in
// any of the usual ways, else a new one, which is not sampled.
func traceID(h http.Header) string {
	if id := h.Get("X-Amzn-Trace-Id"); id != "" && isPlainValue(id) {
		return id
	}
	trace, span, sampled := h.Get("X-B3-Traceid"), h.Get("X-B3-Spanid"), h.Get("X-B3-Sampled")
	if h.Get("X-B3-Flags") == "1" {
		sampled = "1"
	}
	if b3 := strings.Split(h.Get("B3"), "-"); len(b3) >= 2 {
		trace, span, sampled = b3[0], b3[1], ""
		if len(b3) > 2 {
			sampled = b3[2]
		}
	} else if w3c := strings.Split(h.Get("Traceparent"), "-"); trace == "" && len(w3c) >= 4 {
		trace, span = w3c[1], w3c[2]
		if flags, err := strconv.ParseUint(w3c[3], 16, 8); err == nil && flags&1 != 0 {
			sampled = "1"
		}
	}
	flag := "0"
	if sampled == "1" || sampled == "d" || sampled == "true" {
		flag = "1"
	}
	if len(trace) == 16 {
		trace = strings.Repeat("0", 16) + trace
	}
	if !isHex(trace, 32) || !isHex(span, 16) {
		trace = fmt.Sprintf("%08x%08x%016x", uint32(time.Now().Unix()), rand.Uint32(), rand.Uint64())
		span = fmt.Sprintf("%016x", rand.Uint64())
	}
	return "Root=1-" + trace[:8] + "-" + trace[8:] + ";Parent=" + span + ";Sampled=" + flag
}

func isHex(s string, n int) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == n
}

// urlEvent is an HTTP request as function URLs and HTTP APIs of AWS give it to a
// function: payload format 2.0.
type urlEvent struct {
	Version               string            `json:"version"`
	RouteKey              string            `json:"routeKey"`
	RawPath               string            `json:"rawPath"`
	RawQueryString        string            `json:"rawQueryString"`
	Cookies               []string          `json:"cookies,omitempty"`
	Headers               map[string]string `json:"headers"`
	QueryStringParameters map[string]string `json:"queryStringParameters,omitempty"`
	PathParameters        map[string]string `json:"pathParameters,omitempty"`
	RequestContext        urlContext        `json:"requestContext"`
	Body                  string            `json:"body,omitempty"`
	IsBase64Encoded       bool              `json:"isBase64Encoded"`
}

type urlContext struct {
	AccountID    string  `json:"accountId"`
	APIID        string  `json:"apiId"`
	DomainName   string  `json:"domainName"`
	DomainPrefix string  `json:"domainPrefix"`
	HTTP         urlHTTP `json:"http"`
	RequestID    string  `json:"requestId"`
	RouteKey     string  `json:"routeKey"`
	Stage        string  `json:"stage"`
	Time         string  `json:"time"`
	TimeEpoch    int64   `json:"timeEpoch"` // milliseconds
}

type urlHTTP struct {
	Method    string `json:"method"`
	Path      string `json:"path"`
	Protocol  string `json:"protocol"`
	SourceIP  string `json:"sourceIp"`
	UserAgent string `json:"userAgent"`
}

// urlEventOf makes the event of a request that came through a trigger.
func urlEventOf(req *faas.Request, body []byte, trace string) []byte {
	const byDefault = "$default"
	asked, err := url.Parse(req.URL)
	if err != nil {
		asked = new(url.URL)
	}
	path, query, _ := strings.Cut(req.Target, "?")
	if path == "" {
		path = "/"
	}
	name := asked.Hostname()
	prefix, _, _ := strings.Cut(name, ".")
	if net.ParseIP(name) != nil {
		prefix = name
	}
	now := time.Now().UTC()
	e := urlEvent{
		Version: "2.0", RouteKey: byDefault, RawPath: path, RawQueryString: query,
		Headers: urlHeaders(req, asked, len(body), trace), QueryStringParameters: urlQuery(query), PathParameters: req.Params,
		RequestContext: urlContext{
			AccountID: "anonymous", APIID: prefix, DomainName: name, DomainPrefix: prefix, RequestID: req.Call, RouteKey: byDefault, Stage: byDefault,
			HTTP: urlHTTP{Method: req.Method, Path: path, Protocol: "HTTP/1.1", SourceIP: req.Caller, UserAgent: req.Header.Get("User-Agent")},
			Time: now.Format("02/Jan/2006:15:04:05 -0700"), TimeEpoch: now.UnixMilli(),
		},
		Body: string(body),
	}
	for _, line := range req.Header["Cookie"] {
		for cookie := range strings.SplitSeq(line, ";") {
			if cookie = strings.TrimSpace(cookie); cookie != "" {
				e.Cookies = append(e.Cookies, cookie)
			}
		}
	}
	if len(body) > 0 && !isText(req.Header, body) {
		e.IsBase64Encoded, e.Body = true, base64.StdEncoding.EncodeToString(body)
	}
	event, _ := encoded(e) // of strings and numbers
	return bytes.TrimSuffix(event, []byte("\n"))
}

// urlHeaders are the headers of the event: in lower case, several of a name as one.
// Cookies have a place of their own.
func urlHeaders(req *faas.Request, asked *url.URL, size int, trace string) map[string]string {
	headers := make(map[string]string, len(req.Header)+6)
	named := connectionNames(req.Header["Connection"])
	for name, values := range req.Header {
		if name == "Cookie" || isHop(name) || isOurs(name) || contains(named, name) {
			continue
		}
		headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	scheme, port := "http", "80"
	if asked.Scheme == "https" {
		scheme, port = "https", "443"
	}
	if p := asked.Port(); p != "" {
		port = p
	}
	if size > 0 {
		headers["content-length"] = strconv.Itoa(size)
	}
	headers["host"] = asked.Host
	headers["x-amzn-trace-id"] = trace
	headers["x-forwarded-proto"], headers["x-forwarded-port"] = scheme, port
	if req.Caller != "" {
		forwarded := req.Caller
		if before := headers["x-forwarded-for"]; before != "" {
			forwarded = before + ", " + forwarded
		}
		headers["x-forwarded-for"] = forwarded
	}
	return headers
}

func urlQuery(raw string) map[string]string {
	values, _ := url.ParseQuery(raw) // of a wrong one, what can be read
	if len(values) == 0 {
		return nil
	}
	query := make(map[string]string, len(values))
	for name, v := range values {
		query[name] = strings.Join(v, ",")
	}
	return query
}

// isText reports whether the body goes into the event as it is. As with AWS, the
// type of the request decides, and what has none is binary.
func isText(h http.Header, body []byte) bool {
	if e := h.Get("Content-Encoding"); e != "" && e != "identity" || !utf8.Valid(body) {
		return false
	}
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return false
	}
	switch media {
	case "application/json", "application/javascript", "application/xml":
		return true
	}
	return strings.HasPrefix(media, "text/") || strings.HasSuffix(media, "+json") || strings.HasSuffix(media, "+xml")
}

// decodeBase64 is the text behind s, or s where it is something else.
func decodeBase64(s string) []byte {
	if b, err := base64.StdEncoding.DecodeString(s); err == nil {
		return b
	}
	return []byte(s)
}
