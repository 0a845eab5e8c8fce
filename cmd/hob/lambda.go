package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
	"hob/internal/build"
)

func newLambda(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lambda",
		Short: "bring functions of AWS Lambda to the server",
		Long: `A function that was written for AWS Lambda runs here as it is: of format lambda, it
is served the Runtime API. One that is a container image needs nothing but its
image:

  hob create --name orders --format lambda registry.example.com/orders:7

What stands behind the image is the handler in place of the image's. One that is a
zip file becomes an image on the base image of its runtime: "hob lambda import".
docs/lambda.md says what a function finds, and what an event is.`,
		Example: "  hob create --name orders --format lambda --memory 256m registry.example.com/orders:7\n  hob lambda import orders orders.zip --base public.ecr.aws/lambda/python:3.13 --handler app.handler",
		Args:    cobra.ArbitraryArgs,
		RunE:    noVerb,
	}
	cmd.AddCommand(newLambdaImport(c))
	return cmd
}

// lambdaFlags say what an image of a function of Lambda is made of.
type lambdaFlags struct {
	base, handler string
	update        bool
	settingFlags
}

func newLambdaImport(c *cli) *cobra.Command {
	var flags lambdaFlags
	var app string
	cmd := &cobra.Command{
		Use:   "import NAME ZIP",
		Short: "make a function out of a zip file of AWS Lambda",
		Long: `Make a function out of the zip file of a function of AWS Lambda, or of a directory
with what is in it; "-" is a zip file on standard input. Its files lie in
` + build.TaskDir + ` of an image on --base, an image that was made for Lambda, and the
handler is the image's command; the function is of format lambda. A file named
bootstrap is a custom runtime: it is what the image starts, and needs no base if it
is linked statically. At most ` + build.MaxLambdaBytes.String() + ` and 50,000 files are unpacked.

The zip file of a function at AWS is where this leads, and what else it has is in
the Configuration beside it (Handler, MemorySize, Timeout, Environment):

  curl -o orders.zip "$(aws lambda get-function --function-name orders \
      --query Code.Location --output text)"`,
		Example: `  hob lambda import orders orders.zip --base public.ecr.aws/lambda/python:3.13 --handler app.handler
  hob lambda import shop/orders orders.zip --base hob.local/node --handler index.handler --memory 256m --timeout 1m -e TABLE=orders
  hob lambda import hello bootstrap.zip
  hob lambda import hello bootstrap.zip --update`,
		Args: exactly(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return []string{"zip"}, cobra.ShellCompDirectiveFilterFileExt
			}
			return completeFunctions(c, 1)(cmd, args, begun) // for --update
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseName(args[0], app)
			if err != nil {
				return err
			}
			settings, err := flags.settings(c, cmd)
			if err != nil {
				return err
			}
			return runLambdaImport(cmd.Context(), c, flags, name, args[1], settings)
		},
	}
	appFlag(cmd, &app)
	f := cmd.Flags()
	f.StringVar(&flags.base, "base", "", "what the files lie on: an `image` with their runtime, a file or a directory (default: nothing, for a custom runtime)")
	f.StringVar(&flags.handler, "handler", "", "`method` that is called, as the runtime writes it: app.handler (default: the base's)")
	f.BoolVar(&flags.update, "update", false, "change the function of this name in place of making one")
	flags.add(cmd)
	for _, other := range []string{"format", "port", "concurrency", "pull", "profile"} { // of other functions
		_ = f.MarkHidden(other)
	}
	return cmd
}

// settings are those of the function; its entrypoint is the image's.
func (f *lambdaFlags) settings(c *cli, cmd *cobra.Command) (client.Settings, error) {
	s, err := f.settingFlags.settings(c, cmd)
	format := string(faas.FormatLambda)
	if s.Format != nil && *s.Format != format {
		return s, faas.Errorf(faas.Invalid, "a function of Lambda is of format %s, not %s", format, *s.Format)
	}
	s.Format = &format
	return s, err
}

func runLambdaImport(ctx context.Context, c *cli, flags lambdaFlags, n name, from string, s client.Settings) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := flags.checkName(ctx, cl, n); err != nil { // before minutes of work
		return err
	}
	node, err := cl.Node(ctx)
	if err != nil {
		return err
	}
	l := build.Lambda{From: from, In: c.Stdin, Base: flags.base, Handler: flags.handler, Platform: node.Platform}
	if s.Entrypoint != nil {
		l.Entrypoint, s.Entrypoint = *s.Entrypoint, nil
	}
	if strings.HasPrefix(flags.base, "hob.local/") {
		if l.Remote.Self, err = registryOf(ctx, cl); err != nil {
			return err
		}
	}
	img, err := build.FromLambda(ctx, l)
	if err != nil {
		return fmt.Errorf("import %s: %w", n.function, err)
	}
	ref := "hob.local/lambda/" + repository(n.app) + "/" + repository(n.function) + ":latest"
	archive, done := piped(func(w io.Writer) error { return build.WriteTar(w, ref, img) })
	defer done()
	if _, err := cl.Load(ctx, archive, ""); err != nil {
		return fmt.Errorf("import %s: %w", n.function, err)
	}
	s.Image = &ref
	if !flags.update {
		return runCreate(ctx, c, n, s, "never")
	}
	fn, err := flags.reachFlags.update(ctx, cl, n, s, "never")
	if err != nil {
		return fmt.Errorf("import %s: %w", n.function, err)
	}
	if c.json {
		return c.printJSON(fn)
	}
	return c.printName(n.short())
}

// checkName reports a function that is there and may not be changed, or is to be
// changed and not there.
func (f *lambdaFlags) checkName(ctx context.Context, cl *client.Client, n name) error {
	_, err := cl.Function(ctx, n.app, n.function)
	switch {
	case f.update:
		return err
	case err == nil:
		return faas.Errorf(faas.Conflict, "function %q exists already in app %q: --update changes it", n.function, n.app)
	case faas.KindOf(err) != faas.NotFound:
		return err
	}
	_, err = cl.App(ctx, n.app)
	return err
}
