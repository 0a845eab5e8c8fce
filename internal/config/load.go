package config

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"hob/faas"
)

// DefaultFile is read if it exists and no other file is named.
const DefaultFile = "/etc/hob/hob.conf"

// maxFile is the largest configuration file, in bytes: none that people write
// comes near it.
const maxFile = 1 << 20

// Flags registers a flag for every setting, and --config for the file. Load
// reads what was given.
func Flags(flags *pflag.FlagSet) {
	flags.String("config", "", "configuration file (default "+DefaultFile+" if it exists)")
	defaults := Default()
	for _, s := range defaults.settings() {
		f := flags.VarPF(&flagValue{scratch: s.value}, s.name, "", s.help)
		if s.value.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
}

// flagValue keeps what the command line gave a flag. scratch checks it at once,
// so that the error names the flag.
type flagValue struct {
	scratch value
	given   []string
}

func (v *flagValue) Set(s string) error {
	if err := v.scratch.Set(s); err != nil {
		return err
	}
	v.given = append(v.given, s)
	return nil
}
func (v *flagValue) String() string {
	if v.scratch == nil { // pflag asks a zero value for what it prints
		return ""
	}
	return v.scratch.String()
}
func (v *flagValue) Type() string { return v.scratch.Type() }

// Load puts together the settings of a daemon: Default, then the file, then the
// environment ("NAME=value", as os.Environ), then flags, which Flags has
// registered (nil: none). In the environment hob's own variables win over those of
// Fn's server; an empty one counts as not set, and NAME_FILE names a file with the
// value of NAME. The file is the one that --config or HOB_CONFIG names, else
// DefaultFile if it exists. A list that a later place gives replaces that of an
// earlier one; a flag of a list that is given twice adds up. A relative data
// directory is made absolute.
//
// Whatever is wrong is Invalid and names the file, line and setting, or the
// variable. Load does not Check, so that a broken setup can be printed.
func Load(flags *pflag.FlagSet, environ []string) (Config, error) {
	c := Default()
	c.origins = make(map[string]string)
	env := newEnvironment(environ)

	name, _, err := env.lookup("HOB_CONFIG")
	if err != nil {
		return Config{}, err
	}
	must := true
	if flags != nil {
		if f := flags.Lookup("config"); f != nil && f.Changed {
			name = f.Value.String()
		}
	}
	if name == "" {
		name, must = DefaultFile, false
	}
	if err := c.readFile(name, must); err != nil {
		return Config{}, err
	}
	if err := c.readEnvironment(env); err != nil {
		return Config{}, err
	}
	if flags != nil {
		if err := c.readFlags(flags); err != nil {
			return Config{}, err
		}
	}
	if c.Data != "" {
		abs, err := filepath.Abs(c.Data)
		if err != nil {
			return Config{}, fmt.Errorf("data directory %s: %w", c.Data, err)
		}
		c.Data = abs
	}
	return c, nil
}

func (c *Config) readFlags(flags *pflag.FlagSet) error {
	for _, s := range c.settings() {
		f := flags.Lookup(s.name)
		if f == nil || !f.Changed {
			continue
		}
		v, ours := f.Value.(*flagValue)
		if !ours {
			continue // a flag of the same name that somebody else registered
		}
		given := v.given[len(v.given)-1]
		if s.value.Type() == "list" {
			given = strings.Join(v.given, ",")
		}
		if err := s.value.Set(given); err != nil {
			return faas.Errorf(faas.Invalid, "flag --%s: %w", s.name, err)
		}
		c.origins[s.name] = "flag --" + s.name
	}
	return nil
}

func (c *Config) readFile(name string, must bool) error {
	f, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !must:
		return nil
	case err != nil:
		return faas.Errorf(faas.Invalid, "configuration file: %w", err)
	}
	defer f.Close()
	return c.read(name, f)
}

// read takes lines of "name = value". A value may stand in double quotes; '#'
// at the beginning of a line or after a space begins a comment. A name that is
// unknown, or given twice, is refused: a slip must not pass for a setting.
func (c *Config) read(name string, r io.Reader) error {
	settings := make(map[string]value)
	var names []string
	for _, s := range c.settings() {
		settings[s.name] = s.value
		names = append(names, s.name)
	}
	lines := bufio.NewScanner(io.LimitReader(r, maxFile+1))
	lines.Buffer(nil, maxFile+1)
	lineOf := make(map[string]int)
	size := 0
	for n := 1; lines.Scan(); n++ {
		at := func(format string, args ...any) error {
			return faas.Errorf(faas.Invalid, "%s:%d: "+format, append([]any{name, n}, args...)...)
		}
		if size += len(lines.Bytes()) + 1; size > maxFile {
			return at("the file is over the limit of %v", faas.Bytes(maxFile))
		}
		key, val, some, err := parseLine(lines.Text())
		if err != nil {
			return at("%w", err)
		}
		if !some {
			continue
		}
		v, known := settings[key]
		if !known {
			return at("no setting %q: there are %s", key, strings.Join(names, ", "))
		}
		if first, twice := lineOf[key]; twice {
			return at("%s is given here and in line %d", key, first)
		}
		lineOf[key] = n
		if err := v.Set(val); err != nil {
			return at("%s: %w", key, err)
		}
		c.origins[key] = fmt.Sprintf("file %s:%d", name, n)
	}
	if err := lines.Err(); err != nil {
		return faas.Errorf(faas.Invalid, "configuration file %s: %w", name, err)
	}
	return nil
}

// parseLine reads one line; some is false for an empty one and for a comment.
func parseLine(line string) (key, val string, some bool, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", false, nil
	}
	key, val, ok := strings.Cut(line, "=")
	key, val = strings.TrimSpace(key), strings.TrimSpace(val)
	if !ok || key == "" {
		return "", "", false, fmt.Errorf("%q is not of the form: name = value", line)
	}
	if rest, quoted := strings.CutPrefix(val, `"`); quoted {
		val, rest, ok = strings.Cut(rest, `"`)
		rest = strings.TrimSpace(rest)
		switch {
		case !ok:
			return "", "", false, fmt.Errorf("%s: the quotation mark has no end", key)
		case rest != "" && rest[0] != '#':
			return "", "", false, fmt.Errorf("%s: %q stands behind the value", key, rest)
		}
		return key, val, true, nil
	}
	if i := strings.IndexByte(val, '#'); i == 0 || i > 0 && (val[i-1] == ' ' || val[i-1] == '\t') {
		val = strings.TrimSpace(val[:i])
	}
	return key, val, true, nil
}

// WriteTo prints the settings as a configuration file, with the origin of each
// value as a comment. The file reads back as c, but for secrets: Check refuses
// what stands in their place.
func (c Config) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	for _, e := range c.Entries() {
		fmt.Fprintf(&b, "%-40s # %s\n", fmt.Sprintf("%s = %s", e.Name, quote(e.Value)), e.Origin)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// quote puts quotation marks around a value that would not read back without.
func quote(v string) string {
	if strings.Contains(v, "#") || v != strings.TrimSpace(v) {
		return `"` + v + `"`
	}
	return v
}
