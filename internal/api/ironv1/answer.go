package ironv1

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/buffered"
)

// Ways in which a call fails that both systems have words for.
var (
	errTooLarge       = fault{http.StatusRequestEntityTooLarge, "Request content too large"}
	errPayload        = invalid("Invalid payload")
	errNeverFits      = invalid("Requested CPU/Memory cannot be allocated")
	errVolumes        = invalid("image has Volume definition")
	errLineFull       = fault{http.StatusInternalServerError, "The runner queue is full"}
	errBusy           = fault{http.StatusServiceUnavailable, "Timed out - server too busy"}
	errTimeout        = fault{http.StatusGatewayTimeout, "Timed out"}
	errAnswerTooLarge = fault{http.StatusBadGateway, "function response too large"}
)

// failures are the reasons that decide what is answered, the first that fits.
var failures = []struct {
	is    error
	fault fault
}{
	{faas.ErrNeverFits, errNeverFits},
	{faas.ErrVolumes, errVolumes},
	{faas.ErrLineFull, errLineFull},
	{faas.ErrHeaderTooLarge, errAnswerTooLarge},
	{faas.ErrAnswerTooLarge, errAnswerTooLarge},
}

// statusClientGone is what a client is answered that has left.
const statusClientGone = 444

// retryAfter is how many seconds a caller of a busy node is asked to wait.
const retryAfter = "15"

// failed puts why a call of fn failed into the words of this API, or leaves it, for
// what only the operator may read.
func (s *Server) failed(w http.ResponseWriter, r *http.Request, fn faas.Function, call *faas.Call, body *buffered.Body, err error) error {
	f, decided := errors.AsType[fault](err)
	switch kind := faas.KindOf(err); {
	case body.Over:
		f = errTooLarge
	case body.Broken != nil:
		f = errPayload
	case decided:
	case kind == faas.Internal:
		return fmt.Errorf("call %s: %w", call.ID, err)
	default:
		f = s.faultOf(r, fn, call, kind, err)
	}
	h := w.Header()
	if f.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter)
	}
	if f.status == http.StatusServiceUnavailable || f.status == http.StatusGatewayTimeout {
		h.Set(headerWait, waited(call))
	}
	return f
}

// faultOf is why a call of fn failed, of a Kind that its caller may read of.
func (s *Server) faultOf(r *http.Request, fn faas.Function, call *faas.Call, kind faas.Kind, err error) fault {
	for _, known := range failures {
		if errors.Is(err, known.is) {
			return known.fault
		}
	}
	if errors.Is(err, faas.ErrNoImage) {
		return noImage(fn, kind, err)
	}
	switch kind {
	case faas.Busy:
		return errBusy
	case faas.TimedOut:
		return errTimeout
	case faas.FuncFailed:
		return functionFailed(fn, call, err)
	case faas.Canceled:
		if r.Context().Err() != nil {
			return fault{statusClientGone, "Client cancelled context"}
		}
		return fault{statusClientGone, err.Error()} // somebody else canceled it
	case faas.NotFound:
		if _, gone := s.Catalog.FunctionByID(fn.ID); gone != nil {
			return errNoRoute
		}
	}
	return fault{api.Status(err), err.Error()}
}

// noImage is the fault of a call whose image could not be fetched. It has the status
// of the registry if that is one of the two that say so.
func noImage(fn faas.Function, kind faas.Kind, err error) fault {
	status := http.StatusInternalServerError
	switch kind {
	case faas.NotFound:
		status = http.StatusNotFound
	case faas.Denied:
		status = http.StatusUnauthorized
	}
	return fault{status, "Failed to pull image '" + fn.Image + "': " + reason(err)}
}

// functionFailed is the fault of a call whose function failed: of the way it ended, or
// of what it answered.
func functionFailed(fn faas.Function, call *faas.Call, err error) fault {
	exit := call.Outcome.Exit
	malformed := errors.Is(err, faas.ErrMalformed) || errors.Is(err, faas.ErrStatus)
	switch {
	case !malformed && exit != nil && exit.OOM:
		return fault{http.StatusInternalServerError, fmt.Sprintf("out of memory error: the function went over its limit of %v", fn.Memory)}
	case !malformed && exit != nil && exit.Signal != "":
		return fault{http.StatusInternalServerError, "killed by " + exit.Signal}
	case !malformed && exit != nil && exit.Code != 0:
		return fault{http.StatusInternalServerError, fmt.Sprintf("exit code %d", exit.Code)}
	case malformed, errors.Is(err, faas.ErrBroken):
		return fault{http.StatusBadGateway, "invalid " + spoken(fn.Format) + " response from function err: " + strings.TrimPrefix(reason(err), "invalid json response from function: ")}
	}
	return fault{api.Status(err), reason(err)}
}

// spoken is what functions of a format answer in.
func spoken(f faas.Format) string {
	switch f {
	case faas.FormatJSON, faas.FormatCloudEvent, faas.FormatLambda:
		return "json"
	}
	return "http"
}

// reason is err without what it was wrapped in on its way.
func reason(err error) string {
	if decided, ok := errors.AsType[*faas.Error](err); ok {
		return decided.Error()
	}
	return err.Error()
}
