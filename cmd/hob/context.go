package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

// contexts is the file contexts.json: servers by a short name.
type contexts struct {
	Current  string                   `json:"current,omitempty"`
	Contexts map[string]serverContext `json:"contexts"`
}

type serverContext struct {
	Server string `json:"server"`
	Token  string `json:"token,omitempty"` // sent to this server only, and never printed
}

func (x contexts) get(name string) (serverContext, error) {
	found, ok := x.Contexts[name]
	if !ok {
		return found, faas.Errorf(faas.NotFound, `no context %q: "hob context ls" lists them`, name)
	}
	return found, nil
}

// contextsFile is where the contexts are kept.
func (c *cli) contextsFile() (string, error) {
	if dir := c.Getenv("HOB_CONFIG_DIR"); dir != "" {
		return filepath.Join(dir, "contexts.json"), nil
	}
	if dir := c.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "hob", "contexts.json"), nil
	}
	home := c.Getenv("HOME")
	if home == "" {
		return "", faas.Errorf(faas.Invalid, "no place for contexts: neither HOB_CONFIG_DIR nor HOME is set")
	}
	return filepath.Join(home, ".config", "hob", "contexts.json"), nil
}

// readContexts reads the file; none is an empty one.
func (c *cli) readContexts() (contexts, error) {
	x := contexts{Contexts: map[string]serverContext{}}
	file, err := c.contextsFile()
	if err != nil {
		return x, nil // nowhere to be: none
	}
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return x, nil
	case err != nil:
		return x, fmt.Errorf("read the contexts: %w", err)
	}
	if err := json.Unmarshal(b, &x); err != nil {
		return x, faas.Errorf(faas.Invalid, "read the contexts in %s: %w", file, err)
	}
	if x.Contexts == nil {
		x.Contexts = map[string]serverContext{}
	}
	return x, nil
}

// writeContexts replaces the file in one step.
func (c *cli) writeContexts(x contexts) error {
	file, err := c.contextsFile()
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("keep the contexts: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".contexts-")
	if err != nil {
		return fmt.Errorf("keep the contexts: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("keep the contexts: %w", err)
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return fmt.Errorf("keep the contexts: %w", err)
	}
	return nil
}

func newContext(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "context",
		Short: "keep the addresses of several servers",
		Long: `Keep the addresses of servers under short names, with the tokens that they want,
and choose the one that the commands speak to. They are kept in contexts.json in
HOB_CONFIG_DIR, else in ~/.config/hob, which only you can read. A token is never
printed, and goes to the server of its context only.`,
		Example: "  hob context create lab --server http://10.0.0.5:8080\n  hob context use lab",
		Args:    cobra.ArbitraryArgs,
		RunE:    noVerb,
	}
	create := &cobra.Command{
		Use:   "create NAME --server URL [--token TOKEN | --token-file FILE]",
		Short: "give a server a name",
		Example: `  hob context create lab --server http://10.0.0.5:8080
  hob context create work --server https://hob.example.com --token-file token
  pass hob/work | hob context create work --server https://hob.example.com --token-file -`,
		Args: exactly(1),
		RunE: func(_ *cobra.Command, args []string) error { return runContextCreate(c, args[0]) },
	}
	change := &cobra.Command{
		Use:               "update NAME [--server URL] [--token TOKEN | --token-file FILE]",
		Short:             "change the server or the token of a context",
		Example:           "  hob context update work --token-file token\n  hob context update lab --token ''",
		Args:              exactly(1),
		ValidArgsFunction: completeContexts(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runContextUpdate(c, args[0], cmd.Flags().Changed("token") || cmd.Flags().Changed("token-file"))
		},
	}
	use := &cobra.Command{
		Use:               "use NAME",
		Short:             "choose the server that the commands speak to",
		Example:           "  hob context use lab",
		Args:              exactly(1),
		ValidArgsFunction: completeContexts(c, 1),
		RunE:              func(_ *cobra.Command, args []string) error { return runContextUse(c, args[0]) },
	}
	ls := &cobra.Command{
		Use:     "ls",
		Short:   "list the contexts; the current one has a star",
		Example: "  hob context ls\n  hob context ls --json",
		Args:    exactly(0),
		RunE:    func(*cobra.Command, []string) error { return runContextLs(c) },
	}
	rm := &cobra.Command{
		Use:               "rm NAME...",
		Short:             "forget contexts",
		Example:           "  hob context rm lab",
		Args:              between(1, -1),
		ValidArgsFunction: completeContexts(c, -1),
		RunE:              func(_ *cobra.Command, args []string) error { return runContextRm(c, args) },
	}
	cmd.AddCommand(create, change, use, newContextShow(c), ls, rm)
	return cmd
}

func newContextShow(c *cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "show [NAME...]",
		Aliases:           []string{"current"},
		Short:             "show contexts, or the current one",
		Example:           "  hob context show\n  hob context current --format '{{.Name}}'\n  hob context show lab --json",
		Args:              between(0, -1),
		ValidArgsFunction: completeContexts(c, -1),
		RunE:              func(_ *cobra.Command, args []string) error { return runContextShow(c, format, args) },
	}
	formatFlag(cmd, &format)
	return cmd
}

// shownContext is a context without what nobody is to see.
type shownContext struct {
	Name    string `json:"name"`
	Server  string `json:"server"`
	Token   bool   `json:"token"` // there is one
	Current bool   `json:"current"`
}

func (x contexts) shown(name string) shownContext {
	return shownContext{name, x.Contexts[name].Server, x.Contexts[name].Token != "", name == x.Current}
}

// keep puts in a context and says so.
func (c *cli) keep(x contexts, name string, s serverContext) error {
	if _, err := client.New(s.Server, client.WithToken(s.Token)); err != nil {
		return err
	}
	c.warnOfToken(s.Server, s.Token)
	x.Contexts[name] = s
	return c.kept(x, name)
}

// kept writes the contexts, and prints the one that it is about.
func (c *cli) kept(x contexts, name string) error {
	if err := c.writeContexts(x); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(x.shown(name))
	}
	return c.printName(name)
}

func runContextCreate(c *cli, name string) error {
	if err := faas.CheckName("context", name); err != nil {
		return err
	}
	if c.server == "" {
		return faas.Errorf(faas.Invalid, "which server? give it with --server URL")
	}
	token, err := c.givenToken()
	if err != nil {
		return err
	}
	x, err := c.readContexts()
	if err != nil {
		return err
	}
	if _, taken := x.Contexts[name]; taken {
		return faas.Errorf(faas.Conflict, "context %q exists already", name)
	}
	return c.keep(x, name, serverContext{Server: c.server, Token: token})
}

// runContextUpdate leaves the token alone unless one was given. It does not stay
// with a context that gets another server: that one was not meant to have it.
func runContextUpdate(c *cli, name string, token bool) error {
	if c.server == "" && !token {
		return faas.Errorf(faas.Invalid, "what is to be changed? give --server, --token or --token-file")
	}
	x, err := c.readContexts()
	if err != nil {
		return err
	}
	s, err := x.get(name)
	if err != nil {
		return err
	}
	if c.server != "" && c.server != s.Server {
		s = serverContext{Server: c.server}
	}
	if token {
		if s.Token, err = c.givenToken(); err != nil {
			return err
		}
	}
	return c.keep(x, name, s)
}

func runContextUse(c *cli, name string) error {
	x, err := c.readContexts()
	if err != nil {
		return err
	}
	if _, err := x.get(name); err != nil {
		return err
	}
	x.Current = name
	return c.kept(x, name)
}

func runContextShow(c *cli, format string, names []string) error {
	x, err := c.readContexts()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		if x.Current == "" {
			return faas.Errorf(faas.NotFound, `no context is chosen: "hob context use NAME" chooses one, and "hob help server" says what is spoken to without`)
		}
		names = []string{x.Current}
	}
	return inspectEach(c, format, names, func(name string) (shownContext, error) {
		_, err := x.get(name)
		return x.shown(name), err
	}, func(t table, s shownContext) {
		t.row("name", s.Name)
		t.row("server", s.Server)
		t.row("token", yesNo(s.Token))
		t.row("current", yesNo(s.Current))
	})
}

func runContextLs(c *cli) error {
	x, err := c.readContexts()
	if err != nil {
		return err
	}
	list := []shownContext{}
	for _, name := range slices.Sorted(maps.Keys(x.Contexts)) {
		list = append(list, x.shown(name))
	}
	if c.json {
		return c.printJSON(list)
	}
	t := c.table("", "NAME", "SERVER", "TOKEN")
	for _, s := range list {
		star := ""
		if s.Current {
			star = "*"
		}
		t.row(star, s.Name, s.Server, yesNo(s.Token))
	}
	return t.flush()
}

func runContextRm(c *cli, names []string) error {
	x, err := c.readContexts()
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := x.get(name); err != nil {
			return err
		}
		delete(x.Contexts, name)
		if x.Current == name {
			x.Current = ""
		}
	}
	if err := c.writeContexts(x); err != nil {
		return err
	}
	return each(c, names, func(name string) (string, error) { return name, nil })
}
