package funcfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"hob/faas"
)

// parse reads data as one document, whose root it returns: an object without
// aliases and without a key that stands twice, within the limits.
func parse(file string, data []byte) (*yaml.Node, error) {
	switch {
	case len(data) > MaxBytes:
		return nil, faas.Errorf(faas.TooLarge, "%s is over the limit of %v", file, faas.Bytes(MaxBytes))
	case !utf8.Valid(data):
		return nil, faas.Errorf(faas.Invalid, "%s is not text in UTF-8", file)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	read := readYAML
	if isJSON(file) {
		read = readJSON
	}
	root, err := read(data)
	switch {
	case err != nil:
		return nil, faas.Errorf(faas.Invalid, "%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	case root == nil:
		return nil, faas.Errorf(faas.Invalid, "%s is empty", file)
	}
	w := walker{file: file}
	if err := w.check(root, 0); err != nil {
		return nil, err
	}
	if root.Kind != yaml.MappingNode {
		return nil, faas.Errorf(faas.Invalid, "%s:%d: an object is wanted. "+Plea, file, root.Line, filepath.Base(file))
	}
	return root, nil
}

func readYAML(data []byte) (*yaml.Node, error) {
	if deepest(data) > 4*MaxDepth { // the parser's own recursion
		return nil, errors.New("brackets are nested too deep")
	}
	in := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := in.Decode(&doc); err == io.EOF {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := in.Decode(&more); err != io.EOF {
		return nil, errors.New("more than one document")
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// deepest is how deep brackets are nested, at most.
func deepest(data []byte) (most int) {
	depth := 0
	for _, b := range data {
		switch b {
		case '[', '{':
			depth++
			most = max(most, depth)
		case ']', '}':
			depth = max(0, depth-1)
		}
	}
	return most
}

// walker checks a tree and puts what aliases stand for in their place.
type walker struct {
	file  string
	nodes int
}

func (w *walker) check(n *yaml.Node, depth int) error {
	if w.nodes++; w.nodes > MaxNodes {
		return faas.Errorf(faas.TooLarge, "%s:%d: more than the limit of %d keys and values", w.file, n.Line, MaxNodes)
	}
	if depth > MaxDepth {
		return faas.Errorf(faas.TooLarge, "%s:%d: nested deeper than the limit of %d", w.file, n.Line, MaxDepth)
	}
	seen := map[string]bool{}
	for i, child := range n.Content {
		if child.Kind == yaml.AliasNode {
			child = child.Alias
			n.Content[i] = child
		}
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			switch {
			case child.Kind != yaml.ScalarNode:
				return faas.Errorf(faas.Invalid, "%s:%d: a key is no text", w.file, child.Line)
			case child.Tag == "!!merge":
				return faas.Errorf(faas.Invalid, "%s:%d: << is not read: write the keys themselves", w.file, child.Line)
			case seen[child.Value]:
				return faas.Errorf(faas.Invalid, "%s:%d: %s is there twice", w.file, child.Line, child.Value)
			}
			seen[child.Value] = true
		}
		if err := w.check(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// readJSON reads JSON as the nodes that YAML would have, for their lines.
func readJSON(data []byte) (*yaml.Node, error) {
	in := json.NewDecoder(bytes.NewReader(data))
	in.UseNumber()
	j := &jsonReader{data: data, in: in, line: 1}
	root, err := j.value(0)
	switch {
	case err == io.EOF && len(bytes.TrimSpace(data)) == 0:
		return nil, nil
	case err == io.EOF:
		return nil, errors.New("the JSON ends too early")
	case err != nil:
		return nil, err
	}
	if _, err := in.Token(); err != io.EOF {
		return nil, errors.New("more than one document")
	}
	return root, nil
}

type jsonReader struct {
	data []byte
	in   *json.Decoder

	at, line, start int // how far lines are counted, the line, and where it begins
}

// next returns the next token and a node at its place.
func (j *jsonReader) next() (json.Token, *yaml.Node, error) {
	begin := int(j.in.InputOffset())
	token, err := j.in.Token()
	if err != nil {
		return nil, nil, err
	}
	for begin < len(j.data) && strings.IndexByte(" \t\r\n,:", j.data[begin]) >= 0 {
		begin++
	}
	for ; j.at < begin; j.at++ {
		if j.data[j.at] == '\n' {
			j.line, j.start = j.line+1, j.at+1
		}
	}
	return token, &yaml.Node{Line: j.line, Column: utf8.RuneCount(j.data[j.start:begin]) + 1}, nil
}

func (j *jsonReader) value(depth int) (*yaml.Node, error) {
	token, n, err := j.next()
	if err != nil {
		return nil, err
	}
	if depth > MaxDepth {
		return nil, errors.New("nested too deep")
	}
	n.Kind = yaml.ScalarNode
	switch v := token.(type) {
	case string:
		n.Tag, n.Value, n.Style = "!!str", v, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value = "!!float", v.String()
		if !strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!int"
		}
	case bool:
		n.Tag, n.Value = "!!bool", map[bool]string{true: "true", false: "false"}[v]
	case nil:
		n.Tag, n.Value = "!!null", "null"
	case json.Delim:
		n.Kind, n.Tag, n.Style = yaml.SequenceNode, "!!seq", yaml.FlowStyle
		if v == '{' {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
		for j.in.More() {
			child, err := j.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		if _, _, err := j.next(); err != nil {
			return nil, err
		}
	}
	return n, nil
}
