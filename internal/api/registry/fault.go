package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/image/content"
)

// Error codes of the OCI distribution specification; unknown is the code that
// clients know for everything else.
const (
	blobUnknown         = "BLOB_UNKNOWN"
	blobUploadInvalid   = "BLOB_UPLOAD_INVALID"
	blobUploadUnknown   = "BLOB_UPLOAD_UNKNOWN"
	digestInvalid       = "DIGEST_INVALID"
	manifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	manifestInvalid     = "MANIFEST_INVALID"
	manifestUnknown     = "MANIFEST_UNKNOWN"
	nameInvalid         = "NAME_INVALID"
	nameUnknown         = "NAME_UNKNOWN"
	sizeInvalid         = "SIZE_INVALID"
	denied              = "DENIED"
	unauthorized        = "UNAUTHORIZED"
	unsupported         = "UNSUPPORTED"
	tooManyRequests     = "TOOMANYREQUESTS"
	pageInvalid         = "PAGINATION_NUMBER_INVALID"
	unknown             = "UNKNOWN"
)

// A fault is an error with the status and code that a client is given.
type fault struct {
	status  int
	code    string
	message string
	detail  any // of the specification: may be nil
}

func (f *fault) Error() string { return f.message }

func refuse(status int, code, format string, args ...any) *fault {
	return &fault{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// faultOf gives every error a status and a code. An error that nobody has
// classified stays unsaid; log gets it.
func faultOf(err error, r *http.Request, log *slog.Logger) *fault {
	if f, ok := errors.AsType[*fault](err); ok {
		return f
	}
	if e, ok := errors.AsType[*content.SpaceError](err); ok {
		log.WarnContext(r.Context(), "push refused: the disk is full", "request", r.Header.Get("Request-Id"), "err", err)
		return refuse(http.StatusInsufficientStorage, unknown, "%s", spaceMessage(e))
	}
	if _, ok := errors.AsType[*content.MismatchError](err); ok {
		return refuse(http.StatusBadRequest, digestInvalid, "%v", err)
	}
	if _, ok := errors.AsType[*content.DigestError](err); ok {
		return refuse(http.StatusBadRequest, digestInvalid, "%v", err)
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refuse(http.StatusRequestEntityTooLarge, sizeInvalid, "the request body is over the limit of %d bytes", e.Limit)
	}
	if errors.Is(err, content.ErrClosed) {
		return refuse(http.StatusNotFound, blobUploadUnknown, "%v", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return refuse(http.StatusNotFound, blobUnknown, "no such blob")
	}
	switch kind := faas.KindOf(err); kind {
	case faas.Invalid, faas.Unsupported:
		return refuse(http.StatusBadRequest, manifestInvalid, "%v", err)
	case faas.TooLarge:
		return refuse(http.StatusRequestEntityTooLarge, sizeInvalid, "%v", err)
	case faas.NotFound:
		return refuse(http.StatusNotFound, manifestUnknown, "%v", err)
	case faas.Conflict:
		return refuse(http.StatusConflict, denied, "%v", err)
	case faas.Denied:
		return refuse(http.StatusForbidden, denied, "%v", err)
	case faas.Busy:
		return refuse(http.StatusServiceUnavailable, tooManyRequests, "%v", err)
	case faas.TimedOut:
		return refuse(http.StatusGatewayTimeout, unknown, "%v", err)
	case faas.Canceled:
		return refuse(499, unknown, "%v", err)
	}
	id := r.Header.Get("Request-Id")
	log.ErrorContext(r.Context(), "request failed", "request", id, "method", r.Method, "path", r.URL.Path, "err", err)
	if id == "" {
		return refuse(http.StatusInternalServerError, unknown, "internal error")
	}
	return refuse(http.StatusInternalServerError, unknown, "internal error; quote request %s", id)
}

// spaceMessage leaves out the operator's path.
func spaceMessage(e *content.SpaceError) string {
	if e.Need < 0 {
		return "no space left on the disk of this node"
	}
	return fmt.Sprintf("no space left on the disk of this node: %d more bytes are needed", e.Need)
}

// WriteFault is the api.FaultBody of this API, for what keeps a request from it.
func WriteFault(w http.ResponseWriter, f api.Fault) {
	code := denied
	if f.Status == http.StatusUnauthorized {
		code = unauthorized
	}
	refuse(f.Status, code, "%s", f.Message).write(w)
}

func (f *fault) write(w http.ResponseWriter) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.status)
	json.NewEncoder(w).Encode(struct {
		Errors []entry `json:"errors"`
	}{[]entry{{f.code, f.message, f.detail}}})
}
