package funcfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"

	"hob/faas"
)

// Migrate turns a file of version 1 into one of version 20180708 and keeps the old
// one as FILE.bak. Comments and order stay. What the new version cannot say goes,
// except for what hob heeds in both; the route becomes a trigger, and a format that
// was not named is named, for without a word it would be another one now. Text that
// a parser of YAML 1.1 would take for something else is quoted. A file
// that is up to date is a Conflict, and so is a FILE.bak that is there.
func Migrate(file string) error {
	data, err := readFile(file)
	if err != nil {
		return err
	}
	changed, err := migrated(file, data)
	if err != nil {
		return err
	}
	backup, err := os.OpenFile(file+".bak", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	switch {
	case errors.Is(err, fs.ErrExist):
		return faas.Errorf(faas.Conflict, "%s is there already: remove it first", file+".bak")
	case err != nil:
		return faas.Errorf(faas.Denied, "%w", err)
	}
	_, err = backup.Write(data)
	if err = errors.Join(err, backup.Close()); err != nil {
		return err
	}
	return write(file, changed)
}

// migrated is the content of a file in version 20180708.
func migrated(file string, data []byte) ([]byte, error) {
	f, err := Parse(file, data)
	if err != nil {
		return nil, err
	}
	if f.Schema {
		return nil, faas.Errorf(faas.Conflict, "you have an up to date %s file and do not need to migrate", filepath.Base(file))
	}
	root, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	kept := []*yaml.Node{text("schema_version"), number(Schema)}
	if len(root.Content) > 0 { // a comment at the top stays there
		kept[0].HeadComment, root.Content[0].HeadComment = root.Content[0].HeadComment, ""
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if !slices.Contains([]string{"path", "type", "headers", "jwt_key", "schema_version", "triggers"}, root.Content[i].Value) {
			kept = append(kept, root.Content[i], root.Content[i+1])
		}
	}
	if f.Format == "" {
		kept = append(kept, text("format"), text(f.FormatOr()))
	}
	if len(f.Triggers) > 0 {
		kept = append(kept, text("triggers"), triggerNodes(f.Triggers))
	}
	root.Content = kept
	for i := 2; i+1 < len(kept); i += 2 {
		asText(kept[i].Value, kept[i+1])
		if kept[i].Value == "config" && !isJSON(file) {
			quoteVariables(kept[i+1])
		}
	}
	return render(file, root)
}

// asText quotes what version 1 took for text and the schema of the new one would
// take for a number.
func asText(key string, n *yaml.Node) {
	if slices.Contains([]string{"name", "runtime", "image", "build_image", "run_image", "content_type", "type", "format", "network", "isolation"}, key) &&
		n.Kind == yaml.ScalarNode && n.ShortTag() != "!!str" && n.Tag != "!!null" {
		n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
	}
}

// ambiguous is text that a parser of YAML 1.1 reads as something else.
var ambiguous = regexp.MustCompile(`(?i)^(y|n|yes|no|on|off|true|false|null|~|=|<<|` +
	`[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-f_]+|[0-9][0-9_]*(:[0-5]?[0-9])*(\.[0-9_]*)?(e[-+]?[0-9]+)?|\.[0-9_]+(e[-+]?[0-9]+)?|\.inf)|` +
	`\.nan|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([t ].*)?)$`)

// same is what every parser reads alike, and writes as it was.
var same = regexp.MustCompile(`^(true|false|-?(0|[1-9][0-9]{0,8})(\.[0-9]{0,5}[1-9])?)$`)

// quote quotes the texts of a tree that are ambiguous.
func quote(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Style == 0 && n.ShortTag() == "!!str" && ambiguous.MatchString(n.Value) {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, child := range n.Content {
		quote(child)
	}
}

// quoteVariables quotes those of a function that are text here, as 012 is, and a
// number elsewhere.
func quoteVariables(config *yaml.Node) {
	for i := 1; i < len(config.Content); i += 2 {
		n := config.Content[i]
		if n.Kind == yaml.ScalarNode && n.Tag != "!!null" && n.ShortTag() != "!!str" && !same.MatchString(n.Value) {
			n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
		}
	}
}

func render(file string, root *yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	if isJSON(file) {
		if err := writeJSON(&out, root); err != nil {
			return nil, err
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, out.Bytes(), "", "  "); err != nil {
			return nil, err
		}
		pretty.WriteByte('\n')
		return pretty.Bytes(), nil
	}
	quote(root)
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(root), enc.Close()); err != nil {
		return nil, faas.Errorf(faas.Invalid, "%s: %w", file, err)
	}
	return out.Bytes(), nil
}

// writeJSON writes a tree that came from JSON, in its order.
func writeJSON(out *bytes.Buffer, n *yaml.Node) error {
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() != "!!str":
		out.WriteString(n.Value)
		return nil
	case n.Kind == yaml.ScalarNode:
		b, err := json.Marshal(n.Value)
		out.Write(b)
		return err
	}
	open, shut := byte('['), byte(']')
	if n.Kind == yaml.MappingNode {
		open, shut = '{', '}'
	}
	out.WriteByte(open)
	for i, child := range n.Content {
		switch {
		case n.Kind == yaml.MappingNode && i%2 == 1:
			out.WriteByte(':')
		case i > 0:
			out.WriteByte(',')
		}
		if err := writeJSON(out, child); err != nil {
			return err
		}
	}
	out.WriteByte(shut)
	return nil
}
