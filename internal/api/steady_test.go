package api

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// conn is a writer that notes what deadline is set.
type conn struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (c *conn) SetReadDeadline(t time.Time) error { c.deadline = t; return nil }

func TestSenderOfASteadyBodyMayNotRestForLong(t *testing.T) {
	c := &conn{ResponseRecorder: httptest.NewRecorder()}
	body := Steady(c, io.NopCloser(io.MultiReader(strings.NewReader("a"), strings.NewReader("b"))))
	if _, err := body.Read(make([]byte, 1)); err != nil || time.Until(c.deadline) < restTime-time.Second || time.Until(c.deadline) > restTime {
		t.Errorf("%v, a deadline in %v", err, time.Until(c.deadline))
	}
	if rest, err := io.ReadAll(body); string(rest) != "b" || err != nil || !c.deadline.IsZero() {
		t.Errorf("read %q, %v, and the deadline is %v", rest, err, c.deadline)
	}
}

func TestSteadyBodyNeedsNoConnection(t *testing.T) {
	var w http.ResponseWriter = httptest.NewRecorder()
	r, p := net.Pipe()
	go func() { io.WriteString(p, "x"); p.Close() }()
	if got, err := io.ReadAll(Steady(w, r)); string(got) != "x" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}
