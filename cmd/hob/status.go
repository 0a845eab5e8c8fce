package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newStatus(c *cli) *cobra.Command {
	var app string
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "count the asynchronous calls of a function",
		Long: `Count the asynchronous calls of a function that the server keeps: those that wait
(PENDING) and run now, and those that are over. FAILED are those that failed, ran
out of time or were canceled. "hob calls NAME" lists them. If the
function was refused connections since the server started, a note on standard error
counts them ("refused" with --json), and "hob logs NAME" tells of them.`,
		Example:           "  hob status resizer\n  hob status resizer --json",
		Args:              exactly(1),
		ValidArgsFunction: completeFunctions(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseName(args[0], app)
			if err != nil {
				return err
			}
			return runStatus(cmd.Context(), c, name)
		},
	}
	appFlag(cmd, &app)
	return cmd
}

func runStatus(ctx context.Context, c *cli, name name) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	s, err := cl.Status(ctx, name.app, name.function)
	if err != nil {
		return fmt.Errorf("status of %s: %w", name.function, err)
	}
	if c.json {
		return c.printJSON(s)
	}
	if s.Refused > 0 {
		c.notes([]string{fmt.Sprintf(`%d connections were refused to %s: "hob logs %s" tells of them`, s.Refused, name.short(), name.short())})
	}
	t := c.table("TOTAL", "PENDING", "RUNNING", "FINISHED", "FAILED")
	t.row(count(s.Total), count(s.Queued), count(s.Running), count(s.Succeeded), count(s.Failed))
	return t.flush()
}
