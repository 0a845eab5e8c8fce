package protocol

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"hob/faas"
)

// readOurs reads a response as an exchange does.
func readOurs(raw io.Reader, bodiless bool) (h head, header http.Header, body []byte, err error) {
	b := reader{src: raw, most: maxHead, buf: make([]byte, 512)}
	if err := b.readHead(bodiless); err != nil {
		return b.head, nil, nil, err
	}
	header = http.Header{}
	b.head.copyTo(header)
	h = b.head
	for {
		p, err := b.next()
		if err != nil {
			if !b.done {
				return h, nil, nil, err
			}
			return h, header, body, nil
		}
		body = append(body, p...)
	}
}

// readTheirs reads the same with net/http.
func readTheirs(raw []byte, bodiless bool) (*http.Response, []byte, error) {
	r := bufio.NewReader(bytes.NewReader(bytes.TrimLeft(raw, " \t\r\n")))
	req := &http.Request{Method: http.MethodGet}
	if bodiless {
		req.Method = http.MethodHead
	}
	for {
		resp, err := http.ReadResponse(r, req)
		if err != nil {
			return nil, nil, err
		}
		if resp.StatusCode < 200 {
			for b, err := r.Peek(1); err == nil && isSpace(b[0]); b, err = r.Peek(1) {
				r.Discard(1)
			}
			continue
		}
		body, err := io.ReadAll(resp.Body)
		return resp, body, err
	}
}

var responses = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\nhello and more",
	"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
	"\r\n HTTP/1.1 201 Created\r\nx-a: 1\r\nX-A:  2 \r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
	"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n",
	"HTTP/1.1 304\r\n\r\n",
	"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end",
	"HTTP/1.1 200 OK\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\n\r\nto the end",
	"HTTP/1.1 200 OK\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
	"HTTP/1.1 101 Switching Protocols\r\n\r\n",
	"HTTP/2 200\r\n\r\n",
	"hello",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
	"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\n folded\r\nContent-Length: 0\r\n\r\n",
}

// FuzzResponse: what we accept net/http accepts, and reads the same.
func FuzzResponse(f *testing.F) {
	for _, r := range responses {
		f.Add([]byte(r), false)
	}
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), true)
	f.Fuzz(func(t *testing.T, raw []byte, bodiless bool) {
		ours, header, body, err := readOurs(bytes.NewReader(raw), bodiless)
		slow, header2, body2, err2 := readOurs(iotest.OneByteReader(bytes.NewReader(raw)), bodiless)
		if (err == nil) != (err2 == nil) || err == nil && (ours.status != slow.status || !bytes.Equal(body, body2) || len(header) != len(header2)) {
			t.Fatalf("whole: %v %q, byte by byte: %v %q", err, body, err2, body2)
		}
		if err != nil {
			return
		}
		resp, theirs, err := readTheirs(raw, bodiless)
		if err != nil {
			t.Fatalf("accepted as status %d with body %q; net/http says %v", ours.status, body, err)
		}
		if resp.StatusCode != ours.status || !bytes.Equal(theirs, body) {
			t.Fatalf("status %d, body %q; net/http has %d, %q", ours.status, body, resp.StatusCode, theirs)
		}
		for name, values := range resp.Header {
			if isHop(name) && name != "Content-Length" || contains(ours.named, name) || strings.HasPrefix(name, "Hob-") || name == "Content-Length" && ours.status == 204 || name == "Cache-Control" {
				continue
			}
			if !slices.Equal(header[name], values) {
				t.Fatalf("header %s is %q; net/http has %q", name, header[name], values)
			}
			delete(header, name)
		}
		delete(header, "Cache-Control")
		if len(header) > 0 {
			t.Fatalf("header %v is not in net/http's %v", header, resp.Header)
		}
	})
}

// FuzzRequest: what we write net/http reads back, whatever the caller put in it.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/a?b=c", "X-A", "1", []byte("body"), true)
	f.Add("POST", "", "X-A", "1\r\nEvil: 2", []byte(""), false)
	f.Add("G T", "/a b", "Content-Length", "7", []byte("body"), false)
	f.Add("PUT", "/", "Transfer-Encoding", "chunked", []byte("body"), true)
	f.Add("HEAD", "/x", "Connection", "X-B, close", []byte(""), false)
	f.Add("GET", "/x", "Fn_Call-ID", "mine", []byte(""), false)
	f.Fuzz(func(t *testing.T, method, target, name, value string, body []byte, chunked bool) {
		req := &faas.Request{
			Call: "c1", Method: method, Target: target, URL: "http://h" + target, Header: http.Header{name: {value}},
			Body: bytes.NewReader(body), Size: int64(len(body)), Deadline: time.Unix(1, 0),
			Env: []string{name + "=" + value},
		}
		if chunked {
			req.Size = -1
		}
		for _, write := range []func([]byte, *faas.Request) ([]byte, error){appendPlain, appendRoute, appendCall} {
			if _, err := req.Body.(io.Seeker).Seek(0, 0); err != nil {
				t.Fatal(err)
			}
			b, err := write(nil, req)
			if err != nil {
				if faas.KindOf(err) != faas.Invalid {
					t.Fatalf("error %v of kind %q", err, faas.KindOf(err))
				}
				continue
			}
			var wire bytes.Buffer
			x := &turn{life: &life{ended: make(chan struct{})}, to: &wire, req: req, w: nil, out: new([]byte), uploaded: make(chan struct{}), cut: func() {}}
			x.upload(appendLength(b, req.Size), req.Size)
			raw := wire.Bytes()
			r := bufio.NewReader(bytes.NewReader(raw))
			got, err := http.ReadRequest(r)
			if err != nil {
				if _, bad := url.ParseRequestURI(target); bad != nil || method == http.MethodConnect {
					continue // for the function to refuse
				}
				t.Fatalf("net/http does not read %q: %v", raw, err)
			}
			back, err := io.ReadAll(got.Body)
			if err != nil || !bytes.Equal(back, body) || r.Buffered() > 0 {
				t.Fatalf("body %q came back as %q with %d bytes behind it, %v, from %q", body, back, r.Buffered(), err, raw)
			}
			if got.Host != "localhost" || len(got.TransferEncoding) > 0 != chunked {
				t.Fatalf("host %q, encoding %v from %q", got.Host, got.TransferEncoding, raw)
			}
			if id := cmp.Or(got.Header.Get("Fn-Call-Id"), got.Header.Get("Task-ID")); id != "c1" && isToken(name) && !strings.EqualFold(name, "fn-call-id") {
				t.Fatalf("the id of the call is %q in %q", id, raw)
			}
			for k, v := range got.Header {
				if k == http.CanonicalHeaderKey(name) && len(v) == 1 && !isHop(k) && !isOurs(k) && !contains(v, "trailers") {
					want := strings.Trim(string(appendField(nil, "", value)[2:len(value)+2]), " \t")
					if v[0] != want && k != "Task-Id" {
						t.Fatalf("header %s of %q came back as %q", k, value, v)
					}
				}
			}
		}
	})
}

func TestHeadIsWrittenAsTheFunctionKnowsIt(t *testing.T) {
	req := &faas.Request{
		Call: "c1", Method: "PUT", Target: "/x?y=1", URL: "http://hob/x?y=1", Size: 3, Deadline: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC),
		Header: http.Header{"Connection": {"X-Hop"}, "X-Hop": {"1"}, "Keep-Alive": {"1"}, "X-Hop2": {"a\r\nb"}, "Fn_deadline": {"never"}, "Te": {"trailers"}},
		Env:    []string{"METHOD=PUT", "HEADER_X=a b", "BAD NAME=1", "BAD=a\nb", "Content-Length=9"},
	}
	const (
		plain = "PUT /x?y=1 HTTP/1.1\r\nHost: localhost\r\nX-Hop2: a  b\r\nTe: trailers\r\n" +
			"Fn-Call-Id: c1\r\nFn_call_id: c1\r\nHob-Call-Id: c1\r\nFn-Method: PUT\r\nFn_method: PUT\r\n" +
			"Fn-Request-Url: http://hob/x?y=1\r\nFn_request_url: http://hob/x?y=1\r\n" +
			"Fn-Deadline: 2026-01-02T03:04:05.006Z\r\nFn_deadline: 2026-01-02T03:04:05.006Z\r\nHob-Deadline: 2026-01-02T03:04:05.006Z\r\n"
		iron = "METHOD: PUT\r\nHEADER_X: a b\r\nTask-ID: c1\r\n"
		call = "POST /call HTTP/1.1\r\nHost: localhost\r\nX-Hop2: a  b\r\nTe: trailers\r\nFn-Call-Id: c1\r\nFn-Deadline: 2026-01-02T03:04:05.006Z\r\n"
	)
	for _, tt := range []struct {
		write func([]byte, *faas.Request) ([]byte, error)
		want  string
	}{{appendPlain, plain}, {appendRoute, plain + iron}, {appendCall, call}} {
		if got, err := tt.write(nil, req); err != nil || string(got) != tt.want {
			t.Errorf("head %q, %v, want %q", got, err, tt.want)
		}
	}
}

// FuzzJSONAnswer: where an object ends encoding/json agrees, and its reading never
// makes an answer that HTTP does not have.
func FuzzJSONAnswer(f *testing.F) {
	f.Add([]byte(`{"body":"a}\"{","content_type":"text/x","protocol":{"status_code":201,"headers":{"X-One":"1","X-Two":["1","2"]}}} x`))
	f.Add([]byte(` {"protocol":{"headers":{"Content-Length":"7","A b":"c","X":["a\r\nB: c"]}}}`))
	f.Add([]byte(`{"body":[1]}`))
	f.Add([]byte(`{"a":"\u007d\\"}{`))
	f.Add([]byte(`{]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		object := checkObject(t, raw)
		if object == nil {
			return
		}
		checkAnswer(t, object, true, decodeJSON)
	})
}

// FuzzCloudEvent: as FuzzJSONAnswer, and what is sent is JSON whatever the caller
// sent.
func FuzzCloudEvent(f *testing.F) {
	f.Add([]byte(`{"contentType":"text/plain","data":"hi","extensions":{"protocol":{"status_code":404,"headers":{"X":"1"}}}}`), true)
	f.Add([]byte(`{"contentType":"application/json","data":{"a":[1]}}`), false)
	f.Add([]byte(`{"extensions":7}`), false)
	f.Add([]byte(`null`), false)
	f.Fuzz(func(t *testing.T, raw []byte, plain bool) {
		req := &faas.Request{Call: "c1", Method: "POST", URL: "http://h/", Header: http.Header{"Content-Type": {"application/json"}}, Deadline: time.Unix(1, 0)}
		if !plain {
			req.Header.Set("Content-Type", typeCloudEvent)
		}
		sent, wrapped, err := encodeEvent(req, raw)
		if err == nil && (!json.Valid(sent) || wrapped != plain || bytes.Count(sent, []byte{'\n'}) < 1) {
			t.Fatalf("%q is sent as %q", raw, sent)
		}
		if err != nil && faas.KindOf(err) != faas.Invalid {
			t.Fatalf("%q: %v of kind %q", raw, err, faas.KindOf(err))
		}
		if object := checkObject(t, raw); object != nil {
			checkAnswer(t, object, plain, decodeEvent)
		}
	})
}

// checkObject returns the object at the start of raw, or nil.
func checkObject(t *testing.T, raw []byte) []byte {
	b := reader{src: iotest.HalfReader(bytes.NewReader(raw)), most: maxHead, buf: make([]byte, 16)}
	object, err := b.readObject()
	var theirs json.RawMessage
	d := json.NewDecoder(bytes.NewReader(raw))
	theirErr := d.Decode(&theirs)
	if err != nil {
		if theirErr == nil && len(theirs) > 0 && theirs[0] == '{' {
			t.Fatalf("%q: %v, but encoding/json reads %q", raw, err, theirs)
		}
		return nil
	}
	if theirErr == nil && !bytes.Equal(object, theirs) {
		t.Fatalf("%q: the object is %q, for encoding/json %q", raw, object, theirs)
	}
	return object
}

func checkAnswer(t *testing.T, object []byte, plain bool, decode func([]byte, bool) (objectAnswer, error)) {
	a, err := decode(object, plain)
	if err != nil {
		if _, bad := err.(malformed); !bad && faas.KindOf(err) != faas.FuncFailed {
			t.Fatalf("%q: %v of kind %q", object, err, faas.KindOf(err))
		}
		return
	}
	if a.status < 200 || a.status > 599 {
		t.Fatalf("%q has status %d", object, a.status)
	}
	for name, values := range a.header {
		if !isToken(name) || isHop(name) {
			t.Fatalf("%q has header %q", object, name)
		}
		for _, v := range values {
			if !isPlainValue(v) {
				t.Fatalf("%q has header %s: %q", object, name, v)
			}
		}
	}
}

func TestCallerCannotSpeakForTheEnvironmentOfARoute(t *testing.T) {
	req := &faas.Request{
		Call: "c1", Method: "GET", URL: "u", Convention: faas.ConventionFn,
		Header: http.Header{
			"Method": {"forged"}, "Request-Url": {"forged"}, "Request_url": {"forged"}, "Route": {"forged"}, "Task-Id": {"forged"}, "Task_id": {"forged"}, "Param-Id": {"forged"},
			"Header-X": {"forged"}, "My-Key": {"forged"}, "Fn_method": {"forged"}, "X": {"1", "2"},
		},
		Env: []string{"MY_KEY=app", "my-key=function", "METHOD=GET", "REQUEST_URL=u", "ROUTE=/r", "HEADER_X=1 2", "TASK_ID=config", "FN_METHOD=config", "NO=\n"},
	}
	got, err := appendRoute(nil, req)
	want := []string{
		"", "Fn-Call-Id: c1", "Fn-Method: GET", "Fn-Request-Url: u", "Fn_call_id: c1", "Fn_method: GET", "Fn_request_url: u", "GET / HTTP/1.1", "HEADER_X: 1 2", "Hob-Call-Id: c1", "Host: localhost",
		"METHOD: GET", "REQUEST_URL: u", "ROUTE: /r", "Task-ID: c1", "X: 1", "X: 2", "my-key: function",
	}
	lines := strings.Split(string(got), "\r\n")
	if slices.Sort(lines); err != nil || !slices.Equal(lines, want) {
		t.Errorf("%v\n%q\nwant\n%q", err, lines, want)
	}
}
