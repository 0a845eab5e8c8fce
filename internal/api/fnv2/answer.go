package fnv2

import (
	"errors"
	"fmt"
	"net/http"

	"hob/faas"
	"hob/internal/api"
)

// Ways in which a call fails that are found here.
var (
	errInvalid    = fault{http.StatusBadGateway, "invalid function response"}
	errAnswerBody = fault{http.StatusBadGateway, "function response body too large"}

	errPullTimeout  = fault{http.StatusGatewayTimeout, "Image pull timed out"}
	errStartTimeout = fault{http.StatusGatewayTimeout, "Container initialization timed out" + seeLogs}
)

const seeLogs = ", please ensure you are using the latest fdk and check the logs"

// failures are the ways in which a call fails that Fn has words for.
var failures = []struct {
	is    error
	fault fault
}{
	{faas.ErrNeverFits, invalid("Requested CPU/Memory cannot be allocated")},
	{faas.ErrVolumes, invalid("image has Volume definition")},
	{faas.ErrPullTimeout, errPullTimeout},
	{faas.ErrStartTimeout, errStartTimeout},
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
	if kind := faas.KindOf(err); errors.Is(err, faas.ErrNoImage) && kind != faas.Internal { // its text names the image
		if kind == faas.Busy {
			w.Header().Set("Retry-After", retryAfter)
		}
		return fault{api.Status(err), err.Error()}
	}
	stream := fn.Format == faas.FormatHTTPStream // others have no words in Fn for what they do
	switch faas.KindOf(err) {
	case faas.Busy:
		w.Header().Set("Retry-After", retryAfter)
		return errBusy
	case faas.TimedOut:
		return errTimeout
	case faas.Canceled:
		if r.Context().Err() != nil {
			return errClientGone
		}
		return fault{statusClientGone, err.Error()} // somebody else canceled it
	case faas.Internal:
		return fmt.Errorf("call %s: %w", call.ID, err)
	case faas.NotFound:
		if _, gone := s.Catalog.FunctionByID(fn.ID); gone != nil {
			return errNoFn
		}
	case faas.Invalid:
		if stream && call.Started.IsZero() { // its command, its user: the request is not to blame
			return fault{http.StatusBadGateway, err.Error()}
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
	return fault{api.Status(err), err.Error()}
}
