package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newLogs(c *cli) *cobra.Command {
	var app string
	var times bool
	s := client.LogSelection{}
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "print what a function wrote on standard error",
		Long: `Print the log of a function: what its calls wrote on standard error, and what the
server noted about them. With --json each line is one JSON object.`,
		Example: `  hob logs hello --tail 20
  hob logs hello -f
  hob logs hello --call 01K9ZZ8N2R6W0V5T3YQ4XH7JGM`,
		Args:              exactly(1),
		ValidArgsFunction: completeFunctions(c),
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
	cmd.Flags().IntVar(&s.Tail, "tail", -1, "only the last so many `lines` (default -1: all)")
	cmd.Flags().StringVar(&s.Call, "call", "", "only lines of the call with this `id`")
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
			Time   time.Time `json:"time"`
			Call   string    `json:"call"`
			Stream string    `json:"stream"`
			Text   string    `json:"text"`
		}{line.Time, line.Call, line.Stream, line.Text})
	case times:
		_, err := fmt.Fprintf(c.Stdout, "%s %s %s %s\n", line.Time.Local().Format(time.RFC3339Nano), line.Call, line.Stream, line.Text)
		return printed(err)
	case line.Stream == "hob":
		_, err := fmt.Fprintf(c.Stdout, "hob: %s\n", line.Text)
		return printed(err)
	}
	_, err := fmt.Fprintln(c.Stdout, line.Text)
	return printed(err)
}
