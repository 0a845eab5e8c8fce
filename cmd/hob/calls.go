package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newCalls(c *cli) *cobra.Command {
	var app, state, after string
	var limit int
	cmd := &cobra.Command{
		Use:   "calls [NAME]",
		Short: "list calls, the newest first",
		Long: `List the records of calls, the newest first: those that wait and run now, and
those of the journal, which keeps the last 7 days (a setting of the server).

START is what a call found: a hot sandbox, or what one was made from for it (a
prepared blank, a bare one, or nothing: on demand). ENDED is how its process
ended, or if that goes on its status, and of a call that waits its place in line
and what it waits for.`,
		Example: `  hob calls
  hob calls resizer --state failed --limit 10
  hob calls inspect 01K9ZZ8N2R6W0V5T3YQ4XH7JGM`,
		Args:              between(0, 1),
		ValidArgsFunction: completeFunctions(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter := client.CallFilter{App: app, State: faas.CallState(state), After: after, Limit: limit}
			if len(args) == 1 {
				name, err := parseName(args[0], app)
				if err != nil {
					return err
				}
				filter.App, filter.Function = name.app, name.function
			}
			return runCalls(cmd.Context(), c, filter)
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "only calls of this `app`")
	cmd.Flags().StringVar(&state, "state", "", "only calls in this `state`: queued, running, succeeded, failed, timed_out or canceled")
	cmd.Flags().StringVar(&after, "after", "", "go on behind the call with this `id`")
	cmd.Flags().IntVar(&limit, "limit", 50, "most calls of the journal to list")
	cmd.AddCommand(newCallsInspect(c))
	return cmd
}

func runCalls(ctx context.Context, c *cli, filter client.CallFilter) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if filter.Limit < 1 {
		return faas.Errorf(faas.Invalid, "bad --limit %d: it is at least 1", filter.Limit)
	}
	calls, next, err := cl.Calls(ctx, filter)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(struct {
			Calls []client.Call `json:"calls"`
			Next  string        `json:"next,omitempty"`
		}{calls, next})
	}
	t := c.table("CALL", "FUNCTION", "STATE", "AGE", "QUEUE", "IMAGE", "SANDBOX", "RUN", "START", "OUT", "ENDED")
	for _, call := range calls {
		t.row(call.ID, call.App+"/"+call.Function, string(call.State), age(call.Queued),
			took(time.Duration(call.Times.Queue)), took(time.Duration(call.Times.Image)),
			took(time.Duration(call.Times.Sandbox)), took(time.Duration(call.Times.Run)),
			startOf(call.Start), faas.Bytes(call.Out).String(), ended(call))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if next != "" {
		fmt.Fprintf(c.Stderr, "there are more: hob calls --after %s\n", next)
	}
	return nil
}

// startOf is what a call found, in words.
func startOf(s faas.Start) string { return orDash(strings.ReplaceAll(string(s), "_", " ")) }

// ended says how a call ended: its process, or if that goes on its answer.
func ended(call client.Call) string {
	switch {
	case call.Waiting != "" && call.State == faas.CallQueued:
		return call.Waiting
	case call.OOM:
		return "out of memory"
	case call.Signal != "":
		return call.Signal
	case call.ExitCode != nil:
		return "exit " + count(*call.ExitCode)
	case call.Error != nil:
		return string(call.Error.Kind)
	case call.Status != 0:
		return "status " + count(call.Status)
	}
	return "-"
}

func newCallsInspect(c *cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "inspect ID...",
		Short:   "show the records of calls",
		Example: "  hob calls inspect 01K9ZZ8N2R6W0V5T3YQ4XH7JGM --format '{{.Times.Run}}'",
		Args:    between(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			return inspectEach(c, format, args, func(id string) (client.Call, error) { return cl.CallRecord(cmd.Context(), id) }, callRows)
		},
	}
	formatFlag(cmd, &format)
	return cmd
}

func callRows(t table, call client.Call) {
	t.row("call", call.ID)
	t.row("function", call.App+"/"+call.Function)
	t.row("revision", count(int(call.Revision)))
	t.row("kind", string(call.Kind))
	t.row("state", string(call.State))
	t.row("attempt", count(call.Attempt))
	t.row("queued", stamp(call.Queued))
	t.row("started", stamp(call.Started))
	t.row("finished", stamp(call.Finished))
	t.row("queue", took(time.Duration(call.Times.Queue)))
	t.row("image", took(time.Duration(call.Times.Image)))
	t.row("sandbox", took(time.Duration(call.Times.Sandbox)))
	t.row("run", took(time.Duration(call.Times.Run)))
	if call.Waiting != "" {
		t.row("waiting", call.Waiting)
	}
	t.row("start", startOf(call.Start))
	t.row("status", count(call.Status))
	t.row("in", faas.Bytes(call.In).String())
	t.row("out", faas.Bytes(call.Out).String())
	t.row("ended", ended(call))
	t.row("peak memory", call.PeakMemory.String())
	t.row("cpu time", took(time.Duration(call.CPUTime)))
	if call.Error != nil {
		t.row("error", string(call.Error.Kind)+": "+call.Error.Message)
	}
}
