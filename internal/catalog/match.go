package catalog

import (
	"path"
	"strings"
	"sync"

	"hob/faas"
)

// patterns are the sources of an app that are patterns. They are put together when
// a path is first matched: an app may have thousands of them, made one by one. Once
// they change, others stand in their place.
type patterns struct {
	once sync.Once
	root pattern
}

// of returns the root of p, whose app has this ID in ix.
func (p *patterns) of(ix *index, appID string) *pattern {
	p.once.Do(func() {
		for _, t := range within(appID, ix.patternsOf.after(appID, "")) { // of two alike the older counts
			p.root.add(t)
		}
	})
	return &p.root
}

// pattern is a node of the sources of an app that are patterns, by their segments:
// a segment ":name" stands for any one segment that is not empty, a last segment "*"
// or "*name" for all the rest of a path, which may be empty.
type pattern struct {
	literal map[string]*pattern
	param   *pattern
	here    *target // a source that ends here
	rest    *target // one that ends here with a wildcard
}

// target is a source with the names of its parameters, in order.
type target struct {
	trigger *faas.Trigger
	names   []string
}

// isPattern reports whether a source has a parameter or a wildcard.
func isPattern(source string) bool {
	segments := strings.Split(source, "/")
	for i, s := range segments {
		if isParam(s) || isRest(s) && i == len(segments)-1 {
			return true
		}
	}
	return false
}

func isParam(segment string) bool { return len(segment) > 1 && segment[0] == ':' }
func isRest(segment string) bool  { return strings.HasPrefix(segment, "*") }

// shape is a source without the names of its parameters and of its wildcard: sources
// of one shape stand for the same paths.
func shape(source string) string {
	segments := strings.Split(source, "/")
	for i, s := range segments {
		switch {
		case isParam(s):
			segments[i] = "::" // which is one
		case isRest(s) && i == len(segments)-1:
			segments[i] = "*"
		}
	}
	return strings.Join(segments, "/")
}

// checkPattern reports whether the source of t, a pattern, is free in its app. One that
// t has already is, whatever was said of patterns when it was given.
func (c *Catalog) checkPattern(t *faas.Trigger) error {
	ix := c.index.Load()
	app := ix.appByID.get(t.App, "")
	if app == nil || !app.Patterns(c.Patterns) {
		return nil
	}
	if old := ix.patternsOf.get(t.App, t.ID); old != nil && old.Source == t.Source {
		return nil
	}
	want := shape(t.Source)
	for _, rival := range within(t.App, ix.patternsOf.after(t.App, "")) {
		if rival.ID != t.ID && rival.Type == t.Type && rival.Source != t.Source && shape(rival.Source) == want {
			return faas.Errorf(faas.Conflict, "trigger %q of app %q has the source %q, which stands for the same paths as %q: %w", rival.Name, app.Name, rival.Source, t.Source, faas.ErrSourceTaken)
		}
	}
	return nil
}

// add takes in the source of t, unless one of the same shape is there.
func (p *pattern) add(t *faas.Trigger) {
	segments := strings.Split(t.Source[1:], "/")
	to := &target{trigger: t}
	for i, s := range segments {
		switch {
		case isRest(s) && i == len(segments)-1:
			name := s[1:]
			if name == "" {
				name = s
			}
			to.names = append(to.names, name)
			if p.rest == nil {
				p.rest = to
			}
			return
		case isParam(s):
			to.names = append(to.names, s[1:])
			if p.param == nil {
				p.param = new(pattern)
			}
			p = p.param
		default:
			if p.literal == nil {
				p.literal = make(map[string]*pattern)
			}
			if p.literal[s] == nil {
				p.literal[s] = new(pattern)
			}
			p = p.literal[s]
		}
	}
	if p.here == nil {
		p.here = to
	}
}

// find returns what path leads to, which has no slash before it, and the values of
// its parameters. Each node is looked at once at most: where it stands says how much
// of the path is left.
func (p *pattern) find(path string, values []string) (*target, []string) {
	segment, left, more := strings.Cut(path, "/")
	down := func(child *pattern, values []string) (*target, []string) {
		switch {
		case child == nil:
			return nil, nil
		case more:
			return child.find(left, values)
		case child.here != nil:
			return child.here, values
		}
		return nil, nil
	}
	if to, got := down(p.literal[segment], values); to != nil {
		return to, got
	}
	if segment != "" {
		if to, got := down(p.param, append(values, segment)); to != nil {
			return to, got
		}
	}
	if p.rest != nil {
		return p.rest, append(values, path)
	}
	return nil, nil
}

// AppFolded returns the app with this name, which is in lower case, whatever case its
// own is in: host names have none. Of several it is the one in lower case, else the
// first by name. NotFound if there is none.
func (c *Catalog) AppFolded(name string) (faas.App, error) {
	ix := c.index.Load()
	if a := ix.apps.get(name, ""); a != nil {
		return *a, nil
	}
	for _, a := range within(name, ix.folded.after(name, "")) {
		return *a, nil
	}
	return faas.App{}, faas.Errorf(faas.NotFound, "no app %q", name)
}

// Match returns the function that a path of an app leads to, with its trigger.
// Without patterns the source of the trigger is the path, character by character.
// With them the path is cleaned first (of "//", "." and ".."), a source that is the
// path comes before one with a parameter, and that before one with a wildcard, at
// the first segment where they differ; params are the values by name, "*" that of a
// wildcard without one. NotFound if no trigger fits.
func (c *Catalog) Match(app faas.App, source string, patterns bool) (fn faas.Function, t faas.Trigger, params map[string]string, err error) {
	ix := c.index.Load()
	if patterns {
		source = Clean(source)
	}
	found := ix.sources.get(app.ID, source)
	if patterns && (found == nil || isPattern(source)) {
		if all := ix.patterns.get(app.ID, ""); all != nil {
			if to, values := all.of(ix, app.ID).find(source[1:], nil); to != nil {
				found, params = to.trigger, make(map[string]string, len(values))
				for i, v := range values {
					params[to.names[i]] = v
				}
			}
		}
	}
	if found != nil {
		if f := ix.byID.get(found.Function, ""); f != nil {
			return *f, *found, params, nil
		}
	}
	return faas.Function{}, faas.Trigger{}, nil, noTrigger(source)
}

// Clean is the shortest way to write a path that begins with a slash; one at its end
// stays.
func Clean(source string) string {
	clean := path.Clean("/" + source)
	if strings.HasSuffix(source, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}
