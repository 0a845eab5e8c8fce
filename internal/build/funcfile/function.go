package funcfile

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"hob/faas"
)

// Annotations that keep what a file says in Oracle's words.
const (
	AnnotationFreeform = "oracle.com/oci/freeformTags"
	AnnotationDefined  = "oracle.com/oci/definedTags"
)

// function reads the keys of a func.yaml.
func (r *reader) function(f *Function, fields object) {
	texts := map[string]*string{
		"name": &f.Name, "runtime": &f.Runtime, "image": &f.Image, "build_image": &f.BuildImage, "run_image": &f.RunImage,
		"content_type": &f.ContentType, "type": &f.Type, "format": &f.Format, "isolation": &f.Isolation,
	}
	route := Trigger{Type: faas.TriggerHTTP, Convention: string(faas.ConventionFn)} // of version 1
	for _, name := range slices.Sorted(maps.Keys(fields)) {                         // in order: the first error is always the same
		at := fields[name]
		if to, ok := texts[name]; ok {
			*to = r.text(at)
			continue
		}
		if !f.Schema && r.route(&route, at) {
			continue
		}
		switch name {
		case "schema_version":
		case "version":
			f.Version = r.plain(at)
		case "entrypoint":
			f.Entrypoint = r.words(at)
		case "cmd":
			f.Cmd = r.words(at)
		case "build":
			f.Build = r.list(at)
		case "memory":
			f.Memory = r.memory(at)
		case "cpus":
			f.CPUs = r.cpus(at)
		case "timeout":
			f.Timeout = r.duration(at)
		case "idle_timeout":
			f.IdleTimeout = r.duration(at)
		case "max_concurrency":
			f.MaxConcurrency = r.count(at)
		case "network":
			f.Network = r.network(at)
		case "allow":
			f.Allow = r.rules(at)
		case "devices":
			f.Devices = append([]string{}, r.list(at)...)
		case "config":
			f.Config = r.texts(at)
		case "annotations":
			f.Annotations = r.annotations(at)
		case "expects":
			f.Expects = r.expects(at)
		case "triggers":
			f.Triggers = r.triggers(at)
		case "tests":
			f.Tests = r.tests(at)
		case "deploy":
			r.deploy(f, at)
		default:
			r.idle(at)
		}
	}
	if f.Schema {
		if f.Type == "async" {
			r.note(fields["type"], `is of triggers here: write async: true beside the source of one`)
		}
		return
	}
	switch f.Type {
	case "":
	case "sync", "async":
		async := f.Type == "async"
		route.Async = &async
	default:
		r.fail(fields["type"].value, "type is %s, and sync or async is wanted", shown(fields["type"].value))
	}
	if route.Source == "" {
		route.Source, route.Implied = f.ShortName(), true // as the old command lines name it
	}
	route.Name, route.Source = f.ShortName(), "/"+strings.TrimPrefix(route.Source, "/")
	f.Triggers = append(f.Triggers, route)
}

// route reads what is of a route, and reports whether it is.
func (r *reader) route(t *Trigger, at field) bool {
	switch at.name {
	case "path":
		t.Source = r.text(at)
	case "headers":
		t.Headers = r.headers(at)
	case "jwt_key":
		t.Key = r.text(at)
	default:
		return false
	}
	return true
}

// headers reads an object whose values are text, or lists of text.
func (r *reader) headers(at field) map[string][]string {
	all := map[string][]string{}
	for name, item := range r.mapping(at.value, at.name) {
		item.name = at.name + "." + name
		if item.value.Kind == yaml.SequenceNode {
			for value := range r.items(item) {
				all[name] = append(all[name], r.plain(value))
			}
			continue
		}
		all[name] = []string{r.plain(item)}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// idle notes a key that does nothing.
func (r *reader) idle(at field) {
	switch at.name {
	case "headers", "jwt_key":
		r.note(at, `is of triggers here: write headers and key beside the source of one`)
	case "signing_details":
		r.note(at, "does nothing here")
	default:
		r.note(at, "is not known, and does nothing")
	}
}

// count is an integer that IronFunctions wrote as text at times.
func (r *reader) count(at field) int {
	if at.value.ShortTag() == "!!str" {
		n := *at.value
		n.Tag = "!!int"
		at.value = &n
	}
	return r.integer(at, at.name)
}

func (r *reader) expects(at field) (all []Expect) {
	fields := r.mapping(at.value, at.name)
	config, ok := fields["config"]
	if !ok {
		return nil
	}
	config.name = "expects.config"
	for item := range r.items(config) {
		var e Expect
		for _, part := range r.mapping(item.value, item.name) {
			switch part.name {
			case "name":
				e.Name = r.text(part)
			case "required":
				e.Required = r.boolean(part)
			}
		}
		if e.Name == "" {
			r.fail(item.value, "%s has no name", item.name)
		}
		all = append(all, e)
	}
	return all
}

func (r *reader) triggers(at field) (all []Trigger) {
	for item := range r.items(at) {
		t := Trigger{Type: faas.TriggerHTTP}
		for _, part := range r.mapping(item.value, item.name) {
			switch part.name {
			case "name":
				t.Name = r.text(part)
			case "type":
				t.Type = r.text(part)
			case "source":
				t.Source = r.text(part)
			case "async":
				async := r.boolean(part)
				t.Async = &async
			case "headers":
				t.Headers = r.headers(part)
			case "key":
				t.Key = r.text(part)
			case "convention":
				t.Convention = r.text(part)
			default:
				part.name = item.name + "." + part.name
				r.note(part, "is not known, and does nothing")
			}
		}
		if t.Name == "" || t.Source == "" {
			r.fail(item.value, "%s needs a name and a source", item.name)
		}
		if !strings.HasPrefix(t.Source, "/") {
			t.Source = "/" + t.Source
		}
		all = append(all, t)
	}
	return all
}

func (r *reader) tests(at field) (all []Test) {
	for item := range r.items(at) {
		var t Test
		for _, part := range r.mapping(item.value, item.name) {
			switch part.name {
			case "name":
				t.Name = r.plain(part)
			case "in":
				t.In = r.plain(part)
			case "out":
				out := r.plain(part)
				t.Out = &out
			case "err":
				text := r.plain(part)
				t.Err = &text
			case "env":
				t.Env = r.texts(part)
			}
		}
		all = append(all, t)
	}
	return all
}

// deploy reads deploy.oci.
func (r *reader) deploy(f *Function, at field) {
	oci, ok := r.mapping(at.value, at.name)["oci"]
	if !ok {
		return
	}
	for _, part := range r.mapping(oci.value, "deploy.oci") {
		name := part.name
		part.name = "deploy.oci." + name
		switch name {
		case "provisioned_concurrency":
			f.Min = r.provisioned(part)
		case "detached_timeout", "detached_mode_timeout_in_seconds":
			f.AsyncTimeout = r.duration(part)
		case "detached_mode":
			r.detached(f, part)
		case "freeform_tags", "defined_tags":
			key := map[string]string{"freeform_tags": AnnotationFreeform, "defined_tags": AnnotationDefined}[name]
			r.mapping(part.value, part.name)
			if part.value.Tag != "!!null" {
				if f.Annotations == nil {
					f.Annotations = map[string]string{}
				}
				f.Annotations[key] = r.json(part)
			}
		case "pbf":
			r.note(part, "names a function that Oracle has built, and there are none here: name an image")
		default:
			r.note(part, "is not known, and does nothing")
		}
	}
}

// provisioned reads a strategy with its count, or both as the text "constant:40".
func (r *reader) provisioned(at field) *int {
	var strategy, count string
	if at.value.Kind == yaml.ScalarNode {
		strategy, count, _ = strings.Cut(r.text(at), ":")
	} else {
		for _, part := range r.mapping(at.value, at.name) {
			switch name := part.name; name {
			case "strategy":
				strategy = r.plain(part)
			case "count":
				count = r.plain(part)
			}
		}
	}
	n := 0
	switch strategy, count = strings.ToLower(strings.TrimSpace(strategy)), strings.TrimSpace(count); {
	case strategy == "" && count == "":
		return nil
	case strategy == "none":
	case strategy == "constant":
		var err error
		if n, err = strconv.Atoi(count); err != nil || n < 1 || n > math.MaxInt32 {
			r.fail(at.value, "the count of %s is %q, and a whole number from 1 up to %d is wanted", at.name, count, math.MaxInt32)
		}
	default:
		r.fail(at.value, "the strategy of %s is %q, and none or constant is wanted, as in constant:40", at.name, strategy)
	}
	return &n
}

func (r *reader) detached(f *Function, at field) {
	for _, part := range r.mapping(at.value, at.name) {
		name := part.name
		part.name = at.name + "." + name
		switch name {
		case "timeout":
			f.AsyncTimeout = r.duration(part)
		case "on_success":
			f.OnSuccess = r.destination(part)
		case "on_failure":
			f.OnFailure = r.destination(part)
		}
	}
}

// destination is the target of a result, where hob can send it: a URL or
// APP/FUNCTION in place of the id that only Oracle knows, or as text.
func (r *reader) destination(at field) string {
	target := at
	if at.value.Kind != yaml.ScalarNode {
		var ok bool
		if target, ok = r.mapping(at.value, at.name)["ocid"]; !ok {
			return ""
		}
	}
	to := r.text(target)
	if to == "" || faas.CheckDestination(at.name, to) == nil {
		return to
	}
	r.note(at, "is a place at Oracle: write a URL or APP/FUNCTION as its ocid for results to be sent there")
	return ""
}
