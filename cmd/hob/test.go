package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

// Limits of a test.json.
const (
	maxTests    = 10_000   // calls that it may ask for
	maxTestFile = 16 << 20 // bytes, also of an answer
)

func newTest(c *cli) *cobra.Command {
	var flags imageFlags
	var confine confineFlags
	var env []string
	cmd := &cobra.Command{
		Use:   "test [DIRECTORY]",
		Short: "call a function of this machine with its tests, without a server",
		Long: `Make the function of a directory (default: this one) as "hob deploy" does, call it
with each of its tests and compare the answers. The tests are those of test.json

  {"tests": [{"input": {"body": "Ada"}, "output": {"body": "Hello Ada"}}]}

and those that a func.yaml of version 1 lists. A body is text, or JSON that is
compared by its meaning; a line end behind the text does not count.

As with "hob run" it all happens in a server of its own, and needs root. The exit
code is 1 if a test fails.`,
		Example:           "  hob test hello\n  hob test --json --base hob.local/python tag",
		Args:              between(0, 1),
		ValidArgsFunction: completeDirectory,
		RunE: func(cmd *cobra.Command, args []string) error {
			vars, err := readEnv(c, nil, env)
			if err != nil {
				return err
			}
			var set client.Settings
			if err := confine.set(cmd.Flags().Changed, &set); err != nil {
				return err
			}
			return runTest(cmd.Context(), c, flags, below(".", args), vars, set)
		},
	}
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "set a variable, as `NAME=value`; NAME alone takes the value from here")
	flags.add(cmd)
	confine.add(cmd)
	return cmd
}

// oneTest is a call with what is expected of it.
type oneTest struct {
	name  string
	input []byte
	body  any     // string, or what JSON means; nil: not compared
	log   *string // nil: not compared
	env   map[string]string
}

// tested is what --json prints of one test.
type tested struct {
	Name string          `json:"name"`
	OK   bool            `json:"ok"`
	Took client.Duration `json:"took"`
	Why  string          `json:"why,omitempty"`
}

func runTest(ctx context.Context, c *cli, flags imageFlags, dir string, vars map[string]*string, set client.Settings) error {
	p, err := readProject(dir)
	if err != nil {
		return err
	}
	p.set = set
	tests, err := readTests(p)
	if err != nil {
		return err
	}
	c.notes(p.Notes)
	if err := p.setenv(vars, c.Environ()); err != nil {
		return err
	}
	l, err := c.startLocal(ctx, p)
	if err != nil {
		return err
	}
	err = l.testAll(ctx, c, flags, p, tests)
	return errors.Join(err, l.stop())
}

func (l *local) testAll(ctx context.Context, c *cli, flags imageFlags, p project, tests []oneTest) error {
	n, err := l.create(ctx, c, flags, p)
	if err != nil {
		return fmt.Errorf("test %s: %w", p.ShortName(), err)
	}
	results := []tested{}
	failed := 0
	for _, t := range tests {
		began := time.Now()
		err := l.test(ctx, n, t, p)
		if ctx.Err() != nil {
			return faas.Errorf(faas.Canceled, "test %s: %w", n.function, context.Cause(ctx))
		}
		r := tested{Name: t.name, OK: err == nil, Took: client.Duration(time.Since(began))}
		line := "ok    "
		if err != nil {
			line, r.Why = "FAILED", err.Error()
			failed++
		}
		results = append(results, r)
		if !c.json {
			fmt.Fprintf(c.Stdout, "%s %s (%s)\n", line, printable(t.name), took(time.Duration(r.Took)))
			for why := range strings.Lines(r.Why) {
				fmt.Fprintf(c.Stdout, "       %s\n", printable(strings.TrimSuffix(why, "\n")))
			}
		}
	}
	if c.json {
		if err := c.printJSON(map[string]any{"function": n.function, "passed": len(tests) - failed, "failed": failed, "tests": results}); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("test %s: %d of %d failed", n.function, failed, len(tests))
	}
	return nil
}

// test makes one call and returns what is wrong with its answer.
func (l *local) test(ctx context.Context, n name, t oneTest, p project) error {
	if err := l.setTestEnv(ctx, n, t, p); err != nil {
		return err
	}
	req := client.CallRequest{App: n.app, Function: n.function, Body: client.Sized(bytes.NewReader(t.input), int64(len(t.input)))}
	if p.ContentType != "" {
		req.Header = map[string][]string{"Content-Type": {p.ContentType}}
	}
	answer, err := l.cl.Call(ctx, req)
	if err != nil {
		return inRun(n, err)
	}
	got, err := io.ReadAll(io.LimitReader(answer.Body, maxTestFile+1))
	if len(got) > maxTestFile {
		err = fmt.Errorf("the answer is over the limit of %v", faas.Bytes(maxTestFile))
	}
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return inRun(n, err)
	}
	if answer.Status >= 400 {
		return fmt.Errorf("the function answered %d: %s", answer.Status, got)
	}
	if err := t.compare(got); err != nil || t.log == nil {
		return err
	}
	var log []string
	for line, err := range l.cl.Logs(ctx, client.LogSelection{App: n.app, Function: n.function, Call: answer.Call, Tail: -1, NoEvents: true}) {
		if err != nil {
			return err
		}
		log = append(log, line.Text)
	}
	if got, want := strings.Join(log, "\n"), strings.TrimRight(*t.log, "\n"); got != want {
		return fmt.Errorf("log  %q\nwant %q", got, want)
	}
	return nil
}

// setTestEnv gives the function the variables of the test in place of those of the
// test before.
func (l *local) setTestEnv(ctx context.Context, n name, t oneTest, p project) error {
	fn, err := l.cl.Function(ctx, n.app, n.function)
	if err != nil {
		return err
	}
	want := map[string]string{}
	for _, env := range []map[string]string{p.Config, t.env} {
		for k, v := range env {
			want[k] = v
		}
	}
	if reflect.DeepEqual(fn.Env, want) || len(fn.Env)+len(want) == 0 {
		return nil
	}
	env := variables(want)
	for k := range fn.Env {
		if _, ok := want[k]; !ok {
			if env == nil {
				env = map[string]*string{}
			}
			env[k] = nil
		}
	}
	_, err = l.cl.UpdateFunction(ctx, n.app, n.function, client.Settings{Env: env}, "")
	return err
}

func (t oneTest) compare(got []byte) error {
	switch want := t.body.(type) {
	case nil:
	case string:
		if strings.TrimRight(string(got), "\n") != strings.TrimRight(want, "\n") {
			return fmt.Errorf("got  %q\nwant %q", got, want)
		}
	default:
		var v any
		if err := json.Unmarshal(got, &v); err != nil || !reflect.DeepEqual(v, want) {
			text, _ := json.Marshal(want) // it came from JSON
			return fmt.Errorf("got  %s\nwant %s", bytes.TrimSpace(got), text)
		}
	}
	return nil
}

// readTests gathers the tests of a function; NotFound if there are none.
func readTests(p project) ([]oneTest, error) {
	var tests []oneTest
	for i, t := range p.Tests {
		one := oneTest{name: cmp.Or(t.Name, fmt.Sprint(i+1)), input: []byte(t.In), log: t.Err, env: t.Env}
		if t.Out != nil {
			one.body = *t.Out
		}
		tests = append(tests, one)
	}
	file := filepath.Join(p.dir, "test.json")
	more, err := readTestFile(file)
	if err != nil {
		return nil, err
	}
	tests = append(tests, more...)
	if len(tests) == 0 {
		return nil, faas.Errorf(faas.NotFound, "%s has no tests: write a test.json beside it", p.Path)
	}
	return tests, nil
}

// readTestFile reads a test.json; one that is not there has no tests.
func readTestFile(file string) ([]oneTest, error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil || !info.Mode().IsRegular():
		return nil, faas.Errorf(faas.Invalid, "%s is no regular file", file)
	case info.Size() > maxTestFile:
		return nil, faas.Errorf(faas.TooLarge, "%s of %v is over the limit of %v", file, faas.Bytes(info.Size()), faas.Bytes(maxTestFile))
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "%w", err)
	}
	type side struct {
		Body json.RawMessage `json:"body"`
	}
	var list struct {
		Tests []struct {
			Name   string            `json:"name"`
			Input  side              `json:"input"`
			Output side              `json:"output"`
			Env    map[string]string `json:"env"`
		} `json:"tests"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, faas.Errorf(faas.Invalid, "%s: %w", file, err)
	}
	if len(list.Tests) > maxTests {
		return nil, faas.Errorf(faas.TooLarge, "%s holds more than the limit of %d tests", file, maxTests)
	}
	var tests []oneTest
	for i, t := range list.Tests {
		one := oneTest{name: cmp.Or(t.Name, fmt.Sprintf("test %d", i+1)), input: t.Input.Body, env: t.Env}
		var text string
		if json.Unmarshal(t.Input.Body, &text) == nil { // text is sent as it is, all else as JSON
			one.input = []byte(text)
		}
		if len(t.Output.Body) > 0 {
			if err := json.Unmarshal(t.Output.Body, &one.body); err != nil {
				return nil, faas.Errorf(faas.Invalid, "%s: %w", file, err)
			}
		}
		tests = append(tests, one)
	}
	return tests, nil
}
