package ironv1

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"hob/faas"
	"hob/internal/api/definition"
)

// Limits of a route.
const (
	maxTimeout      = 300 * time.Second // of a synchronous one: that of a function of /v2
	maxAsyncTimeout = 3600 * time.Second
	lineOfRoute     = 100 // callers that wait
)

// What a function keeps beside its definition.
const (
	beside    = "iron" // it was made here, for the route with this path
	besideTmp = faas.BesideTmp
)

// blank is a new route with all defaults.
func blank(in routeIn) route {
	fn := faas.Function{
		Format: faas.FormatDefault, Writable: true, Beside: map[string]string{beside: in.Path},
		Memory: faas.DefaultMemory, TmpSize: faas.DefaultMemory, Line: lineOfRoute, Env: in.Config,
	}
	t := faas.Trigger{ID: faas.NewID(), Type: faas.TriggerHTTP, Source: in.Path, Convention: faas.ConventionFn}
	return route{fn: fn.WithDefaults(), trigger: t}
}

// mergedRoute is rt with what in names. An image that is named is looked up anew:
// what its name means here now is what is run.
func (s *Server) mergedRoute(rt route, in routeIn, isNew bool) (_ route, err error) {
	if err := in.check(); err != nil {
		return rt, err
	}
	was := rt.trigger.Async
	setType(&rt, in.Type)
	setFormat(&rt.fn, in.Format)
	if err := setLimits(&rt, in, was != rt.trigger.Async); err != nil {
		return rt, err
	}
	if isNew && in.MaxConcurrency != 0 {
		rt.fn.MaxConcurrency = int(in.MaxConcurrency) // also if it is what would be shown
	}
	if in.JWTKey != "" {
		rt.trigger.Key = in.JWTKey
	}
	rt.trigger.Header = mergedHeader(rt.trigger.Header, headerOf(in.Headers))
	if !isNew {
		rt.fn.Env = definition.MergedConfig(rt.fn.Env, in.Config)
	}
	if rt.fn.Annotations, err = definition.MergedAnnotations(rt.fn.Annotations, in.Annotations, isNew); err != nil {
		return rt, err
	}
	if in.Image != "" {
		rt.fn.Image = in.Image
		rt.fn.Digest, err = s.local(in.Image)
	}
	return rt, err
}

// local is the digest of an image if it is on this node, else "". A name with capital
// letters, which no image can have, is taken: the documentation has one in its
// example. Who calls the route is told of it.
func (s *Server) local(ref string) (string, error) {
	digest, err := s.Images.Local(ref)
	if faas.KindOf(err) != faas.Invalid {
		return digest, err
	}
	if _, err := s.Images.Local(strings.ToLower(ref)); faas.KindOf(err) == faas.Invalid {
		return "", invalid("Invalid route Image")
	}
	return "", nil
}

// check looks at what is wrong whatever the route is.
func (in routeIn) check() error {
	switch {
	case !slices.Contains([]string{"", typeSync, typeAsync}, in.Type):
		return invalid("Invalid route Type")
	case in.Format != "" && !slices.Contains(faas.Formats(), in.Format):
		return invalid("Invalid route Format")
	case in.MaxConcurrency < 0:
		return invalid("Negative MaxConcurrency")
	case in.Timeout < 0:
		return invalid("Negative timeout")
	case in.IdleTimeout < 0:
		return invalid("Negative idle timeout")
	case len(in.JWTKey) > faas.MaxTriggerKey:
		return invalid(fmt.Sprintf("jwt_key has %d bytes, over the limit of %d", len(in.JWTKey), faas.MaxTriggerKey))
	}
	return nil
}

// setType makes a route synchronous or not. Its timeout stays.
func setType(rt *route, to string) {
	if async := to == typeAsync; to == "" || async == rt.trigger.Async {
		return
	} else if timeout := timeoutOf(*rt); async {
		rt.fn.AsyncTimeout = timeout
	} else if timeout > 0 {
		rt.fn.Timeout = timeout
	}
	rt.trigger.Async = to == typeAsync
}

// timeoutOf is the longest run of a call of rt; 0: there is none.
func timeoutOf(rt route) time.Duration {
	if rt.trigger.Async {
		return rt.fn.TimeoutOf(faas.CallAsync)
	}
	return rt.fn.Timeout
}

// setFormat gives fn another format, and what is of one format only.
func setFormat(fn *faas.Function, format faas.Format) {
	if format == "" || format == fn.Format {
		return
	}
	if format.Hot() && fn.MaxConcurrency == 0 {
		fn.MaxConcurrency = 1 // as it is shown
	}
	if !format.Hot() {
		fn.Min, fn.MaxCalls, fn.Freeze = 0, 0, ""
		if fn.MaxConcurrency == 1 {
			fn.MaxConcurrency = 0
		}
	}
	fn.Format, fn.Port, fn.Concurrency = format, 0, 0
	if format == faas.FormatPort {
		fn.Port, fn.Concurrency = faas.DefaultPort, 1
	}
	if fn.Beside[beside] != "" {
		fn.Profile, fn.User, fn.Writable = faas.ProfileHob, "", true
		if format == faas.FormatHTTPStream { // as /v2 makes them
			fn.Profile, fn.User, fn.Writable = faas.ProfileFn, "1000:1000", false
		}
	}
}

// setLimits gives a route the numbers of in. One that is shown is no change: clients
// send back what they have read.
func setLimits(rt *route, in routeIn, retyped bool) error {
	fn, now := &rt.fn, wireOfRoute(*rt)
	timed := in.Timeout != 0 && in.Timeout != now.Timeout
	if timed {
		setTimeout(rt, time.Duration(in.Timeout)*time.Second)
	}
	limit := maxTimeout
	if rt.trigger.Async {
		limit = maxAsyncTimeout
	}
	if (timed || retyped) && timeoutOf(*rt) > limit {
		return invalid("timeout value is out of range. Sync should be between 0 and 300, async should be between 0 and 3600")
	}
	if in.IdleTimeout != 0 && in.IdleTimeout != now.IdleTimeout {
		if in.IdleTimeout > definition.MaxIdle {
			return invalid("idle_timeout value is out of range. It should be between 0 and 3600")
		}
		fn.Idle = time.Duration(in.IdleTimeout) * time.Second
	}
	if in.Memory != 0 && in.Memory != now.Memory {
		if in.Memory > definition.MaxMemory {
			return invalid("memory value is out of range. It should be between 0 and 8192")
		}
		definition.SetMemory(fn, in.Memory)
		if now.TmpfsSize != 0 {
			setTmp(fn, now.TmpfsSize)
		}
	}
	if in.TmpfsSize != 0 && in.TmpfsSize != now.TmpfsSize {
		setTmp(fn, in.TmpfsSize)
	}
	if in.MaxConcurrency != 0 && int(in.MaxConcurrency) != now.MaxConcurrency {
		fn.MaxConcurrency = int(in.MaxConcurrency)
	}
	if in.CPUs == "" {
		return nil
	}
	cpu, err := parseCPU(in.CPUs)
	if err != nil {
		return invalid("Cpus is invalid. Value should be either between [0.000 and 1024.000] or [0m and 1024000m] milliCPU units")
	}
	if cpu != 0 && cpu < faas.MinCPU {
		return invalid(fmt.Sprintf("Cpus is invalid. Value should be either between [0.010 and 1024.000] or [10m and 1024000m] milliCPU units: %q is under the least of a sandbox", in.CPUs))
	}
	if cpu != 0 {
		fn.CPU = cpu
	}
	return nil
}

// setTimeout bounds the calls of rt, and those of its function that come otherwise
// unless they have a bound of their own.
func setTimeout(rt *route, to time.Duration) {
	fn := &rt.fn
	apart := fn.AsyncTimeout != 0 && fn.AsyncTimeout != fn.Timeout
	if !apart || !rt.trigger.Async {
		fn.Timeout = to
	}
	if rt.trigger.Async {
		fn.AsyncTimeout = to
	} else if !apart {
		fn.AsyncTimeout = 0
	}
}

// setTmp gives /tmp so many MB, or all memory if that is less: what is in it counts to
// the memory.
func setTmp(fn *faas.Function, mb uint32) {
	fn.TmpSize = min(faas.Bytes(mb)*faas.MB, fn.Memory)
	fn.Beside = definition.MergedConfig(fn.Beside, map[string]string{besideTmp: strconv.FormatUint(uint64(mb), 10)})
}

// mergedHeader is header with changes: values replace those of the same name, and none
// remove it. It is header itself if they change nothing.
func mergedHeader(header, changes map[string][]string) map[string][]string {
	merged := maps.Clone(header)
	if merged == nil {
		merged = make(map[string][]string)
	}
	for name, values := range changes {
		if merged[name] = values; len(values) == 0 {
			delete(merged, name)
		}
	}
	if maps.EqualFunc(header, merged, slices.Equal[[]string]) {
		return header
	}
	return merged
}
