package core

import (
	"net/http"

	"hob/faas"
	"hob/internal/invoke"
)

// call runs a function on the body of the request. The id of the call is in the
// header of every answer, also of the ones that tell of a failure.
func (s *Server) call(w http.ResponseWriter, r *http.Request) error {
	appName := r.PathValue("app")
	app, err := s.Catalog.App(appName)
	if err != nil {
		return err
	}
	fn, err := s.Catalog.Function(appName, r.PathValue("function"))
	if err != nil {
		return err
	}
	call := invoke.NewCall(app, fn, faas.CallSync)
	w.Header().Set("Hob-Call", call.ID)
	body := r.Body
	if s.MaxPayload > 0 {
		if r.ContentLength > int64(s.MaxPayload) {
			if r.Header.Get("Expect") == "" { // else the client waits to be asked for it
				hearOut(w, r)
			}
			return faas.Errorf(faas.TooLarge, "the payload of %v is over the limit of %v", faas.Bytes(r.ContentLength), s.MaxPayload)
		}
		body = http.MaxBytesReader(w, body, int64(s.MaxPayload)) // whoever reads it says that it is too large
	}
	r.Header.Del("Expect") // it was between the client and this server
	req := &faas.Request{Method: r.Method, URL: requestURL(r), Header: r.Header, Body: body, Size: r.ContentLength}
	out := &begun{ResponseWriter: w}
	err = s.Caller.Call(r.Context(), fn, call, req, out)
	if err != nil && out.is {
		panic(http.ErrAbortHandler) // half an answer must not pass for a whole one
	}
	return err
}

// begun remembers whether the answer is on its way.
type begun struct {
	http.ResponseWriter
	is bool
}

func (b *begun) WriteHeader(status int) {
	b.is = b.is || status >= 200
	b.ResponseWriter.WriteHeader(status)
}

func (b *begun) Write(p []byte) (int, error) {
	b.is = true
	return b.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController flush, and set deadlines.
func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func requestURL(r *http.Request) string {
	u := *r.URL
	u.Scheme, u.Host = "http", r.Host
	return u.String()
}
