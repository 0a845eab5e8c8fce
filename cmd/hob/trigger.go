package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newTrigger(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trigger",
		Short: "give functions paths at which everybody calls them",
		Long: `A trigger is a path of an app at which everybody calls a function: the trigger
with the source /greet in the app photos answers at /t/photos/greet, whatever the
method. Its name is unique among those of its function, its source among those of
its app.

Where the server or the app allows patterns (--trigger-patterns of "hob serve", the
annotation hob/patterns), :name in a source stands for one part of a path, and
*name at its end for the rest.`,
		Example: "  hob trigger create hello greet --source /greet\n  hob trigger ls hello",
		Args:    cobra.ArbitraryArgs,
		RunE:    noVerb,
	}
	cmd.AddCommand(newTriggerCreate(c), newTriggerLs(c), newTriggerInspect(c), newTriggerUpdate(c), newTriggerRm(c))
	return cmd
}

// triggerFlags are the flags that create and update of a trigger share.
type triggerFlags struct {
	app, source, kind string
	annotations       []string
}

func (f *triggerFlags) add(cmd *cobra.Command, source string) {
	appFlag(cmd, &f.app)
	cmd.Flags().StringVar(&f.source, "source", "", "`path` at which it answers"+source)
	cmd.Flags().StringVar(&f.kind, "type", "", "what makes it run; there is only \"http\"")
	annotationFlag(cmd, &f.annotations)
}

// settings are those that were given on the command line; unset are annotations to
// be removed.
func (f *triggerFlags) settings(cmd *cobra.Command, unset ...string) (s client.TriggerSettings, err error) {
	if cmd.Flags().Changed("source") {
		s.Source = &f.source
	}
	if cmd.Flags().Changed("type") {
		s.Type = &f.kind
	}
	s.Annotations, err = readAnnotations(f.annotations, unset...)
	return s, err
}

func newTriggerCreate(c *cli) *cobra.Command {
	var flags triggerFlags
	cmd := &cobra.Command{
		Use:               "create FUNCTION NAME",
		Short:             "make a trigger, and print where it answers",
		Example:           "  hob trigger create hello greet\n  hob trigger create photos/resize small --source /resize/small",
		Args:              exactly(2),
		ValidArgsFunction: completeFunctions(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := flags.settings(cmd)
			if err != nil {
				return err
			}
			if s.Source == nil {
				source := "/" + args[1]
				s.Source = &source
			}
			return runTriggerPut(cmd.Context(), c, flags.app, args, s, (*client.Client).CreateTrigger)
		},
	}
	flags.add(cmd, " (default /NAME)")
	return cmd
}

func newTriggerUpdate(c *cli) *cobra.Command {
	var flags triggerFlags
	var unnoted []string
	cmd := &cobra.Command{
		Use:               "update FUNCTION NAME",
		Short:             "change a trigger",
		Long:              "Change a trigger: annotations and settings that are not named stay as they are.",
		Example:           "  hob trigger update hello greet --source /hello --annotation n=3",
		Args:              exactly(2),
		ValidArgsFunction: completeTriggers(c, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := flags.settings(cmd, unnoted...)
			if err != nil {
				return err
			}
			return runTriggerPut(cmd.Context(), c, flags.app, args, s, (*client.Client).UpdateTrigger)
		},
	}
	flags.add(cmd, "")
	unsetAnnotationFlag(cmd, &unnoted)
	return cmd
}

// putTrigger is a method of the client that makes or changes a trigger.
type putTrigger func(cl *client.Client, ctx context.Context, app, fn, name string, s client.TriggerSettings) (client.Trigger, error)

func runTriggerPut(ctx context.Context, c *cli, app string, args []string, s client.TriggerSettings, put putTrigger) error {
	of, err := parseName(args[0], app)
	if err != nil {
		return err
	}
	if err := faas.CheckName("trigger", args[1]); err != nil {
		return err
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	t, err := put(cl, ctx, of.app, of.function, args[1], s)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(t)
	}
	return c.printName(t.Name + " answers at " + triggerURL(publicBase(ctx, cl), t))
}

// triggerURL is where t is called: what the server says, or else its path behind base.
func triggerURL(base string, t client.Trigger) string {
	if strings.HasPrefix(t.URL, "/") {
		return base + t.URL
	}
	return t.URL
}

func newTriggerLs(c *cli) *cobra.Command {
	var app string
	cmd := &cobra.Command{
		Use:               "ls [FUNCTION]",
		Short:             "list triggers",
		Long:              "List the triggers of a function, or of an app (--app), or of all apps.",
		Example:           "  hob trigger ls\n  hob trigger ls --app photos --json\n  hob trigger ls photos/resize",
		Args:              between(0, 1),
		ValidArgsFunction: completeFunctions(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			of := name{app: app}
			if len(args) == 1 {
				var err error
				if of, err = parseName(args[0], app); err != nil {
					return err
				}
			}
			return runTriggerLs(cmd.Context(), c, of)
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "only those of this `app`; APP/FUNCTION says the same")
	return cmd
}

// runTriggerLs lists the triggers of a function, or those of an app, or all.
func runTriggerLs(ctx context.Context, c *cli, of name) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	apps := []client.App{{Name: of.app}}
	if of.app == "" {
		if apps, err = cl.Apps(ctx); err != nil {
			return err
		}
	}
	all := []client.Trigger{}
	for _, app := range apps {
		triggers, err := cl.Triggers(ctx, app.Name, of.function)
		if err != nil && !(of.app == "" && faas.KindOf(err) == faas.NotFound) { // it went just now
			return err
		}
		all = append(all, triggers...)
	}
	if c.json {
		return c.printJSON(all)
	}
	base := publicBase(ctx, cl)
	t := c.table("FUNCTION", "NAME", "TYPE", "SOURCE", "ADDRESS", "UPDATED")
	for _, one := range all {
		t.row(one.App+"/"+one.Function, one.Name, one.Type, one.Source, triggerURL(base, one), age(one.Updated))
	}
	return t.flush()
}

func newTriggerInspect(c *cli) *cobra.Command {
	var app, format string
	cmd := &cobra.Command{
		Use:               "inspect FUNCTION NAME...",
		Short:             "show everything about triggers",
		Example:           "  hob trigger inspect hello greet\n  hob trigger inspect photos/resize small --format '{{.Source}}'",
		Args:              between(2, -1),
		ValidArgsFunction: completeTriggers(c, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			of, err := parseName(args[0], app)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			return inspectEach(c, format, args[1:], func(name string) (client.Trigger, error) {
				return cl.Trigger(cmd.Context(), of.app, of.function, name)
			}, func(t table, one client.Trigger) { triggerRows(t, one, triggerURL(publicBase(cmd.Context(), cl), one)) })
		},
	}
	appFlag(cmd, &app)
	formatFlag(cmd, &format)
	return cmd
}

func triggerRows(t table, one client.Trigger, address string) {
	t.row("name", one.Name)
	t.row("id", one.ID)
	t.row("app", one.App)
	t.row("function", one.Function)
	t.row("type", one.Type)
	t.row("source", one.Source)
	t.row("address", address)
	annotationRows(t, one.Annotations)
	t.row("revision", count(int(one.Revision)))
	t.row("created", stamp(one.Created))
	t.row("updated", stamp(one.Updated))
}

func newTriggerRm(c *cli) *cobra.Command {
	var app string
	cmd := &cobra.Command{
		Use:               "rm FUNCTION NAME...",
		Short:             "remove triggers",
		Example:           "  hob trigger rm hello greet",
		Args:              between(2, -1),
		ValidArgsFunction: completeTriggers(c, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			of, err := parseName(args[0], app)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			return each(c, args[1:], func(name string) (string, error) {
				return name, cl.DeleteTrigger(cmd.Context(), of.app, of.function, name)
			})
		},
	}
	appFlag(cmd, &app)
	return cmd
}
