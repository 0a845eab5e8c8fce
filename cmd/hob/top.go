package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

// topEvery is how often the live view is renewed.
const topEvery = time.Second

// What drives a terminal: to the upper left corner, to the end of the line
// empty, to the end of the screen empty.
const (
	toCorner    = "\x1b[H"
	emptyLine   = "\x1b[K"
	emptyScreen = "\x1b[J"
)

func newTop(c *cli) *cobra.Command {
	var once bool
	var most int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "watch functions, calls and sandboxes live",
		Long: `Show what goes on at the server, anew every second, until Ctrl-C: of each function
that has calls or sandboxes the calls that run and wait, its sandboxes (starting,
busy, and kept hot: idle or frozen), how many calls ended in a second and how many
of them failed (over the last 10 seconds), the median of their time, the memory of
its sandboxes, and what the first of its callers in line waits for. The busiest
function comes first.

With --json each look is one JSON object on a line.`,
		Example: "  hob top\n  hob top --once --json",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runTop(cmd.Context(), c, once, most) },
	}
	cmd.Flags().BoolVar(&once, "once", false, "look once")
	cmd.Flags().IntVar(&most, "limit", 30, "most functions to show")
	return cmd
}

func runTop(ctx context.Context, c *cli, once bool, most int) error {
	if most < 1 {
		return faas.Errorf(faas.Invalid, "bad --limit %d: it is at least 1", most)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	terminal := !once && !c.json && c.Terminal(c.Stdout)
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		top, err := cl.Top(ctx)
		if err != nil {
			if !first && ctx.Err() != nil {
				return nil // Ctrl-C is how it is meant to end
			}
			return err
		}
		if err := c.printTop(top, most, once, terminal, first); err != nil {
			return err
		}
		if once {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// printTop prints one look.
func (c *cli) printTop(top client.Top, most int, once, terminal, first bool) error {
	switch {
	case c.json && once:
		return c.printJSON(top)
	case c.json:
		return c.printLine(top)
	}
	var view strings.Builder
	if err := writeTop(&view, top, most); err != nil {
		return printed(err)
	}
	text := view.String()
	switch {
	case terminal:
		// Over the last look, so that nothing flickers.
		text = toCorner + strings.ReplaceAll(text, "\n", emptyLine+"\n") + emptyScreen
	case !first:
		text = "\n" + text
	}
	_, err := io.WriteString(c.Stdout, text)
	return printed(err)
}

func writeTop(w io.Writer, top client.Top, most int) error {
	n := top.Node
	var used faas.Bytes
	var hot int
	for _, f := range top.Functions {
		used += f.Memory
		hot += f.Sandboxes.Idle + f.Sandboxes.Frozen
	}
	fmt.Fprintf(w, "%s  calls: %d running, %d waiting  sandboxes: %d, %d hot  memory: %v used, %v reserved of %v\n\n",
		top.Time.Local().Format(time.TimeOnly), n.Running, n.Waiting, n.Sandboxes, hot, used, n.Reserved, n.Memory)
	functions := slices.Clone(top.Functions)
	slices.SortStableFunc(functions, func(a, b client.TopFunction) int {
		return cmp.Or(cmp.Compare(b.Running+b.Queued, a.Running+a.Queued), cmp.Compare(b.PerSecond, a.PerSecond))
	})
	t := newTable(w, "FUNCTION", "RUNNING", "WAITING", "STARTING", "BUSY", "IDLE", "FROZEN", "CALLS/S", "FAILED/S", "P50", "MEMORY", "FIRST IN LINE")
	for _, f := range functions[:min(most, len(functions))] {
		p50 := "-"
		if f.P50 > 0 {
			p50 = took(time.Duration(f.P50))
		}
		t.row(f.App+"/"+f.Function, count(f.Running), count(f.Queued),
			count(f.Sandboxes.Starting), count(f.Sandboxes.Busy), count(f.Sandboxes.Idle), count(f.Sandboxes.Frozen),
			perSecond(f.PerSecond), perSecond(f.Failed), p50, f.Memory.String(), orDash(f.Waiting))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if more := len(functions) - most; more > 0 {
		fmt.Fprintf(w, "and %d more: --limit shows them\n", more)
	}
	return nil
}

// perSecond is a rate with as many digits as it deserves.
func perSecond(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}
