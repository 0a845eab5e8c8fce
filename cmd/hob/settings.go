package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

// settingFlags are the flags that create and update share: what can be set of a
// function but its image and command.
type settingFlags struct {
	env        []string
	envFiles   []string
	memory     bytesFlag
	cpus       cpuFlag
	tmpSize    bytesFlag
	timeout    time.Duration
	wait       time.Duration
	start      time.Duration
	idle       time.Duration
	entrypoint string
	workdir    string
	user       string
	writable   bool
	confineFlags
	concurrent int
	line       int
	format     string
	port       int
	inOne      int
	least      int
	maxCalls   int
	freeze     string
	size       string
	pull       string

	asyncTimeout string
	delay        time.Duration
	retries      int
	retryDelay   time.Duration
	retryMax     time.Duration
	onSuccess    string
	onFailure    string
	onNodeLoss   string
	logPayload   bool

	profile, shape string
	annotations    []string
}

func (f *settingFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.env, "env", "e", nil, "set a variable, as `NAME=value`; NAME alone takes the value from here")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "read variables from a `file`, one NAME=value a line")
	flags.StringVar(&f.size, "size", "", "memory and processors at once, as `name`: "+strings.Join(sizeNames(), ", ")+"; --memory and --cpus go before it")
	flags.Var(&f.memory, "memory", "most memory of the sandbox, as 64m or 1g (default 128 MB)")
	flags.Var(&f.cpus, "cpus", "most processors, as 0.5 or 500m (default: no limit)")
	flags.Var(&f.tmpSize, "tmp-size", "size of /tmp, and of a writable root; counts to the memory (default 64 MB, at most half the memory)")
	flags.DurationVar(&f.timeout, "timeout", 0, "longest run of a call (default 30s)")
	flags.DurationVar(&f.wait, "wait", 0, "longest wait of a call for a sandbox (default 30s)")
	flags.DurationVar(&f.start, "start-timeout", 0, "longest start of a sandbox (default 5s)")
	flags.DurationVar(&f.idle, "idle-timeout", 0, "hot: how long a sandbox is kept without a call (default 30s)")
	flags.StringVar(&f.entrypoint, "entrypoint", "", "`program` in place of the image's entrypoint; \"\" for none; a JSON list for one with arguments")
	flags.StringVarP(&f.workdir, "workdir", "w", "", "working `directory` in place of the image's")
	flags.StringVar(&f.user, "user", "", "run as `user[:group]`, numbers or names of the image (default: the image's, else 1000:1000, or with --writable root of a user namespace)")
	flags.BoolVar(&f.writable, "writable", false, "give each call a writable root of its own")
	flags.IntVar(&f.concurrent, "max-concurrency", 0, "most calls at once (default 0: as memory allows)")
	flags.IntVar(&f.line, "line", 0, "most calls that may wait for a sandbox (default 1000)")
	flags.StringVar(&f.format, "format", "", "how the process is spoken to, as `name`: \"default\", or one that is hot: "+hotFormats()+" (default \"default\")")
	flags.IntVar(&f.port, "port", 0, "format port: where the process listens (default 8080)")
	flags.IntVar(&f.inOne, "concurrency", 0, "format port: most calls at once in one sandbox (default 1)")
	flags.IntVar(&f.least, "min", 0, "hot: sandboxes kept ready, also without calls (default 0)")
	flags.IntVar(&f.maxCalls, "max-calls", 0, "hot: calls after which a sandbox is replaced (default 0: no limit)")
	flags.StringVar(&f.freeze, "freeze", "", "hot: `when` a sandbox stands still: \"auto\" for between calls, or \"never\" (default auto)")
	flags.StringVar(&f.asyncTimeout, "async-timeout", "", "asynchronous calls: longest run, as `duration` up to 24h, or \"none\" (default: as --timeout)")
	flags.DurationVar(&f.delay, "delay", 0, "asynchronous calls: least time before the start, unless the call names one (default 0s)")
	flags.IntVar(&f.retries, "retries", 0, "asynchronous calls: further attempts of one that fails or runs out of time (default 0)")
	flags.DurationVar(&f.retryDelay, "retry-delay", 0, "time before the second attempt; it doubles with each further one (default 10s)")
	flags.DurationVar(&f.retryMax, "retry-max", 0, "longest of these times (default 10m)")
	flags.StringVar(&f.onSuccess, "on-success", "", "asynchronous calls: where the result goes, as `destination`: a URL, or APP/NAME of a function (default: nowhere)")
	flags.StringVar(&f.onFailure, "on-failure", "", "asynchronous calls: where it is told that one failed, as `destination` (default: nowhere)")
	flags.StringVar(&f.onNodeLoss, "on-node-loss", "", "asynchronous calls: `what` becomes of one whose server died: \"rerun\", or \"fail\" if it must not run twice (default rerun)")
	flags.BoolVar(&f.logPayload, "log-payload", false, "show the beginning of payload and result of asynchronous calls in the log")
	flags.StringVar(&f.profile, "profile", "", "rules of its sandboxes that the server sets, by `name`: \"fn\" for functions made for Fn (default: hob's own)")
	flags.StringVar(&f.shape, "shape", "", "`processor` that it is made for, kept and shown only: "+strings.Join(faas.Shapes(), ", "))
	annotationFlag(cmd, &f.annotations)
	f.confineFlags.add(cmd)
	flags.StringVar(&f.pull, "pull", "", "fetch the image: \"missing\", \"always\", \"never\", or \"later\" with the first call (default missing)")
}

// settings are those that were given on the command line.
func (f *settingFlags) settings(c *cli, cmd *cobra.Command) (s client.Settings, err error) {
	given := cmd.Flags().Changed
	if given("size") { // --memory and --cpus go before it
		size, err := parseSize(f.size)
		if err != nil {
			return s, err
		}
		s.Memory, s.CPUs = &size.memory, (*client.CPU)(&size.cpus)
	}
	f.take(given, &s)
	if given("entrypoint") {
		entrypoint, err := words(f.entrypoint)
		if err != nil {
			return s, err
		}
		s.Entrypoint = &entrypoint
	}
	if err := f.confineFlags.set(given, &s); err != nil {
		return s, err
	}
	if given("freeze") {
		freeze, err := parseFreeze(f.freeze)
		if err != nil {
			return s, err
		}
		s.Freeze = &freeze
	}
	if given("on-node-loss") {
		loss, err := parseNodeLoss(f.onNodeLoss)
		if err != nil {
			return s, err
		}
		s.OnNodeLoss = &loss
	}
	if err := checkPull(f.pull, pullLater); err != nil {
		return s, err
	}
	if s.Annotations, err = readAnnotations(f.annotations); err != nil {
		return s, err
	}
	s.Env, err = readEnv(c, f.envFiles, f.env)
	return s, err
}

// take puts into s what is sent as it was given.
func (f *settingFlags) take(given func(string) bool, s *client.Settings) {
	take(given, "memory", (*faas.Bytes)(&f.memory), &s.Memory)
	take(given, "cpus", (*client.CPU)(&f.cpus), &s.CPUs)
	take(given, "tmp-size", (*faas.Bytes)(&f.tmpSize), &s.TmpSize)

	take(given, "timeout", (*client.Duration)(&f.timeout), &s.Timeout)
	take(given, "wait", (*client.Duration)(&f.wait), &s.Wait)
	take(given, "start-timeout", (*client.Duration)(&f.start), &s.StartTimeout)
	take(given, "idle-timeout", (*client.Duration)(&f.idle), &s.IdleTimeout)
	take(given, "delay", (*client.Duration)(&f.delay), &s.Delay)
	take(given, "retry-delay", (*client.Duration)(&f.retryDelay), &s.RetryDelay)
	take(given, "retry-max", (*client.Duration)(&f.retryMax), &s.RetryMax)

	take(given, "workdir", &f.workdir, &s.Workdir)
	take(given, "user", &f.user, &s.User)
	take(given, "format", &f.format, &s.Format)
	take(given, "profile", &f.profile, &s.Profile)
	take(given, "shape", &f.shape, &s.Shape)
	take(given, "async-timeout", &f.asyncTimeout, &s.AsyncTimeout)
	take(given, "on-success", &f.onSuccess, &s.OnSuccess)
	take(given, "on-failure", &f.onFailure, &s.OnFailure)

	take(given, "max-concurrency", &f.concurrent, &s.MaxConcurrency)
	take(given, "line", &f.line, &s.Line)
	take(given, "port", &f.port, &s.Port)
	take(given, "concurrency", &f.inOne, &s.Concurrency)
	take(given, "min", &f.least, &s.Min)
	take(given, "max-calls", &f.maxCalls, &s.MaxCalls)
	take(given, "retries", &f.retries, &s.Retries)

	take(given, "writable", &f.writable, &s.Writable)
	take(given, "log-payload", &f.logPayload, &s.LogPayload)
}

// take sets a setting if its flag was given.
func take[T any](given func(string) bool, flag string, value *T, to **T) {
	if given(flag) {
		*to = value
	}
}

func annotationFlag(cmd *cobra.Command, to *[]string) {
	cmd.Flags().StringArrayVar(to, "annotation", nil, "note something, as `KEY=JSON`: team='\"red\"', n=3")
}

// unsetAnnotationFlag is for commands that change something.
func unsetAnnotationFlag(cmd *cobra.Command, to *[]string) {
	cmd.Flags().StringArrayVar(to, "unset-annotation", nil, "remove the annotation of this `key`")
}

// readAnnotations reads KEY=JSON entries, of which unset are to be removed; what
// the values may be the server says.
func readAnnotations(entries []string, unset ...string) (client.Annotations, error) {
	if len(entries)+len(unset) == 0 {
		return nil, nil
	}
	all := client.Annotations{}
	for _, entry := range entries {
		key, value, ok := strings.Cut(entry, "=")
		switch {
		case !ok || key == "":
			return nil, faas.Errorf(faas.Invalid, "--annotation: %q is no KEY=JSON", entry)
		case !json.Valid([]byte(value)):
			return nil, faas.Errorf(faas.Invalid, `--annotation: the value of %s is no JSON; write text in quotes, as '%s="text"'`, key, key)
		}
		all[key] = json.RawMessage(value)
	}
	for _, key := range unset {
		if _, both := all[key]; both {
			return nil, faas.Errorf(faas.Invalid, "annotation %s is both set and removed", key)
		}
		all[key] = json.RawMessage("null")
	}
	return all, nil
}

// hotFormats lists the formats of which one sandbox serves many calls.
func hotFormats() string {
	var names []string
	for _, f := range faas.Formats() {
		if f.Hot() {
			names = append(names, string(f))
		}
	}
	return strings.Join(names, ", ")
}

// parseFreeze is the setting that a value of --freeze stands for.
func parseFreeze(s string) (string, error) {
	switch s {
	case "auto":
		return "", nil
	case faas.FreezeNever:
		return faas.FreezeNever, nil
	}
	return "", faas.Errorf(faas.Invalid, `bad --freeze %q: it is "auto" or %q`, s, faas.FreezeNever)
}

// parseNodeLoss is the setting that a value of --on-node-loss stands for.
func parseNodeLoss(s string) (string, error) {
	switch s {
	case "rerun":
		return "", nil
	case faas.NodeLossFail:
		return faas.NodeLossFail, nil
	}
	return "", faas.Errorf(faas.Invalid, `bad --on-node-loss %q: it is "rerun" or %q`, s, faas.NodeLossFail)
}

// words is an entrypoint as a list: nothing, one program, or what a JSON list holds.
func words(s string) ([]string, error) {
	switch {
	case s == "":
		return []string{}, nil
	case strings.HasPrefix(s, "["):
		list := []string{}
		if err := json.Unmarshal([]byte(s), &list); err != nil {
			return nil, faas.Errorf(faas.Invalid, "%q is no JSON list of strings: %w", s, err)
		}
		return list, nil
	}
	return []string{s}, nil
}

// readEnv gathers variables: those of the files in their order, then those of
// the command line. A name without "=" stands for the variable of this process,
// and for nothing if there is none.
func readEnv(c *cli, files, entries []string) (map[string]*string, error) {
	env := map[string]*string{}
	set := func(entry, where string) error {
		name, value, given := strings.Cut(entry, "=")
		if name == "" {
			return faas.Errorf(faas.Invalid, "%s: %q is no NAME=value", where, entry)
		}
		if !given {
			for _, own := range c.Environ() {
				if v, ok := strings.CutPrefix(own, name+"="); ok {
					value, given = v, true
				}
			}
		}
		if given {
			env[name] = &value
		}
		return nil
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, faas.Errorf(faas.NotFound, "read variables: %w", err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, int(faas.MaxEnv)*2)
		for n := 1; lines.Scan(); n++ {
			line := strings.TrimLeft(lines.Text(), " \t")
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if err := set(strings.TrimSuffix(line, "\r"), fmt.Sprintf("%s, line %d", file, n)); err != nil {
				return nil, err
			}
		}
		if err := lines.Err(); err != nil {
			return nil, faas.Errorf(faas.Invalid, "read variables in %s: %w", file, err)
		}
	}
	for _, entry := range entries {
		if err := set(entry, "--env"); err != nil {
			return nil, err
		}
	}
	if len(env) == 0 {
		return nil, nil
	}
	return env, nil
}

// bytesFlag is a flag that reads "64m".
type bytesFlag faas.Bytes

func (f *bytesFlag) Type() string { return "size" }
func (f *bytesFlag) String() string {
	if *f == 0 {
		return ""
	}
	return faas.Bytes(*f).String()
}
func (f *bytesFlag) Set(s string) error {
	v, err := faas.ParseBytes(s)
	*f = bytesFlag(v)
	return err
}

// cpuFlag is a flag that reads "0.5".
type cpuFlag faas.CPU

func (f *cpuFlag) Type() string { return "number" }
func (f *cpuFlag) String() string {
	if *f == 0 {
		return ""
	}
	return faas.CPU(*f).String()
}
func (f *cpuFlag) Set(s string) error {
	v, err := faas.ParseCPU(s)
	*f = cpuFlag(v)
	return err
}
