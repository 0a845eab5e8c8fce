package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newGet(c *cli) *cobra.Command {
	var wait, include bool
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "print the result of an asynchronous call",
		Long: `Print the result of an asynchronous call, as "hob call" would have printed it, and
end with the same exit code. A result can be read as often as one likes, until it
is removed for newer ones or for its age (exit code 3).

A call that is not over ends the command with exit code 6 and a message that says
what it waits for and when it may start. --wait waits for its end, also over a
restart of the server; Ctrl-C ends the waiting, not the call. With --json the result is one object, as that of
"hob call".`,
		Example: `  hob get 01K9ZZ8N2R6W0V5T3YQ4XH7JGM
  hob get --wait 01K9ZZ8N2R6W0V5T3YQ4XH7JGM >small.jpg
  hob get --include 01K9ZZ8N2R6W0V5T3YQ4XH7JGM`,
		Args:              exactly(1),
		ValidArgsFunction: completeCalls(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runGet(cmd.Context(), c, args[0], wait, include)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the call is over")
	cmd.Flags().BoolVarP(&include, "include", "i", false, "print status and headers before the result")
	return cmd
}

func runGet(ctx context.Context, c *cli, id string, wait, include bool) error {
	if err := checkCallID(id); err != nil {
		return err
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	var answer *client.Answer
	if wait {
		answer, err = c.await(ctx, cl, id)
	} else if answer, err = cl.Result(ctx, id, 0); errors.Is(err, client.ErrPending) {
		err = pending(ctx, cl, id)
	}
	if err != nil {
		return err
	}
	_, err = c.printAnswer(answer, include)
	return err
}

// checkCallID reports whether id can be that of a call.
func checkCallID(id string) error {
	if _, ok := faas.IDTime(id); !ok {
		return faas.Errorf(faas.Invalid, "bad call id %q: it is 26 digits and capital letters, as %q prints them", id, "hob calls")
	}
	return nil
}

// pending is the error of a call that is not over.
func pending(ctx context.Context, cl *client.Client, id string) error {
	call, err := cl.CallRecord(ctx, id)
	if err != nil {
		return err
	}
	return faas.Errorf(faas.Busy, "call %s %s; %q waits for its result", id, standing(call), "hob get --wait "+id)
}

// standing says in words where a call stands: "waits: place 12 in the line of
// the function; about 3s".
func standing(call client.Call) string {
	switch {
	case call.State == faas.CallRunning && call.Attempt > 1:
		return fmt.Sprintf("has run for %s, in attempt %d", age(call.Started), call.Attempt)
	case call.State == faas.CallRunning:
		return "has run for " + age(call.Started)
	case call.State != faas.CallQueued:
		return "is over (" + string(call.State) + ")"
	}
	s := "waits"
	switch {
	case call.Waiting != "":
		s += ": " + call.Waiting
	case call.Due.After(time.Now()):
		s += " until " + stamp(call.Due)
	case call.Place > 0:
		s += ": place " + count(call.Place)
	}
	if call.Estimate > 0 && !call.Due.After(time.Now()) { // else it has been said
		s += "; about " + roughly(time.Duration(call.Estimate))
	}
	return s
}

// roughly is an estimate without digits that it cannot have.
func roughly(d time.Duration) string {
	if d < time.Second {
		return "less than 1s"
	}
	return d.Round(time.Second).String()
}

const (
	// resultWait is how long the server is asked to hold a question for a result.
	resultWait = 30 * time.Second

	// A server that is away is asked again with pauses from awayFirst to awayMost,
	// until it has been away for awayLimit.
	awayFirst = 100 * time.Millisecond
	awayMost  = 5 * time.Second
	awayLimit = 5 * time.Minute
)

// await waits until a call is over and returns its answer. The end of ctx ends
// the waiting with an error that says how to come back.
func (c *cli) await(ctx context.Context, cl *client.Client, id string) (*client.Answer, error) {
	answer, err := c.ask(ctx, cl, id)
	if err != nil && ctx.Err() != nil {
		return nil, faas.Errorf(whyEnded(ctx), "%w; call %s goes on: %q prints its result", context.Cause(ctx), id, "hob get --wait "+id)
	}
	return answer, err
}

// ask is await, but for the words of an interrupt.
func (c *cli) ask(ctx context.Context, cl *client.Client, id string) (*client.Answer, error) {
	var away time.Time // since when; zero: it answers
	pause := awayFirst
	for {
		asked := time.Now()
		answer, err := cl.Result(ctx, id, resultWait)
		switch {
		case err == nil:
			return answer, nil
		case errors.Is(err, client.ErrPending):
			away, pause = time.Time{}, awayFirst
			if time.Since(asked) < time.Second { // it does not hold the question
				sleep(ctx, time.Second)
			}
			continue
		case !comesBack(ctx, cl, id, err):
			return nil, err
		case away.IsZero():
			away = asked
			if !c.json {
				fmt.Fprintf(c.Stderr, "hob: %v; trying again\n", err)
			}
		case time.Since(away) > awayLimit:
			return nil, err
		}
		sleep(ctx, pause)
		pause = min(2*pause, awayMost)
	}
}

// comesBack reports whether err is of a server that is away or busy, and may be
// back soon: not one that the call itself ended with.
func comesBack(ctx context.Context, cl *client.Client, id string, err error) bool {
	if faas.KindOf(err) == faas.Busy {
		call, asked := cl.CallRecord(ctx, id)
		return asked != nil || !call.State.Final()
	}
	for _, gone := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF, os.ErrNotExist} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// sleep returns after d, or when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
