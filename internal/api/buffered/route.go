package buffered

import (
	"net/http"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/catalog"
)

// A Route is what a path of an app leads to.
type Route struct {
	Function faas.Function
	Trigger  faas.Trigger

	params  map[string]string
	written string // the path, as the caller wrote it
}

// Find returns what source leads to in an app; written is source as the caller wrote
// it. Whether parameters and wildcards in sources are such the app says, else
// patterns. NotFound if it leads nowhere.
func Find(c *catalog.Catalog, app faas.App, source, written string, patterns bool) (Route, error) {
	patterns = app.Patterns(patterns)
	clean := !patterns || catalog.Clean(source) == source
	fn, t, params, err := c.Match(app, source, patterns && clean)
	if err != nil && patterns && !clean { // else a source like /a//b could not be reached
		fn, t, params, err = c.Match(app, source, true)
	}
	if err != nil && written != source { // a source may be stored as it is written in an address
		fn, t, params, err = c.Match(app, written, false)
	}
	return Route{fn, t, params, written}, err
}

// Admit reports whether r bears the token that the trigger wants, if it wants one. The
// error is Denied, of status 401, and a header says what is wanted. Else the token of
// management, of the key node, is taken off: no function is to have it.
func (to *Route) Admit(w http.ResponseWriter, r *http.Request, node string) error {
	if to.Trigger.Key == "" {
		api.DropToken(r.Header, node)
		return nil
	}
	err := api.CheckToken(r.Header, to.Trigger.Key)
	if err != nil {
		w.Header().Set("WWW-Authenticate", `Bearer realm=""`)
	}
	return err
}

// Describe tells the function of a call that r is through which path, in the way that
// its format has, and reports whether it answers in Fn's headers. What req says else
// is set before.
func (to *Route) Describe(req *faas.Request, r *http.Request) (mapped bool) {
	req.Route, req.Params, req.Target, req.Convention = to.Trigger.Source, to.params, to.written, to.Trigger.Convention
	if to.Function.Format == faas.FormatHTTP && req.Convention.Iron() { // which asks for the whole path
		req.Target = r.URL.EscapedPath()
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		req.Target += "?" + r.URL.RawQuery
	}
	if mapped = to.Function.Format == faas.FormatHTTPStream; mapped { // others are given the request as it is
		req.Header = mapHeader(req)
	}
	return mapped
}
