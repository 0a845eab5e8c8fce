package ironv1

import (
	"encoding/json"
	"net/http"

	"hob/faas"
	"hob/internal/api"
)

// A fault is an error in the words of this API.
type fault struct {
	status  int
	message string
}

// Error is the message.
func (f fault) Error() string { return f.message }

// invalid is the fault of a request that can never succeed as it is written.
func invalid(message string) fault { return fault{http.StatusBadRequest, message} }

// Things that are not there, there already, or do not change.
var (
	errNoApp         = fault{http.StatusNotFound, "App not found"}
	errNoRoute       = fault{http.StatusNotFound, "Route not found"}
	errRouteExists   = fault{http.StatusConflict, "Route already exists"}
	errNameImmutable = invalid("Could not update app - name is immutable")
	errPathImmutable = fault{http.StatusConflict, "Could not update - path is immutable"}
	errHasRoutes     = invalid("Cannot remove apps with routes")
)

// pathNotFound is the answer to a path that is nothing here, and to a wrong verb.
func pathNotFound(r *http.Request) fault {
	return fault{http.StatusNotFound, "Path not found: " + r.URL.Path}
}

// internalError is all that a client reads of an error that nobody has classified.
const internalError = "internal server error"

// WriteFault is the api.FaultBody of this API: {"error":{"message":"…"}}, and the ID of
// the call, as request_id, if it is about one.
func WriteFault(w http.ResponseWriter, f api.Fault) {
	if f.Kind == faas.Internal {
		f.Message = internalError
	}
	writeFault(w, fault{f.Status, f.Message})
}

type wireError struct {
	Message string `json:"message"`
}

// writeFault answers with f. An error is the client's: it has left.
func writeFault(w http.ResponseWriter, f fault) {
	w.Header().Del("Content-Length") // of the answer that there was to be
	out := struct {
		RequestID string    `json:"request_id,omitempty"`
		Error     wireError `json:"error"`
	}{Error: wireError{f.message}}
	if call := w.Header()[headerCall]; call != nil {
		out.RequestID = call[0]
	}
	_ = answer(w, f.status, out)
}

// answer writes v as JSON. An error of writing is the client's: it has left.
func answer(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
	return nil
}
