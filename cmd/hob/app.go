package main

import (
	"context"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newApp(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "app",
		Short: "group functions that share variables",
		Long: `An app is a group of functions with shared variables. A function without an app
is in "default".`,
		Example: "  hob app create photos -e BUCKET=holidays\n  hob create --name photos/resize photos/resize:7",
		Args:    cobra.ArbitraryArgs,
		RunE:    noVerb,
	}
	cmd.AddCommand(newAppCreate(c), newAppLs(c), newAppInspect(c), newAppUpdate(c), newAppRm(c))
	return cmd
}

// envFlags adds the flags that set variables.
func envFlags(cmd *cobra.Command, env, files *[]string) {
	cmd.Flags().StringArrayVarP(env, "env", "e", nil, "set a variable, as `NAME=value`; NAME alone takes the value from here")
	cmd.Flags().StringArrayVar(files, "env-file", nil, "read variables from a `file`, one NAME=value a line")
}

func newAppCreate(c *cli) *cobra.Command {
	var env, files []string
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "make an app",
		Example: "  hob app create photos -e BUCKET=holidays",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			vars, err := readEnv(c, files, env)
			if err != nil {
				return err
			}
			return runAppCreate(cmd.Context(), c, args[0], vars)
		},
	}
	envFlags(cmd, &env, &files)
	return cmd
}

func runAppCreate(ctx context.Context, c *cli, name string, vars map[string]*string) error {
	env := map[string]string{}
	for k, v := range vars {
		env[k] = *v
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	app, err := cl.CreateApp(ctx, name, env)
	if err != nil {
		return err
	}
	return c.printApp(app)
}

func (c *cli) printApp(app client.App) error {
	if c.json {
		return c.printJSON(app)
	}
	return c.printName(app.Name)
}

func newAppLs(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "list apps",
		Args:  exactly(0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return runAppLs(cmd.Context(), c) },
	}
}

func runAppLs(ctx context.Context, c *cli) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	apps, err := cl.Apps(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(apps)
	}
	t := c.table("NAME", "VARIABLES", "UPDATED")
	for _, a := range apps {
		t.row(a.Name, count(len(a.Env)), age(a.Updated))
	}
	return t.flush()
}

func newAppInspect(c *cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect NAME...",
		Short:             "show everything about apps",
		Example:           "  hob app inspect photos --format '{{.Env.BUCKET}}'",
		Args:              between(1, -1),
		ValidArgsFunction: completeApps(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			return inspectEach(c, format, args, func(name string) (client.App, error) { return cl.App(cmd.Context(), name) }, appRows)
		},
	}
	formatFlag(cmd, &format)
	return cmd
}

func appRows(t table, a client.App) {
	t.row("name", a.Name)
	t.row("id", a.ID)
	for _, k := range slices.Sorted(maps.Keys(a.Env)) {
		t.row("env", k+"="+a.Env[k])
	}
	t.row("revision", count(int(a.Revision)))
	t.row("created", stamp(a.Created))
	t.row("updated", stamp(a.Updated))
}

func newAppUpdate(c *cli) *cobra.Command {
	var env, files, unset []string
	cmd := &cobra.Command{
		Use:               "update NAME",
		Short:             "change the variables of an app",
		Long:              "Change the variables of an app: those that are not named stay as they are.",
		Example:           "  hob app update photos -e BUCKET=winter --unset-env LEVEL",
		Args:              exactly(1),
		ValidArgsFunction: completeApps(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			vars, err := readEnv(c, files, env)
			if err != nil {
				return err
			}
			if vars == nil {
				vars = map[string]*string{}
			}
			for _, name := range unset {
				if vars[name] != nil {
					return faas.Errorf(faas.Invalid, "variable %s is both set and removed", name)
				}
				vars[name] = nil
			}
			return runAppUpdate(cmd.Context(), c, args[0], vars)
		},
	}
	envFlags(cmd, &env, &files)
	cmd.Flags().StringArrayVar(&unset, "unset-env", nil, "remove a `variable`")
	return cmd
}

func runAppUpdate(ctx context.Context, c *cli, name string, vars map[string]*string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	app, err := cl.UpdateApp(ctx, name, vars)
	if err != nil {
		return err
	}
	return c.printApp(app)
}

func newAppRm(c *cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm NAME...",
		Short:             "remove apps",
		Args:              between(1, -1),
		Example:           "  hob app rm photos --force",
		ValidArgsFunction: completeApps(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			return each(c, args, func(name string) (string, error) { return name, cl.DeleteApp(cmd.Context(), name, force) })
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove the functions of the app with it")
	return cmd
}
