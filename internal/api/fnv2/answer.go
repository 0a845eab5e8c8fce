package fnv2

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"hob/faas"
	"hob/internal/api"
)

// Ways in which a call fails that are found here.
var (
	errInvalid    = fault{http.StatusBadGateway, "invalid function response"}
	errAnswerBody = fault{http.StatusBadGateway, "function response body too large"}
)

const seeLogs = ", please ensure you are using the latest fdk and check the logs"

// failures are the ways in which a call fails that Fn has words for.
var failures = []struct {
	is    error
	fault fault
}{
	{faas.ErrNeverFits, invalid("Requested CPU/Memory cannot be allocated")},
	{faas.ErrVolumes, invalid("image has Volume definition")},
	{faas.ErrPullTimeout, fault{http.StatusGatewayTimeout, "Image pull timed out"}},
	{faas.ErrStartTimeout, fault{http.StatusGatewayTimeout, "Container initialization timed out" + seeLogs}},
	{faas.ErrStartExited, errStart},
	{faas.ErrHeaderTooLarge, fault{http.StatusBadGateway, "function response header too large"}},
	{faas.ErrStatus, errInvalid},
	{faas.ErrBroken, errReceive},
}

// Faults that a Kind stands for, if nothing more is known.
var (
	errBusy     = fault{http.StatusServiceUnavailable, "Timed out - server too busy"}
	errTimeout  = fault{http.StatusGatewayTimeout, "Timed out"}
	errStart    = fault{http.StatusBadGateway, "Container failed to initialize" + seeLogs}
	errReceive  = fault{http.StatusBadGateway, "error receiving function response"}
	errFunction = fault{http.StatusBadGateway, "function failed"}
)

// retryAfter is how many seconds a caller of a busy node is asked to wait.
const retryAfter = "15"

// failed puts why a call of fn failed into Fn's words, if there are any: else into
// ours, or, for what only the operator may read, leaves it as it is.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, fn faas.Function, call *faas.Call, err error) error {
	if f, decided := errors.AsType[fault](err); decided {
		return f
	}
	for _, known := range failures {
		if errors.Is(err, known.is) {
			return known.fault
		}
	}
	if kind := faas.KindOf(err); errors.Is(err, faas.ErrNoImage) && kind != faas.Internal {
		if kind == faas.Busy {
			w.Header().Set("Retry-After", retryAfter)
		}
		return fault{api.Status(err), words(fn, err)}
	}
	stream := fn.Format == faas.FormatHTTPStream // others have no words in Fn for what they do
	switch faas.KindOf(err) {
	case faas.Busy:
		w.Header().Set("Retry-After", retryAfter)
		if namesImage(fn, err) { // its registry is busy, or out of order
			return fault{errBusy.status, err.Error()}
		}
		return errBusy
	case faas.TimedOut:
		return errTimeout
	case faas.Canceled:
		if r.Context().Err() != nil {
			return errClientGone
		}
		return fault{statusClientGone, words(fn, err)} // somebody else canceled it
	case faas.Internal:
		return fmt.Errorf("call %s: %w", call.ID, err)
	case faas.NotFound:
		if _, gone := s.Catalog.FunctionByID(fn.ID); gone != nil {
			return errNoFn
		}
	case faas.Invalid:
		if stream && call.Started.IsZero() { // its command, its user: the request is not to blame
			return fault{http.StatusBadGateway, words(fn, err)}
		}
	case faas.FuncFailed:
		switch {
		case errors.Is(err, faas.ErrFunction):
			return errFunction
		case stream && call.Started.IsZero():
			return errStart
		case stream:
			return errReceive
		}
	}
	return fault{api.Status(err), words(fn, err)}
}

// words are ours for why a call failed. They name the image if it is the reason.
func words(fn faas.Function, err error) string {
	if faas.KindOf(err) == faas.NotFound && !namesImage(fn, err) {
		return "image " + fn.Image + ": " + err.Error()
	}
	return err.Error()
}

// namesImage reports whether an error is about the image of fn.
func namesImage(fn faas.Function, err error) bool { return strings.Contains(err.Error(), fn.Image) }
