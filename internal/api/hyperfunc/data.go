package hyperfunc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/invoke"
	"hob/internal/store"
)

// statusTooLarge answers for a result over the limit: no standard has it.
const statusTooLarge = 509

// headerCall names the call on the answer of a synchronous one.
const headerCall = "Hob-Call"

// addressed returns the function whose name and secret are in the path.
func (s *Server) addressed(r *http.Request) (faas.Function, error) {
	fn, err := s.Catalog.ByAddress(r.PathValue("name"), r.PathValue("uuid"))
	if err != nil {
		return fn, faas.Errorf(faas.NotFound, "no such function") // the same for a wrong name and a wrong secret
	}
	return fn, nil
}

// callOf returns an asynchronous call of fn.
func (s *Server) callOf(ctx context.Context, fn faas.Function, id string) (faas.Call, error) {
	call, err := s.Calls.Call(ctx, id)
	switch {
	case err != nil && faas.KindOf(err) != faas.NotFound:
		return call, err
	case err != nil: // it may have been
		call, err = s.Logs.Call(id)
		call.Result = faas.ResultRotated
	}
	if err != nil || call.FuncID != fn.ID || call.Kind != faas.CallAsync {
		return call, faas.Errorf(faas.NotFound, "no such call")
	}
	return call, nil
}

// query reads the parameters of r. One example in Hyper's documents joins two of
// them with a '?'.
func query(r *http.Request) (url.Values, error) {
	values, err := url.ParseQuery(strings.ReplaceAll(r.URL.RawQuery, "?", "&"))
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "bad query: %w", err)
	}
	return values, nil
}

func flag(name, value string) (bool, error) {
	switch value {
	case "1", "True", "true":
		return true, nil
	case "", "0", "False", "false":
		return false, nil
	}
	return false, faas.Errorf(faas.Invalid, "%s %q is not one of: 1, True, true, 0, False, false", name, value)
}

// call accepts a call. It answers at once with the id, or, behind /sync, when the
// call is over, as output does.
func (s *Server) call(w http.ResponseWriter, r *http.Request) error {
	fn, err := s.addressed(r)
	if err != nil {
		return err
	}
	app, err := s.Catalog.AppByID(fn.App)
	if err != nil {
		return err
	}
	key := r.Header.Get("Idempotency-Key")
	if key != "" && !api.IsKey(key) {
		return faas.Errorf(faas.Invalid, "the header Idempotency-Key has 1 to %d visible ASCII characters", api.MaxKey)
	}
	limit := s.maxBody()
	if r.ContentLength > int64(limit) {
		if r.Header.Get("Expect") == "" { // else the client waits to be asked for it
			api.HearOut(w, r)
		}
		return faas.Errorf(faas.TooLarge, "the payload of %d bytes is over the limit of %v", r.ContentLength, limit)
	}
	r.Header.Del("Expect") // it was between the client and this server
	req := &faas.Request{
		Method: r.Method, URL: api.URL(r), Target: "/", Caller: api.Caller(r), Header: r.Header,
		Body: api.Steady(w, http.MaxBytesReader(w, r.Body, int64(limit))), Size: r.ContentLength,
		Key: key, Convention: faas.ConventionHyper,
	}
	if r.URL.RawQuery != "" {
		req.Target += "?" + r.URL.RawQuery
	}
	call, err := s.Queue.Enqueue(r.Context(), fn, invoke.NewCall(app, fn, faas.CallAsync), req, -1)
	if err != nil {
		if faas.KindOf(err) == faas.TooLarge {
			api.HearOut(w, r)
		}
		return err
	}
	w.Header().Set(headerCall, call.ID)
	if !strings.HasSuffix(r.URL.Path, "/sync") {
		return answer(w, http.StatusOK, wireCall{call.ID})
	}
	if call, err = s.Calls.Wait(r.Context(), call.ID); err != nil {
		return err
	}
	return s.result(w, r, fn, call, key == "")
}

// wireCall is the answer to a call.
type wireCall struct{ CallId string }

// output answers with the result of a call; behind /wait, when it is over.
func (s *Server) output(w http.ResponseWriter, r *http.Request) error {
	fn, err := s.addressed(r)
	if err != nil {
		return err
	}
	call, err := s.callOf(r.Context(), fn, r.PathValue("call"))
	if err == nil && !call.State.Final() && strings.HasSuffix(r.URL.Path, "/wait") {
		call, err = s.Calls.Wait(r.Context(), call.ID)
	}
	if err != nil {
		return err
	}
	return s.result(w, r, fn, call, true)
}

// result answers with what became of a call, in Hyper's statuses. A result, or
// the reason for none, that was given whole is removed.
func (s *Server) result(w http.ResponseWriter, r *http.Request, fn faas.Function, call faas.Call, once bool) error {
	switch {
	case call.State == faas.CallQueued:
		text(w, http.StatusAccepted, "the call is waiting for execution")
		return nil
	case call.State == faas.CallRunning:
		text(w, http.StatusCreated, "the call is being executed")
		return nil
	case call.Result == faas.ResultFetched:
		return faas.Errorf(faas.NotFound, "no such call: its result was fetched already")
	case call.Result == faas.ResultRotated:
		text(w, http.StatusGone, "the result of the call has expired")
		return nil
	case call.State != faas.CallSucceeded:
		status, reason := failure(fn, call, s.maxBody())
		text(w, status, reason)
		return s.fetched(w, r, call, once)
	case call.Result == faas.ResultNone:
		return s.send(w, r, call, store.BytesReader(nil), once)
	}
	_, body, err := s.Calls.Result(r.Context(), call.ID)
	if errors.Is(err, faas.ErrGone) { // just now
		if call, err = s.callOf(r.Context(), fn, call.ID); err == nil && call.Result != faas.ResultKept {
			return s.result(w, r, fn, call, once)
		}
		return faas.Errorf(faas.NotFound, "no such call")
	}
	if err != nil {
		return err
	}
	defer body.Close()
	if body.Size() > int64(s.maxBody()) {
		text(w, statusTooLarge, "the output is over the limit of "+s.maxBody().String())
		return nil
	}
	return s.send(w, r, call, body, once)
}

// send answers with a result.
func (s *Server) send(w http.ResponseWriter, r *http.Request, call faas.Call, body store.Reader, once bool) error {
	h := w.Header()
	h.Set("Content-Type", "text/plain")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.FormatInt(body.Size(), 10))
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(slowReader)) // not every writer has one
	if n, err := io.Copy(w, body); err != nil || n != body.Size() {
		panic(http.ErrAbortHandler) // half an answer must not pass for a whole one
	}
	return s.fetched(w, r, call, once)
}

// fetched removes a result that was sent, if all of it went out, and nobody who has
// its key may ask again.
func (s *Server) fetched(w http.ResponseWriter, r *http.Request, call faas.Call, once bool) error {
	if !once {
		return nil
	}
	if err := http.NewResponseController(w).Flush(); err != nil {
		return nil // the client has left, and may come again
	}
	if err := s.Calls.Fetched(context.WithoutCancel(r.Context()), call.ID); err != nil {
		s.Log.Error("a result that was fetched cannot be removed", "call", call.ID, "err", err)
	}
	return nil
}

// failure is the status and the text for a call that did not succeed.
func failure(fn faas.Function, call faas.Call, limit faas.Bytes) (status int, reason string) {
	reason = reasonOf(fn, call)
	switch call.ErrKind {
	case faas.TimedOut:
		return http.StatusGatewayTimeout, "execution timeout: " + reason
	case faas.TooLarge:
		if !strings.Contains(reason, faas.ErrEnvironment.Error()) {
			return statusTooLarge, "the output is over the limit of " + limit.String()
		}
	case faas.NotFound:
		return http.StatusInternalServerError, "no such image: " + fn.Image
	case faas.Internal, faas.OK:
		return http.StatusInternalServerError, "server error"
	}
	return http.StatusInternalServerError, reason
}

// reasonOf is why a call of fn did not succeed; empty if it did.
func reasonOf(fn faas.Function, call faas.Call) string {
	return strings.TrimPrefix(call.Error, "call "+fn.Name+": ")
}

// maxList is how many calls a status lists at most, the newest.
const maxList = 1000

type wireStatus struct {
	Total, Pending, Running, Finished, Failed int
	List                                      []wireCallStatus `json:",omitzero"`
}

type wireCallStatus struct {
	CallId  string
	Created time.Time
	Status  faas.EventName
	Message *string
}

// status counts the calls of a function and lists them if asked to.
func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	fn, err := s.addressed(r)
	if err != nil {
		return err
	}
	values, err := query(r)
	if err != nil {
		return err
	}
	list, err := flag("list", values.Get("list"))
	if err != nil {
		return err
	}
	t, err := s.Calls.Tally(r.Context(), fn.ID)
	if err != nil {
		return err
	}
	out := wireStatus{Total: t.Queued + t.Running + t.Succeeded + t.Failed, Pending: t.Queued, Running: t.Running, Finished: t.Succeeded, Failed: t.Failed}
	if list {
		calls, _, err := s.Calls.List(r.Context(), store.CallFilter{FuncID: fn.ID, Limit: maxList})
		if err != nil {
			return err
		}
		out.List = []wireCallStatus{}
		for _, c := range calls {
			wire := wireCallStatus{CallId: c.ID, Created: c.Queued.UTC().Truncate(time.Millisecond), Status: eventOf(c.State)}
			if why := reasonOf(fn, c); why != "" {
				wire.Message = &why
			}
			out.List = append(out.List, wire)
		}
	}
	return answer(w, http.StatusOK, out)
}

// eventOf is Hyper's word for a state.
func eventOf(state faas.CallState) faas.EventName {
	switch state {
	case faas.CallQueued:
		return faas.EventPending
	case faas.CallRunning:
		return faas.EventRunning
	case faas.CallSucceeded:
		return faas.EventFinished
	}
	return faas.EventFailed
}
