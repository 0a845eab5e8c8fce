package hyperfunc

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/api/definition"
	"hob/internal/image"
	"hob/internal/store"
)

// Limits of a definition.
const (
	defaultTimeout = 300 // seconds
	maxTimeout     = int(faas.MaxTimeout / time.Second)

	// longWait is how long a call whose turn it is waits for memory of the node.
	longWait = 24 * time.Hour
)

var namePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// function returns a function of the app Hyper by its name.
func (s *Server) function(name string) (faas.Function, error) {
	fn, err := s.Catalog.Function(AppName, name)
	if err != nil {
		return fn, faas.Errorf(faas.NotFound, "no such function: %s", name)
	}
	return fn, nil
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) error {
	wanted, err := filterOf(r.URL.Query().Get("filters"))
	if err != nil {
		return err
	}
	all := []wireFunc{}
	for _, fn := range s.Catalog.Functions(AppName) {
		if f := wireOf(fn); wanted.match(f) {
			all = append(all, f)
		}
	}
	return answer(w, http.StatusOK, all)
}

// A filter says which functions are listed: those with one of the names, if there
// are any, and all of the labels ("key" or "key=value").
type filter struct{ names, labels []string }

// filterOf reads {"name":["x"]} or, as newer clients write it, {"name":{"x":true}}.
func filterOf(text string) (f filter, err error) {
	if text == "" {
		return f, nil
	}
	bad := func(format string, args ...any) (filter, error) {
		return filter{}, faas.Errorf(faas.Invalid, "bad filters: "+format, args...)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &fields); err != nil {
		return bad("they are no JSON object such as {\"name\":[\"x\"]}: %w", err)
	}
	for key, raw := range fields {
		var values []string
		var set map[string]bool
		if json.Unmarshal(raw, &values) != nil {
			if json.Unmarshal(raw, &set) != nil {
				return bad("%q must be a list of strings, or an object of them", key)
			}
			for v, on := range set {
				if on {
					values = append(values, v)
				}
			}
		}
		switch key {
		case "name":
			f.names = values
		case "label":
			f.labels = values
		default:
			return bad("%q is not one of: name, label", key)
		}
	}
	return f, nil
}

func (f filter) match(fn wireFunc) bool {
	if len(f.names) > 0 && !slices.Contains(f.names, fn.Name) {
		return false
	}
	for _, l := range f.labels {
		key, want, valued := strings.Cut(l, "=")
		if got, ok := fn.Config.Labels[key]; !ok || valued && got != want {
			return false
		}
	}
	return true
}

func (s *Server) inspect(w http.ResponseWriter, r *http.Request) error {
	fn, err := s.function(r.PathValue("name"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, wireOf(fn))
}

// functionOfCall answers with the function that a call was for: the client asks
// for its address this way before it gets a result.
func (s *Server) functionOfCall(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("call")
	call, err := s.Calls.Call(r.Context(), id)
	if err != nil && faas.KindOf(err) != faas.NotFound {
		return err
	}
	fn, none := s.Catalog.FunctionByID(call.FuncID)
	if app, noApp := s.Catalog.App(AppName); err != nil || none != nil || noApp != nil || fn.App != app.ID || call.Kind != faas.CallAsync {
		return faas.Errorf(faas.NotFound, "no such call: %s", id)
	}
	return answer(w, http.StatusOK, wireOf(fn))
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) error {
	in, err := readFunc(w, r)
	if err != nil {
		return err
	}
	in.ContainerSize, in.Timeout = cmp.Or(in.ContainerSize, defaultSize), cmp.Or(in.Timeout, defaultTimeout)
	fn, err := s.definition(in)
	if err != nil {
		return err
	}
	if _, err := s.function(fn.Name); err == nil {
		return faas.Errorf(faas.Conflict, "a function %s exists already", fn.Name)
	}
	m, err := s.Images.Pull(r.Context(), fn.Image, image.PullOptions{Policy: image.PullNever})
	if err != nil {
		return noImage(fn.Image, err)
	}
	if fn.Digest = m.Digest; len(fn.Command)+len(fn.Entrypoint) == 0 && (fn.Entrypoint != nil || len(m.Config.Command)+len(m.Config.Entrypoint) == 0) {
		return faas.Errorf(faas.Invalid, "image %s has no command, and function %s gives none", fn.Image, fn.Name)
	}
	app, err := s.app(r.Context())
	if err != nil {
		return err
	}
	fn.App = app.ID
	if fn, err = s.Catalog.PutFunction(r.Context(), fn, store.IfNew); err != nil {
		return err
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	w.Header().Set("Location", fmt.Sprintf("%s://%s/call/%s/%s", scheme, cmp.Or(s.Settings.Host, r.Host), fn.Name, fn.Address))
	return answer(w, http.StatusCreated, wireOf(fn))
}

// app returns the app Hyper. It is made with the first function, with the quota as
// its limit, which is then the app's own.
func (s *Server) app(ctx context.Context) (faas.App, error) {
	if app, err := s.Catalog.App(AppName); err == nil {
		return app, nil
	}
	app, err := s.Catalog.PutApp(ctx, faas.App{Name: AppName, MaxConcurrency: s.Settings.Quota}, store.IfNew)
	if faas.KindOf(err) == faas.Conflict {
		return s.Catalog.App(AppName) // somebody else was first
	}
	return app, err
}

// definition is the function that a request to create one asks for, but for its
// app and the digest of its image. What can never be honoured is Invalid.
func (s *Server) definition(in wireFunc) (faas.Function, error) {
	var fn faas.Function
	c, host := in.Config, in.HostConfig
	if c.Image == "" {
		return fn, faas.Errorf(faas.Invalid, "the function needs an image: name it in Config.Image")
	}
	if len(in.Name) > faas.MaxNameLength || !namePattern.MatchString(in.Name) {
		return fn, faas.Errorf(faas.Invalid, "bad function name %q: use 1 to %d of the characters a-z, 0-9 and '-', not beginning or ending with '-'", in.Name, faas.MaxNameLength)
	}
	var err error
	if fn.Network, err = s.network(host.NetworkMode); err != nil {
		return fn, err
	}
	for port := range c.ExposedPorts {
		if err := checkPort("Config.ExposedPorts", port); err != nil {
			return fn, err
		}
	}
	for port := range host.PortBindings {
		if err := checkPort("HostConfig.PortBindings", port); err != nil {
			return fn, err
		}
	}
	var env []string
	if c.Env != nil {
		env = *c.Env
	}
	fn.ID, fn.Name, fn.Image, fn.Format = faas.NewID(), in.Name, c.Image, faas.FormatDefault
	if fn.Env, err = envOf(env); err != nil {
		return fn, err
	}
	if len(c.Cmd) > 0 {
		fn.Command = c.Cmd
	}
	if len(c.Entrypoint) > 0 {
		fn.Entrypoint = c.Entrypoint
	}
	if slices.Equal(c.Entrypoint, words{""}) {
		fn.Entrypoint = []string{} // as Docker has it: none, whatever the image says
	}
	fn.Workdir, fn.Writable, fn.LogPayload, fn.Address = c.WorkingDir, true, true, faas.NewUUID()
	fn.MaxResult = s.maxBody()
	if ref, err := s.Images.Normalize(fn.Image); err == nil && ref.Local() {
		fn.Image = ref.String() // the server's address may be another one tomorrow
	}
	if err := s.resize(&fn, in.ContainerSize); err != nil {
		return fn, err
	}
	if err := setTimeout(&fn, in.Timeout); err != nil {
		return fn, err
	}
	if len(in.NetworkingConfig.EndpointsConfig) == 0 {
		in.NetworkingConfig.EndpointsConfig = nil
	}
	beside, err := in.kept()
	if err != nil {
		return fn, err
	}
	fn.Beside = map[string]string{annotation: beside}
	fn.Wait = longWait
	fn = fn.WithDefaults()
	return fn, fn.Check()
}

// network is the network of a function with this NetworkMode.
func (s *Server) network(mode string) (string, error) {
	switch {
	case mode == "", mode == "bridge", mode == "default":
		return "", nil // what the app or the node says
	case mode == string(faas.NetworkNone), mode == string(faas.NetworkHost) && s.Insecure:
		return mode, nil
	case mode == string(faas.NetworkHost):
		return "", faas.Errorf(faas.Invalid, "HostConfig.NetworkMode host: this server allows that only when it runs with --insecure")
	case strings.HasPrefix(mode, "container:"):
		return "", faas.Errorf(faas.Invalid, "HostConfig.NetworkMode %s cannot be honoured: there are no other containers here", mode)
	}
	return "", faas.Errorf(faas.Invalid, "HostConfig.NetworkMode %q is not one of: bridge, none, host", mode)
}

// checkPort reports whether port is one as Docker writes it: "8080/tcp".
func checkPort(field, port string) error {
	number, proto, _ := strings.Cut(port, "/")
	var n int
	if _, err := fmt.Sscanf(number+" ", "%d ", &n); err != nil || n < 1 || n > 65535 || !slices.Contains([]string{"", "tcp", "udp"}, proto) {
		return faas.Errorf(faas.Invalid, "%s: bad port %q: write it as 8080/tcp, between 1 and 65535", field, port)
	}
	return nil
}

func setTimeout(fn *faas.Function, seconds int) error {
	if seconds < 1 || seconds > maxTimeout {
		return faas.Errorf(faas.Invalid, "Timeout %d is not between 1 and %d seconds", seconds, maxTimeout)
	}
	fn.Timeout = time.Duration(seconds) * time.Second
	fn.AsyncTimeout = fn.Timeout
	return nil
}

// update changes what a Hyper function can change. What is empty stays.
func (s *Server) update(w http.ResponseWriter, r *http.Request) error {
	in, err := readFunc(w, r)
	if err != nil {
		return err
	}
	fn, err := definition.Update(r.Context(), func() (faas.Function, error) { return s.function(r.PathValue("name")) },
		func(fn faas.Function) (faas.Function, error) { return s.updated(fn.Clone(), in) },
		func(fn faas.Function) (faas.Function, error) {
			return s.Catalog.PutFunction(r.Context(), fn, fn.Revision)
		})
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, wireOf(fn))
}

func (s *Server) updated(fn faas.Function, in wireFunc) (faas.Function, error) {
	now := wireOf(fn)
	if in.Name != "" && in.Name != fn.Name {
		return fn, faas.Errorf(faas.Invalid, "the name of function %s cannot be changed to %q", fn.Name, in.Name)
	}
	env := in.Config.Env
	in.Config.Env, now.Config.Env = nil, nil
	for _, part := range []struct {
		name    string
		in, now any
	}{
		{"Config, but for Env,", in.Config, now.Config},
		{"HostConfig", in.HostConfig, now.HostConfig},
	} {
		if !reflect.ValueOf(part.in).IsZero() && !reflect.DeepEqual(part.in, part.now) {
			return fn, faas.Errorf(faas.Invalid, "%s cannot be changed: an update takes ContainerSize, Timeout, Refresh and Config.Env", part.name)
		}
	}
	if in.ContainerSize != "" {
		if err := s.resize(&fn, in.ContainerSize); err != nil {
			return fn, err
		}
		now.ContainerSize = in.ContainerSize
		beside, err := now.kept()
		if err != nil {
			return fn, err
		}
		if fn.Beside == nil {
			fn.Beside = make(map[string]string)
		}
		fn.Beside[annotation] = beside
	}
	if in.Timeout != 0 {
		if err := setTimeout(&fn, in.Timeout); err != nil {
			return fn, err
		}
	}
	if env != nil {
		var err error
		if fn.Env, err = envOf(*env); err != nil {
			return fn, err
		}
	}
	if in.Refresh {
		fn.Address = faas.NewUUID()
	}
	return fn, nil
}

// remove removes a function that nothing of is executing. Its calls in line are
// for the daemon to cancel, which sees that it is gone.
func (s *Server) remove(w http.ResponseWriter, r *http.Request) error {
	fn, err := s.function(r.PathValue("name"))
	if err != nil {
		return err
	}
	tally, err := s.Calls.Tally(r.Context(), fn.ID)
	if err != nil {
		return err
	}
	synchronous := slices.ContainsFunc(s.Queue.Live(), func(c faas.Call) bool { return c.FuncID == fn.ID && c.State == faas.CallRunning })
	if tally.Running > 0 || synchronous {
		return faas.Errorf(faas.Conflict, "function %s cannot be removed: a call is executing", fn.Name)
	}
	if err := s.Catalog.DeleteFunction(r.Context(), fn.ID); err != nil {
		return err
	}
	s.Logs.Forget(fn.ID)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
