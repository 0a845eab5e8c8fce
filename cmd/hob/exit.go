package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

// exitCodes is the contract of scripts with us; "hob help exit" prints it.
func exitCodes() []exitCode {
	return []exitCode{
		{0, faas.OK, "done"},
		{1, faas.Internal, "a defect, a broken host, or no server to be reached"},
		{2, faas.Invalid, "the command line, a name or a setting can never work as written"},
		{3, faas.NotFound, "no such function, app, image, call or file, or a result that is kept no more"},
		{4, faas.Conflict, "it exists already, is in use, or was changed in between"},
		{5, faas.Denied, "not allowed"},
		{6, faas.Busy, "no capacity now, shutting down, or a call is not over: try again later"},
		{7, faas.TimedOut, "it took longer than it may"},
		{8, faas.FuncFailed, "the function ran and failed, or its answer was broken off"},
		{9, faas.TooLarge, "a payload or a result is over its limit"},
		{10, faas.Unsupported, "this server or machine cannot do that"},
		{130, faas.Canceled, "interrupted, or the call was canceled"},
	}
}

type exitCode struct {
	code  int
	kind  faas.Kind
	means string
}

// exitOf is the exit code of a command that ended with err.
func exitOf(err error) int {
	kind := faas.KindOf(err)
	i := slices.IndexFunc(exitCodes(), func(e exitCode) bool { return e.kind == kind })
	if i < 0 {
		return 1 // a kind that the table does not know is a defect, never success
	}
	return exitCodes()[i].code
}

// failure is what --json prints on standard error.
type failure struct {
	Error struct {
		Kind    faas.Kind `json:"kind"`
		Message string    `json:"message"`
		Call    string    `json:"call,omitempty"`
		Request string    `json:"request,omitempty"`
	} `json:"error"`
	Exit int `json:"exit"`
}

// printFailure says on standard error why the command failed, and what to quote.
func (c *cli) printFailure(err error) {
	var quote client.Failure
	if f, ok := errors.AsType[*client.Failure](err); ok {
		quote.Call, quote.Request = f.Call, f.Request
	}
	if c.json {
		var f failure
		f.Error.Kind, f.Error.Message, f.Exit = faas.KindOf(err), err.Error(), exitOf(err)
		f.Error.Call, f.Error.Request = quote.Call, quote.Request
		enc := json.NewEncoder(c.Stderr)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(f) // there is nowhere to say that standard error is closed
		return
	}
	message := err.Error()
	if quote.Call != "" && !strings.Contains(message, quote.Call) {
		message += " (call " + quote.Call + ")"
	}
	fmt.Fprintf(c.Stderr, "hob: %s\n", message)
}

// newExitTopic returns the help topic made of exitCodes, so that the two cannot
// differ.
func newExitTopic() *cobra.Command {
	codes := exitCodes()
	slices.SortFunc(codes, func(a, b exitCode) int { return cmp.Compare(a.code, b.code) })
	var long strings.Builder
	long.WriteString("hob ends with one of these codes:\n\n")
	for _, e := range codes {
		fmt.Fprintf(&long, "%5d  %-12s %s\n", e.code, cmp.Or(string(e.kind), "ok"), e.means)
	}
	long.WriteString(`
A failure is told on standard error, after "hob: ". With --json it is one JSON
object there: {"error": {"kind", "message", "call", "request"}, "exit"}.`)
	return &cobra.Command{Use: "exit", Short: "what the exit codes mean", Long: long.String()}
}
