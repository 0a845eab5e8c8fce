// Package definition is what the APIs of Fn's family do alike with apps, functions
// and triggers: how a body is read, what a change merges and how it is tried, what is
// legal in annotations and names, how a list is cut into pages, and how apps are made
// and removed.
//
// Its errors have a Kind and are in the words of Fn. Paths, JSON fields and statuses are
// for the API to know.
package definition

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"hob/faas"
	"hob/internal/api"
	"hob/internal/api/buffered"
)

// A Stamp is a time as Fn writes it: RFC 3339 in UTC, with milliseconds.
type Stamp struct{ time.Time }

// MarshalJSON writes three digits of the second whatever they are.
func (s Stamp) MarshalJSON() ([]byte, error) {
	return s.UTC().AppendFormat(nil, `"2006-01-02T15:04:05.000Z"`), nil
}

// UnmarshalJSON takes any time of RFC 3339. Null and "" are the zero time, which
// clients send, too, for one that they do not have.
func (s *Stamp) UnmarshalJSON(b []byte) error {
	if string(b) == `""` {
		return nil
	}
	return json.Unmarshal(b, &s.Time)
}

// MaxJSON is the most bytes of a JSON body: an environment of 128 KiB in its most
// wasteful writing fits.
const MaxJSON = faas.MB

// ErrJSON is the error of a body that is not what the API wants.
func ErrJSON() error { return faas.Errorf(faas.Invalid, "Invalid JSON") }

// ReadJSON reads the body of r into in, a pointer to a struct, whatever the request
// says its type is. Fields that in does not have are not looked at; of one that
// comes twice the last counts; null is the zero value, and so is a body of null.
// What ends too early, is no JSON, or has a value of another type, is ErrJSON, and
// over MaxJSON it is TooLarge.
func ReadJSON(w http.ResponseWriter, r *http.Request, in any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, api.Steady(w, r.Body), int64(MaxJSON)))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		buffered.HearOut(w, r)
		return faas.Errorf(faas.TooLarge, "Request content too large: a JSON body has at most %v", MaxJSON)
	}
	if err != nil || !utf8.Valid(body) || json.Unmarshal(body, in) != nil {
		return ErrJSON()
	}
	return nil
}

// MergedConfig is config with changes: an empty value removes a key. It is config
// itself if they change nothing.
func MergedConfig(config, changes map[string]string) map[string]string {
	if len(changes) == 0 {
		return config
	}
	merged := maps.Clone(config)
	if merged == nil {
		merged = make(map[string]string)
	}
	for key, value := range changes {
		if merged[key] = value; value == "" {
			delete(merged, key)
		}
	}
	if maps.Equal(config, merged) {
		return config
	}
	return merged
}

// MergedAnnotations is annotations with changes: an empty value, "" or null, removes
// a key, and is Invalid when there is nothing to remove it from: the thing is new.
// They are annotations themselves if that changes nothing.
func MergedAnnotations(annotations map[string]string, changes map[string]json.RawMessage, isNew bool) (map[string]string, error) {
	if len(changes) == 0 {
		return annotations, nil
	}
	merged := maps.Clone(annotations)
	if merged == nil {
		merged = make(map[string]string)
	}
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		var value bytes.Buffer
		if err := json.Compact(&value, changes[key]); err != nil {
			return nil, ErrJSON()
		}
		if err := checkAnnotation(key, value.String(), isNew); err != nil {
			return nil, err
		}
		if merged[key] = value.String(); emptyAnnotation(merged[key]) {
			delete(merged, key)
		}
	}
	if len(merged) > faas.MaxAnnotations {
		return nil, faas.Errorf(faas.Invalid, "Invalid annotation change, new key(s) exceed maximum permitted number of annotations keys (100)")
	}
	if maps.Equal(annotations, merged) {
		return annotations, nil
	}
	return merged, nil
}

func emptyAnnotation(value string) bool { return value == `""` || value == "null" }

func checkAnnotation(key, value string, isNew bool) error {
	switch {
	case key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return faas.Errorf(faas.Invalid, "Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace")
	case len(key) > faas.MaxAnnotationKey:
		return faas.Errorf(faas.Invalid, "Invalid annotation key length, annotation keys may not be larger than 128 bytes")
	case isNew && emptyAnnotation(value):
		return faas.Errorf(faas.Invalid, "Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays")
	case len(value) > faas.MaxAnnotationValue:
		return faas.Errorf(faas.Invalid, "Invalid annotation value length, annotation values may not be larger than 512 bytes when serialized as JSON")
	}
	return nil
}

// WireAnnotations are annotations as they are shown.
func WireAnnotations(annotations map[string]string) map[string]json.RawMessage {
	wire := make(map[string]json.RawMessage, len(annotations)+1)
	for k, v := range annotations {
		wire[k] = json.RawMessage(v)
	}
	return wire
}

// CheckSyslog reports whether target names a syslog server, or is empty.
func CheckSyslog(target string) error {
	err := faas.CheckSyslog(target)
	if err == nil {
		return nil
	}
	u, parseErr := url.Parse(target)
	if parseErr != nil || !slices.Contains(faas.SyslogSchemes(), u.Scheme) {
		return faas.Errorf(faas.Invalid, `invalid syslog url: "%s" invalid scheme, only [%s] are supported`, target, strings.Join(faas.SyslogSchemes(), ", "))
	}
	return err
}

// IsWord reports whether s has only letters and digits of any script, "_" and "-".
func IsWord(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '-' })
}

// Seconds is d in whole seconds, rounded up.
func Seconds(d time.Duration) int32 { return int32((d + time.Second - 1) / time.Second) }
