package config

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"hob/faas"
)

// maxValue is the largest value that a variable may have in a file, in bytes.
const maxValue = 1 << 20

// environment is the variables of the process, by name.
type environment map[string]string

func newEnvironment(environ []string) environment {
	env := make(environment, len(environ))
	for _, pair := range environ {
		name, val, _ := strings.Cut(pair, "=")
		if _, twice := env[name]; !twice { // the first counts, as for os.Getenv
			env[name] = val
		}
	}
	return env
}

// lookup returns the value of a variable, and which variable it stood in: that of
// this name, or NAME_FILE, which names a file with the value. The end of line at
// the end of the file is no part of it. An empty value counts as not set.
func (e environment) lookup(name string) (val, from string, err error) {
	file := e[name+"_FILE"]
	switch {
	case file == "":
		return e[name], name, nil
	case e[name] != "":
		return "", "", faas.Errorf(faas.Invalid, "environment variables %s and %s_FILE are both set: give one of them", name, name)
	}
	from = name + "_FILE"
	f, err := os.Open(file)
	if err != nil {
		return "", "", faas.Errorf(faas.Invalid, "environment variable %s: %w", from, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxValue+1))
	if err != nil {
		return "", "", faas.Errorf(faas.Invalid, "environment variable %s: %w", from, err)
	}
	if len(data) > maxValue {
		return "", "", faas.Errorf(faas.Invalid, "environment variable %s: %s is over the limit of %v", from, file, faas.Bytes(maxValue))
	}
	val = strings.TrimSuffix(string(data), "\n")
	return strings.TrimSuffix(val, "\r"), from, nil
}

// readEnvironment takes what the environment says: the variables of Fn's server,
// then hob's own, and for what neither sets those of IronFunctions, whose names are
// those of many programs.
func (c *Config) readEnvironment(env environment) error {
	settings := make(map[string]value)
	for _, s := range c.settings() {
		settings[s.name] = s.value
	}
	if err := c.readVariables(env, settings, fnVariables); err != nil {
		return err
	}
	c.noteUnknown(env)
	for _, s := range c.settings() {
		val, from, err := env.lookup(envName(s.name))
		if err != nil {
			return err
		}
		if val == "" {
			continue
		}
		if err := c.setFrom(from, s.name, s.value, val); err != nil {
			return err
		}
	}
	return c.readVariables(env, settings, slices.DeleteFunc(IronVariables(), func(v Variable) bool {
		return strings.HasPrefix(c.origins[v.Setting], fromEnvironment)
	}))
}

const fromEnvironment = "environment "

// setFrom gives a setting the value that a variable has for it.
func (c *Config) setFrom(variable, name string, v value, val string) error {
	if err := v.Set(val); err != nil {
		return faas.Errorf(faas.Invalid, "environment variable %s: %w", variable, err)
	}
	c.origins[name] = fromEnvironment + variable
	return nil
}

// readVariables takes the variables of another server and notes those that have no
// effect.
func (c *Config) readVariables(env environment, settings map[string]value, variables []Variable) error {
	for _, v := range variables {
		if v.Setting == "" && v.read == nil {
			if env[v.Name] != "" || env[v.Name+"_FILE"] != "" {
				c.note("%s", v.unused())
			}
			continue
		}
		val, from, err := env.lookup(v.Name)
		if err != nil {
			return err
		}
		if val == "" {
			continue
		}
		if v.read != nil {
			if val, err = v.read(c, val); err != nil {
				return faas.Errorf(faas.Invalid, "environment variable %s: %w", from, err)
			}
		}
		if v.Setting == "" {
			c.note("%s", v.unused())
			continue
		}
		if err := c.setFrom(from, v.Setting, settings[v.Setting], val); err != nil {
			return err
		}
		if v.tell {
			c.note("%s: %s", v.Name, v.Text)
		}
	}
	return nil
}

func (c *Config) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}
