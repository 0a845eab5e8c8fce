package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newUpdate(c *cli) *cobra.Command {
	var flags settingFlags
	var app, image string
	var refresh bool
	var unset, unnoted, reset []string
	cmd := &cobra.Command{
		Use:   "update NAME [flags] [-- COMMAND [ARG...]]",
		Short: "change a function",
		Long: `Change a function: what is not named stays as it is. Calls that run go on with
what they began with. A variable given with -e is added or replaced, the others
stay; --allow adds a rule to those there are, and --disallow removes one. --network ''
and --isolation '' mean the default again.

With another --format, what only the old format had goes back to its default.

The image's digest is looked up anew when --image or --pull is given: a tag that
has moved on changes nothing by itself.

--refresh makes a new secret for the address under which everybody may call the
function; the old address is unknown from then on.`,
		Example: `  hob update hello --memory 256m -e LEVEL=3
  hob update hello --pull always
  hob update hello --unset-env LEVEL --reset timeout,command
  hob update hello --allow db.example.lan:5432 --disallow 10.0.0.0/8:5432
  hob update hello --network open --isolation gvisor --reset allow
  hob update hello -- echo good morning
  hob update --refresh hello`,
		Args:              between(1, -1),
		ValidArgsFunction: completeFunctions(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := parseName(args[0], app)
			if err != nil {
				return err
			}
			if len(args) > 1 && cmd.ArgsLenAtDash() != 1 {
				return faas.Errorf(faas.Invalid, `what is %q? A new command stands behind "--"`, args[1])
			}
			settings, err := flags.settings(c, cmd)
			if err != nil {
				return err
			}
			if image != "" {
				settings.Image = &image
			}
			if len(args) > 1 {
				command := args[1:]
				settings.Command = &command
			}
			if settings.Annotations, err = readAnnotations(flags.annotations, unnoted...); err != nil {
				return err
			}
			for _, name := range unset {
				if settings.Env == nil {
					settings.Env = map[string]*string{}
				}
				if settings.Env[name] != nil {
					return faas.Errorf(faas.Invalid, "variable %s is both set and removed", name)
				}
				settings.Env[name] = nil
			}
			if settings.Reset, err = resets(reset, resettable()); err != nil {
				return err
			}
			return runUpdate(cmd.Context(), c, name, settings, &flags, refresh)
		},
	}
	appFlag(cmd, &app)
	cmd.Flags().StringVar(&image, "image", "", "another `image`")
	cmd.Flags().BoolVar(&refresh, "refresh", false, "make a new address, and print it")
	flags.add(cmd)
	flags.addDisallow(cmd)
	cmd.Flags().StringArrayVar(&unset, "unset-env", nil, "remove a `variable`")
	unsetAnnotationFlag(cmd, &unnoted)
	resetFlag(cmd, &reset, resettable())
	return cmd
}

// resetFlag is for commands that change something, of which fields have a default.
func resetFlag(cmd *cobra.Command, to *[]string, fields []string) {
	cmd.Flags().StringSliceVar(to, "reset", nil, "set `fields` back to their default: "+strings.Join(fields, ", "))
}

// resets are the fields that --reset names, as they are called on the wire.
func resets(named, fields []string) (all []string, err error) {
	for _, field := range named {
		field = strings.ReplaceAll(field, "-", "_")
		if !slices.Contains(fields, field) {
			return nil, faas.Errorf(faas.Invalid, "bad --reset %q: it is one of %s", field, strings.Join(fields, ", "))
		}
		all = append(all, field)
	}
	return all, nil
}

// resettable are the fields of a function that have a default to go back to.
func resettable() []string {
	return []string{"entrypoint", "command", "env", "workdir", "user", "writable", "network", "allow", "isolation", "devices", "memory", "cpus", "tmp_size",
		"timeout", "wait", "start_timeout", "idle_timeout", "max_concurrency", "line",
		"format", "port", "concurrency", "min", "max_calls", "freeze",
		"async_timeout", "delay", "retries", "retry_delay", "retry_max", "on_success", "on_failure", "on_node_loss", "log_payload",
		"profile", "shape", "annotations"}
}

func runUpdate(ctx context.Context, c *cli, name name, s client.Settings, flags *settingFlags, refresh bool) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var fn client.Function
	update := func(pull string) error {
		var err error
		fn, err = flags.update(ctx, cl, name, s, pull)
		return err
	}
	pull := flags.pull
	nothing := pull == "" && reflect.ValueOf(s).IsZero()
	switch {
	case refresh && nothing:
	case s.Image != nil:
		err = withImage(ctx, c, cl, name.app, *s.Image, pull, update)
	case pull == "":
		err = update("")
	default: // the digest of the image that it has is looked up anew
		var old client.Function
		if old, err = cl.Function(ctx, name.app, name.function); err == nil {
			err = withImage(ctx, c, cl, name.app, old.Image, pull, update)
		}
	}
	if refresh && err == nil {
		fn, err = cl.RefreshFunction(ctx, name.app, name.function)
	}
	if err != nil {
		return fmt.Errorf("update %s: %w", name.function, err)
	}
	if c.json {
		return c.printJSON(fn)
	}
	if err := c.printName(name.short()); err != nil || !refresh {
		return err
	}
	return c.printName("the address is now " + callAddress(ctx, cl, fn))
}
