package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

// callFlags say how a function is called.
type callFlags struct {
	app     string
	headers []string
	method  string
	path    string
	include bool
	timeout time.Duration
	timing  bool
}

func newCall(c *cli) *cobra.Command {
	var flags callFlags
	cmd := &cobra.Command{
		Use:   "call NAME [-]",
		Short: "call a function with standard input and print its result",
		Long: `Call a function: standard input is the payload, the result is written to standard
output as it comes. Input is not read from a terminal unless "-" asks for it.

A function of a hot format has a status and headers of its own, and may ask for
a path and a query: give them with --path. Its answer is printed whatever the
status is, and --include prints status and headers before it.

The exit code says how the call ended ("hob help exit"): 8 if the function ran
and failed, also when a part of the result has been written already, and when it
answered with a status of 400 or above. The reason and the id of the call are told
on standard error; "hob logs NAME --call ID" has what the function wrote on its
own.`,
		Example: `  hob call hello
  hob call resizer <photo.jpg >small.jpg
  hob call site --method GET --path '/users/1?all=1' --include
  hob call photos/tag -H 'Content-Type: image/jpeg' --timing <photo.jpg`,
		Args:              between(1, 2),
		ValidArgsFunction: completeFunctions(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseName(args[0], flags.app)
			if err != nil {
				return err
			}
			if len(args) == 2 && args[1] != "-" {
				return faas.Errorf(faas.Invalid, `what is %q? The payload comes on standard input; "-" reads it from a terminal too`, args[1])
			}
			return runCall(cmd.Context(), c, name, flags, len(args) == 2)
		},
	}
	appFlag(cmd, &flags.app)
	cmd.Flags().StringArrayVarP(&flags.headers, "header", "H", nil, "send a header, as `'Name: value'`")
	cmd.Flags().StringVarP(&flags.method, "method", "X", http.MethodPost, "HTTP `method`")
	cmd.Flags().StringVar(&flags.path, "path", "", "what the function is asked for, escaped, as `/users/1?all=1` (default /)")
	cmd.Flags().BoolVarP(&flags.include, "include", "i", false, "print status and headers before the answer")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", 0, "give up after this long (default: the function's own limits decide)")
	cmd.Flags().BoolVar(&flags.timing, "timing", false, "print on standard error where the time went")
	return cmd
}

func runCall(ctx context.Context, c *cli, name name, flags callFlags, input bool) error {
	header, err := parseHeaders(flags.headers)
	if err != nil {
		return err
	}
	if flags.timeout < 0 {
		return faas.Errorf(faas.Invalid, "bad --timeout %v: it is negative", flags.timeout)
	}
	if flags.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, flags.timeout, faas.Errorf(faas.TimedOut, "no whole answer in %v", flags.timeout))
		defer cancel()
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	began := time.Now()
	req := client.CallRequest{App: name.app, Function: name.function, Method: flags.method, Path: flags.path, Header: header}
	if input || !c.Terminal(c.Stdin) {
		req.Body = payload(c.Stdin)
	}
	answer, err := cl.Call(ctx, req)
	if err != nil {
		return inCall(name, err)
	}
	defer answer.Body.Close()
	first := time.Since(began)
	if flags.include {
		if err := c.printHead(answer); err != nil {
			return err
		}
	}
	n, err := io.Copy(c.Stdout, answer.Body)
	if flags.timing {
		c.printTiming(ctx, cl, answer.Call, first, time.Since(began), n)
	}
	if err != nil {
		return inCall(name, err)
	}
	if answer.Status >= 400 {
		return inCall(name, faas.Errorf(faas.FuncFailed, "the function answered %d %s (call %s)", answer.Status, http.StatusText(answer.Status), answer.Call))
	}
	return nil
}

// printHead prints the head of an answer as HTTP writes it, but with plain line ends.
func (c *cli) printHead(a *client.Answer) error {
	var head strings.Builder
	fmt.Fprintf(&head, "%d %s\n", a.Status, http.StatusText(a.Status))
	for _, name := range slices.Sorted(maps.Keys(a.Header)) {
		for _, v := range a.Header[name] {
			fmt.Fprintf(&head, "%s: %s\n", printable(name), printable(v))
		}
	}
	_, err := fmt.Fprintln(c.Stdout, head.String())
	return printed(err)
}

// inCall says which call failed, unless the server has said so.
func inCall(name name, err error) error {
	if prefix := "call " + name.function + ": "; !strings.HasPrefix(err.Error(), prefix) {
		return fmt.Errorf("%s%w", prefix, err)
	}
	return err
}

func parseHeaders(lines []string) (http.Header, error) {
	header := http.Header{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "" || strings.ContainsAny(name, " \t\r\n") || strings.ContainsAny(value, "\r\n") {
			return nil, faas.Errorf(faas.Invalid, "bad header %q: write it as 'Name: value'", line)
		}
		header.Add(name, strings.TrimSpace(value))
	}
	return header, nil
}

// printTiming prints what this side measured, and the phases of the server's
// record if it is there already.
func (c *cli) printTiming(ctx context.Context, cl *client.Client, id string, first, all time.Duration, n int64) {
	fmt.Fprintf(c.Stderr, "call     %s\nfirst    %s\ntotal    %s  (%v)\n", id, took(first), took(all), faas.Bytes(n))
	record, err := cl.CallRecord(ctx, id)
	if err != nil {
		return
	}
	if record.Waiting != "" {
		fmt.Fprintf(c.Stderr, "%-8s %s\n", "waited", printable(record.Waiting))
	}
	if record.Start != "" {
		fmt.Fprintf(c.Stderr, "%-8s %s\n", "start", startOf(record.Start))
	}
	for _, phase := range []struct {
		name string
		took client.Duration
	}{{"queue", record.Times.Queue}, {"image", record.Times.Image}, {"sandbox", record.Times.Sandbox}, {"run", record.Times.Run}} {
		fmt.Fprintf(c.Stderr, "%-8s %s\n", phase.name, took(time.Duration(phase.took)))
	}
}
