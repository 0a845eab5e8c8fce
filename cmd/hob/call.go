package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

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

	async, sync bool
	queued      bool           // it goes through the queue
	priority    int            // in the queue
	delay       *time.Duration // in the queue; nil: the function's
	key         string
}

func newCall(c *cli) *cobra.Command {
	var flags callFlags
	var delay time.Duration
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
own.

With --async the call is put into the queue of the server, and its id is printed as
soon as it is on the server's disk: "hob get ID" has the result. On a terminal, and
with --priority or --delay, the call goes through the queue too, and its result is
awaited: Ctrl-C then ends the waiting and tells how to come back, the call goes on.
A plain call, which is one without a terminal or with --sync, is not kept: its
result is printed as it comes, and Ctrl-C cancels it.

With --json what is printed is one object with call, status, header and body, which
is base64 if there is "encoding": "base64".

With --key a call can be repeated safely, also when it is not known whether the
first try has reached the server: the calls with one key run once, and have one
answer.`,
		Example: `  hob call hello
  hob call resizer <photo.jpg >small.jpg
  hob call --async resizer <photo.jpg
  hob call --async --priority 9 --delay 10m report
  hob call --key order-4711 bill <order.json
  hob call site --method GET --path '/users/1?all=1' --include
  hob call photos/tag -H 'Content-Type: image/jpeg' --timing <photo.jpg`,
		Args:              between(1, 2),
		ValidArgsFunction: completeFunctions(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseName(args[0], flags.app)
			if err != nil {
				return err
			}
			if len(args) == 2 && args[1] != "-" {
				return faas.Errorf(faas.Invalid, `what is %q? The payload comes on standard input; "-" reads it from a terminal too`, args[1])
			}
			given := cmd.Flags().Changed
			if given("delay") {
				flags.delay = &delay
			}
			flags.queued = flags.async || given("delay") || given("priority")
			if flags.queued && flags.sync {
				return faas.Errorf(faas.Invalid, "a plain call does not go through the queue: --sync does not go with --async, --priority and --delay")
			}
			flags.queued = flags.queued || !flags.sync && c.Terminal(c.Stdout)
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
	cmd.Flags().BoolVar(&flags.async, "async", false, "do not wait: print the id of the call")
	cmd.Flags().BoolVar(&flags.sync, "sync", false, "make a plain call on a terminal too")
	cmd.Flags().IntVar(&flags.priority, "priority", 0, "in the queue: calls of a higher `number` start first, from 0 to "+count(faas.MaxPriority))
	cmd.Flags().DurationVar(&delay, "delay", 0, "in the queue: least time before the start (default: the function's)")
	cmd.Flags().StringVar(&flags.key, "key", "", "run calls with the same `key`, and payload, once in 24 hours, with one answer for all")
	return cmd
}

func runCall(ctx context.Context, c *cli, name name, flags callFlags, input bool) error {
	header, err := parseHeaders(flags.headers)
	if err != nil {
		return err
	}
	switch {
	case flags.timeout < 0:
		return faas.Errorf(faas.Invalid, "bad --timeout %v: it is negative", flags.timeout)
	case flags.delay != nil && (*flags.delay < 0 || *flags.delay > faas.MaxDelay):
		return faas.Errorf(faas.Invalid, "bad --delay %v: it is between 0s and %v", *flags.delay, faas.MaxDelay)
	case flags.priority < 0 || flags.priority > faas.MaxPriority:
		return faas.Errorf(faas.Invalid, "bad --priority %d: it is between 0 and %d", flags.priority, faas.MaxPriority)
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
	req := client.CallRequest{App: name.app, Function: name.function, Method: flags.method, Path: flags.path, Header: header,
		Priority: flags.priority, Delay: flags.delay, Key: flags.key}
	if input || !c.Terminal(c.Stdin) {
		req.Body = payload(c.Stdin)
	}
	answer, err := c.begin(ctx, cl, req, flags)
	if err != nil || answer == nil {
		return inCall(name, err)
	}
	first := time.Since(began)
	n, err := c.printAnswer(answer, flags.include)
	if flags.timing {
		c.printTiming(ctx, cl, answer.Call, first, time.Since(began), n)
	}
	if err != nil && ctx.Err() != nil && !flags.queued {
		err = canceled(ctx, flags.key, " (call "+answer.Call+")")
	}
	return inCall(name, err)
}

// begin makes a call and returns its answer, or nil if none is waited for.
func (c *cli) begin(ctx context.Context, cl *client.Client, req client.CallRequest, flags callFlags) (*client.Answer, error) {
	if !flags.queued {
		answer, err := cl.Call(ctx, req)
		if err != nil && ctx.Err() != nil {
			err = canceled(ctx, flags.key, "")
		}
		return answer, err
	}
	call, err := cl.Enqueue(ctx, req)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("the server has not said that it took the call: %w", err)
	case err != nil:
		return nil, err
	case !flags.async:
		return c.await(ctx, cl, call.ID)
	case c.json:
		return nil, c.printJSON(call)
	}
	return nil, c.printName("CallId: " + call.ID)
}

// canceled is the error of a plain call whose caller leaves. One with a key goes on.
func canceled(ctx context.Context, key, which string) error {
	what := "the call is canceled" + which
	if key != "" {
		what = fmt.Sprintf("the call goes on%s, and with --key %s again you get its answer", which, key)
	}
	return faas.Errorf(whyEnded(ctx), "%w: %s", context.Cause(ctx), what)
}

// whyEnded is the Kind of the end of ctx.
func whyEnded(ctx context.Context) faas.Kind {
	if faas.KindOf(context.Cause(ctx)) == faas.TimedOut {
		return faas.TimedOut
	}
	return faas.Canceled
}

// printAnswer prints an answer, with its head before it if that is wanted, and
// closes it. It returns how much of it there was; a status that tells of a
// failure is an error.
func (c *cli) printAnswer(a *client.Answer, head bool) (n int64, err error) {
	defer a.Body.Close()
	if c.json {
		return c.printAnswerJSON(a)
	}
	if head {
		if err := c.printHead(a); err != nil {
			return 0, err
		}
	}
	n, err = io.Copy(c.Stdout, a.Body)
	if err == nil {
		err = refusal(a)
	}
	return n, err
}

// refusal is the error of an answer whose status tells of a failure, or nil.
func refusal(a *client.Answer) error {
	if a.Status < 400 {
		return nil
	}
	return faas.Errorf(faas.FuncFailed, "the function answered %d %s (call %s)", a.Status, http.StatusText(a.Status), a.Call)
}

// printAnswerJSON prints an answer as one object, once it is whole: it is in memory
// until then.
func (c *cli) printAnswerJSON(a *client.Answer) (int64, error) {
	body, err := io.ReadAll(a.Body)
	if err != nil {
		return int64(len(body)), err
	}
	out := struct {
		Call     string      `json:"call"`
		Status   int         `json:"status"`
		Header   http.Header `json:"header"`
		Body     string      `json:"body"`
		Encoding string      `json:"encoding,omitempty"` // "base64", of a body that is no text
	}{Call: a.Call, Status: a.Status, Header: a.Header, Body: string(body)}
	if !utf8.Valid(body) {
		out.Body, out.Encoding = base64.StdEncoding.EncodeToString(body), "base64"
	}
	return int64(len(body)), cmp.Or(c.printJSON(out), refusal(a))
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
	if err == nil {
		return nil
	}
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
