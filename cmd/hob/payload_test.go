package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// sized reports whether the server is told the length of a body: what is not
// sized is kept from being closed.
func sized(body io.Reader) bool {
	_, streamed := body.(io.Closer)
	return !streamed
}

func TestLengthOfAPayloadThatEndsSoonIsTold(t *testing.T) {
	large := strings.Repeat("x", aheadBytes+1)
	for _, c := range []struct {
		name  string
		stdin func(w *io.PipeWriter) // what writes to it
		want  string
		sized bool
	}{
		{"nothing", func(w *io.PipeWriter) { w.Close() }, "", true},
		{"short", func(w *io.PipeWriter) { io.WriteString(w, "on"); io.WriteString(w, "e"); w.Close() }, "one", true},
		{"just in time", func(w *io.PipeWriter) {
			io.WriteString(w, "on")
			time.Sleep(aheadTime - 1)
			io.WriteString(w, "e")
			w.Close()
		}, "one", true},
		{"slow", func(w *io.PipeWriter) {
			io.WriteString(w, "on")
			time.Sleep(aheadTime + 1)
			io.WriteString(w, "e")
			w.Close()
		}, "one", false},
		{"large", func(w *io.PipeWriter) { io.WriteString(w, large); w.Close() }, large, false},
		{"huge", func(w *io.PipeWriter) {
			for range 5 {
				io.WriteString(w, large)
			}
			w.Close()
		}, strings.Repeat(large, 5), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, w := io.Pipe()
				go c.stdin(w)
				body := payload(r)
				if sized(body) != c.sized {
					t.Errorf("its length is told: %t, want %t", sized(body), c.sized)
				}
				if got, err := io.ReadAll(iotest.HalfReader(body)); string(got) != c.want || err != nil {
					t.Errorf("%d bytes, %v; want %d", len(got), err, len(c.want))
				}
			})
		})
	}
}

func TestPayloadThatBreaksOffIsNoWholeOne(t *testing.T) {
	broken := errors.New("input/output error")
	body := payload(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)))
	got, err := io.ReadAll(body)
	if sized(body) || string(got) != "half" || !errors.Is(err, broken) {
		t.Errorf("got %q, %v, length told: %t", got, err, sized(body))
	}
}

func TestFirstBytesOfAPayloadDoNotWaitForTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		go io.WriteString(w, "first")
		body := payload(r)
		first := make([]byte, 5)
		if _, err := io.ReadFull(body, first); err != nil || !bytes.Equal(first, []byte("first")) {
			t.Errorf("got %q, %v", first, err)
		}
	})
}
