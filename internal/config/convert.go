package config

import (
	"cmp"
	"encoding/json"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"hob/faas"
)

// What follows turns values as the servers of Fn and IronFunctions take them into
// those of settings.

func nodeType(_ *Config, v string) (string, error) {
	switch v {
	case "lb", "pure-runner":
		return "", faas.Errorf(faas.Invalid, "%q is part of a cluster, which hob has not yet: one node of type full takes calls and runs them", v)
	}
	return v, nil
}

func port(c *Config, v string) (string, error) {
	if _, err := strconv.ParseUint(v, 10, 16); err != nil {
		return "", faas.Errorf(faas.Invalid, "%q is not a port between 0 and 65535", v)
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return "", faas.Errorf(faas.Invalid, "listen (from %s) is %q, which is not an address such as 127.0.0.1:8080", c.Origin("listen"), c.Listen)
	}
	return net.JoinHostPort(host, v), nil
}

func sqliteData(_ *Config, v string) (string, error) {
	return dataOf(v, "sqlite3:///DIRECTORY/fn.db", "sqlite3", "sqlite")
}

func boltData(_ *Config, v string) (string, error) {
	return dataOf(v, "bolt:///DIRECTORY/bolt.db", "bolt")
}

// dataOf returns the directory of the file of a database, whose URL has one of the
// schemes and is written as example. No error shows more of a URL than its scheme:
// the rest may hold a password.
func dataOf(v, example string, schemes ...string) (string, error) {
	scheme, rest, _ := strings.Cut(v, "://")
	switch {
	case slices.Contains(schemes, scheme):
	case scheme == "postgres" || scheme == "postgresql":
		return "", faas.Errorf(faas.Invalid, "a single node keeps its definitions itself, not in Postgres: use %s, or the setting data", example)
	default:
		return "", foreign(scheme, "definitions are kept by hob itself: use "+example+", or the setting data")
	}
	file, _, _ := strings.Cut(rest, "?")
	dir := filepath.Dir(file)
	if file == "" || strings.HasSuffix(file, "/") || strings.Contains(file, ":memory:") || dir == "/" {
		return "", faas.Errorf(faas.Invalid, "%q names no file in a directory that hob could have for itself: write it as %s", file, example)
	}
	return dir, nil
}

func fnQueue(_ *Config, v string) (string, error) { return queueURL(v, "memory") }

func ironQueue(_ *Config, v string) (string, error) { return queueURL(v, "memory", "bolt") }

// queueURL takes the URL of a queue that is part of the server, and makes nothing of it.
func queueURL(v string, schemes ...string) (string, error) {
	if scheme, _, _ := strings.Cut(v, "://"); !slices.Contains(schemes, scheme) {
		return "", foreign(scheme, "calls wait in the data directory, durably, without another program: leave the variable out; queue-total says how much may wait")
	}
	return "", nil
}

func logstoreURL(_ *Config, v string) (string, error) {
	if scheme, _, _ := strings.Cut(v, "://"); scheme != "sqlite3" && scheme != "sqlite" {
		return "", foreign(scheme, "logs are kept in the data directory: leave the variable out; log-total says how much is kept, and the syslog_url of an app sends its logs elsewhere")
	}
	return "", nil
}

// foreign refuses a URL of another program.
func foreign(scheme, instead string) error {
	switch scheme {
	case "mysql", "postgres", "postgresql", "bolt", "redis", "s3", "sqlite", "sqlite3", "ironmq", "ironmq+http":
		return faas.Errorf(faas.Invalid, "%s:// is not supported: %s", scheme, instead)
	}
	return faas.Errorf(faas.Invalid, "the URL has no scheme that is supported: %s", instead)
}

// dockerAuth makes a Docker configuration of a list of credentials. No error shows
// more of it than the name of a registry.
func dockerAuth(_ *Config, v string) (string, error) {
	if v = strings.TrimSpace(v); strings.HasPrefix(v, "{") || filepath.IsAbs(v) {
		return v, nil // as Fn has it
	}
	var list []struct{ Name, Username, Password string }
	if json.Unmarshal([]byte(v), &list) != nil {
		return "", faas.Errorf(faas.Invalid, `it is no JSON list such as [{"name": "registry.lan:5000", "username": "USER", "password": "PASSWORD"}]`)
	}
	type auth struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	auths := make(map[string]auth)
	for i, one := range list {
		name := cmp.Or(one.Name, "docker.io")
		if one.Username == "" || one.Password == "" {
			return "", faas.Errorf(faas.Invalid, "entry %d, of %q, needs a username and a password", i+1, name)
		}
		if _, twice := auths[name]; twice {
			return "", faas.Errorf(faas.Invalid, "entry %d: there is another one of %q", i+1, name)
		}
		auths[name] = auth{one.Username, one.Password}
	}
	out, err := json.Marshal(map[string]any{"auths": auths})
	return string(out), err
}

func logLevel(_ *Config, v string) (string, error) {
	switch v = strings.ToLower(v); v {
	case "trace":
		return "debug", nil
	case "warning":
		return "warn", nil
	case "fatal", "panic":
		return "error", nil
	}
	return v, nil
}

func logDest(_ *Config, v string) (string, error) {
	if v == "stderr" {
		return v, nil
	}
	scheme, rest, ok := strings.Cut(v, "://")
	if !ok {
		scheme, rest = "udp", v
	}
	if scheme == "udp" || scheme == "tcp" {
		host, port, err := net.SplitHostPort(rest)
		if err != nil {
			host, port = strings.Trim(rest, "[]"), "514"
		}
		rest = net.JoinHostPort(cmp.Or(host, "localhost"), port)
	}
	return scheme + "://" + rest, nil
}

func size(_ *Config, v string) (string, error) {
	if _, err := strconv.ParseUint(v, 10, 63); err != nil {
		return "", faas.Errorf(faas.Invalid, "%q is not a whole number of bytes", v)
	}
	return v, nil
}

// logSize is size with the least that can be kept of a function.
func logSize(c *Config, v string) (string, error) {
	v, err := size(c, v)
	if n, _ := strconv.ParseInt(v, 10, 64); n < int64(faas.MB) {
		v = "1m"
	}
	return v, err
}

func megabytes(_ *Config, v string) (string, error) {
	if _, err := strconv.ParseUint(v, 10, 43); err != nil {
		return "", faas.Errorf(faas.Invalid, "%q is not a whole number of MB", v)
	}
	return v + "m", nil
}

func millis(_ *Config, v string) (string, error) {
	if _, err := strconv.ParseUint(v, 10, 31); err != nil {
		return "", faas.Errorf(faas.Invalid, "%q is not a whole number of thousandths of a processor", v)
	}
	return v + "m", nil
}

func msecs(_ *Config, v string) (string, error) {
	if _, err := strconv.ParseInt(v, 10, 43); err != nil {
		return "", faas.Errorf(faas.Invalid, "%q is not a whole number of milliseconds", v)
	}
	return v + "ms", nil
}

func seconds(_ *Config, v string) (string, error) {
	if _, err := strconv.ParseUint(v, 10, 33); err == nil {
		return v + "s", nil
	}
	if d, err := time.ParseDuration(v); err != nil || d < 0 {
		return "", faas.Errorf(faas.Invalid, "%q is neither a number of seconds, as 120, nor a duration, as 2m5s", v)
	}
	return v, nil
}

func blanks(_ *Config, v string) (string, error) {
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return "", faas.Errorf(faas.Invalid, "%q is not a number of sandboxes", v)
	}
	if n == 0 { // which leaves it to the driver here
		return "-1", nil
	}
	return v, nil
}

// items turns white space into the commas of a list.
func items(_ *Config, v string) (string, error) {
	if strings.Contains(v, ",") {
		return "", faas.Errorf(faas.Invalid, "%q holds a comma: white space separates the names", v)
	}
	return strings.Join(strings.Fields(v), ","), nil
}

// networks takes names as Fn's server does, and as its documents say.
func networks(_ *Config, v string) (string, error) {
	return strings.Join(strings.FieldsFunc(v, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }), ","), nil
}

func oneItem(_ *Config, v string) (string, error) {
	if strings.Contains(v, ",") {
		return "", faas.Errorf(faas.Invalid, "%q holds a comma, which the name of the file cannot have here", v)
	}
	return v, nil
}
