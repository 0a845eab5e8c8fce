package funcfile

import (
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"hob/faas"
)

// reader takes values out of a tree. It keeps the first error, after which all it
// returns is of no use.
type reader struct {
	file   string
	strict bool // version 20180708: a number is no text
	err    error
	notes  []string
}

func (r *reader) fail(n *yaml.Node, format string, args ...any) {
	if r.err == nil {
		r.err = faas.Errorf(faas.Invalid, "%s:%d: %s. "+Plea, r.file, n.Line, fmt.Sprintf(format, args...), filepath.Base(r.file))
	}
}

func (r *reader) note(at field, does string) {
	r.notes = append(r.notes, fmt.Sprintf("%s:%d: %s %s", r.file, at.key.Line, at.name, does))
}

// object is the fields of a mapping, by name.
type object map[string]field

// mapping returns the fields of n; none of null.
func (r *reader) mapping(n *yaml.Node, what string) object {
	all := object{}
	if n.Kind != yaml.MappingNode {
		if n.Tag != "!!null" {
			r.fail(n, "%s is %s, and an object is wanted", what, shown(n))
		}
		return all
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		all[name] = field{name, n.Content[i], n.Content[i+1]}
	}
	return all
}

// items yields the values of a list; none of null.
func (r *reader) items(at field) iter.Seq[field] {
	if at.value.Kind != yaml.SequenceNode && at.value.Tag != "!!null" {
		r.fail(at.value, "%s is %s, and a list is wanted", at.name, shown(at.value))
	}
	return func(yield func(field) bool) {
		if at.value.Kind != yaml.SequenceNode {
			return
		}
		for i, n := range at.value.Content {
			if !yield(field{fmt.Sprintf("%s[%d]", at.name, i), n, n}) {
				return
			}
		}
	}
}

func shown(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "an object"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case len(n.Value) > 40:
		return fmt.Sprintf("%.40q…", n.Value)
	case n.Tag == "!!str":
		return fmt.Sprintf("%q", n.Value)
	}
	return n.Value
}

func (r *reader) text(at field) string {
	n := at.value
	switch {
	case n.Tag == "!!null":
		return ""
	case n.Kind != yaml.ScalarNode, r.strict && n.ShortTag() != "!!str":
		r.fail(n, "%s is %s, and text is wanted", at.name, shown(n))
	}
	return n.Value
}

// plain is text of any scalar: a version of 1.0, a variable of 8080.
func (r *reader) plain(at field) string {
	strict := r.strict
	r.strict = false
	s := r.text(at)
	r.strict = strict
	return s
}

func (r *reader) integer(at field, what string) int {
	if at.value.Tag == "!!null" {
		return 0
	}
	n, err := strconv.Atoi(at.value.Value)
	if at.value.ShortTag() != "!!int" || err != nil || n < 0 || n > math.MaxInt32 {
		r.fail(at.value, "%s is %s, and a whole number up to %d is wanted", what, shown(at.value), math.MaxInt32)
	}
	return n
}

func (r *reader) boolean(at field) bool {
	b, err := strconv.ParseBool(at.value.Value)
	if at.value.ShortTag() != "!!bool" || err != nil {
		r.fail(at.value, "%s is %s, and true or false is wanted", at.name, shown(at.value))
	}
	return b
}

// memory reads a number of MB, or a size with its unit.
func (r *reader) memory(at field) faas.Bytes {
	if at.value.ShortTag() == "!!int" || at.value.Tag == "!!null" {
		return faas.Bytes(min(r.integer(at, at.name), 1<<30)) * faas.MB
	}
	size, err := faas.ParseBytes(at.value.Value)
	if at.value.ShortTag() != "!!str" || err != nil || size < 0 {
		r.fail(at.value, "%s is %s, and a number of MB, or a size such as 128m, is wanted", at.name, shown(at.value))
	}
	return size
}

// duration reads a number of seconds, or a duration with its unit.
func (r *reader) duration(at field) time.Duration {
	if at.value.ShortTag() == "!!int" || at.value.Tag == "!!null" {
		return time.Duration(r.integer(at, at.name)) * time.Second
	}
	text := at.value.Value
	if _, err := strconv.Atoi(text); err == nil {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if at.value.ShortTag() != "!!str" || err != nil || d < 0 {
		r.fail(at.value, "%s is %s, and a number of seconds, or a time such as 1m30s, is wanted", at.name, shown(at.value))
	}
	return d
}

// cpus reads processors: 0.5, or 500m.
func (r *reader) cpus(at field) faas.CPU {
	if at.value.Tag == "!!null" {
		return 0
	}
	n, err := faas.ParseCPU(at.value.Value)
	if at.value.Kind != yaml.ScalarNode || err != nil {
		r.fail(at.value, "%s is %s, and a number of processors, as 0.5 or 500m, is wanted", at.name, shown(at.value))
	}
	return n
}

// words reads a command: text that is split at blanks outside quotes, or a list.
func (r *reader) words(at field) []string {
	if at.value.Kind == yaml.SequenceNode {
		return r.list(at)
	}
	words, ok := split(r.text(at))
	if !ok {
		r.fail(at.value, "%s has a quote that is not closed", at.name)
	}
	return words
}

func (r *reader) list(at field) (all []string) {
	for item := range r.items(at) {
		all = append(all, r.text(item))
	}
	return all
}

// network reads what a function reaches: a mode, or a name.
func (r *reader) network(at field) string {
	name := r.text(at)
	if err := faas.CheckNetwork(name); err != nil {
		r.fail(at.value, "%v", err)
	}
	return name
}

// rules reads a list of rules; never nil. A slip is told before an image is built.
func (r *reader) rules(at field) []string {
	all := []string{}
	for item := range r.items(at) {
		rule := r.text(item)
		if _, err := faas.ParseEgressRule(rule); err != nil {
			r.fail(item.value, "%v", err)
		}
		all = append(all, rule)
	}
	return all
}

// texts reads an object of scalars.
func (r *reader) texts(at field) map[string]string {
	all := map[string]string{}
	for _, item := range r.mapping(at.value, at.name) {
		item.name = at.name + "." + item.name
		all[item.key.Value] = r.plain(item)
	}
	return all
}

// annotations reads an object of any values, which it writes as compact JSON.
func (r *reader) annotations(at field) map[string]string {
	all := map[string]string{}
	for name, item := range r.mapping(at.value, at.name) {
		all[name] = r.json(item)
	}
	return all
}

func (r *reader) json(at field) string {
	var v any
	err := at.value.Decode(&v)
	if err == nil {
		var b []byte
		if b, err = json.Marshal(v); err == nil {
			return string(b)
		}
	}
	r.fail(at.value, "%s cannot be written as JSON", at.name)
	return ""
}

// split cuts a command line into words at blanks outside quotes.
func split(s string) (words []string, ok bool) {
	var word strings.Builder
	var quote rune
	in := false
	for _, c := range s {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, in = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteRune(c)
			in = true
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words, quote == 0
}
