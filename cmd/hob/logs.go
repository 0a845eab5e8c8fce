package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newLogs(c *cli) *cobra.Command {
	var app string
	var times bool
	s := client.LogSelection{Tail: -1}
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "print what a function wrote on standard error",
		Long: `Print the log of a function: what its calls wrote on standard error, what the
server noted about them, and the steps in the life of asynchronous calls: CALL (it
was accepted), PENDING (in the queue), RUNNING, FINISHED or FAILED. These show the
first 255 bytes of payload and result only if the function was made with
--log-payload. With --json each line is one JSON object.`,
		Example: `  hob logs hello --tail 20
  hob logs hello -f
  hob logs hello --no-events
  hob logs hello --call 01K9ZZ8N2R6W0V5T3YQ4XH7JGM`,
		Args:              exactly(1),
		ValidArgsFunction: completeFunctions(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseName(args[0], app)
			if err != nil {
				return err
			}
			s.App, s.Function = name.app, name.function
			return runLogs(cmd.Context(), c, s, times)
		},
	}
	appFlag(cmd, &app)
	cmd.Flags().BoolVarP(&s.Follow, "follow", "f", false, "go on with what is written from now on")
	cmd.Flags().Var((*tailFlag)(&s.Tail), "tail", "only the last so many lines, or \"all\"")
	cmd.Flags().StringVar(&s.Call, "call", "", "only lines of the call with this `id`")
	cmd.Flags().StringVar(&s.Call, "callid", "", "the same as --call, as `id`")
	cmd.Flags().BoolVar(&s.NoEvents, "no-events", false, "only what was written, without the steps of calls")
	cmd.Flags().BoolVarP(&times, "timestamps", "t", false, "print the time, the call and the stream before each line")
	return cmd
}

func runLogs(ctx context.Context, c *cli, s client.LogSelection, times bool) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	for line, err := range cl.Logs(ctx, s) {
		if err != nil {
			return fmt.Errorf("logs of %s: %w", s.Function, err)
		}
		if err := c.printLogLine(line, times); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) printLogLine(line faas.LogLine, times bool) error {
	switch {
	case c.json:
		return c.printLine(struct {
			Time   time.Time        `json:"time"`
			Call   string           `json:"call"`
			Stream string           `json:"stream"`
			Text   string           `json:"text"`
			Event  *client.LogEvent `json:"event,omitempty"`
		}{line.Time, line.Call, line.Stream, line.Text, eventOf(line.Event)})
	case times:
		_, err := fmt.Fprintf(c.Stdout, "%s %s %s %s\n", line.Time.Local().Format(time.RFC3339Nano), line.Call, line.Stream, line.Text)
		return printed(err)
	case line.Event != nil:
		_, err := fmt.Fprintf(c.Stdout, "%s %s\n", line.Time.UTC().Format(time.RFC3339), eventText(*line.Event))
		return printed(err)
	case line.Stream == "hob":
		_, err := fmt.Fprintf(c.Stdout, "hob: %s\n", line.Text)
		return printed(err)
	}
	_, err := fmt.Fprintln(c.Stdout, line.Text)
	return printed(err)
}

// eventText is an event as Hyper's command line prints it.
func eventText(e faas.Event) string {
	s := fmt.Sprintf("[%s] CallId: %s", e.Name, e.Call)
	switch e.Name {
	case faas.EventCall:
		s += ", ShortStdin: " + e.Stdin
	case faas.EventFinished:
		s += ", ShortStdout: " + e.Stdout + ", ShortStderr: " + e.Stderr
	}
	if e.Message != "" {
		s += ", Message: " + e.Message
	}
	if e.Attempt > 1 {
		s += ", Attempt: " + count(e.Attempt)
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || printable(string(r)) == string(r) {
			return r
		}
		return '?'
	}, s)
}

// eventOf is an event as --json prints it.
func eventOf(e *faas.Event) *client.LogEvent {
	if e == nil {
		return nil
	}
	return &client.LogEvent{Name: e.Name, Attempt: e.Attempt, Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr, Message: e.Message}
}

// tailFlag is a flag that reads a number of lines or "all", which is negative.
type tailFlag int

func (f *tailFlag) Type() string { return "lines" }
func (f *tailFlag) String() string {
	if *f < 0 {
		return "all"
	}
	return count(int(*f))
}
func (f *tailFlag) Set(s string) error {
	n, err := strconv.Atoi(s)
	switch {
	case s == "all":
		n = -1
	case err != nil || n < 0:
		return faas.Errorf(faas.Invalid, `it is a number of lines, or "all"`)
	}
	*f = tailFlag(n)
	return nil
}
