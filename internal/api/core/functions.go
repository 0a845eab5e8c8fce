package core

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/store"
)

// settingsIn is what can be set of a function, as it is read. What is nil is
// absent or null.
type settingsIn struct {
	Image          *string            `json:"image"`
	Format         *string            `json:"format"`
	Entrypoint     []string           `json:"entrypoint"`
	Command        []string           `json:"command"`
	Env            map[string]*string `json:"env"`
	Workdir        *string            `json:"workdir"`
	User           *string            `json:"user"`
	Writable       *bool              `json:"writable"`
	Network        *string            `json:"network"`
	Allow          []string           `json:"allow"`
	Isolation      *string            `json:"isolation"`
	Devices        []string           `json:"devices"`
	Memory         *amount            `json:"memory"`
	CPUs           *amount            `json:"cpus"`
	TmpSize        *amount            `json:"tmp_size"`
	Timeout        *string            `json:"timeout"`
	Wait           *string            `json:"wait"`
	StartTimeout   *string            `json:"start_timeout"`
	IdleTimeout    *string            `json:"idle_timeout"`
	MaxConcurrency *int               `json:"max_concurrency"`
	Line           *int               `json:"line"`
	Port           *int               `json:"port"`
	Concurrency    *int               `json:"concurrency"`
	Min            *int               `json:"min"`
	MaxCalls       *int               `json:"max_calls"`
	Freeze         *string            `json:"freeze"`
	AsyncTimeout   *string            `json:"async_timeout"`
	Delay          *string            `json:"delay"`
	Retries        *int               `json:"retries"`
	RetryDelay     *string            `json:"retry_delay"`
	RetryMax       *string            `json:"retry_max"`
	OnSuccess      *string            `json:"on_success"`
	OnFailure      *string            `json:"on_failure"`
	OnNodeLoss     *string            `json:"on_node_loss"`
	LogPayload     *bool              `json:"log_payload"`
	Profile        *string            `json:"profile"`
	Shape          *string            `json:"shape"`
	Annotations    annotationsIn      `json:"annotations"`
}

// functionIn makes a function.
type functionIn struct {
	Name string `json:"name"`
	settingsIn
}

// changeIn changes a function: absent keeps, null sets back to the default.
type changeIn struct {
	settingsIn
	Revision *int64 `json:"revision"` // change only if the function is still at this one
}

// pullLater leaves the image to the first call.
const pullLater = "later"

// pullPolicies are the values of the parameter pull.
var pullPolicies = []string{"missing", "always", "never", pullLater}

func (s *Server) listFunctions(w http.ResponseWriter, r *http.Request) error {
	if p := query(r); p.err != nil {
		return p.err
	}
	app := r.PathValue("app")
	if app != "" {
		if _, err := s.Catalog.App(app); err != nil {
			return err
		}
	}
	out := wireFunctions{Functions: []wireFunction{}}
	for _, fn := range s.Catalog.Functions(app) {
		out.Functions = append(out.Functions, wireOfFunction(s.appName(fn), fn))
	}
	return answer(w, http.StatusOK, out)
}

// appName is the name of the app of fn; empty if it went just now.
func (s *Server) appName(fn faas.Function) string {
	app, err := s.Catalog.AppByID(fn.App)
	if err != nil {
		return ""
	}
	return app.Name
}

func (s *Server) getFunction(w http.ResponseWriter, r *http.Request) error {
	fn, err := s.Catalog.Function(r.PathValue("app"), r.PathValue("function"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, wireOfFunction(r.PathValue("app"), fn))
}

func (s *Server) createFunction(w http.ResponseWriter, r *http.Request) error {
	p := query(r, "pull")
	pull := oneOf(p, "pull", pullPolicies...)
	if p.err != nil {
		return p.err
	}
	var in functionIn
	if _, err := readJSON(w, r, &in); err != nil {
		return err
	}
	app, err := s.Catalog.App(r.PathValue("app"))
	if err != nil {
		return err
	}
	fn, err := in.function()
	if err != nil {
		return err
	}
	fn.ID, fn.App, fn.Name, fn.Address = faas.NewID(), app.ID, in.Name, faas.NewUUID()
	if err := s.check(fn); err != nil {
		return err
	}
	if _, err := s.Catalog.Function(app.Name, fn.Name); err == nil {
		return faas.Errorf(faas.Conflict, "function %q exists already in app %q", fn.Name, app.Name)
	}
	if s.Catalog.Admit != nil { // before gigabytes are fetched for it
		if err := s.Catalog.Admit(r.Context(), app, fn); err != nil {
			return err
		}
	}
	if fn, err = s.pin(r, fn, pull); err != nil {
		return err
	}
	if fn, err = s.Catalog.PutFunction(r.Context(), fn, store.IfNew); err != nil {
		return err
	}
	return answer(w, http.StatusCreated, wireOfFunction(app.Name, fn))
}

// updateFunction changes what the body names. The image is looked at, and its
// digest pinned anew, only if the body names it or pull is given.
func (s *Server) updateFunction(w http.ResponseWriter, r *http.Request) error {
	p := query(r, "pull")
	pull := oneOf(p, "pull", pullPolicies...)
	if p.err != nil {
		return p.err
	}
	var in changeIn
	fields, err := readJSON(w, r, &in)
	if err != nil {
		return err
	}
	_, newImage := fields["image"]
	return retried(func() error {
		old, err := s.Catalog.Function(r.PathValue("app"), r.PathValue("function"))
		if err != nil {
			return err
		}
		if in.Revision != nil && *in.Revision != old.Revision {
			return faas.Errorf(faas.Conflict, "function %q is at revision %d, not %d: %w", old.Name, old.Revision, *in.Revision, errOvertaken)
		}
		fn, err := merged(old, fields)
		if err != nil {
			return err
		}
		if err := s.check(fn); err != nil {
			return err
		}
		if newImage || pull != "" {
			fn, err = s.pin(r, fn, pull)
		} else if fields["entrypoint"] != nil || fields["command"] != nil {
			err = s.checkCommand(fn)
		}
		if err != nil {
			return err
		}
		if fn, err = s.Catalog.PutFunction(r.Context(), fn, old.Revision); err != nil {
			return err
		}
		return answer(w, http.StatusOK, wireOfFunction(r.PathValue("app"), fn))
	})
}

// deleteFunction removes a function. Calls of it that run go on to their end,
// but that must be asked for.
func (s *Server) deleteFunction(w http.ResponseWriter, r *http.Request) error {
	p := query(r, "force")
	force := p.flag("force", false)
	if p.err != nil {
		return p.err
	}
	fn, err := s.Catalog.Function(r.PathValue("app"), r.PathValue("function"))
	if err != nil {
		return err
	}
	if !force {
		if err := s.checkIdle(fn); err != nil {
			return err
		}
	}
	if err := s.Catalog.DeleteFunction(r.Context(), fn.ID); err != nil {
		return err
	}
	s.Logs.Forget(fn.ID)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// checkIdle reports calls of fn that run, as Conflict.
func (s *Server) checkIdle(fn faas.Function) error {
	var running []string
	for _, c := range s.Caller.Live() {
		if c.FuncID == fn.ID && c.State == faas.CallRunning {
			running = append(running, c.ID)
		}
	}
	if len(running) == 0 {
		return nil
	}
	slices.Sort(running)
	return faas.Errorf(faas.Conflict, "function %q cannot be removed while a call of it runs: %s; wait for it or cancel it, or remove the function with --force (force=true)", fn.Name, some(running))
}

// some names the first of many.
func some(ids []string) string {
	const most = 5
	if len(ids) <= most {
		return strings.Join(ids, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(ids[:most], ", "), len(ids)-most)
}

// refreshFunction gives a function a new public address in place of the one it has.
func (s *Server) refreshFunction(w http.ResponseWriter, r *http.Request) error {
	if p := query(r); p.err != nil {
		return p.err
	}
	return retried(func() error {
		fn, err := s.Catalog.Function(r.PathValue("app"), r.PathValue("function"))
		if err != nil {
			return err
		}
		fn.Address = faas.NewUUID()
		if fn, err = s.Catalog.PutFunction(r.Context(), fn, fn.Revision); err != nil {
			return err
		}
		return answer(w, http.StatusOK, wireOfFunction(r.PathValue("app"), fn))
	})
}

// status counts the asynchronous calls of a function that are kept, and the connections
// that it was refused.
func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	if p := query(r); p.err != nil {
		return p.err
	}
	fn, err := s.Catalog.Function(r.PathValue("app"), r.PathValue("function"))
	if err != nil {
		return err
	}
	var t store.Tally
	if s.Calls != nil {
		if t, err = s.Calls.Tally(r.Context(), fn.ID); err != nil {
			return err
		}
	}
	refused := 0
	if s.Refusals != nil {
		refused = s.Refusals(fn.ID)
	}
	return answer(w, http.StatusOK, wireStatus{
		Total:  t.Queued + t.Running + t.Succeeded + t.Failed,
		Queued: t.Queued, Running: t.Running, Succeeded: t.Succeeded, Failed: t.Failed,
		Refused: refused,
	})
}

// function is a function with these settings and defaults for the rest.
func (in settingsIn) function() (faas.Function, error) {
	fn := faas.Function{
		Image: value(in.Image), Format: faas.Format(value(in.Format)),
		Entrypoint: in.Entrypoint, Command: in.Command, Env: mergedEnv(nil, in.Env),
		Workdir: value(in.Workdir), User: value(in.User), Writable: value(in.Writable),
		Network: value(in.Network), Allow: orNone(in.Allow), Isolation: faas.Isolation(value(in.Isolation)), Devices: orNone(in.Devices),
		MaxConcurrency: value(in.MaxConcurrency), Line: value(in.Line),
		Port: value(in.Port), Concurrency: value(in.Concurrency),
		Min: value(in.Min), MaxCalls: value(in.MaxCalls), Freeze: value(in.Freeze),
		Retries: value(in.Retries), OnSuccess: value(in.OnSuccess), OnFailure: value(in.OnFailure),
		OnNodeLoss: value(in.OnNodeLoss), LogPayload: value(in.LogPayload),
		Profile: faas.Profile(value(in.Profile)), Shape: value(in.Shape), Annotations: in.Annotations.merged(nil),
	}
	var errs [11]error
	fn.Memory, errs[0] = in.Memory.bytes("memory")
	fn.CPU, errs[1] = in.CPUs.cpu("cpus")
	fn.TmpSize, errs[2] = in.TmpSize.bytes("tmp_size")
	fn.Timeout, errs[3] = duration("timeout", in.Timeout)
	fn.Wait, errs[4] = duration("wait", in.Wait)
	fn.StartTimeout, errs[5] = duration("start_timeout", in.StartTimeout)
	fn.Idle, errs[6] = duration("idle_timeout", in.IdleTimeout)
	fn.AsyncTimeout, errs[7] = in.asyncTimeout()
	fn.Delay, errs[8] = duration("delay", in.Delay)
	fn.RetryDelay, errs[9] = duration("retry_delay", in.RetryDelay)
	fn.RetryMax, errs[10] = duration("retry_max", in.RetryMax)
	for _, err := range errs {
		if err != nil {
			return fn, err
		}
	}
	return fn.WithDefaults(), nil
}

// asyncTimeout reads the longest run of an asynchronous call: below 0 for none.
func (in settingsIn) asyncTimeout() (time.Duration, error) {
	switch value(in.AsyncTimeout) {
	case "":
		return 0, nil
	case noTimeout:
		return -1, nil
	}
	d, err := time.ParseDuration(*in.AsyncTimeout)
	if err != nil || d < 0 {
		return 0, faas.Errorf(faas.Invalid, `field "async_timeout": bad duration %q: write it as 30m or 12h, %q for no limit, or nothing for that of other calls`, *in.AsyncTimeout, noTimeout)
	}
	return d, nil
}

// merged is old with the changes that fields name, by the rules of JSON Merge
// Patch (RFC 7396): absent keeps, null sets back to the default, and in env
// and annotations each entry counts for itself.
func merged(old faas.Function, fields map[string]json.RawMessage) (faas.Function, error) {
	settings := settingsOf(old)
	b, err := json.Marshal(settings)
	if err != nil {
		return old, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return old, err
	}
	if all["env"], err = mergedEnvJSON(settings.Env, fields["env"]); err != nil {
		return old, err
	}
	if fields["memory"] != nil && old.TmpSize == (faas.Function{Memory: old.Memory}).WithDefaults().TmpSize {
		delete(all, "tmp_size") // nobody chose it: it goes with the memory
	}
	if fields["retry_delay"] != nil && old.RetryMax == (faas.Function{RetryDelay: old.RetryDelay}).WithDefaults().RetryMax {
		delete(all, "retry_max") // the same
	}
	if fields["format"] != nil {
		for _, name := range foreign(old.Format, fields["format"]) {
			delete(all, name) // it meant something in the old format only
		}
	}
	annotations := old.Annotations
	if isNull(fields["annotations"]) {
		annotations = nil
	}
	var changes annotationsIn
	if change := fields["annotations"]; change != nil {
		if err := json.Unmarshal(change, &changes); err != nil {
			return old, badJSON(change, err)
		}
	}
	delete(all, "annotations") // written anew they would not be as they were
	for name, change := range fields {
		switch {
		case name == "revision" || name == "env" || name == "annotations":
		case isNull(change):
			delete(all, name)
		default:
			all[name] = change
		}
	}
	if b, err = json.Marshal(all); err != nil {
		return old, err
	}
	var in settingsIn
	if err := json.Unmarshal(b, &in); err != nil {
		return old, badJSON(b, err)
	}
	fn, err := in.function()
	fn.Annotations = changes.merged(annotations)
	fn.ID, fn.App, fn.Name, fn.Digest = old.ID, old.App, old.Name, old.Digest
	fn.Address, fn.Beside, fn.MaxResult = old.Address, old.Beside, old.MaxResult // of other APIs
	fn.Revision, fn.Created, fn.Updated = old.Revision, old.Created, old.Updated
	return fn, err
}

// foreign lists the settings of a function of format old that its new format
// does not have, or has with another default.
func foreign(old faas.Format, change json.RawMessage) []string {
	format := faas.FormatDefault
	if err := json.Unmarshal(change, &format); err != nil || format == old {
		return nil // a bad one is told later
	}
	names := []string{"port", "concurrency"}
	if !format.Hot() {
		names = append(names, "min", "max_calls", "freeze")
	}
	return names
}

func mergedEnvJSON(env map[string]string, change json.RawMessage) (json.RawMessage, error) {
	var changes map[string]*string
	if change != nil {
		if err := json.Unmarshal(change, &changes); err != nil {
			return nil, badJSON(change, err)
		}
		if isNull(change) {
			env = nil
		}
	}
	return json.Marshal(mergedEnv(env, changes))
}

// orNone is l, and nil for an empty one: to an engine of the store they differ.
func orNone(l []string) []string {
	if len(l) == 0 {
		return nil
	}
	return l
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// check reports what this server does not take, whoever's fault it is.
func (s *Server) check(fn faas.Function) error {
	if err := fn.Check(); err != nil {
		return err
	}
	switch {
	case s.Insecure:
	case isRoot(fn.User):
		return faas.Errorf(faas.Denied, "user %q is root: this server allows that only when it runs with --insecure", fn.User)
	case fn.Network == "host":
		return faas.Errorf(faas.Denied, "the network of the host: this server allows that only when it runs with --insecure")
	}
	return nil
}

// isRoot reports whether a function's user is root, by number or by name.
func isRoot(user string) bool {
	name, _, _ := strings.Cut(user, ":")
	uid, err := strconv.ParseUint(name, 10, 64)
	return name == "root" || err == nil && uid == 0
}
