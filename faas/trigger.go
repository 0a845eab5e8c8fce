package faas

import (
	"maps"
	"net/textproto"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A Trigger makes a function run besides a direct call: an HTTP path of its app.
type Trigger struct {
	ID       string // sortable, never reused
	App      string // ID of the app
	Function string // ID of the function, which is in the app
	Name     string // unique among the triggers of its function
	Type     string // TriggerHTTP
	Source   string // path that begins with '/'; unique among those of its type in the app

	// What a call through it is, besides a call of the function.
	Async      bool                // it goes into the queue: the caller gets its ID, and no answer
	Header     map[string][]string // of every answer, besides what the function says; canonical names
	Key        string              // signs the tokens (JWT, HS256) that callers must bear; "": nobody must. A secret: only the API that sets it shows it
	Convention Convention          // how the environment of the function names what is known of a call

	Annotations map[string]string // JSON values by key (CheckAnnotations)

	Revision int64 // set by the store: 1 when made, one more with each change
	Created  time.Time
	Updated  time.Time
}

// TriggerHTTP is the type of a trigger that is a path.
const TriggerHTTP = "http"

// Limits of a trigger.
const (
	MaxSource        = 1024     // bytes of its source
	MaxTriggerKey    = 1024     // bytes of its key
	MaxTriggerHeader = 16 << 10 // bytes of names and values of its header together
)

// Clone returns a deep copy of t.
func (t Trigger) Clone() Trigger {
	t.Annotations = maps.Clone(t.Annotations)
	t.Header = maps.Clone(t.Header)
	for name, values := range t.Header {
		t.Header[name] = slices.Clone(values)
	}
	return t
}

// Check reports the first thing about t that can never work, as Invalid.
func (t Trigger) Check() error {
	if err := CheckName("trigger", t.Name); err != nil {
		return err
	}
	switch {
	case t.Type != TriggerHTTP:
		return Errorf(Invalid, "trigger type %q is not one of: %s", t.Type, TriggerHTTP)
	case !strings.HasPrefix(t.Source, "/"):
		return Errorf(Invalid, "source %q of trigger %s does not begin with '/'", t.Source, t.Name)
	case len(t.Source) > MaxSource:
		return Errorf(Invalid, "the source of trigger %s has %d bytes, over the limit of %d", t.Name, len(t.Source), MaxSource)
	case !utf8.ValidString(t.Source) || strings.ContainsFunc(t.Source, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return Errorf(Invalid, "source %q of trigger %s holds what a path cannot", t.Source, t.Name)
	}
	if err := checkHeader(t.Header); err != nil {
		return err
	}
	switch {
	case len(t.Key) > MaxTriggerKey:
		return Errorf(Invalid, "the key of trigger %s has %d bytes, over the limit of %d", t.Name, len(t.Key), MaxTriggerKey)
	case !slices.Contains([]Convention{ConventionHob, ConventionIron, ConventionFn, ConventionHyper}, t.Convention):
		return Errorf(Invalid, "convention %q of trigger %s is not one of: %s, %s, %s, or nothing for hob's own", t.Convention, t.Name, ConventionIron, ConventionFn, ConventionHyper)
	}
	return CheckAnnotations(t.Annotations)
}

// checkHeader reports whether header can be that of an answer.
func checkHeader(header map[string][]string) error {
	size := 0
	for name, values := range header {
		if name == "" || strings.Trim(name, headerName) != "" {
			return Errorf(Invalid, "bad header name %q: use letters, digits and '-'", name)
		}
		if name != textproto.CanonicalMIMEHeaderKey(name) {
			return Errorf(Invalid, "header %q is not written as %q", name, textproto.CanonicalMIMEHeaderKey(name))
		}
		for _, value := range values {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				return Errorf(Invalid, "the value %q of header %s holds what a header cannot", value, name)
			}
			size += len(name) + len(value)
		}
	}
	if size > MaxTriggerHeader {
		return Errorf(Invalid, "the header of a trigger has %d bytes, over the limit of %d", size, MaxTriggerHeader)
	}
	return nil
}

// headerName are the characters of the name of a header.
const headerName = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"
