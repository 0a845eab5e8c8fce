package fnv2

import (
	"encoding/json"
	"iter"
	"maps"
	"net/http"
	"strings"

	"hob/faas"
	"hob/internal/api/buffered"
	"hob/internal/api/definition"
)

// Annotations that this API makes, and does not keep when they are sent.
const (
	annotationInvoke = "fnproject.io/fn/invokeEndpoint"
	annotationHTTP   = "fnproject.io/trigger/httpEndpoint"
)

// stamp is a time as it is shown.
type stamp = definition.Stamp

// readJSON reads the body of r into in, a pointer to a struct.
func readJSON(w http.ResponseWriter, r *http.Request, in any) error {
	err := definition.ReadJSON(w, r, in)
	buffered.LimitReader(w, r) // it may have taken long
	if faas.KindOf(err) == faas.TooLarge {
		return errTooLarge
	}
	return err
}

// wireList is a page of a list.
type wireList[W any] struct {
	NextCursor string `json:"next_cursor,omitempty"`
	Items      []W    `json:"items"`
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

// mergedAnnotations is annotations with changes, but for those that we make.
func mergedAnnotations(annotations map[string]string, changes map[string]json.RawMessage, isNew bool) (map[string]string, error) {
	changes = maps.Clone(changes)
	delete(changes, annotationInvoke)
	delete(changes, annotationHTTP)
	return definition.MergedAnnotations(annotations, changes, isNew)
}

// wireAnnotations are annotations as they are shown, and one that we make, if any.
func wireAnnotations(annotations map[string]string, key, value string) map[string]json.RawMessage {
	wire := definition.WireAnnotations(annotations)
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
