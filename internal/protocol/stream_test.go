package protocol_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hob/faas"
)

// TestAnswersOverASocket is the table of Fn's contract: what the function does,
// what is said of it and whether it is kept.
func TestAnswersOverASocket(t *testing.T) {
	header := func(bytes int) reply { // an answer whose head has so many
		const line, name = "HTTP/1.1 200 x\r\n", "X: "
		r := answer("fine")
		r.header = http.Header{"X": {strings.Repeat("x", bytes-len(line+name+"\r\nContent-Length: 4\r\n\r\n"))}}
		return r
	}
	broken := func(r reply) reply { r.exit = &faas.Exit{Code: 1}; return r }
	for _, tt := range []struct {
		name   string
		reply  reply
		max    faas.Bytes // MaxHeader
		end    bool       // its time is over once it has been asked
		cut    bool       // who takes the answer takes no more of it
		kind   faas.Kind
		is     error
		says   string
		status int // given to the caller; 0: of an error
		keep   bool
	}{
		{name: "200", reply: answer("fine"), status: 200, keep: true},
		{name: "502", reply: reply{status: 502, body: `{"message":"Exception in function","detail":"no picture"}`}, kind: faas.FuncFailed, is: faas.ErrFunction, says: "Exception in function: no picture", keep: true},
		{name: "502 without a word", reply: reply{status: 502}, kind: faas.FuncFailed, is: faas.ErrFunction, says: "the function said that it failed", keep: true},
		{name: "504", reply: reply{status: 504}, kind: faas.TimedOut, is: faas.ErrFunction, says: "the function said that it ran out of time", keep: true},
		{name: "500", reply: reply{status: 500}, kind: faas.FuncFailed, is: faas.ErrStatus, says: "status 500: this format allows 200, 502 and 504"},
		{name: "404", reply: reply{status: 404}, kind: faas.FuncFailed, is: faas.ErrStatus, says: "status 404"},
		{name: "204", reply: reply{raw: "HTTP/1.1 204 No Content\r\n\r\n"}, kind: faas.FuncFailed, is: faas.ErrStatus, says: "status 204"},
		{name: "302", reply: reply{status: 302, header: http.Header{"Location": {"/"}}}, kind: faas.FuncFailed, is: faas.ErrStatus, says: "status 302"},
		{name: "ends", reply: broken(reply{}), kind: faas.FuncFailed, is: faas.ErrBroken, says: "exit code 1"},
		{name: "ends well", reply: reply{exit: &faas.Exit{}}, kind: faas.FuncFailed, is: faas.ErrBroken, says: "exit code 0"},
		{name: "crashes", reply: reply{exit: &faas.Exit{Signal: "SIGSEGV"}}, kind: faas.FuncFailed, is: faas.ErrBroken, says: "killed by SIGSEGV"},
		{name: "is over its memory", reply: reply{exit: &faas.Exit{Signal: "SIGKILL", OOM: true}}, kind: faas.FuncFailed, is: faas.ErrBroken, says: "killed: over its 64 MB memory limit"},
		{name: "ends in the middle of its header", reply: broken(reply{raw: "HTTP/1.1 200 OK\r\nX: y"}), kind: faas.FuncFailed, is: faas.ErrBroken, says: "exit code 1"},
		{name: "ends in the middle of its answer", reply: broken(reply{raw: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"}), kind: faas.FuncFailed, is: faas.ErrBroken, says: "exit code 1", status: 200},
		{name: "ends in the middle of its error", reply: broken(reply{raw: "HTTP/1.1 502 x\r\nContent-Length: 10\r\n\r\nhalf"}), kind: faas.FuncFailed, is: faas.ErrBroken, says: "exit code 1"},
		{name: "speaks something else", reply: reply{raw: "hello\n", hang: true}, kind: faas.FuncFailed, is: faas.ErrMalformed, says: `something that is not HTTP: "hello\n"`},
		{name: "says no length", reply: reply{raw: "HTTP/1.1 200 OK\r\n\r\nfine", hang: true}, kind: faas.FuncFailed, is: faas.ErrMalformed, says: "its end cannot be seen"},
		{name: "says two lengths", reply: reply{raw: "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nfine", hang: true}, kind: faas.FuncFailed, is: faas.ErrMalformed, says: "both Content-Length and Transfer-Encoding"},
		{name: "header as large as it may be", reply: header(500), max: 500, status: 200, keep: true},
		{name: "header a byte too large", reply: header(501), max: 500, kind: faas.FuncFailed, is: faas.ErrHeaderTooLarge, says: "a header of more than 500 bytes"},
		{name: "header too large of an error", reply: reply{status: 502, header: http.Header{"X": {strings.Repeat("x", 500)}}}, max: 500, kind: faas.FuncFailed, is: faas.ErrHeaderTooLarge, says: "more than 500 bytes"},
		{name: "header too large in interim answers", reply: reply{raw: strings.Repeat("HTTP/1.1 100 x\r\n\r\n", 30), hang: true}, max: 500, kind: faas.FuncFailed, is: faas.ErrHeaderTooLarge, says: "more than 500 bytes"},
		{name: "header without end", reply: reply{raw: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 300<<10), hang: true}, kind: faas.FuncFailed, is: faas.ErrHeaderTooLarge, says: "a header of more than 256 KB"},
		{name: "header over the format's own limit", reply: reply{raw: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 300<<10), hang: true}, max: faas.MB, kind: faas.FuncFailed, is: faas.ErrHeaderTooLarge, says: "a header of more than 256 KB"},
		{name: "body that its caller does not want", reply: answer(strings.Repeat("x", 1<<20)), cut: true, kind: faas.Canceled, status: 200, keep: true},
		{name: "nothing until its time is over", reply: reply{hang: true}, end: true, kind: faas.TimedOut, is: errEnd},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			c := open(t, faas.FormatHTTPStream, func(a ask) reply {
				a.read()
				if tt.end {
					cancel(errEnd)
				}
				return tt.reply
			})
			req := request("7")
			req.MaxHeader = tt.max
			rec := httptest.NewRecorder()
			var w http.ResponseWriter = rec
			if tt.cut {
				w = deaf{rec}
			}
			out, err := c.Exchange(ctx, req, w)
			if faas.KindOf(err) != tt.kind || tt.is != nil && !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v of kind %q, want %v of kind %q: %s", err, faas.KindOf(err), tt.is, tt.kind, tt.says)
			}
			if out.Keep != tt.keep || out.Again || out.Status != tt.status {
				t.Errorf("keep %t, again %t, status %d; want keep %t, status %d", out.Keep, out.Again, out.Status, tt.keep, tt.status)
			}
		})
	}
}

// TestHeaderOfAnyStreamIsLimited: also over standard output.
func TestHeaderOfAnyStreamIsLimited(t *testing.T) {
	for _, format := range streams {
		c := open(t, format, func(a ask) reply {
			a.read()
			return reply{status: 200, header: http.Header{"X": {strings.Repeat("x", 500)}}}
		})
		req := request("7")
		req.MaxHeader = 500
		if out, err := c.Exchange(t.Context(), req, httptest.NewRecorder()); !errors.Is(err, faas.ErrHeaderTooLarge) || out.Keep {
			t.Errorf("%s: %v, keep %t", format, err, out.Keep)
		}
	}
}

// keeper is a writer that keeps answers and takes no more of this one.
type keeper struct{ deaf }

var errKeeper = faas.Errorf(faas.TooLarge, "the answer is over the limit")

func (keeper) Write([]byte) (int, error) { return 0, errKeeper }

// TestRefusedAnswerIsReadToItsEndOnlyIfThatIsNear: else its function would go on for
// nobody until its time is over.
func TestRefusedAnswerIsReadToItsEndOnlyIfThatIsNear(t *testing.T) {
	for _, format := range streams {
		for size, keep := range map[int]bool{512 << 10: true, 3 << 20: false} {
			c := open(t, format, func(a ask) reply {
				a.read()
				return answer(strings.Repeat("x", size))
			})
			out, err := c.Exchange(t.Context(), request("7"), keeper{deaf{httptest.NewRecorder()}})
			if !errors.Is(err, errKeeper) || out.Keep != keep {
				t.Errorf("%s, %d bytes: %v, keep %t", format, size, err, out.Keep)
			}
		}
	}
}

// TestAnswerWithoutATypeHasOneUnlessItsWriterKnowsBetter: net/http would guess one.
func TestAnswerWithoutATypeHasOneUnlessItsWriterKnowsBetter(t *testing.T) {
	c := open(t, faas.FormatHTTPStream, func(a ask) reply {
		a.read()
		return reply{raw: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"}
	})
	for _, tt := range []struct {
		writer []string
		want   string
	}{{nil, "application/octet-stream"}, {[]string{}, ""}} {
		rec := httptest.NewRecorder()
		if tt.writer != nil {
			rec.Header()["Content-Type"] = tt.writer
		}
		if _, err := c.Exchange(t.Context(), request("7"), rec); err != nil || rec.Header().Get("Content-Type") != tt.want {
			t.Errorf("%v, type %q, want %q", err, rec.Header().Get("Content-Type"), tt.want)
		}
	}
}
