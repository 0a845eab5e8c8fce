package fnv2

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/buffered"
)

// What follows is the invocation of a function as the Functions service of Oracle
// Cloud Infrastructure has it: another address of /invoke, with its own errors.

const (
	ociPrefix = "/20181201/"

	// ociMaxRequest is the most that the service takes as the body of a call.
	ociMaxRequest = 6 * faas.MB

	headerOCIRequest = "Opc-Request-Id" // of a request, and on each answer
	headerIntent     = "Fn-Intent"      // how a function is to take the body
)

// ociFunction returns the ID in the path of functions/{id}/actions/invoke.
func ociFunction(path string) (id string, ok bool) {
	rest, _ := strings.CutPrefix(path, ociPrefix+"functions/")
	id, ok = strings.CutSuffix(rest, "/actions/invoke")
	return id, ok && id != "" && !strings.Contains(id, "/")
}

// ociHandler answers what is below ociPrefix.
func (s *Server) ociHandler() http.Handler {
	h := s.told(s.invokeOCI, writeOCI)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := r.Header.Get(headerOCIRequest)
		if !api.IsKey(given) {
			given = ""
		}
		h.ServeHTTP(&ociWriter{w, given}, r)
	})
}

// ociWriter names each answer: as the request was named, else by the ID of its call, else
// as the daemon has named the request.
type ociWriter struct {
	http.ResponseWriter
	request string
}

// WriteHeader implements http.ResponseWriter. What a function says of the name does not
// count.
func (w *ociWriter) WriteHeader(status int) {
	h := w.Header()
	for _, name := range []string{w.request, h.Get(headerCall), h.Get(api.RequestID)} {
		if name != "" {
			h.Set(headerOCIRequest, name)
			break
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *ociWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// invokeOCI calls the function whose ID is in the path. A signature is not looked at,
// and no function has it.
func (s *Server) invokeOCI(w http.ResponseWriter, r *http.Request) error {
	id, ok := ociFunction(r.URL.Path)
	switch {
	case !ok || s.NoInvoke:
		return pathNotFound(r)
	case r.Method != http.MethodPost:
		return methodNotAllowed(r)
	}
	kind, err := oneOf(r.Header, headerType, "sync", "detached")
	if err != nil {
		return err
	}
	if _, err := oneOf(r.Header, headerIntent, "httprequest", "cloudevent"); err != nil {
		return err
	}
	limit := ociMaxRequest
	if s.MaxRequest > 0 {
		limit = min(limit, s.MaxRequest)
	}
	body, fits := buffered.BodyOf(w, r, limit)
	if !fits {
		return ociTooLarge(limit)
	}
	dropSignature(r.Header)
	if err = s.invokeFn(w, r, id, kind == "detached", body); err == errTooLarge {
		return ociTooLarge(limit)
	}
	return err
}

// oneOf returns the value of a header, which has to be one of some words if it is given.
func oneOf(h http.Header, name string, words ...string) (string, error) {
	given := h.Get(name)
	for _, word := range words {
		if given == "" || given == word {
			return given, nil
		}
	}
	return "", invalid(fmt.Sprintf("Invalid header %s: %q is not one of: %s", strings.ToLower(name), given, strings.Join(words, ", ")))
}

// dropSignature takes off a request what proves to the service who its caller is.
func dropSignature(h http.Header) {
	given := h["Authorization"]
	if left := slices.DeleteFunc(slices.Clone(given), isSignature); len(left) == 0 {
		h.Del("Authorization")
	} else if len(left) < len(given) {
		h["Authorization"] = left
	}
	h.Del("Opc-Obo-Token")
}

func isSignature(authorization string) bool {
	scheme, _, _ := strings.Cut(strings.TrimSpace(authorization), " ")
	return strings.EqualFold(scheme, "Signature")
}

func ociTooLarge(limit faas.Bytes) fault {
	return fault{http.StatusRequestEntityTooLarge, fmt.Sprintf("The body of the request is over the limit of %v", limit)}
}

// ociCodes are the words of the service for statuses.
var ociCodes = map[int]string{
	http.StatusBadRequest:                  "InvalidParameter",
	http.StatusNotFound:                    "NotAuthorizedOrNotFound",
	http.StatusMethodNotAllowed:            "MethodNotAllowed",
	http.StatusConflict:                    "IncorrectState",
	http.StatusRequestEntityTooLarge:       "RequestEntityTooLarge",
	http.StatusUnprocessableEntity:         "UnprocessableEntity",
	http.StatusTooManyRequests:             "TooManyRequests",
	http.StatusRequestHeaderFieldsTooLarge: "RequestHeaderFieldsTooLarge",
	http.StatusInternalServerError:         "InternalServerError",
	http.StatusNotImplemented:              "MethodNotImplemented",
	http.StatusServiceUnavailable:          "ServiceUnavailable",
	http.StatusBadGateway:                  "FunctionInvokeExecutionFailed",
	http.StatusGatewayTimeout:              "FunctionInvokeExecutionTimeout",
}

// ociFault puts a fault, of an answer with the header h, into the words of the service,
// which knows more of functions than a status tells. The sentence stays that of Fn, as it
// does there. A call that finds something missing, or may not have it, is about its image,
// and so is one for which the node is busy with more than what errBusy says.
func ociFault(h http.Header, f fault) (status int, code string) {
	image := f == errPullTimeout
	if h.Get(headerCall) != "" && f != errNoFn {
		image = image || f.status == http.StatusNotFound || f.status == http.StatusForbidden || f.status == http.StatusServiceUnavailable
	}
	switch {
	case f == errBusy:
		return http.StatusTooManyRequests, "TooManyRequests"
	case f == errStart:
		return f.status, "FunctionInvokeContainerInitFail"
	case f == errStartTimeout:
		return f.status, "FunctionInvokeContainerInitTimeout"
	case image:
		return http.StatusBadGateway, "FunctionInvokeImageNotAvailable"
	}
	if code = ociCodes[f.status]; code == "" {
		code = "InternalServerError"
	}
	return f.status, code
}

// writeOCI answers with f: {"code":"…","message":"…"}.
func writeOCI(w http.ResponseWriter, f fault) {
	status, code := ociFault(w.Header(), f)
	body, _ := json.Marshal(struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{code, f.message})
	h := w.Header()
	h.Del("Content-Length") // of the answer that there was to be
	h.Set("Content-Type", contentJSON)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
