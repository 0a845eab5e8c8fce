package main

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// A verb is how the tests below use a command.
type verb struct {
	args    string // with --json; "": it is not run
	missing string // the same about something that is not there
	local   bool   // it needs no server
	why     string // why it is not run
}

// verbs are all commands. One that is added needs a row, which says what its
// --json is, or why it has none.
func verbs() map[string]verb {
	return map[string]verb{
		"create":          {args: "--name made --pull later busybox", missing: "--app none --name f --pull later busybox"},
		"update":          {args: "upper --timeout 3s", missing: "none --timeout 3s"},
		"ls":              {args: "", missing: "--app none"},
		"inspect":         {args: "upper", missing: "none"},
		"rm":              {args: "made", missing: "none"},
		"call":            {args: "upper", missing: "none"},
		"get":             {why: "it needs a queue: testdata/async"},
		"calls":           {args: "upper"},
		"calls inspect":   {args: "CALL", missing: "01K9ZZ8N2R6W0V5T3YQ4XH7JGM"},
		"calls retry":     {why: "the same"},
		"calls cancel":    {why: "the same"},
		"status":          {args: "upper", missing: "none"},
		"logs":            {args: "upper", missing: "none"},
		"ps":              {args: ""},
		"top":             {args: "--once"},
		"app create":      {args: "shop --annotation n=1"},
		"app ls":          {args: ""},
		"app inspect":     {args: "shop default", missing: "none"},
		"app update":      {args: "shop -e A=1", missing: "none"},
		"app rm":          {args: "shop", missing: "none"},
		"trigger create":  {args: "upper up", missing: "none up"},
		"trigger ls":      {args: "", missing: "none"},
		"trigger inspect": {args: "upper up", missing: "upper none"},
		"trigger update":  {args: "upper up --source /u", missing: "upper none --source /n"},
		"trigger rm":      {args: "upper up", missing: "upper none"},
		"lambda import":   {args: "lam TASK", missing: "lam none.zip"},
		"image build":     {args: "-t again TINY", missing: "-t again none/such"},
		"image load":      {args: "TAR", missing: "none.tar"},
		"image pull":      {args: "hob.local/tiny --pull never", missing: "hob.local/none --pull never"},
		"image ls":        {args: ""},
		"image inspect":   {args: "hob.local/tiny", missing: "hob.local/none"},
		"image rm":        {args: "hob.local/again", missing: "hob.local/none"},
		"image prune":     {args: ""},
		"pull":            {args: "hob.local/tiny --pull never", missing: "hob.local/none --pull never"},
		"serve":           {why: "it prints nothing but its log, on standard error: --log-format json", local: true},
		"config":          {args: "", local: true},
		"doctor":          {args: "--driver fake", local: true},
		"bench":           {why: "it takes minutes, and root", local: true},
		"bench-function":  {why: "it is a function", local: true},
		"context create":  {args: "lab --server http://127.0.0.1:1", local: true},
		"context update":  {args: "lab --token t", missing: "none --token t", local: true},
		"context use":     {args: "lab", missing: "none", local: true},
		"context show":    {args: "", missing: "none", local: true},
		"context ls":      {args: "", local: true},
		"context rm":      {args: "lab", missing: "none", local: true},
		"token":           {args: "--key-file TINY", missing: "--key-file none", local: true},
		"completion":      {why: "what it prints is a script", local: true},
		"version":         {args: ""},
		"help":            {why: "what it prints is a text", local: true},
		"migrate":         {why: "its own tests do", local: true},
		"deploy":          {why: "its own tests do"},
		"init":            {why: "its own tests do", local: true},
		"run":             {why: "its own tests do", local: true},
		"test":            {why: "its own tests do", local: true},
		"bump":            {why: "its own tests do", local: true},
	}
}

// commands lists what is below root, by its words behind "hob", but for topics.
func commands(root *cobra.Command) map[string]*cobra.Command {
	all := map[string]*cobra.Command{"help": newHelp()}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			if _, path, _ := strings.Cut(sub.CommandPath(), " "); sub.Runnable() {
				all[path] = sub
			}
			walk(sub)
		}
	}
	walk(root)
	return all
}

// runnable are the commands that do something.
func runnable() map[string]*cobra.Command {
	all := commands(newRoot(&cli{environ: &environ{}}))
	maps.DeleteFunc(all, func(path string, cmd *cobra.Command) bool { return cmd.HasSubCommands() && path != "calls" })
	return all
}

func TestEveryCommandIsKnownToTheTests(t *testing.T) {
	known := verbs()
	for path := range runnable() {
		if _, ok := known[path]; !ok {
			t.Errorf("hob %s: no row in verbs says how the tests use it", path)
		}
		delete(known, path)
	}
	for path := range known {
		t.Errorf("hob %s is no command any more", path)
	}
}

// TestEveryCommandPrintsJSON runs the commands in an order in which each finds what
// it needs.
func TestEveryCommandPrintsJSON(t *testing.T) {
	dir, server := t.TempDir(), newServer(t)
	tiny, archive := filepath.Join(dir, "tiny"), filepath.Join(dir, "tiny.tar")
	if err := os.WriteFile(tiny, tinyProgram(runtime.GOARCH), 0o755); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{"HOB_SERVER": server, "HOB_CONFIG_DIR": dir, "HOB_DATA": dir}
	hob := func(args ...string) (code int, stdout, stderr string) {
		env, out, failed := testEnv(vars, "payload")
		code = run(t.Context(), env, args)
		return code, out.String(), failed.String()
	}
	for _, prepare := range []string{"image build -t tiny " + tiny, "image build -t tiny -o " + archive + " " + tiny, "create --name upper hob.local/tiny", "call upper"} {
		if code, _, stderr := hob(strings.Fields(prepare)...); code != 0 {
			t.Fatalf("hob %s: %d, %s", prepare, code, stderr)
		}
	}
	_, id, _ := hob("calls", "inspect", "--format", "{{.ID}}", lastCall(t, hob))
	fill := strings.NewReplacer("CALL", strings.TrimSpace(id), "TINY", tiny, "TAR", archive, "TASK", task(t, tiny))
	first := []string{"create", "app create", "trigger create", "image build", "context create", "context use"}
	last := []string{"rm", "app rm", "trigger rm", "image rm", "image prune", "context rm"}
	rest := slices.DeleteFunc(slices.Sorted(maps.Keys(verbs())), func(path string) bool {
		return slices.Contains(first, path) || slices.Contains(last, path)
	})
	for _, path := range slices.Concat(first, rest, last) {
		v := verbs()[path]
		if v.why != "" {
			continue
		}
		words := append(append(strings.Fields(path), "--json"), strings.Fields(fill.Replace(v.args))...)
		code, stdout, stderr := hob(words...)
		if code != 0 || stdout == "" || !isJSON(stdout) {
			t.Errorf("hob %s: exit code %d, not JSON alone:\n%s%s", strings.Join(words, " "), code, stdout, stderr)
		}
	}
}

// task is a directory with a custom runtime of Lambda, which is the program.
func task(t *testing.T, program string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Link(program, filepath.Join(dir, "bootstrap")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// lastCall is the id of the latest call.
func lastCall(t *testing.T, hob func(...string) (int, string, string)) string {
	t.Helper()
	var list struct{ Calls []struct{ ID string } }
	_, stdout, stderr := hob("calls", "--json")
	if err := json.Unmarshal([]byte(stdout), &list); err != nil || len(list.Calls) == 0 {
		t.Fatalf("hob calls: %q, %v, %s", stdout, err, stderr)
	}
	return list.Calls[0].ID
}

// isJSON reports whether s is JSON values and nothing else: one, or one a line.
func isJSON(s string) bool {
	dec := json.NewDecoder(strings.NewReader(s))
	values := 0
	for {
		var v any
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			return values == 1 || values == strings.Count(s, "\n")
		}
		if err != nil || v == nil {
			return false
		}
		values++
	}
}

// TestEveryCommandEndsWithTheCodeOfItsFailure is what "hob help
// exit" says.
func TestEveryCommandEndsWithTheCodeOfItsFailure(t *testing.T) {
	dir, server, nobody := t.TempDir(), newServer(t), "http://127.0.0.1:1"
	tiny := filepath.Join(dir, "tiny")
	if err := os.WriteFile(tiny, tinyProgram(runtime.GOARCH), 0o755); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("CALL", "01K9ZZ8N2R6W0V5T3YQ4XH7JGM", "TINY", tiny, "TAR", tiny, "TASK", task(t, tiny))
	ends := func(want int, server, path, args string) {
		t.Helper()
		env, stdout, stderr := testEnv(map[string]string{"HOB_SERVER": server, "HOB_CONFIG_DIR": dir, "HOB_DATA": dir}, "")
		words := append(append(strings.Fields(path), "--json"), strings.Fields(fill.Replace(args))...)
		if code := run(t.Context(), env, words); code != want || path != "version" && stdout.Len() > 0 {
			t.Errorf("hob %s: exit code %d, stdout %q, stderr %q; want %d and nothing", strings.Join(words, " "), code, stdout, stderr, want)
		}
		if !isJSON(stderr.String()) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("hob %s: stderr is %q, want one JSON object", strings.Join(words, " "), stderr)
		}
	}
	env, _, _ := testEnv(map[string]string{"HOB_SERVER": server}, "")
	if code := run(t.Context(), env, []string{"create", "--name", "upper", "--pull", "later", "busybox"}); code != 0 {
		t.Fatalf("create ends with %d", code)
	}
	for path := range runnable() {
		v := verbs()[path]
		ends(2, server, path, "--no-such-flag")
		if v.missing != "" {
			ends(3, server, path, v.missing)
		}
		if v.why == "" && !v.local {
			ends(1, nobody, path, v.args)
		}
	}
}

func TestCompletionScriptsAreOfTheirShells(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		program, err := exec.LookPath(shell)
		if err != nil {
			continue // only one that is here can tell
		}
		env, stdout, _ := testEnv(nil, "")
		code := run(t.Context(), env, []string{"completion", shell})
		check := exec.Command(program, "-n", "/dev/stdin")
		check.Stdin = stdout
		if out, err := check.CombinedOutput(); code != 0 || err != nil {
			t.Errorf("%s: exit code %d; %v, %s", shell, code, err, out)
		}
	}
}

// TestExamplesAreTrue parses every example as a shell and the command would.
func TestExamplesAreTrue(t *testing.T) {
	for path, cmd := range commands(newRoot(&cli{environ: &environ{}})) {
		if cmd.Hidden {
			continue
		}
		if cmd.Example == "" {
			t.Errorf("hob %s has no example", path)
		}
		for line := range strings.Lines(cmd.Example) {
			for _, words := range commandsOf(line) {
				if err := parses(words); err != nil {
					t.Errorf("hob %s: example %q: %v", path, strings.TrimSpace(line), err)
				}
			}
		}
	}
}

// parses reports whether hob would take words, as far as it can be told without
// doing anything.
func parses(words []string) error {
	cmd, rest, err := newRoot(&cli{environ: &environ{}}).Find(words)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// commandsOf returns the arguments of each hob in a line of shell: quotes are
// taken off, redirections left out.
func commandsOf(line string) (all [][]string) {
	var words []string
	end := func() {
		for len(words) > 0 && (words[0] == "sudo" || strings.Contains(words[0], "=")) {
			words = words[1:]
		}
		if len(words) > 0 && words[0] == "hob" {
			all = append(all, words[1:])
		}
		words = nil
	}
	var word strings.Builder
	quote, in := rune(0), false
	for _, r := range line + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, in = r, true
		case r != ' ' && r != '\n':
			word.WriteRune(r)
			in = true
		case in:
			switch w := word.String(); {
			case w == "|" || w == "&&":
				end()
			case strings.HasPrefix(w, "<") || strings.HasPrefix(w, ">"):
			default:
				words = append(words, w)
			}
			word.Reset()
			in = false
		}
	}
	end()
	return all
}
