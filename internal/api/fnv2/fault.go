package fnv2

import (
	"encoding/json"
	"errors"
	"net/http"

	"hob/faas"
	"hob/internal/api"
)

// A fault is an error in the words of Fn: what its server answers.
type fault struct {
	status  int
	message string
}

// Error is the message.
func (f fault) Error() string { return f.message }

// invalid is the fault of a request that can never succeed as it is written.
func invalid(message string) fault { return fault{http.StatusBadRequest, message} }

// Things that are not there, or there already.
var (
	errNoApp         = fault{http.StatusNotFound, "App not found"}
	errNoFn          = fault{http.StatusNotFound, "Fn not found"}
	errNoTrigger     = fault{http.StatusNotFound, "Trigger not found"}
	errNoCall        = fault{http.StatusNotFound, "Call not found"}
	errNoCallLog     = fault{http.StatusNotFound, "Call log not found"}
	errFnExists      = fault{http.StatusConflict, "Fn with specified name already exists"}
	errTriggerExists = fault{http.StatusConflict, "Trigger already exists"}
	errSourceTaken   = fault{http.StatusConflict, "Trigger with the same type and source exists on this app"}
	errImmutable     = fault{http.StatusConflict, "Could not update - name is immutable"}
	errTooLarge      = fault{http.StatusRequestEntityTooLarge, "Request content too large"}
	errClientGone    = fault{statusClientGone, "Client cancelled context"}
)

// statusClientGone is what Fn answers to a client that has left.
const statusClientGone = 444

// internalError is all that a client reads of an error that nobody has classified.
const internalError = "internal server error"

// pathNotFound is the answer to a path that is nothing here.
func pathNotFound(r *http.Request) fault {
	return fault{http.StatusNotFound, "Path not found: " + r.Method + " " + r.URL.Path}
}

func methodNotAllowed(r *http.Request) fault {
	return fault{http.StatusMethodNotAllowed, "Method not allowed: " + r.Method + " " + r.URL.Path}
}

// faultOf puts an error into Fn's words; known is false for one that only the
// operator may read. What Fn has no words for keeps ours.
func faultOf(err error) (f fault, known bool) {
	if f, ok := errors.AsType[fault](err); ok {
		return f, true
	}
	switch faas.KindOf(err) {
	case faas.Internal:
		return fault{}, false
	case faas.Canceled:
		return errClientGone, true
	}
	return fault{api.Status(err), err.Error()}, true
}

// WriteFault is the api.FaultBody of this API: {"message":"…"}.
func WriteFault(w http.ResponseWriter, f api.Fault) {
	if f.Kind == faas.Internal {
		f.Message = internalError
	}
	writeFault(w, fault{f.Status, f.Message})
}

// writeFault answers with f. An error is the client's: it has left.
func writeFault(w http.ResponseWriter, f fault) {
	body, _ := json.Marshal(struct {
		Message string `json:"message"`
	}{f.message})
	h := w.Header()
	h.Del("Content-Length") // of the answer that there was to be
	h.Set("Content-Type", contentJSON)
	w.WriteHeader(f.status)
	_, _ = w.Write(append(body, '\n'))
}
