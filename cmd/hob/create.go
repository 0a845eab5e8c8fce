package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newCreate(c *cli) *cobra.Command {
	var flags settingFlags
	var called, app string
	cmd := &cobra.Command{
		Use:   "create --name NAME [flags] IMAGE [COMMAND] [ARG...]",
		Short: "make a function out of an image",
		Long: `Make a function out of an image. The image is pulled if the server does not have
it, and the digest that its name stands for now is what the function runs until
it is updated. What stands behind IMAGE is the command in place of the image's.

The function is called with "hob call NAME", or over HTTP at the address that is
printed, by whoever knows it: "hob update --refresh" makes a new one.

Each call has a fresh container: the payload on its standard input, the result on
its standard output, its log on standard error. With another --format a container
is hot: it serves many calls, and docs/contract.md says how it is spoken to.

The function reaches what its --network says, and what the rules of --allow, of its
app and of the server open besides. A connection that is refused is a line in its log,
with the command that opens it. Nobody connects to the function: it is called.`,
		Example: `  hob create --name hello busybox echo hello
  hob create --name resizer --memory 256m --timeout 1m photos/imagemagick convert - -resize 50% fd:1
  hob create --name site --format port --port 80 --concurrency 50 nginx
  hob create --name report --size s2 --async-timeout 2h --retries 3 --on-failure https://example.com/alarm hob.local/report
  hob create --name greet --profile fn --format http-stream --pull later --annotation 'team="red"' registry.example.com/greet:3
  hob create --name bill --network allow --allow api.example.com:443 --allow 10.1.2.3:5432 hob.local/bill
  hob create --name judge --network none --isolation gvisor hob.local/judge
  hob create --name photos/tag -e LEVEL=2 --env-file tag.env hob.local/tag:7`,
		Args:              between(1, -1),
		ValidArgsFunction: completeImages(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if called == "" {
				return faas.Errorf(faas.Invalid, "the function needs a name: give it with --name")
			}
			name, err := parseName(called, app)
			if err != nil {
				return err
			}
			settings, err := flags.settings(c, cmd)
			if err != nil {
				return err
			}
			settings.Image = &args[0]
			if len(args) > 1 {
				command := args[1:]
				settings.Command = &command
			}
			return runCreate(cmd.Context(), c, name, settings, flags.pull)
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows IMAGE belongs to the command
	cmd.Flags().StringVar(&called, "name", "", "`NAME` of the function, or APP/NAME")
	appFlag(cmd, &app)
	flags.add(cmd)
	return cmd
}

func runCreate(ctx context.Context, c *cli, name name, s client.Settings, pull string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var fn client.Function
	err = withImage(ctx, c, cl, name.app, *s.Image, pull, func(pull string) error {
		var err error
		fn, err = cl.CreateFunction(ctx, name.app, name.function, s, pull)
		return err
	})
	if err != nil {
		return fmt.Errorf("create %s: %w", name.function, err)
	}
	if c.json {
		return c.printJSON(fn)
	}
	line := name.short() + " is created"
	if address := callAddress(ctx, cl, fn); address != "" {
		line += " with the address of " + address
	}
	return c.printName(line)
}

// callAddress is where everybody who knows it may call fn over HTTP; empty if it
// has no address.
func callAddress(ctx context.Context, cl *client.Client, fn client.Function) string {
	if fn.Address == "" {
		return ""
	}
	return publicBase(ctx, cl) + "/call/" + url.PathEscape(fn.Name) + "/" + fn.Address
}

// publicBase is what the paths of a server are appended to; empty if that is not
// known: the path alone is better than a guess.
func publicBase(ctx context.Context, cl *client.Client) string {
	base := strings.TrimRight(cl.Address(), "/")
	if !strings.HasPrefix(base, "unix:") {
		return base
	}
	node, err := cl.Node(ctx)
	if err != nil {
		return ""
	}
	return "http://" + reachable(node.Listen)
}

// reachable is an address of this machine at which a server is reached that
// listens at listen.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

// withImage does what needs an image on the server, and pulls it before if it
// has to, so that the progress of the pull can be shown. Everything else that
// can be wrong is found first: a pull may take minutes.
func withImage(ctx context.Context, c *cli, cl *client.Client, app, ref, pull string, do func(pull string) error) error {
	if pull == "never" || pull == pullLater {
		return do(pull)
	}
	if pull != "always" {
		err := do("never")
		if faas.KindOf(err) != faas.NotFound {
			return err
		}
		if _, missing := cl.Image(ctx, ref); faas.KindOf(missing) != faas.NotFound {
			return err // it was something else that is not there
		}
	}
	if _, err := cl.App(ctx, app); err != nil {
		return err
	}
	progress := newProgress(c, ref)
	_, err := cl.Pull(ctx, client.PullRequest{Image: ref, Policy: pull}, progress.step)
	progress.end()
	if faas.KindOf(err) == faas.Denied { // to nobody in particular: what the function is allowed, its server knows
		return do(cmp.Or(pull, "missing"))
	}
	if err != nil {
		return err
	}
	return do("missing")
}
