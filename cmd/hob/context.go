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
		Long: `Keep the addresses of servers under short names, and choose the one that the
commands speak to. They are kept in contexts.json in HOB_CONFIG_DIR, else in
~/.config/hob.`,
		Example: "  hob context create lab --server http://10.0.0.5:8080\n  hob context use lab",
		Args:    cobra.ArbitraryArgs,
		RunE:    noVerb,
	}
	create := &cobra.Command{
		Use:     "create NAME --server URL",
		Short:   "give a server a name",
		Example: "  hob context create lab --server http://10.0.0.5:8080",
		Args:    exactly(1),
		RunE:    func(_ *cobra.Command, args []string) error { return runContextCreate(c, args[0]) },
	}
	use := &cobra.Command{
		Use:     "use NAME",
		Short:   "choose the server that the commands speak to",
		Example: "  hob context use lab",
		Args:    exactly(1),
		RunE:    func(_ *cobra.Command, args []string) error { return runContextUse(c, args[0]) },
	}
	ls := &cobra.Command{
		Use:   "ls",
		Short: "list the contexts; the current one has a star",
		Args:  exactly(0),
		RunE:  func(*cobra.Command, []string) error { return runContextLs(c) },
	}
	rm := &cobra.Command{
		Use:   "rm NAME...",
		Short: "forget contexts",
		Args:  between(1, -1),
		RunE:  func(_ *cobra.Command, args []string) error { return runContextRm(c, args) },
	}
	cmd.AddCommand(create, use, ls, rm)
	return cmd
}

func runContextCreate(c *cli, name string) error {
	if err := faas.CheckName("context", name); err != nil {
		return err
	}
	if c.server == "" {
		return faas.Errorf(faas.Invalid, "which server? give it with --server URL")
	}
	if _, err := client.New(c.server); err != nil {
		return err
	}
	x, err := c.readContexts()
	if err != nil {
		return err
	}
	if _, taken := x.Contexts[name]; taken {
		return faas.Errorf(faas.Conflict, "context %q exists already", name)
	}
	x.Contexts[name] = serverContext{Server: c.server}
	return c.writeContexts(x)
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
	return c.writeContexts(x)
}

func runContextLs(c *cli) error {
	x, err := c.readContexts()
	if err != nil {
		return err
	}
	type shown struct {
		Name    string `json:"name"`
		Server  string `json:"server"`
		Current bool   `json:"current"`
	}
	list := []shown{}
	for _, name := range slices.Sorted(maps.Keys(x.Contexts)) {
		list = append(list, shown{name, x.Contexts[name].Server, name == x.Current})
	}
	if c.json {
		return c.printJSON(list)
	}
	t := c.table("", "NAME", "SERVER")
	for _, s := range list {
		star := ""
		if s.Current {
			star = "*"
		}
		t.row(star, s.Name, s.Server)
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
	return c.writeContexts(x)
}
