// Command hob runs functions out of container images: it is the daemon
// ("hob serve") and its command line in one file.
//
// Each verb has a file of its own, with a constructor that says how it is
// written and a function that does it. A verb speaks to a server through
// package client; only serve, config, doctor, image build, and those that work on a
// directory with a func.yaml do something on this machine.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"hob/faas"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	env := &environ{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Environ: os.Environ, Root: os.Geteuid() == 0,
		Terminal: func(stream any) bool {
			f, ok := stream.(*os.File)
			return ok && isatty.IsTerminal(f.Fd())
		},
	}
	os.Exit(run(ctx, env, os.Args[1:]))
}

// environ is all that a command may touch of the process it runs in, so that
// a test can run any command in its own process.
type environ struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Environ        func() []string       // all variables, as "NAME=value"
	Terminal       func(stream any) bool // is one of the three streams a terminal?
	Root           bool                  // the user is root
}

// cli is one command line being carried out: its environment and the flags that
// every verb has.
type cli struct {
	*environ
	server    string // --server
	token     string // --token
	tokenFile string // --token-file
	json      bool   // --json
}

// run carries out one command line and returns the exit code of the process.
func run(ctx context.Context, env *environ, args []string) int {
	c := &cli{environ: env}
	root := newRoot(c)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		c.json = c.json || slices.Contains(args, "--json") // it may stand behind the flag that was wrong
		c.printFailure(err)
	}
	return exitOf(err)
}

// Groups of verbs in the help of hob.
const (
	groupFunctions = "functions"
	groupProjects  = "projects"
	groupImages    = "images"
	groupServer    = "server"
)

// newRoot returns the whole command line.
func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "hob",
		Short: "run functions out of container images",
		Long: `hob runs functions out of container images: give it an image, and it answers
on the command line and over HTTP, each call in a fresh container.

A first function, as root and beside a server that "hob serve" has started:

  hob create --name hello busybox echo hello
  hob call hello`,
		SilenceErrors: true, // run prints them
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // else cobra itself answers a wrong verb, without a Kind
		RunE:          noVerb,
	}
	root.SetIn(c.Stdin)
	root.SetOut(c.Stdout)
	root.SetErr(c.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return faas.Errorf(faas.Invalid, "%w: %q shows the flags", err, cmd.CommandPath()+" --help")
	})
	root.PersistentFlags().StringVar(&c.server, "server", "", `address of the server, as http://HOST:PORT or unix:///PATH ("hob help server")`)
	root.PersistentFlags().StringVar(&c.token, "token", "", "`token` that names you to the server; others see it in the list of processes, but not with HOB_TOKEN or --token-file")
	root.PersistentFlags().StringVar(&c.tokenFile, "token-file", "", `read the token from this `+"`file`"+`; "-" is standard input`)
	root.PersistentFlags().BoolVar(&c.json, "json", false, "print results as JSON on standard output, one document or, of what goes on, one object a line, and a failure as one JSON object on standard error")
	root.AddGroup(
		&cobra.Group{ID: groupFunctions, Title: "Functions and calls:"},
		&cobra.Group{ID: groupProjects, Title: "Directories with a func.yaml:"},
		&cobra.Group{ID: groupImages, Title: "Images:"},
		&cobra.Group{ID: groupServer, Title: "The server and this command line:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add(groupFunctions, newCreate(c), newUpdate(c), newLs(c), newInspect(c), newRm(c), newCall(c), newGet(c), newCalls(c), newStatus(c), newLogs(c), newPs(c), newTop(c), newApp(c), newTrigger(c), newLambda(c))
	add(groupProjects, newInit(c), newRun(c), newTest(c), newDeploy(c), newBump(c), newMigrate(c))
	add(groupImages, newImage(c), newPull(c))
	add(groupServer, newServe(c), newConfig(c), newDoctor(c), newBench(c), newBenchFunction(c), newContext(c), newToken(c), newCompletion(), newVersion(c))
	root.AddCommand(newExitTopic(), newServerTopic())
	root.SetHelpCommand(newHelp())
	root.SetHelpCommandGroupID(groupServer)
	completeFlags(c, root)
	return root
}

// noVerb answers a command that only has others below it.
func noVerb(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return faas.Errorf(faas.Invalid, "no command %q: %q lists them", cmd.CommandPath()+" "+args[0], helpOf(cmd))
	}
	return faas.Errorf(faas.Invalid, "what should it do? %q lists the commands", helpOf(cmd))
}

func helpOf(cmd *cobra.Command) string {
	if cmd.HasParent() {
		return cmd.CommandPath() + " --help"
	}
	return cmd.CommandPath() + " help"
}

// newHelp replaces cobra's, which takes a topic that is not there for success.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND | TOPIC]",
		Short:   "explain a command or a topic",
		Example: "  hob help create\n  hob help exit",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return faas.Errorf(faas.Invalid, "no command or topic %q: %q lists them", strings.Join(args, " "), "hob help")
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// exactly makes a wrong number of arguments a usage error.
func exactly(n int) cobra.PositionalArgs { return between(n, n) }

// between is exactly with a range; a negative most is none.
func between(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return faas.Errorf(faas.Invalid, "got %d arguments, want: %s", len(args), cmd.UseLine())
		}
		return nil
	}
}
