package core

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"hob/faas"
)

// maxJSON is the most bytes of a JSON body: an environment of 128 KiB in its
// most wasteful writing fits.
const maxJSON = 1 << 20

// readJSON reads the body of r, one JSON object, into in, a pointer to a struct.
// The fields are returned as they were written, to tell null from absent. What
// is no JSON, has a field that in has not, or a value of another type is
// Invalid, with the place or the field; over maxJSON it is TooLarge.
func readJSON(w http.ResponseWriter, r *http.Request, in any) (map[string]json.RawMessage, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJSON))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, faas.Errorf(faas.TooLarge, "the JSON body is over the limit of %v", faas.Bytes(maxJSON))
		}
		return nil, faas.Errorf(faas.Canceled, "read the request: %w", err)
	}
	return parseJSON(body, in)
}

func parseJSON(body []byte, in any) (map[string]json.RawMessage, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, faas.Errorf(faas.Invalid, "the request has no body: send a JSON object")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, badJSON(body, err)
	}
	if fields == nil {
		return nil, faas.Errorf(faas.Invalid, "the body is null: send a JSON object")
	}
	known := fieldNames(reflect.TypeOf(in).Elem())
	for name := range fields {
		if !slices.Contains(known, name) {
			return nil, unknownField(name, known)
		}
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields() // of nested objects
	if err := dec.Decode(in); err != nil {
		return nil, badJSON(body, err)
	}
	return fields, nil
}

func unknownField(name string, known []string) error {
	if len(known) == 0 {
		return faas.Errorf(faas.Invalid, "unknown field %q: this request takes none", name)
	}
	return faas.Errorf(faas.Invalid, "unknown field %q: this request takes %s", name, strings.Join(known, ", "))
}

// badJSON says where body is wrong.
func badJSON(body []byte, err error) error {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		line, column := position(body, e.Offset)
		return faas.Errorf(faas.Invalid, "bad JSON at line %d, column %d: %w", line, column, err)
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := strings.TrimPrefix(e.Field, "settingsIn.") // the package json names embedded structs too
		if field == "" {
			return faas.Errorf(faas.Invalid, "the body is a JSON %s: send an object", e.Value)
		}
		article := "a"
		if e.Value == "array" || e.Value == "object" {
			article = "an"
		}
		return faas.Errorf(faas.Invalid, "field %q is %s %s: it must be %s", field, article, e.Value, typeName(e.Type))
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return faas.Errorf(faas.Invalid, "unknown field %s", name)
	}
	return faas.Errorf(faas.Invalid, "%s", strings.TrimPrefix(err.Error(), "json: "))
}

// position counts from 1, in lines and bytes; offset is the count of bytes read.
func position(body []byte, offset int64) (line, column int) {
	before := body[:min(max(offset-1, 0), int64(len(body)))]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

// typeName says in words of JSON what a Go type is decoded from.
func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	}
	return "a whole number"
}

// fieldNames lists the JSON names of a struct's fields, those of embedded
// structs among them.
func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			names = append(names, fieldNames(f.Type)...)
		case name != "-":
			names = append(names, name)
		}
	}
	return names
}

// amount is a value that may be written as a number or as a string: a size as
// 67108864 or "64m", processors as 0.5 or "500m".
type amount string

// UnmarshalJSON takes a number as it is written.
func (a *amount) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(a))
	}
	*a = amount(b)
	return nil
}

func (a *amount) bytes(field string) (faas.Bytes, error) {
	if a == nil {
		return 0, nil
	}
	v, err := faas.ParseBytes(string(*a))
	if err != nil {
		return 0, faas.Errorf(faas.Invalid, "field %q: %w", field, err)
	}
	return v, nil
}

func (a *amount) cpu(field string) (faas.CPU, error) {
	if a == nil {
		return 0, nil
	}
	v, err := faas.ParseCPU(string(*a))
	if err != nil {
		return 0, faas.Errorf(faas.Invalid, "field %q: %w", field, err)
	}
	return v, nil
}

func duration(field string, s *string) (time.Duration, error) {
	if s == nil {
		return 0, nil
	}
	d, err := time.ParseDuration(*s)
	if err != nil {
		return 0, faas.Errorf(faas.Invalid, "field %q: bad duration %q: write it as 30s, 1m30s or 250ms", field, *s)
	}
	return d, nil
}

// parameters reads the query of a request: each is named once, none is unknown.
type parameters struct {
	values map[string][]string
	err    error // the first that was found
}

// query takes the parameters of r, of which known are allowed.
func query(r *http.Request, known ...string) *parameters {
	p := &parameters{values: r.URL.Query()}
	for name, values := range p.values {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			p.fail(faas.Errorf(faas.Invalid, "unknown parameter %q: this request takes none", name))
		case !slices.Contains(known, name):
			p.fail(faas.Errorf(faas.Invalid, "unknown parameter %q: this request takes %s", name, strings.Join(known, ", ")))
		case len(values) > 1:
			p.fail(faas.Errorf(faas.Invalid, "parameter %q is given %d times", name, len(values)))
		}
	}
	return p
}

func (p *parameters) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *parameters) text(name string) string {
	if v := p.values[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// flag reads true or false; absent: otherwise.
func (p *parameters) flag(name string, otherwise bool) bool {
	s := p.text(name)
	if s == "" {
		return otherwise
	}
	v, err := strconv.ParseBool(s)
	if err != nil {
		p.fail(faas.Errorf(faas.Invalid, "parameter %q is %q: it must be true or false", name, s))
	}
	return v
}

// duration reads a duration from 0 to most; absent: 0.
func (p *parameters) duration(name string, most time.Duration) time.Duration {
	s := p.text(name)
	if s == "" {
		return 0
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 || v > most {
		p.fail(faas.Errorf(faas.Invalid, "parameter %q is %q: it must be a duration between 0s and %v, as 30s or 1m30s", name, s, most))
	}
	return v
}

// number reads a whole number between least and most; absent: otherwise.
func (p *parameters) number(name string, least, most, otherwise int) int {
	s := p.text(name)
	if s == "" {
		return otherwise
	}
	v, err := strconv.Atoi(s)
	if err != nil || v < least || v > most {
		p.fail(faas.Errorf(faas.Invalid, "parameter %q is %q: it must be a whole number between %d and %d", name, s, least, most))
	}
	return v
}

// oneOf reads a word; absent: the empty one.
func oneOf[T ~string](p *parameters, name string, words ...T) T {
	v := T(p.text(name))
	if v != "" && !slices.Contains(words, v) {
		list := make([]string, len(words))
		for i, w := range words {
			list[i] = string(w)
		}
		p.fail(faas.Errorf(faas.Invalid, "parameter %q is %q: it must be one of %s", name, v, strings.Join(list, ", ")))
	}
	return v
}
