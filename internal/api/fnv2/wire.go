package fnv2

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"hob/faas"
	"hob/internal/api"
)

// Annotations that this API makes, and does not keep when they are sent.
const (
	annotationInvoke = "fnproject.io/fn/invokeEndpoint"
	annotationHTTP   = "fnproject.io/trigger/httpEndpoint"
)

// stamp is a time as Fn writes it: RFC 3339 in UTC, with milliseconds.
type stamp struct{ time.Time }

// MarshalJSON writes three digits of the second whatever they are.
func (s stamp) MarshalJSON() ([]byte, error) {
	return s.UTC().AppendFormat(nil, `"2006-01-02T15:04:05.000Z"`), nil
}

// UnmarshalJSON takes any time of RFC 3339. Null and "" are the zero time, which
// clients send, too, for one that they do not have.
func (s *stamp) UnmarshalJSON(b []byte) error {
	if string(b) == `""` {
		return nil
	}
	return json.Unmarshal(b, &s.Time)
}

// maxJSON is the most bytes of a JSON body: an environment of 128 KiB in its most
// wasteful writing fits.
const maxJSON = 1 << 20

var errJSON = invalid("Invalid JSON")

// readJSON reads the body of r into in, a pointer to a struct, whatever the request
// says its type is. Fields that in does not have are not looked at; of one that
// comes twice the last counts; null is the zero value, and so is a body of null.
// What ends too early, is no JSON, or has a value of another type, is errJSON, and
// over maxJSON it is errTooLarge.
func readJSON(w http.ResponseWriter, r *http.Request, in any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, api.Steady(w, r.Body), maxJSON))
	limitReader(w, r) // it may have taken long
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		hearOut(w, r)
		return errTooLarge
	}
	if err != nil || !utf8.Valid(body) || json.Unmarshal(body, in) != nil {
		return errJSON
	}
	return nil
}

// wireList is a page of a list.
type wireList[W any] struct {
	NextCursor string `json:"next_cursor,omitempty"`
	Items      []W    `json:"items"`
}

// page is which part of a list is wanted.
type page struct {
	after string // what the page before ended with
	limit int
}

// Items of one page.
const (
	defaultItems = 30
	maxItems     = 100
)

// pageOf reads per_page, and cursor with decode. What is no number of items means
// the default; a cursor that never was one is Invalid.
func pageOf(q url.Values, decode func(string) (string, bool)) (page, error) {
	limit, err := strconv.Atoi(q.Get("per_page"))
	if err != nil || limit <= 0 {
		limit = defaultItems
	}
	after, ok := decode(q.Get("cursor"))
	if !ok {
		return page{}, invalid("Invalid cursor: use the next_cursor of the page before")
	}
	return page{after, min(limit, maxItems)}, nil
}

// nameCursor is the cursor behind an item with this name.
func nameCursor(name string) string { return base64.RawURLEncoding.EncodeToString([]byte(name)) }

func decodeName(cursor string) (string, bool) {
	name, err := base64.RawURLEncoding.DecodeString(cursor)
	return string(name), err == nil && utf8.Valid(name)
}

// listed is the page of the first items. It has a cursor when it is full, also if
// nothing follows.
func listed[T, W any](items iter.Seq[T], limit int, wire func(T) W, cursor func(T) string) wireList[W] {
	out := wireList[W]{Items: []W{}}
	for item := range items {
		out.Items = append(out.Items, wire(item))
		if len(out.Items) == limit {
			out.NextCursor = cursor(item)
			break
		}
	}
	return out
}

// only is the item that find returns, if there is one and its name comes after.
func only[T any](item T, err error, name, after string) iter.Seq[T] {
	return func(yield func(T) bool) {
		if err == nil && name > after {
			yield(item)
		}
	}
}

// updates is how often a change is tried that others overtake.
const updates = 200

// updated changes a definition: it reads, merges and puts it, and does so again when
// somebody was quicker, so that no merge is lost. What merge leaves as it is stays at
// its revision. put returns Conflict for a revision that is not the stored one, and
// for nothing else.
func updated[T any](ctx context.Context, read func() (T, error), merge, put func(T) (T, error)) (T, error) {
	for try := 1; ; try++ {
		old, err := read()
		if err != nil {
			return old, err
		}
		next, err := merge(old)
		if err != nil || reflect.DeepEqual(old, next) {
			return next, err
		}
		next, err = put(next)
		if faas.KindOf(err) != faas.Conflict || try == updates {
			return next, err
		}
		select { // what is stored may not be readable yet, and others shall not come all at once again
		case <-time.After(rand.N(time.Duration(min(try, 16)) * time.Millisecond)):
		case <-ctx.Done():
			return next, context.Cause(ctx)
		}
	}
}

// mergedConfig is config with changes: an empty value removes a key. It is config
// itself if they change nothing.
func mergedConfig(config, changes map[string]string) map[string]string {
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

// mergedAnnotations is annotations with changes: an empty value, "" or null, removes
// a key, and is Invalid when there is nothing to remove it from: the thing is new.
// They are annotations themselves if that changes nothing.
func mergedAnnotations(annotations map[string]string, changes map[string]json.RawMessage, isNew bool) (map[string]string, error) {
	if len(changes) == 0 {
		return annotations, nil
	}
	merged := maps.Clone(annotations)
	if merged == nil {
		merged = make(map[string]string)
	}
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		if key == annotationInvoke || key == annotationHTTP {
			continue
		}
		var value bytes.Buffer
		if err := json.Compact(&value, changes[key]); err != nil {
			return nil, errJSON
		}
		if err := checkAnnotation(key, value.String(), isNew); err != nil {
			return nil, err
		}
		if merged[key] = value.String(); emptyAnnotation(merged[key]) {
			delete(merged, key)
		}
	}
	if len(merged) > faas.MaxAnnotations {
		return nil, invalid("Invalid annotation change, new key(s) exceed maximum permitted number of annotations keys (100)")
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
		return invalid("Invalid annotation key, annotation keys must be non-empty ascii strings excluding whitespace")
	case len(key) > faas.MaxAnnotationKey:
		return invalid("Invalid annotation key length, annotation keys may not be larger than 128 bytes")
	case isNew && emptyAnnotation(value):
		return invalid("Invalid annotation value, annotation values may only be non-empty strings, numbers, objects, or arrays")
	case len(value) > faas.MaxAnnotationValue:
		return invalid("Invalid annotation value length, annotation values may not be larger than 512 bytes when serialized as JSON")
	}
	return nil
}

// wireAnnotations are annotations as they are shown, and one that we make, if any.
func wireAnnotations(annotations map[string]string, key, value string) map[string]json.RawMessage {
	wire := make(map[string]json.RawMessage, len(annotations)+1)
	for k, v := range annotations {
		wire[k] = json.RawMessage(v)
	}
	if key != "" {
		wire[key], _ = json.Marshal(value) // of a string: cannot fail
	}
	return wire
}

// base is the beginning of the addresses of functions and triggers.
func (s *Server) base(r *http.Request) string {
	switch {
	case s.PublicURL != "":
		return strings.TrimRight(s.PublicURL, "/")
	case r.TLS != nil:
		return "https://" + r.Host
	}
	return "http://" + r.Host
}
