package protocol

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/netutil"

	"hob/faas"
)

// The Runtime API of AWS Lambda, version 2018-06-01. What it answers, and the types
// of its errors, are Amazon's: docs/lambda.md has the table.

const (
	// maxRuntimeConns is how many connections a process has to the Runtime API at
	// once; further ones wait. Each costs us goroutines and memory, a runtime has one
	// or two.
	maxRuntimeConns = 16

	// maxRuntimeHeader is the largest header of a request to it. Amazon's runtimes
	// put up to 1 MB into one of an error.
	maxRuntimeHeader = 1<<20 + 64<<10

	// maxInitError is the most that is read of an error of a start.
	maxInitError = 1 << 20

	// maxRefused is how much of an answer over the limit is read on, so that its
	// sender reads why it was refused.
	maxRefused = 64 << 20
)

// Headers of it.
const (
	headerRuntimeMode = "Lambda-Runtime-Function-Response-Mode"
	headerErrorType   = "Lambda-Runtime-Function-Error-Type"
	headerErrorBody   = "Lambda-Runtime-Function-Error-Body" // a trailer, in base64
)

// typeIntegration is the type of a streamed answer that begins with its status and
// header.
const typeIntegration = "application/vnd.awslambda.http-integration-response"

// A lambdaAnswer is what the process sent for a call.
type lambdaAnswer struct {
	failed      bool   // it is an error
	errorType   string // of an error, as its header has it
	contentType string // "": not said, or what a tool says that does not know
	streamed    bool   // the process says so
	body        []byte
	err         error // why there is none, decided

	// Of an answer that is read in pieces: deliver reads the body of request, and
	// verdict takes what the process is told: refusal, or nil.
	request *http.Request
	verdict chan *runtimeFault
	refusal *runtimeFault
}

// A runtimeFault is an answer of the Runtime API to a request that is wrong.
type runtimeFault struct {
	status        int
	kind, message string
}

var (
	faultUnknownID = &runtimeFault{http.StatusBadRequest, "InvalidRequestID", "Invalid request ID"}
	faultMode      = &runtimeFault{http.StatusBadRequest, "InvalidFunctionResponseMode", "Invalid function response mode: it is streaming, or is not said"}
	faultBody      = &runtimeFault{http.StatusBadRequest, "InvalidRequest", "Who asks for the next call sends no body"}
	faultTruncated = &runtimeFault{http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated"}
	faultTwice     = &runtimeFault{http.StatusForbidden, "InvalidStateTransition", "The call has an answer already"}
	faultEarly     = &runtimeFault{http.StatusForbidden, "InvalidStateTransition", "The call before has no answer yet"}
	faultStarted   = &runtimeFault{http.StatusForbidden, "InvalidStateTransition", "The function has started"}
	faultExtension = &runtimeFault{http.StatusForbidden, "Extension.NotSupported", "There are no extensions here; SIGTERM comes without one"}
	faultPath      = &runtimeFault{http.StatusNotFound, "NotFound", "No such resource"}
)

func faultTooLarge(limit int) *runtimeFault {
	return &runtimeFault{http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", fmt.Sprintf("Exceeded maximum allowed payload size (%d bytes).", limit)}
}

// write says the fault; a nil one is success.
func (f *runtimeFault) write(w http.ResponseWriter) {
	if f == nil {
		const ok = `{"status":"OK"}` + "\n"
		h := w.Header()
		h["Content-Type"] = typeJSON
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, ok)
		return
	}
	body, _ := json.Marshal(map[string]string{"errorMessage": f.message, "errorType": f.kind})
	w.Header()["Content-Type"] = typeJSON
	w.WriteHeader(f.status)
	w.Write(append(body, '\n'))
}

var typeJSON = []string{"application/json"} // read only

// socketKey is the key of the runtimeSocket in the context of a request.
type socketKey struct{}

// serve begins to serve the Runtime API.
func (c *lambdaConn) serve(l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", c.handleNext)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", c.handleResponse)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", c.handleError)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", c.handleInitError)
	mux.HandleFunc("GET /2018-06-01/ping", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "pong") })
	mux.HandleFunc("/2020-01-01/extension/", func(w http.ResponseWriter, _ *http.Request) { faultExtension.write(w) })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { faultPath.write(w) })
	ctx, leave := context.WithCancel(context.Background())
	c.leave = leave
	c.server = &http.Server{
		BaseContext:    func(net.Listener) context.Context { return ctx },
		Handler:        mux,
		MaxHeaderBytes: maxRuntimeHeader,
		ErrorLog:       log.New(io.Discard, "", 0), // of bytes that a function sends
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, socketKey{}, conn)
		},
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				c.work.Add(1)
			case http.StateClosed:
				c.work.Done()
			}
		},
	}
	c.work.Go(func() { c.server.Serve(runtimeListener{netutil.LimitListener(l, maxRuntimeConns)}) })
}

type runtimeListener struct{ net.Listener }

func (l runtimeListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &runtimeSocket{Conn: conn}, nil
}

// handleNext waits for a call. A process may ask over several connections at once;
// the latest is given the next call.
func (c *lambdaConn) handleNext(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 { // that its connection ends would be seen after the end of its body only
		w.Header().Set("Connection", "close") // else net/http waits for the body before it answers
		faultBody.write(w)
		return
	}
	p := &poll{given: make(chan *invocation, 1)}
	p.socket, _ = r.Context().Value(socketKey{}).(*runtimeSocket)
	if !c.enroll(p) {
		faultEarly.write(w)
		return
	}
	select {
	case inv := <-p.given:
		if err := inv.write(w); err != nil {
			inv.lost <- struct{}{}
		}
	case <-r.Context().Done():
		c.withdraw(p)
	}
}

// write is the answer to a poll.
func (inv *invocation) write(w http.ResponseWriter) error {
	h := w.Header()
	maps.Copy(h, inv.head)
	h["Content-Type"] = typeJSON
	h["Content-Length"] = []string{strconv.Itoa(len(inv.event))}
	if _, err := w.Write(inv.event); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// claim returns the call that is being answered, if this is the first answer.
func (c *lambdaConn) claim(id string) (*invocation, *runtimeFault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch inv := c.call; {
	case inv != nil && inv.id == id && inv.poll != nil && !inv.claimed:
		inv.claimed = true
		return inv, nil
	case inv != nil && inv.id == id && inv.claimed, id == c.last:
		return nil, faultTwice
	}
	return nil, faultUnknownID
}

func (c *lambdaConn) handleResponse(w http.ResponseWriter, r *http.Request) {
	mode := r.Header.Get(headerRuntimeMode)
	if mode != "" && !strings.EqualFold(mode, "streaming") {
		faultMode.write(w)
		return
	}
	inv, wrong := c.claim(r.PathValue("id"))
	if wrong != nil {
		wrong.write(w)
		return
	}
	a := &lambdaAnswer{contentType: saidType(r.Header.Get("Content-Type")), streamed: mode != ""}
	if a.streamed = a.streamed || isType(a.contentType, typeIntegration); a.streamed || inv.inPieces(a, r) {
		c.pass(w, r, inv, a)
		return
	}
	c.take(w, r, inv, a)
}

// inPieces reports whether an answer that nobody calls a stream is passed on as one:
// to who takes it as it is, if its length is not known and it is no JSON.
func (inv *invocation) inPieces(a *lambdaAnswer, r *http.Request) bool {
	return !inv.triggered && r.ContentLength < 0 && a.contentType != "" && !isType(a.contentType, "application/json")
}

// pass lets the exchange read the answer.
func (c *lambdaConn) pass(w http.ResponseWriter, r *http.Request, inv *invocation, a *lambdaAnswer) {
	a.request, a.verdict = r, make(chan *runtimeFault, 1)
	c.mu.Lock()
	if c.call == inv {
		c.stream = http.NewResponseController(w)
	}
	c.mu.Unlock()
	inv.answers <- a
	wrong := faultUnknownID
	select {
	case wrong = <-a.verdict:
	case <-inv.over:
		select {
		case wrong = <-a.verdict:
		default:
		}
	}
	wrong.write(w)
}

// take reads an answer whole.
func (c *lambdaConn) take(w http.ResponseWriter, r *http.Request, inv *invocation, a *lambdaAnswer) {
	var wrong *runtimeFault
	if a.body, wrong = readPosted(r, maxEvent); wrong == nil {
		a.fail(r.Trailer)
	} else if a.err = errPosted; wrong.status == http.StatusRequestEntityTooLarge {
		a.err = fault(faas.FuncFailed, faas.ErrMalformed, "the function's answer is over the limit of %d bytes", maxEvent)
	}
	inv.answers <- a
	if wrong != nil {
		io.CopyN(io.Discard, r.Body, maxRefused)
	}
	wrong.write(w)
}

// errPosted stands for an answer that broke off: what is said of it depends on what
// becomes of the process.
var errPosted = errors.New("the answer broke off")

// fail makes a an error if the trailer behind it says so.
func (a *lambdaAnswer) fail(trailer http.Header) {
	if kind, text := trailer.Get(headerErrorType), trailer.Get(headerErrorBody); kind+text != "" {
		a.failed, a.errorType = true, kind
		a.body = decodeBase64(text)
	}
}

// readPosted reads the body of a request to the Runtime API.
func readPosted(r *http.Request, limit int) ([]byte, *runtimeFault) {
	if r.ContentLength > int64(limit) {
		return nil, faultTooLarge(limit)
	}
	var b bytes.Buffer
	if r.ContentLength > 0 {
		b.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	_, err := b.ReadFrom(io.LimitReader(r.Body, int64(limit)+1))
	switch {
	case err != nil:
		return nil, faultTruncated
	case b.Len() > limit:
		return nil, faultTooLarge(limit)
	}
	return b.Bytes(), nil
}

func (c *lambdaConn) handleError(w http.ResponseWriter, r *http.Request) {
	inv, wrong := c.claim(r.PathValue("id"))
	if wrong != nil {
		wrong.write(w)
		return
	}
	a := &lambdaAnswer{failed: true, errorType: r.Header.Get(headerErrorType)}
	if a.body, wrong = readPosted(r, maxEvent); wrong != nil {
		a.err = errPosted
	}
	inv.answers <- a
	wrong.write(w)
}

// handleInitError takes why the process cannot start.
func (c *lambdaConn) handleInitError(w http.ResponseWriter, r *http.Request) {
	body, wrong := readPosted(r, maxInitError)
	if wrong != nil {
		wrong.write(w)
		return
	}
	first, wrong := c.failStart(fault(faas.FuncFailed, faas.ErrStartExited, "the function could not start: %s", lambdaWords(body, r.Header.Get(headerErrorType))))
	wrong.write(w)
	if first {
		http.NewResponseController(w).Flush() // the server ends then
		close(c.failed)
	}
}

// failStart keeps the first reason why the start has failed, if it goes on.
func (c *lambdaConn) failStart(err error) (first bool, wrong *runtimeFault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.started:
		return false, faultStarted
	default:
	}
	if first = c.startErr == nil; first {
		c.startErr = err
	}
	return first, nil
}

// saidType is the type that a process says its answer has. That of a form is what
// curl says of anything.
func saidType(contentType string) string {
	if isType(contentType, "application/x-www-form-urlencoded") {
		return ""
	}
	return contentType
}

// isType reports whether contentType, which may have parameters, is name.
func isType(contentType, name string) bool {
	if contentType == name {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == name
}
