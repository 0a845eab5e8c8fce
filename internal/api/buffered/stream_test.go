package buffered_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/api/buffered"
	"hob/internal/store/memory"
)

// caller is what a function does.
type caller func(w http.ResponseWriter) error

func (c caller) Call(_ context.Context, _ faas.Function, call *faas.Call, _ *faas.Request, w http.ResponseWriter) error {
	call.Started = time.Now()
	return c(w)
}

func (caller) Enqueue(context.Context, faas.Function, *faas.Call, *faas.Request, time.Duration) (faas.Call, error) {
	panic("nothing is queued")
}

// serve is an edge in front of a function of this format, whose answers have at most
// limit bytes. What it holds when the call has failed is answered with 502.
func serve(t *testing.T, format faas.Format, limit faas.Bytes, c caller) string {
	t.Helper()
	definitions := memory.New()
	t.Cleanup(func() { definitions.Close() })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := buffered.BodyOf(w, r, 0)
		req, err := buffered.Request(r, body, 0)
		if err != nil {
			t.Error(err)
		}
		a := buffered.Hold(w, r, definitions, limit, nil)
		defer a.Release()
		head := func() (int, error) {
			buffered.SetHeader(w.Header(), map[string][]string{"X-Route": {"1"}})
			return a.Head(w.Header(), nil, false)
		}
		a.Stream(format, head)
		err = a.Exchange(c, faas.Function{Format: format}, &faas.Call{ID: faas.NewID()}, req, body)
		if a.Streamed(err) {
			return
		}
		status := http.StatusBadGateway
		if err == nil {
			status, _ = head()
		} else if a.Over {
			w.Header().Set("X-Over", "1")
		}
		if err != nil {
			w.WriteHeader(status)
			return
		}
		a.Send(status)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func get(t *testing.T, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

var errLate = errors.New("the function is gone")

func TestAnswerStreamsFromItsFirstFlushOn(t *testing.T) {
	for _, format := range []faas.Format{faas.FormatLambda, faas.FormatPort} {
		for _, ends := range []error{nil, errLate} {
			read := make(chan struct{})
			url := serve(t, format, 0, func(w http.ResponseWriter) error {
				w.Header().Set("Content-Type", "text/x-a")
				w.WriteHeader(http.StatusTeapot)
				io.WriteString(w, "one")
				if err := http.NewResponseController(w).Flush(); err != nil {
					return err
				}
				<-read
				w.Header().Set("X-Late", "1")
				if _, err := io.WriteString(w, "two"); err != nil {
					return err
				}
				return ends
			})
			resp := get(t, url)
			first := make([]byte, 3)
			if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "one" {
				t.Fatalf("%s: %q, %v", format, first, err)
			}
			if h := resp.Header; resp.StatusCode != http.StatusTeapot || h.Get("Content-Type") != "text/x-a" || h.Get("X-Route") != "1" {
				t.Errorf("%s: %d %v", format, resp.StatusCode, h)
			}
			close(read)
			rest, err := io.ReadAll(resp.Body)
			if (err != nil) != (ends != nil) || ends == nil && string(rest) != "two" || len(resp.Trailer) > 0 {
				t.Errorf("%s, ends with %v: %q, %v", format, ends, rest, err)
			}
		}
	}
}

func TestAnswerOfAnotherFormatIsHeldThoughItIsFlushed(t *testing.T) {
	for _, format := range faas.Formats() {
		streams := format == faas.FormatLambda || format == faas.FormatPort
		url := serve(t, format, 0, func(w http.ResponseWriter) error {
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			return errLate
		})
		resp := get(t, url)
		_, err := io.ReadAll(resp.Body)
		if (err != nil) != streams || (resp.StatusCode == 200) != streams {
			t.Errorf("%s: %d, %v", format, resp.StatusCode, err)
		}
	}
}

func TestStreamedAnswerHasALimit(t *testing.T) {
	for _, tt := range []struct {
		name   string
		length string // that the function says
		size   int
		status int
		whole  bool
	}{
		{"fits", "", 100, 200, true},
		{"fits, and says so", "100", 100, 200, true},
		{"is too long", "", 101, 200, false},
		{"says that it is", "101", 101, 502, true},
	} {
		url := serve(t, faas.FormatPort, 100, func(w http.ResponseWriter) error {
			if tt.length != "" {
				w.Header().Set("Content-Length", tt.length)
			}
			for i := range tt.size {
				if _, err := io.WriteString(w, "x"); err != nil {
					return err
				}
				if i == 49 {
					if err := http.NewResponseController(w).Flush(); err != nil {
						return err
					}
				}
			}
			return nil
		})
		resp := get(t, url)
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != tt.status || (err == nil) != tt.whole || tt.whole && tt.status == 200 && len(body) != tt.size || (resp.Header.Get("X-Over") == "1") != (tt.status == 502) {
			t.Errorf("%s: %d, %d bytes, %v", tt.name, resp.StatusCode, len(body), err)
		}
		if tt.status == 200 && resp.Header.Get("Content-Length") != tt.length {
			t.Errorf("%s: length %q", tt.name, resp.Header.Get("Content-Length"))
		}
	}
}

func TestStreamsThatHaveNoBody(t *testing.T) {
	for _, status := range []int{http.StatusNoContent, http.StatusNotModified} {
		url := serve(t, faas.FormatPort, 0, func(w http.ResponseWriter) error {
			w.WriteHeader(status)
			io.WriteString(w, "no place")
			if err := http.NewResponseController(w).Flush(); err != nil {
				return err
			}
			_, err := io.WriteString(w, " for this")
			return err
		})
		resp := get(t, url)
		if body, err := io.ReadAll(resp.Body); resp.StatusCode != status || len(body) > 0 || err != nil {
			t.Errorf("%d: %d %q, %v", status, resp.StatusCode, body, err)
		}
	}
}

// TestLargeAnswerIsFlushedFromItsFile: what is held may be more than memory has.
func TestLargeAnswerIsFlushedFromItsFile(t *testing.T) {
	text := strings.Repeat("x", 100<<10)
	url := serve(t, faas.FormatLambda, 0, func(w http.ResponseWriter) error {
		io.WriteString(w, text)
		return http.NewResponseController(w).Flush()
	})
	if body, err := io.ReadAll(get(t, url).Body); string(body) != text || err != nil {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

// TestBreakingOffAStreamEndsAWriteThatWaits for a client that does not read; an answer
// that is held can be told why.
func TestBreakingOffAStreamEndsAWriteThatWaits(t *testing.T) {
	for _, begun := range []bool{true, false} {
		url := serve(t, faas.FormatLambda, 0, func(w http.ResponseWriter) error {
			control := http.NewResponseController(w)
			if begun {
				if err := control.Flush(); err != nil {
					return err
				}
			}
			if err := control.SetWriteDeadline(time.Now()); err != nil {
				return err
			}
			if !begun && control.Flush() == nil {
				t.Error("what was broken off begins")
			}
			piece := make([]byte, 1<<20)
			for range 1000 { // no network holds as much
				if _, err := w.Write(piece); err != nil {
					return err
				}
			}
			return errors.New("all of it was taken")
		})
		req, _ := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			if !begun {
				t.Error(err)
			}
			continue
		}
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if begun == (err == nil) || !begun && resp.StatusCode != 502 {
			t.Errorf("begun %t: %d, %v", begun, resp.StatusCode, err)
		}
	}
}
