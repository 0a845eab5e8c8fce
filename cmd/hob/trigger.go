package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/textproto"
	"os"
	"slices"
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
	app, source, kind, keyFile, convention string

	async       bool
	headers     []string
	annotations []string
}

func (f *triggerFlags) add(cmd *cobra.Command, source string) {
	appFlag(cmd, &f.app)
	cmd.Flags().StringVar(&f.source, "source", "", "`path` at which it answers"+source)
	cmd.Flags().StringVar(&f.kind, "type", "", "what makes it run; there is only \"http\"")
	cmd.Flags().BoolVar(&f.async, "async", false, "put its calls into the queue: the caller gets the id of the call, and no answer")
	cmd.Flags().StringArrayVar(&f.headers, "header", nil, "set a header of every answer, as `'NAME: value'`; again for another value")
	cmd.Flags().StringVar(&f.keyFile, "key-file", "", "callers must bear a token (JWT, HS256) that is signed with the key in this `file`; \"-\" is standard input, \"\" for no key")
	cmd.Flags().StringVar(&f.convention, "convention", "", "`names` under which the function finds method, headers and the like: \"iron\" (IronFunctions), \"fn\" (Fn and IronFunctions), \"hyper\" (default: those of hob)")
	registerFlag(cmd, "convention", cobra.FixedCompletions([]string{"iron", "fn", "hyper"}, cobra.ShellCompDirectiveNoFileComp))
	annotationFlag(cmd, &f.annotations)
}

// settings are those that were given on the command line; unset are annotations to
// be removed.
func (f *triggerFlags) settings(c *cli, cmd *cobra.Command, unset ...string) (s client.TriggerSettings, err error) {
	given := cmd.Flags().Changed
	take(given, "source", &f.source, &s.Source)
	take(given, "type", &f.kind, &s.Type)
	take(given, "async", &f.async, &s.Async)
	take(given, "convention", &f.convention, &s.Convention)
	if given("key-file") {
		key, err := f.key(c)
		if err != nil {
			return s, err
		}
		s.Key = &key
	}
	if s.Headers, err = readHeaders(f.headers); err != nil {
		return s, err
	}
	s.Annotations, err = readAnnotations(f.annotations, unset...)
	return s, err
}

// key reads the key in --key-file; "" is none. A line end behind it is not part of it.
func (f *triggerFlags) key(c *cli) (string, error) {
	in := c.Stdin
	switch f.keyFile {
	case "":
		return "", nil
	case "-":
	default:
		file, err := os.Open(f.keyFile)
		if err != nil {
			return "", faas.Errorf(faas.NotFound, "read the key: %w", err)
		}
		defer file.Close()
		in = file
	}
	b, err := io.ReadAll(io.LimitReader(in, faas.MaxTriggerKey+3))
	key := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	switch {
	case err != nil:
		return "", fmt.Errorf("read the key: %w", err)
	case len(key) > faas.MaxTriggerKey:
		return "", faas.Errorf(faas.Invalid, "read the key: it is over the limit of %d bytes", faas.MaxTriggerKey)
	case key == "":
		return "", faas.Errorf(faas.Invalid, "read the key: there is none in %s", f.keyFile)
	}
	return key, nil
}

// readHeaders reads "NAME: value" entries; those of one name go together.
func readHeaders(entries []string) (map[string][]string, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	all := map[string][]string{}
	for _, entry := range entries {
		name, value, ok := strings.Cut(entry, ":")
		if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); !ok || name == "" {
			return nil, faas.Errorf(faas.Invalid, "--header: %q is no 'NAME: value'", entry)
		}
		all[name] = append(all[name], strings.TrimSpace(value))
	}
	return all, nil
}

func newTriggerCreate(c *cli) *cobra.Command {
	var flags triggerFlags
	cmd := &cobra.Command{
		Use:   "create FUNCTION NAME",
		Short: "make a trigger, and print where it answers",
		Example: `  hob trigger create hello greet
  hob trigger create photos/resize small --source /resize/small
  hob trigger create report nightly --async --header 'Cache-Control: no-store' --key-file report.key`,
		Args:              exactly(2),
		ValidArgsFunction: completeFunctions(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := flags.settings(c, cmd)
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
	var unnoted, without []string
	cmd := &cobra.Command{
		Use:               "update FUNCTION NAME",
		Short:             "change a trigger",
		Long:              "Change a trigger: annotations, headers and settings that are not named stay as they are.",
		Example:           "  hob trigger update hello greet --source /hello --annotation n=3\n  hob trigger update hello greet --async=false --unset-header X-Level --key-file ''",
		Args:              exactly(2),
		ValidArgsFunction: completeTriggers(c, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := flags.settings(c, cmd, unnoted...)
			if err != nil {
				return err
			}
			for _, name := range without {
				name = textproto.CanonicalMIMEHeaderKey(name)
				if s.Headers[name] != nil {
					return faas.Errorf(faas.Invalid, "header %s is both set and removed", name)
				}
				if s.Headers == nil {
					s.Headers = map[string][]string{}
				}
				s.Headers[name] = nil
			}
			return runTriggerPut(cmd.Context(), c, flags.app, args, s, (*client.Client).UpdateTrigger)
		},
	}
	flags.add(cmd, "")
	cmd.Flags().StringArrayVar(&without, "unset-header", nil, "remove the header of this `name`")
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
		Use:               "ls [APP | FUNCTION]",
		Short:             "list triggers",
		Long:              "List the triggers of all apps, of one, or of a function. A name without an app is\nthat of a function of \"default\", or of an app if there is no such function.",
		Example:           "  hob trigger ls\n  hob trigger ls photos --json\n  hob trigger ls photos/resize",
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
			return runTriggerLs(cmd.Context(), c, of, len(args) == 1 && app == "" && !strings.Contains(args[0], "/"))
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "only those of this `app`; APP/FUNCTION says the same")
	return cmd
}

// runTriggerLs lists the triggers of a function, or those of an app, or all. The
// name of a function may be that of an app.
func runTriggerLs(ctx context.Context, c *cli, of name, maybeApp bool) error {
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
		if maybeApp && faas.KindOf(err) == faas.NotFound {
			var none error
			if triggers, none = cl.Triggers(ctx, of.function, ""); none == nil {
				err = nil
			}
		}
		if err != nil && !(of.app == "" && faas.KindOf(err) == faas.NotFound) { // it went just now
			return err
		}
		all = append(all, triggers...)
	}
	if c.json {
		return c.printJSON(all)
	}
	base := publicBase(ctx, cl)
	t := c.table("FUNCTION", "NAME", "TYPE", "CALLS", "SOURCE", "ADDRESS", "UPDATED")
	for _, one := range all {
		t.row(one.App+"/"+one.Function, one.Name, one.Type, callsOf(one), one.Source, triggerURL(base, one), age(one.Updated))
	}
	return t.flush()
}

// callsOf says how a call through t goes.
func callsOf(t client.Trigger) string {
	how := "sync"
	if t.Async {
		how = "async"
	}
	if t.KeySet {
		how += ", with token"
	}
	return how
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
	t.row("calls", callsOf(one))
	t.row("convention", or(one.Convention, "hob"))
	for _, name := range slices.Sorted(maps.Keys(one.Headers)) {
		for _, value := range one.Headers[name] {
			t.row("header", name+": "+value)
		}
	}
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
