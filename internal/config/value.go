package config

import (
	"strconv"
	"strings"
	"time"

	"hob/faas"
)

// setting ties a name to a field of a Config.
type setting struct {
	name  string // also of the flag, and in capitals of the variable
	help  string // one line
	note  string // one more sentence for the reference page
	value value
}

// value reads and prints one field: what String prints, Set reads back, but for
// secrets.
type value interface {
	Set(string) error
	String() string
	Type() string // one word for help texts
}

type text string

func (v *text) Set(s string) error { *v = text(s); return nil }
func (v *text) String() string     { return string(*v) }
func (v *text) Type() string       { return "string" }

// list is written with commas; no item may hold one.
type list []string

func (v *list) Set(s string) error {
	*v = nil
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			*v = append(*v, item)
		}
	}
	return nil
}
func (v *list) String() string { return strings.Join(*v, ",") }
func (v *list) Type() string   { return "list" }

// keys is a list of pairs NAME:SECRET that prints no secret.
type keys []string

// masked stands for a secret where it is printed.
const masked = "***"

func (v *keys) Set(s string) error { return (*list)(v).Set(s) }
func (v *keys) String() string {
	var names []string
	for _, pair := range *v {
		name, _, ok := strings.Cut(pair, ":")
		if !ok {
			name = "" // perhaps it is the secret that was given alone
		}
		names = append(names, name+":"+masked)
	}
	return strings.Join(names, ",")
}
func (v *keys) Type() string { return "list" }

// secret is a text that is not printed if it is more than the name of a file.
type secret string

func (v *secret) Set(s string) error { *v = secret(s); return nil }
func (v *secret) String() string {
	if *v == "" || strings.HasPrefix(string(*v), "/") {
		return string(*v)
	}
	return masked
}
func (v *secret) Type() string { return "string" }

// password is a text that is never printed.
type password string

func (v *password) Set(s string) error { *v = password(s); return nil }
func (v *password) String() string {
	if *v == "" {
		return ""
	}
	return masked
}
func (v *password) Type() string { return "string" }

type boolean bool

func (v *boolean) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return faas.Errorf(faas.Invalid, "%q is neither true nor false", s)
	}
	*v = boolean(b)
	return nil
}
func (v *boolean) String() string { return strconv.FormatBool(bool(*v)) }
func (v *boolean) Type() string   { return "bool" }

type bytes faas.Bytes

func (v *bytes) Set(s string) error {
	b, err := faas.ParseBytes(s)
	if err != nil {
		return err
	}
	*v = bytes(b)
	return nil
}

// String prints the number exactly, in the largest unit that divides it.
func (v *bytes) String() string {
	b := faas.Bytes(*v)
	for _, u := range []struct {
		size faas.Bytes
		name string
	}{{faas.GB, "g"}, {faas.MB, "m"}, {faas.KB, "k"}} {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
func (v *bytes) Type() string { return "size" }

type duration time.Duration

func (v *duration) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return faas.Errorf(faas.Invalid, "bad duration %q: write it as 500ms, 30s or 168h", s)
	}
	*v = duration(d)
	return nil
}

// String leaves out the zeros at the end: "168h", not "168h0m0s".
func (v *duration) String() string {
	s := time.Duration(*v).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
func (v *duration) Type() string { return "duration" }

// signedDuration is a duration of which a negative one means something.
type signedDuration time.Duration

func (v *signedDuration) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return faas.Errorf(faas.Invalid, "bad duration %q: write it as 50ms, 1s or -1s", s)
	}
	*v = signedDuration(d)
	return nil
}
func (v *signedDuration) String() string { return time.Duration(*v).String() }
func (v *signedDuration) Type() string   { return "duration" }

type number int

func (v *number) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return faas.Errorf(faas.Invalid, "%q is not a whole number", s)
	}
	*v = number(n)
	return nil
}
func (v *number) String() string { return strconv.Itoa(int(*v)) }
func (v *number) Type() string   { return "number" }

type cpus faas.CPU

func (v *cpus) Set(s string) error {
	c, err := faas.ParseCPU(s)
	if err != nil {
		return err
	}
	*v = cpus(c)
	return nil
}
func (v *cpus) String() string { return faas.CPU(*v).String() }
func (v *cpus) Type() string   { return "number" }
