package protocol

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"hob/faas"
)

// TestLambdaStreamThatCameTooLateIsNotRead: its call was cut before the stream could be.
func TestLambdaStreamThatCameTooLateIsNotRead(t *testing.T) {
	c := &lambdaConn{life: &life{ended: make(chan struct{})}, call: new(invocation)}
	c.turn.life, c.turn.cut = c.life, func() {}
	c.turn.begin(t.Context(), &faas.Request{Body: http.NoBody}, httptest.NewRecorder())
	defer c.turn.end()
	late := errors.New("too late")
	c.turn.fail(late)
	body, w := io.Pipe() // in which nothing comes
	defer w.Close()
	stop := context.AfterFunc(t.Context(), func() { w.Close() })
	defer stop()
	r := httptest.NewRequest("POST", "/", body)
	if err := c.deliver(&lambdaAnswer{request: r}); err != late {
		t.Errorf("%v", err)
	}
}
