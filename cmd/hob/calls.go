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
	var queued bool
	cmd := &cobra.Command{
		Use:   "calls [NAME]",
		Short: "list calls, and repeat or cancel them",
		Long: `List the records of calls, the newest first: those that wait and run now, and
those of the journal, which keeps the last 7 days (a setting of the server).

--queued lists the calls in the queue instead, in the order in which they are to
start, with their place, what they wait for, and a guess when they start.

START is what a call found: a hot sandbox, or what one was made from for it (a
prepared blank, a bare one, or nothing: on demand). ENDED is how its process
ended, or if that goes on its status, and of a call that waits its place in line
and what it waits for.`,
		Example: `  hob calls
  hob calls resizer --state failed --limit 10
  hob calls --queued resizer
  hob calls retry 01K9ZZ8N2R6W0V5T3YQ4XH7JGM
  hob calls cancel 01K9ZZ8N2R6W0V5T3YQ4XH7JGM
  hob calls inspect 01K9ZZ8N2R6W0V5T3YQ4XH7JGM`,
		Args:              between(0, 1),
		ValidArgsFunction: completeFunctions(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter := client.CallFilter{App: app, State: faas.CallState(state), After: after, Limit: limit}
			if len(args) == 1 {
				name, err := parseName(args[0], app)
				if err != nil {
					return err
				}
				filter.App, filter.Function = name.app, name.function
			}
			if queued {
				if state != "" || after != "" {
					return faas.Errorf(faas.Invalid, "--queued lists all that is queued, from the first on: --state and --after do not go with it")
				}
				return runQueued(cmd.Context(), c, filter)
			}
			return runCalls(cmd.Context(), c, filter)
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "only calls of this `app`")
	cmd.Flags().StringVar(&state, "state", "", "only calls in this `state`: queued, running, succeeded, failed, timed_out or canceled")
	cmd.Flags().StringVar(&after, "after", "", "go on behind the call with this `id`")
	cmd.Flags().IntVar(&limit, "limit", 50, "most calls of the journal, or of the queue, to list")
	cmd.Flags().BoolVar(&queued, "queued", false, "the calls in the queue, in the order in which they are to start")
	cmd.AddCommand(newCallsInspect(c), newCallsRetry(c), newCallsCancel(c))
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

func runQueued(ctx context.Context, c *cli, filter client.CallFilter) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if filter.Limit < 1 {
		return faas.Errorf(faas.Invalid, "bad --limit %d: it is at least 1", filter.Limit)
	}
	calls, err := cl.QueuedCalls(ctx, filter.App, filter.Function, filter.Limit)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(struct {
			Calls []client.Call `json:"calls"`
		}{calls})
	}
	t := c.table("CALL", "FUNCTION", "PRIORITY", "AGE", "ATTEMPT", "PLACE", "ESTIMATE", "REASON")
	for _, call := range calls {
		place, estimate, reason := "-", "-", call.Waiting
		if call.Place > 0 {
			place = count(call.Place)
		}
		if call.Estimate > 0 {
			estimate = roughly(time.Duration(call.Estimate))
		}
		if reason == "" && call.Due.After(time.Now()) {
			reason = "due at " + stamp(call.Due)
		}
		t.row(call.ID, call.App+"/"+call.Function, count(call.Priority), age(call.Queued), count(call.Attempt+1), place, estimate, orDash(reason))
	}
	return t.flush()
}

func newCallsRetry(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "retry ID...",
		Short: "repeat calls that did not succeed",
		Long: `Repeat asynchronous calls that failed, ran out of time or were canceled while
they ran: each is made anew with the payload that it had, and the id of the new
call is printed. The payload of one that was canceled in line is not kept.
"hob calls inspect" of the new one names the old one.`,
		Example:           "  hob calls retry 01K9ZZ8N2R6W0V5T3YQ4XH7JGM",
		Args:              between(1, -1),
		ValidArgsFunction: completeCalls(c, -1, faas.CallFailed, faas.CallTimedOut, faas.CallCanceled),
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachCall(c, args, func(cl *client.Client, id string) (client.Call, error) { return cl.RetryCall(cmd.Context(), id) })
		},
	}
}

func newCallsCancel(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel ID...",
		Short: "cancel calls that wait or run",
		Long: `Cancel calls. One in the queue is over at once; one that runs is told to end, and
is over soon ("hob get --wait ID" waits for that).`,
		Example:           "  hob calls cancel 01K9ZZ8N2R6W0V5T3YQ4XH7JGM",
		Args:              between(1, -1),
		ValidArgsFunction: completeCalls(c, -1, faas.CallQueued, faas.CallRunning),
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachCall(c, args, func(cl *client.Client, id string) (client.Call, error) { return cl.CancelCall(cmd.Context(), id) })
		},
	}
}

// eachCall does something to every call, and prints the ids of those that come of it.
func eachCall(c *cli, ids []string, do func(*client.Client, string) (client.Call, error)) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	return each(c, ids, func(id string) (string, error) {
		if err := checkCallID(id); err != nil {
			return "", err
		}
		call, err := do(cl, id)
		return call.ID, err
	})
}

// startOf is what a call found, in words.
func startOf(s faas.Start) string { return orDash(strings.ReplaceAll(string(s), "_", " ")) }

// ended says how a call ended: its process, or if that goes on its answer.
func ended(call client.Call) string {
	switch {
	case call.Waiting != "" && call.State == faas.CallQueued:
		return call.Waiting
	case call.Kind == faas.CallAsync && call.State == faas.CallQueued:
		return "in line: hob calls --queued"
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
		Use:               "inspect ID...",
		Short:             "show the records of calls",
		Example:           "  hob calls inspect 01K9ZZ8N2R6W0V5T3YQ4XH7JGM --format '{{.Times.Run}}'",
		Args:              between(1, -1),
		ValidArgsFunction: completeCalls(c, -1),
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
	if call.Losses > 0 {
		t.row("losses", count(call.Losses))
	}
	if call.RetryOf != "" {
		t.row("retry of", call.RetryOf)
	}
	if call.Kind == faas.CallAsync {
		t.row("priority", count(call.Priority))
	}
	t.row("queued", stamp(call.Queued))
	if call.Due.After(call.Queued) {
		t.row("due", stamp(call.Due))
	}
	t.row("started", stamp(call.Started))
	t.row("finished", stamp(call.Finished))
	t.row("queue", took(time.Duration(call.Times.Queue)))
	t.row("image", took(time.Duration(call.Times.Image)))
	t.row("sandbox", took(time.Duration(call.Times.Sandbox)))
	t.row("run", took(time.Duration(call.Times.Run)))
	if call.Waiting != "" {
		t.row("waiting", call.Waiting)
	}
	if call.Place > 0 {
		t.row("place", count(call.Place))
	}
	if call.Estimate > 0 {
		t.row("estimate", roughly(time.Duration(call.Estimate)))
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
	if call.Result != "" {
		t.row("result", string(call.Result))
	}
	if call.Delivery != "" {
		t.row("delivery", call.Delivery)
	}
}
