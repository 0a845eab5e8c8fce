package protocol_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/protocol"
)

// quick answers each request of a format over standard input with the same bytes,
// and costs the tests nothing but system calls.
func quick(answer string) program {
	raw := []byte(answer)
	return func(_ context.Context, p *process) faas.Exit {
		buf := make([]byte, 64<<10)
		for {
			if _, err := p.in.Read(buf); err != nil {
				return faas.Exit{}
			}
			if _, err := p.out.Write(raw); err != nil {
				return faas.Exit{}
			}
		}
	}
}

const hello = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nhello world\n"

// again is a body that can be read again.
type again struct{ bytes.Reader }

// smallCall returns a call of c with a body of 11 bytes, to be made many times.
func smallCall(tb testing.TB, c protocol.Conn) func() {
	said := []byte("hello there")
	body := new(again)
	req := &faas.Request{
		Call: "01J00000000000000000000000", Method: "POST", Target: "/", URL: "http://localhost/", Body: body, Size: int64(len(said)),
		Header: http.Header{"User-Agent": {"test"}, "Accept": {"*/*"}, "Content-Type": {"text/plain"}},
	}
	w := &counter{header: http.Header{}}
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(cancel)
	return func() {
		body.Reset(said)
		clear(w.header)
		w.n = 0
		if out, err := c.Exchange(ctx, req, w); err != nil || !out.Keep || w.n != 12 {
			tb.Fatalf("%d bytes, %+v, %v", w.n, out, err)
		}
	}
}

func BenchmarkSmallExchange(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		call := smallCall(b, openProgram(b, faas.FormatHTTP, quick(hello)))
		b.ReportAllocs()
		for b.Loop() {
			call()
		}
	})
	b.Run("net/http", func(b *testing.B) { // the same with http.Request.Write and http.ReadResponse
		p := start(quick(hello))
		defer p.Close()
		in := bufio.NewReader(p.stdout)
		b.ReportAllocs()
		for b.Loop() {
			req, err := http.NewRequest("POST", "http://localhost/", strings.NewReader("hello there"))
			if err != nil {
				b.Fatal(err)
			}
			out := bufio.NewWriter(p.stdin)
			if err := req.Write(out); err != nil {
				b.Fatal(err)
			}
			out.Flush()
			resp, err := http.ReadResponse(in, req)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}

// BenchmarkHotExchange compares the formats that listen or ask: with a function made
// with net/http, as most are.
func BenchmarkHotExchange(b *testing.B) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "hello world\n")
	})
	for format, run := range map[faas.Format]program{
		faas.FormatHTTPStream: listenIn(faas.FormatHTTPStream, handler),
		faas.FormatPort:       listenIn(faas.FormatPort, handler),
		faas.FormatLambda:     answers(func(c *runtimeClient, e event) { e.read(); c.answer(e.id, "hello world\n") }),
	} {
		b.Run(string(format), func(b *testing.B) {
			call := smallCall(b, openProgram(b, format, run))
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
	}
}

func BenchmarkLargeExchange(b *testing.B) {
	const size = 64 << 20
	for _, format := range []faas.Format{faas.FormatHTTP, faas.FormatHTTPStream, faas.FormatPort} {
		b.Run(string(format), func(b *testing.B) {
			run := pipeEcho
			if format != faas.FormatHTTP {
				run = listenIn(format, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					http.NewResponseController(w).EnableFullDuplex()
					w.Header()["Content-Length"] = r.Header["Content-Length"]
					io.CopyBuffer(w, struct{ io.Reader }{r.Body}, make([]byte, 64<<10))
				}))
			}
			c := openProgram(b, format, run)
			b.SetBytes(2 * size)
			for b.Loop() {
				req := request("")
				req.Body, req.Size = io.LimitReader(zeros{}, size), size
				w := &counter{header: http.Header{}}
				if _, err := c.Exchange(b.Context(), req, w); err != nil || w.n != size {
					b.Fatalf("%d bytes: %v", w.n, err)
				}
			}
		})
	}
}

func pipeEcho(_ context.Context, p *process) faas.Exit {
	in := bufio.NewReaderSize(p.in, 64<<10)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return faas.Exit{}
		}
		resp := &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Body: req.Body, ContentLength: req.ContentLength}
		if resp.Write(p.out) != nil {
			return faas.Exit{}
		}
	}
}
