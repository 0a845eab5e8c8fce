package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newApp(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "app",
		Short: "group functions that share variables",
		Long: `An app is a group of functions with shared variables and a limit of their own of
calls at once. A function without an app is in "default".`,
		Example: "  hob app create photos -e BUCKET=holidays\n  hob create --name photos/resize photos/resize:7",
		Args:    cobra.ArbitraryArgs,
		RunE:    noVerb,
	}
	cmd.AddCommand(newAppCreate(c), newAppLs(c), newAppInspect(c), newAppUpdate(c), newAppRm(c))
	return cmd
}

// appFlags are the flags that create and update of an app share.
type appFlags struct {
	env, files, annotations []string
	concurrent              int
	syslog, shape, runner   string
	reachFlags
}

func (f *appFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.env, "env", "e", nil, "set a variable, as `NAME=value`; NAME alone takes the value from here")
	cmd.Flags().StringArrayVar(&f.files, "env-file", nil, "read variables from a `file`, one NAME=value a line")
	cmd.Flags().IntVar(&f.concurrent, "max-concurrency", 0, "most calls at once of all its functions together (default 0: no limit)")
	cmd.Flags().StringVar(&f.syslog, "syslog", "", "send what its functions log to this server, as `URL`: "+strings.Join(faas.SyslogSchemes(), ", ")+"; \"\" for none")
	cmd.Flags().StringVar(&f.shape, "shape", "", "`processor` that its functions are made for, kept and shown only: "+strings.Join(faas.Shapes(), ", "))
	cmd.Flags().StringVar(&f.runner, "runner", "", "`who` runs the asynchronous calls of its functions: \"external\" for a program that asks for them, \"\" for the server")
	registerFlag(cmd, "runner", cobra.FixedCompletions([]string{faas.RunnerExternal}, cobra.ShellCompDirectiveNoFileComp))
	annotationFlag(cmd, &f.annotations)
	f.reachFlags.add(cmd, "`what` its functions reach that choose nothing themselves: \"none\", \"open\", \"allow\", or a network of the server by its name, as for \"hob create\" (default: that of the server)",
		faas.NetworkNone, faas.NetworkOpen, faas.NetworkAllow)
}

// settings are those that were given on the command line; unset are annotations to
// be removed.
func (f *appFlags) settings(c *cli, cmd *cobra.Command, unset ...string) (s client.AppSettings, err error) {
	if s.Annotations, err = readAnnotations(f.annotations, unset...); err != nil {
		return s, err
	}
	given := cmd.Flags().Changed
	if err := f.set(given, &s.Network, &s.Allow); err != nil {
		return s, err
	}
	take(given, "syslog", &f.syslog, &s.Syslog)
	take(given, "shape", &f.shape, &s.Shape)
	take(given, "runner", &f.runner, &s.Runner)
	take(given, "max-concurrency", &f.concurrent, &s.MaxConcurrency)
	s.Env, err = readEnv(c, f.files, f.env)
	return s, err
}

func newAppCreate(c *cli) *cobra.Command {
	var flags appFlags
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "make an app",
		Example: "  hob app create photos -e BUCKET=holidays --max-concurrency 20\n" +
			"  hob app create bills --network allow --allow 10.1.2.0/24:5432\n" +
			"  hob app create shop --syslog tcp+tls://logs.example.com:6514 --annotation 'hob/hosts=[\"shop.example.com\"]'",
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			settings, err := flags.settings(c, cmd)
			if err != nil {
				return err
			}
			return runAppCreate(cmd.Context(), c, args[0], settings)
		},
	}
	flags.add(cmd)
	return cmd
}

func runAppCreate(ctx context.Context, c *cli, name string, s client.AppSettings) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	app, err := cl.CreateApp(ctx, name, s)
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
		Use:     "ls",
		Short:   "list apps",
		Example: "  hob app ls\n  hob app ls --json",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runAppLs(cmd.Context(), c) },
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
	t := c.table("NAME", "VARIABLES", "NETWORK", "ALLOW", "UPDATED")
	for _, a := range apps {
		reach := reachOfApp(a)
		t.row(a.Name, count(len(a.Env)), orDash(reach.Network), count(len(reach.Allow)), age(a.Updated))
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
		ValidArgsFunction: completeApps(c, -1),
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
	if a.MaxConcurrency == 0 {
		t.row("max concurrency", "no limit")
	} else {
		t.row("max concurrency", count(a.MaxConcurrency))
	}
	reach := reachOfApp(a)
	t.row("network", or(reach.Network, "of the server"))
	for _, rule := range reach.Allow {
		t.row("allow", rule)
	}
	t.row("syslog", orDash(a.Syslog))
	t.row("shape", or(a.Shape, "any"))
	t.row("runner", or(a.Runner, "this server"))
	annotationRows(t, a.Annotations)
	t.row("revision", count(int(a.Revision)))
	t.row("created", stamp(a.Created))
	t.row("updated", stamp(a.Updated))
}

func newAppUpdate(c *cli) *cobra.Command {
	var flags appFlags
	var unset, unnoted, reset []string
	cmd := &cobra.Command{
		Use:               "update NAME",
		Short:             "change an app",
		Long:              "Change an app: variables, annotations, rules and settings that are not named stay as\nthey are.",
		Example:           "  hob app update photos -e BUCKET=winter --unset-env LEVEL\n  hob app update bills --allow 10.1.3.4:6379 --disallow 10.1.2.0/24:5432\n  hob app update bills --reset network,allow\n  hob app update shop --annotation hob/patterns=true --syslog ''\n  hob app update jobs --runner external",
		Args:              exactly(1),
		ValidArgsFunction: completeApps(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			settings, err := flags.settings(c, cmd, unnoted...)
			if err != nil {
				return err
			}
			for _, name := range unset {
				if settings.Env == nil {
					settings.Env = map[string]*string{}
				}
				if settings.Env[name] != nil {
					return faas.Errorf(faas.Invalid, "variable %s is both set and removed", name)
				}
				settings.Env[name] = nil
			}
			if settings.Reset, err = resets(reset, resettableOfApp()); err != nil {
				return err
			}
			return runAppUpdate(cmd.Context(), c, args[0], settings, &flags.reachFlags)
		},
	}
	flags.add(cmd)
	flags.addDisallow(cmd)
	cmd.Flags().StringArrayVar(&unset, "unset-env", nil, "remove a `variable`")
	unsetAnnotationFlag(cmd, &unnoted)
	resetFlag(cmd, &reset, resettableOfApp())
	return cmd
}

// resettableOfApp are the fields of an app that have a default to go back to.
func resettableOfApp() []string {
	return []string{"env", "max_concurrency", "network", "allow", "annotations", "syslog", "shape", "runner"}
}

func runAppUpdate(ctx context.Context, c *cli, name string, s client.AppSettings, reach *reachFlags) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	app, err := reach.updateApp(ctx, cl, name, s)
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
		ValidArgsFunction: completeApps(c, -1),
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
