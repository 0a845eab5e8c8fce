// Package funcfile reads the files in which Fn describes a function and an app:
// func.yaml, func.yml and func.json in version 1 (without schema_version) and in
// version 20180708, and app.yaml, app.yml and app.json. It checks types, says file
// and line of what is wrong, and changes a file only where it must: a new version
// leaves comments and order alone.
//
// What a setting does to a function, and whether its value is in range, the server
// decides.
package funcfile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"hob/faas"
)

// Limits of one file.
const (
	MaxBytes = 1 << 20 // of the file
	MaxNodes = 20_000  // keys and values, an alias counting as what it stands for
	MaxDepth = 32      // lists and objects in each other
)

// Schema is the schema_version of files that are not of version 1.
const Schema = 20180708

// Plea ends every message about a wrong type, in Fn's words.
const Plea = "Please update your %s to satisfy the schema."

// A Function is what a func.yaml says. What it does not say is zero.
type Function struct {
	Path   string // of the file
	Schema bool   // it has version 20180708, not 1

	Name, Version, Runtime string
	Image                  string // reference of an image that is there already
	BuildImage, RunImage   string
	Entrypoint, Cmd        []string
	Build                  []string // commands for a shell before the image is built
	ContentType, Type      string
	Format                 string // as it is written; see FormatOr

	Memory               faas.Bytes
	CPUs                 faas.CPU
	Timeout, IdleTimeout time.Duration
	MaxConcurrency       int
	Min                  *int // constant provisioned concurrency; nil: nothing is said of it
	AsyncTimeout         time.Duration
	OnSuccess, OnFailure string // targets of the detached mode

	Network, Isolation string
	Allow, Devices     []string // nil: nothing is said of them; rules can be parsed

	Config      map[string]string
	Annotations map[string]string // compact JSON by key
	Expects     []Expect
	Triggers    []Trigger
	Tests       []Test // of version 1

	// Notes are what the file says and hob does not heed, with its line.
	Notes []string
}

// Expect is a variable that the function needs.
type Expect struct {
	Name     string
	Required bool
}

// Trigger is a path of the app that calls the function. One of version 1 is a route.
type Trigger struct {
	Name, Type, Source string
	Implied            bool // of version 1: the file names no path, and Source is /NAME

	Async      *bool               // nil: nothing is said of it
	Headers    map[string][]string // of every answer, as they are written
	Key        string              // signs the tokens of its callers; "": none
	Convention string              // a faas.Convention
}

// Test is one call with the answer that is expected.
type Test struct {
	Name string
	In   string
	Out  *string // nil: not compared
	Err  *string // nil: not compared; of the log
	Env  map[string]string
}

// FormatOr is the format of the function: what the file says, else the format that
// its version has without a word, which is default for version 1 and http-stream
// for 20180708.
func (f Function) FormatOr() string {
	switch {
	case f.Format != "":
		return f.Format
	case f.Schema:
		return string(faas.FormatHTTPStream)
	}
	return string(faas.FormatDefault)
}

// ShortName is the last part of the name: in version 1 a name may be that of an
// image, with a registry before it.
func (f Function) ShortName() string { return f.Name[strings.LastIndexByte(f.Name, '/')+1:] }

// An App is what an app.yaml says.
type App struct {
	Path        string
	Name        string
	Config      map[string]string
	Annotations map[string]string // compact JSON by key
	Syslog      string
	Network     string
	Allow       []string // as Function.Allow
	Notes       []string
}

// Names are the files that Find looks for, the first one first.
func Names() []string { return []string{"func.yaml", "func.yml", "func.json"} }

// AppNames are the files that FindApp looks for.
func AppNames() []string { return []string{"app.yaml", "app.yml", "app.json"} }

// Find returns the file of the function in dir; NotFound if there is none.
func Find(dir string) (string, error) { return find(dir, "func.yaml", Names()) }

// FindApp returns the file of the app in dir; NotFound if there is none.
func FindApp(dir string) (string, error) { return find(dir, "app.yaml", AppNames()) }

func find(dir, usual string, names []string) (string, error) {
	for _, name := range names {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
	}
	return "", faas.Errorf(faas.NotFound, "there is no %s in %s", usual, dir)
}

// Read reads the file of a function. Its errors are Invalid, TooLarge or NotFound.
func Read(file string) (Function, error) {
	data, err := readFile(file)
	if err != nil {
		return Function{}, err
	}
	return Parse(file, data)
}

// ReadApp reads the file of an app.
func ReadApp(file string) (App, error) {
	data, err := readFile(file)
	if err != nil {
		return App{}, err
	}
	return ParseApp(file, data)
}

func readFile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, faas.Errorf(faas.NotFound, "there is no file %s", file)
	case err != nil:
		return nil, faas.Errorf(faas.Invalid, "%w", err)
	case !info.Mode().IsRegular():
		return nil, faas.Errorf(faas.Invalid, "%s is no regular file", file)
	case info.Size() > MaxBytes:
		return nil, faas.Errorf(faas.TooLarge, "%s of %v is over the limit of %v", file, faas.Bytes(info.Size()), faas.Bytes(MaxBytes))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "%w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "read %s: %w", file, err)
	}
	return data, nil
}

// Parse reads data as the content of file, whose name says whether it is YAML or JSON.
func Parse(file string, data []byte) (Function, error) {
	f := Function{Path: file}
	root, err := parse(file, data)
	if err != nil {
		return f, err
	}
	r := &reader{file: file}
	fields := r.mapping(root, "the file")
	if version, ok := fields["schema_version"]; ok {
		if n := r.integer(version, "schema_version"); r.err == nil && n != Schema {
			r.fail(version.value, "schema_version %d is not known: it is %d, or not there", n, Schema)
		}
		f.Schema, r.strict = true, true
	}
	r.function(&f, fields)
	if r.err == nil && f.Name == "" {
		r.err = faas.Errorf(faas.Invalid, "%s has no name", file)
	}
	f.Notes = r.notes
	return f, r.err
}

// ParseApp is Parse for the file of an app.
func ParseApp(file string, data []byte) (App, error) {
	a := App{Path: file}
	root, err := parse(file, data)
	if err != nil {
		return a, err
	}
	r := &reader{file: file}
	for _, at := range r.mapping(root, "the file") {
		switch at.name {
		case "name":
			a.Name = r.text(at)
		case "config":
			a.Config = r.texts(at)
		case "annotations":
			a.Annotations = r.annotations(at)
		case "syslog_url":
			a.Syslog = r.text(at)
		case "network":
			a.Network = r.network(at)
		case "allow":
			a.Allow = r.rules(at)
		default:
			r.note(at, "is not known, and does nothing")
		}
	}
	if r.err == nil && a.Name == "" {
		r.err = faas.Errorf(faas.Invalid, "%s has no name", file)
	}
	a.Notes = r.notes
	return a, r.err
}

func isJSON(file string) bool { return strings.EqualFold(filepath.Ext(file), ".json") }

// field is a key of an object with its value.
type field struct {
	name  string
	key   *yaml.Node
	value *yaml.Node
}
