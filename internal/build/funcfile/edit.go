package funcfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"hob/faas"
)

// A Part of a version is what Next counts up.
type Part string

// Parts.
const (
	Major Part = "major"
	Minor Part = "minor"
	Patch Part = "patch"
)

// FirstVersion is that of a function that has none.
const FirstVersion = "0.0.1"

// Next returns the version after version, which is written as 1.2.3. After none
// comes FirstVersion.
func Next(version string, part Part) (string, error) {
	if version == "" {
		return FirstVersion, nil
	}
	core, _, _ := strings.Cut(version, "-")
	numbers := strings.Split(core, ".")
	var n [3]uint64
	for i, s := range numbers {
		v, err := strconv.ParseUint(s, 10, 32)
		if err != nil || len(numbers) != len(n) {
			return "", faas.Errorf(faas.Invalid, "version %q is not of the form 1.2.3", version)
		}
		n[i] = v
	}
	switch part {
	case Major:
		n = [3]uint64{n[0] + 1, 0, 0}
	case Minor:
		n = [3]uint64{n[0], n[1] + 1, 0}
	case Patch:
		n[2]++
	default:
		return "", faas.Errorf(faas.Invalid, "bad part %q of a version: it is %s, %s or %s", part, Major, Minor, Patch)
	}
	return fmt.Sprintf("%d.%d.%d", n[0], n[1], n[2]), nil
}

// WriteVersion puts version into the file of a function and changes nothing else
// of it.
func WriteVersion(file, version string) error {
	data, err := readFile(file)
	if err != nil {
		return err
	}
	changed, err := SetVersion(file, data, version)
	if err != nil || bytes.Equal(changed, data) {
		return err
	}
	return write(file, changed)
}

// SetVersion is WriteVersion for the content of a file.
func SetVersion(file string, data []byte, version string) ([]byte, error) {
	before, err := Parse(file, data)
	if err != nil || before.Version == version {
		return data, err
	}
	root, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	changed, ok := splice(data, root, version)
	if ok { // the place of a value is found by what the parser says of it: look that it was right
		after, err := Parse(file, changed)
		before.Version, before.Notes, after.Notes = version, nil, nil
		ok = err == nil && reflect.DeepEqual(before, after)
	}
	if !ok {
		return nil, faas.Errorf(faas.Unsupported, "%s is written in a way in which its version cannot be changed: write version: %s yourself", file, version)
	}
	return changed, nil
}

// splice replaces the version below root in data, or puts one before the first key.
func splice(data []byte, root *yaml.Node, version string) ([]byte, bool) {
	value := version
	var from, to int
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value != "version" {
			continue
		}
		n := root.Content[i+1]
		from = offset(data, n)
		to = endOf(data, from, n)
		if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
			value = string(data[min(from, len(data)-1)]) + version + string(data[min(from, len(data)-1)])
		}
		if to < 0 {
			return nil, false
		}
		return bytes.Join([][]byte{data[:from], []byte(value), data[to:]}, nil), true
	}
	if root.Style&yaml.FlowStyle != 0 { // JSON, or YAML that looks like it
		from = offset(data, root)
		if from >= len(data) || data[from] != '{' || len(root.Content) == 0 {
			return nil, false
		}
		first := offset(data, root.Content[0])
		space := data[from+1 : max(first, from+1)]
		return bytes.Join([][]byte{data[:from+1], space, fmt.Appendf(nil, `"version": %q,`, version), data[from+1:]}, nil), true
	}
	if len(root.Content) == 0 {
		return nil, false
	}
	first := root.Content[0]
	from = offset(data, first)
	line := fmt.Sprintf("version: %s\n%s", version, strings.Repeat(" ", first.Column-1))
	return bytes.Join([][]byte{data[:from], []byte(line), data[from:]}, nil), true
}

// offset is where n begins in data.
func offset(data []byte, n *yaml.Node) int {
	at := 0
	if bytes.HasPrefix(data, []byte("\ufeff")) {
		at = len("\ufeff")
	}
	for range n.Line - 1 {
		next := bytes.IndexByte(data[at:], '\n')
		if next < 0 {
			return len(data)
		}
		at += next + 1
	}
	for range n.Column - 1 {
		_, width := utf8.DecodeRune(data[at:])
		at += width
	}
	return at
}

// endOf is where the scalar n ends that begins at from; negative if that cannot be said.
func endOf(data []byte, from int, n *yaml.Node) int {
	rest := data[from:]
	switch {
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		if len(rest) == 0 || rest[0] != '"' && rest[0] != '\'' {
			return -1
		}
		end := bytes.IndexByte(rest[1:], rest[0])
		if end < 0 || bytes.IndexByte(rest[:end+1], '\\') >= 0 {
			return -1
		}
		return from + end + 2
	case n.Style == 0 && bytes.HasPrefix(rest, []byte(n.Value)):
		return from + len(n.Value)
	}
	return -1
}

// write replaces a file, and a link by what it points to, at once and for good.
func write(file string, data []byte) (err error) {
	if file, err = filepath.EvalSymlinks(file); err != nil {
		return faas.Errorf(faas.Invalid, "%w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return faas.Errorf(faas.Invalid, "%w", err)
	}
	part, err := os.CreateTemp(filepath.Dir(file), ".hob-*")
	if err != nil {
		return faas.Errorf(faas.Denied, "write %s: %w", file, err)
	}
	defer os.Remove(part.Name())
	_, err = part.Write(data)
	if err = errors.Join(err, part.Chmod(info.Mode().Perm()), part.Close()); err == nil {
		err = os.Rename(part.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
