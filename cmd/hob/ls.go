package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"hob/faas"
)

func newLs(c *cli) *cobra.Command {
	var app string
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "list functions",
		Example: "  hob ls\n  hob ls --app photos --json",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runLs(cmd.Context(), c, app) },
	}
	cmd.Flags().StringVar(&app, "app", "", "only the functions of this `app`")
	return cmd
}

func runLs(ctx context.Context, c *cli, app string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	functions, err := cl.Functions(ctx, app)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(functions)
	}
	t := c.table("APP", "NAME", "FORMAT", "IMAGE", "DIGEST", "MEMORY", "TIMEOUT", "UPDATED")
	for _, f := range functions {
		t.row(f.App, f.Name, f.Format, f.Image, orDash(short(f.Digest)), f.Memory.String(), f.Timeout.String(), age(f.Updated))
	}
	return t.flush()
}

func newPs(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "ps",
		Short: "list live sandboxes",
		Long: `List the sandboxes that are alive on the server now: what each does (starting, busy,
idle, or frozen between calls), what it was made from (a prepared blank, a bare
one, or nothing: on demand), how many calls it has served, and the one that it
serves now.`,
		Example: "  hob ps\n  hob ps --json",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runPs(cmd.Context(), c) },
	}
}

func runPs(ctx context.Context, c *cli) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	sandboxes, err := cl.Sandboxes(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(sandboxes)
	}
	t := c.table("SANDBOX", "FUNCTION", "FORMAT", "STATE", "START", "CALLS", "CALL", "AGE", "MEMORY", "PEAK", "CPU", "PROCESSES")
	for _, s := range sandboxes {
		t.row(s.ID, s.App+"/"+s.Function, orDash(string(s.Format)), s.State, startOf(s.Start), count(s.Calls), orDash(s.Call), age(s.Started),
			s.Memory.String(), s.PeakMemory.String(), took(time.Duration(s.CPUTime)), count(s.Processes))
	}
	return t.flush()
}

func newRm(c *cli) *cobra.Command {
	var app string
	var force bool
	cmd := &cobra.Command{
		Use:   "rm NAME...",
		Short: "remove functions",
		Long: `Remove functions, their logs and the results of their calls. One that is running a
call is not removed (exit code 4), unless with --force: then what runs comes to its
end. Calls in the queue are canceled. The image stays until it is removed or pruned.`,
		Example:           "  hob rm hello photos/resize\n  hob rm --force hello",
		Args:              between(1, -1),
		ValidArgsFunction: completeFunctions(c, -1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runRm(cmd.Context(), c, app, force, args) },
	}
	appFlag(cmd, &app)
	cmd.Flags().BoolVar(&force, "force", false, "remove a function also while calls of it run")
	return cmd
}

func runRm(ctx context.Context, c *cli, app string, force bool, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	return each(c, args, func(arg string) (string, error) {
		name, err := parseName(arg, app)
		if err != nil {
			return "", err
		}
		err = cl.DeleteFunction(ctx, name.app, name.function, force)
		if c.json {
			return name.String(), err
		}
		return name.short(), err
	})
}

// each does something to every name, prints what it is done to, and ends with
// the first error, which says what was done before it.
func each(c *cli, args []string, do func(string) (string, error)) error {
	done := []string{}
	for _, arg := range args {
		name, err := do(arg)
		if err != nil {
			if len(done) > 0 {
				return faas.Errorf(faas.KindOf(err), "%w (done before: %d of %d)", err, len(done), len(args))
			}
			return err
		}
		done = append(done, name)
		if !c.json {
			if err := c.printName(name); err != nil {
				return err
			}
		}
	}
	if c.json {
		return c.printJSON(done)
	}
	return nil
}
