package faas

import (
	"maps"
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

	Annotations map[string]string // JSON values by key (CheckAnnotations)

	Revision int64 // set by the store: 1 when made, one more with each change
	Created  time.Time
	Updated  time.Time
}

// TriggerHTTP is the type of a trigger that is a path.
const TriggerHTTP = "http"

// MaxSource is the longest source of a trigger, in bytes.
const MaxSource = 1024

// Clone returns a deep copy of t.
func (t Trigger) Clone() Trigger {
	t.Annotations = maps.Clone(t.Annotations)
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
	return CheckAnnotations(t.Annotations)
}
