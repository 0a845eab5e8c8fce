package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hob/faas"
	"hob/internal/build/funcfile"
)

// templates hold the files of a new function, by runtime. The ending .txt is there
// where the tools of Go would take a file for one of ours.
//
//go:embed templates
var templates embed.FS

// language is a runtime that hob init writes a function for.
type language struct {
	name       string
	program    string // the file by which a function of it is known
	entrypoint []string
	format     string // "": that of the file's version
	base       string // what the image lies on, with %s for the version; "": nothing
	version    string // of the base, unless the runtime names one
}

func languages() []language {
	return []language{
		{name: "go", program: "func.go"},
		{name: "node", program: "func.js", entrypoint: []string{"node", "func.js"}, base: "docker.io/library/node:%s-slim", version: "24"},
		{name: "python", program: "func.py", entrypoint: []string{"python3", "func.py"}, base: "docker.io/library/python:%s-slim", version: "3.13"},
		{name: "shell", program: "func.sh", entrypoint: []string{"./func.sh"}, format: string(faas.FormatDefault), base: "docker.io/library/busybox:%s", version: "stable"},
	}
}

// runtimes are the names of the languages.
func runtimes() (names []string) {
	for _, l := range languages() {
		names = append(names, l.name)
	}
	return names
}

// languageOf is the language of a runtime such as go, node22 or python3.12.
func languageOf(runtime string) (language, error) {
	for _, l := range languages() {
		if version, ok := strings.CutPrefix(runtime, l.name); ok && strings.Trim(version, "0123456789.") == "" {
			if version != "" {
				l.version = version
			}
			return l, nil
		}
	}
	return language{}, faas.Errorf(faas.Invalid, "no function is written here for runtime %q: it is one of %s, or a Dockerfile of your own (runtime docker), or --init-image", runtime, strings.Join(runtimes(), ", "))
}

// initFlags say what a new function is like.
type initFlags struct {
	dir, name, runtime, version string
	initImage                   string
	trigger                     string
	force                       bool
	memory                      string
	timeout, idle               string
	config, annotations         []string
	entrypoint, cmd, base       string
}

func newInit(c *cli) *cobra.Command {
	var flags initFlags
	cmd := &cobra.Command{
		Use:   "init [DIRECTORY]",
		Short: "write a new function with its func.yaml and a test",
		Long: `Write a function into a directory, which is made if it is missing: func.yaml, a
program that works, and test.json, which "hob test" runs. Where the directory has a
program already (func.go, func.js, func.py, func.sh) or a Dockerfile, only func.yaml
is written. Nothing is overwritten but, with --force, func.yaml.

Runtimes are go, node, python and shell. A program in Go needs nothing else to run;
the others lie on a base image, which --base names: a file, a directory or an image,
as "hob image build" takes it, that holds the interpreter.

With --init-image the server runs an image once, and what it writes to standard
output is a tar archive of the files.`,
		Example: `  hob init --runtime go --trigger http hello
  hob init --runtime python --base hob.local/python --memory 256 --config LEVEL=3 tag
  hob init --init-image hob.local/boilerplate mine`,
		Args: between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInit(cmd.Context(), c, flags, below(flags.dir, args))
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.name, "name", "", "`name` of the function (default: that of the directory, in lower case)")
	f.StringVar(&flags.runtime, "runtime", "", "`language`: go, node, python or shell, also with a version, as node22 (default: that of the files in the directory)")
	f.StringVar(&flags.initImage, "init-image", "", "`image` that writes the files")
	f.BoolVar(&flags.force, "force", false, "overwrite a func.yaml")
	f.StringVar(&flags.version, "version", funcfile.FirstVersion, "`version` of the function")
	f.StringVarP(&flags.dir, "working-dir", "w", ".", "`directory` in place of the one that hob is run in")
	f.StringVar(&flags.trigger, "trigger", "", "`type` of a trigger that the function gets: http")
	f.StringVarP(&flags.memory, "memory", "m", "", "most memory, as a number of MB or as 64m")
	f.StringVar(&flags.timeout, "timeout", "", "longest run of a call, as a number of seconds or as 1m")
	f.StringVar(&flags.idle, "idle-timeout", "", "how long a container is kept without a call, as --timeout")
	f.StringArrayVarP(&flags.config, "config", "c", nil, "set a variable, as `NAME=value`")
	f.StringArrayVar(&flags.annotations, "annotation", nil, "note something, as `KEY=JSON`")
	f.StringVar(&flags.entrypoint, "entrypoint", "", "`command` that starts the function")
	f.StringVar(&flags.cmd, "cmd", "", "`arguments` of the entrypoint")
	f.StringVar(&flags.base, "base", "", "`image` that the function lies on")
	cmd.ValidArgsFunction = completeDirectory
	registerFlag(cmd, "trigger", cobra.FixedCompletions([]string{faas.TriggerHTTP}, cobra.ShellCompDirectiveNoFileComp))
	registerFlag(cmd, "runtime", cobra.FixedCompletions(runtimes(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// newFunction is what hob init made.
type newFunction struct {
	Directory string   `json:"directory"`
	Name      string   `json:"name"`
	Runtime   string   `json:"runtime"`
	Files     []string `json:"files"` // without func.init.yaml, which goes
}

func runInit(ctx context.Context, c *cli, flags initFlags, dir string) error {
	f, err := flags.function(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return faas.Errorf(faas.Denied, "%w", err)
	}
	if have, err := funcfile.Find(dir); err == nil && (!flags.force || filepath.Base(have) != "func.yaml") {
		return faas.Errorf(faas.Conflict, "%s is there already: --force overwrites a func.yaml", have)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return faas.Errorf(faas.Invalid, "%w", err)
	}
	defer root.Close()
	made := newFunction{Directory: dir, Name: f.Name}
	tell := func(format string, args ...any) {
		if !c.json {
			fmt.Fprintf(c.Stdout, format+"\n", args...)
		}
	}
	switch {
	case filepath.IsAbs(dir):
		tell("Creating function at: %s", dir)
	case filepath.Clean(dir) != ".":
		tell("Creating function at: ./%s", filepath.Clean(dir))
	}
	file, err := flags.write(ctx, c, root, &f, &made, tell)
	if err != nil {
		return err
	}
	if _, err := funcfile.Parse("func.yaml", file); err != nil {
		return err
	}
	if flags.force {
		_ = root.Remove("func.yaml") // it is written anew
	}
	if err := writeNew(root, "func.yaml", file, 0o644); err != nil {
		return err
	}
	tell("func.yaml created.")
	if made.Runtime, made.Files = f.Runtime, append(made.Files, "func.yaml"); c.json {
		return c.printJSON(made)
	}
	return nil
}

// write completes f, writes all files but func.yaml, and returns what goes into that.
func (flags initFlags) write(ctx context.Context, c *cli, root *os.Root, f *funcfile.Function, made *newFunction, tell func(string, ...any)) (file []byte, err error) {
	if flags.initImage != "" {
		if made.Files, err = c.unpackFrom(ctx, flags.initImage, f.Name, root); err != nil {
			return nil, fmt.Errorf("init image %s: %w", flags.initImage, err)
		}
		tell("Function boilerplate generated.")
		return flags.adopt(root, f)
	}
	var say string
	if f.Runtime, say, err = flags.runtimeOf(made.Directory); err != nil {
		return nil, err
	}
	if say != "" {
		tell("%s", say)
	}
	if made.Files, err = flags.boilerplate(root, f); err != nil {
		return nil, err
	}
	if len(made.Files) > 0 {
		tell("Function boilerplate generated.")
	}
	return funcfile.New(*f)
}

// function is what the flags say of the function.
func (flags initFlags) function(dir string) (f funcfile.Function, err error) {
	f = funcfile.Function{Name: flags.name, Version: flags.version, Config: map[string]string{}, Annotations: map[string]string{}}
	if f.Name == "" {
		full, err := filepath.Abs(dir)
		if err != nil {
			return f, err
		}
		f.Name = strings.ToLower(filepath.Base(full))
	}
	if err := faas.CheckName("function", f.Name); err != nil {
		return f, fmt.Errorf("%w: name the function with --name", err)
	}
	if _, err := funcfile.Next(f.Version, funcfile.Patch); err != nil {
		return f, err
	}
	if flags.memory != "" {
		memory := flags.memory
		if strings.Trim(memory, "0123456789") == "" {
			memory += "m"
		}
		if f.Memory, err = faas.ParseBytes(memory); err != nil {
			return f, err
		}
		if f.Memory%faas.MB != 0 {
			return f, faas.Errorf(faas.Invalid, "--memory %v is no whole number of MB, which is how func.yaml says it", f.Memory)
		}
	}
	if f.Timeout, err = seconds("--timeout", flags.timeout); err != nil {
		return f, err
	}
	if f.IdleTimeout, err = seconds("--idle-timeout", flags.idle); err != nil {
		return f, err
	}
	if f.Config, err = pairs("--config", flags.config); err != nil {
		return f, err
	}
	all, err := readAnnotations(flags.annotations)
	if err != nil {
		return f, err
	}
	for k, v := range all {
		f.Annotations[k] = string(v)
	}
	switch flags.trigger {
	case "":
	case faas.TriggerHTTP:
		f.Triggers = []funcfile.Trigger{{Name: f.Name, Type: faas.TriggerHTTP, Source: "/" + f.Name}}
	default:
		return f, faas.Errorf(faas.Invalid, "bad --trigger %q: it is %s", flags.trigger, faas.TriggerHTTP)
	}
	f.Entrypoint, f.Cmd, f.RunImage = strings.Fields(flags.entrypoint), strings.Fields(flags.cmd), flags.base
	return f, nil
}

// seconds reads a number of seconds, or a duration.
func seconds(flag, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	if strings.Trim(text, "0123456789") == "" {
		text += "s"
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d%time.Second != 0 {
		return 0, faas.Errorf(faas.Invalid, "bad %s %q: it is a whole number of seconds, or a time such as 1m", flag, text)
	}
	return d, nil
}

// runtimeOf is the runtime of the flags, or that of the files in dir, with the
// words in which that is told.
func (flags initFlags) runtimeOf(dir string) (runtime, say string, err error) {
	switch {
	case hasDockerfile(dir) && (flags.runtime == "" || flags.runtime == "docker"):
		return "docker", "Dockerfile found. Using runtime 'docker'.", nil
	case flags.runtime == "docker":
		return "", "", faas.Errorf(faas.NotFound, "there is no Dockerfile in %s", dir)
	case flags.runtime != "":
		return flags.runtime, "", nil
	}
	for _, l := range languages() {
		if _, err := os.Lstat(filepath.Join(dir, l.program)); err == nil {
			return l.name, fmt.Sprintf("Found %s function, assuming %s runtime.", l.name, l.name), nil
		}
	}
	return "", "", faas.Errorf(faas.Invalid, "which runtime? %s has no program yet: choose one of %s with --runtime, or write a Dockerfile, or name an --init-image", dir, strings.Join(runtimes(), ", "))
}

// boilerplate completes f and writes the program and its test, if there is none.
func (flags initFlags) boilerplate(root *os.Root, f *funcfile.Function) (files []string, err error) {
	if f.Runtime == "docker" {
		return []string{}, nil
	}
	l, err := languageOf(f.Runtime)
	if err != nil {
		return nil, err
	}
	if len(f.Entrypoint) == 0 && len(f.Cmd) == 0 {
		f.Entrypoint = l.entrypoint
	}
	if f.RunImage == "" && l.base != "" {
		f.RunImage = fmt.Sprintf(l.base, l.version)
	}
	f.Format = l.format
	if _, err := root.Lstat(l.program); err == nil {
		return []string{}, nil
	}
	dir := "templates/" + l.name
	entries, err := templates.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		content, err := templates.ReadFile(dir + "/" + e.Name())
		if err != nil {
			return nil, err
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(string(content), "#!") {
			mode = 0o755
		}
		name := strings.TrimSuffix(e.Name(), ".txt")
		if err := writeNew(root, name, content, mode); err != nil && (name == l.program || faas.KindOf(err) != faas.Conflict) {
			return nil, err // a go.mod that is there is as good
		}
		files = append(files, name)
	}
	slices.Sort(files)
	return files, nil
}

// writeNew writes a file that is not there; Conflict if it is.
func writeNew(root *os.Root, name string, content []byte, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	switch {
	case errors.Is(err, fs.ErrExist):
		return faas.Errorf(faas.Conflict, "%s is there already", name)
	case err != nil:
		return faas.Errorf(faas.Denied, "write %s: %w", name, err)
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}
