package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

// completeWithin is how long a shell waits for names at most.
const completeWithin = 2 * time.Second

// shells are those that newCompletion writes a script for.
func shells() []string { return []string{"bash", "zsh", "fish", "powershell"} }

// newCompletion replaces cobra's own, which takes a shell that it does not know
// for a question about help.
func newCompletion() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash | zsh | fish | powershell",
		Short: "print a script that lets a shell complete command lines",
		Long: `Print a script that lets a shell complete commands and flags, and the names of
functions, apps, triggers, images, calls and contexts. It asks the server that the
commands speak to, for at most ` + completeWithin.String() + `, and offers nothing if that does not answer.

  bash        source <(hob completion bash)
              or for good: hob completion bash >/etc/bash_completion.d/hob
  zsh         hob completion zsh >"${fpath[1]}/_hob"
  fish        hob completion fish >~/.config/fish/completions/hob.fish
  powershell  hob completion powershell | Out-String | Invoke-Expression

What it prints is a script, with --json too.`,
		Example:   "  hob completion bash >/etc/bash_completion.d/hob\n  hob completion zsh",
		Args:      exactly(1),
		ValidArgs: shells(),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return printed(root.GenBashCompletionV2(out, true))
			case "zsh":
				return printed(root.GenZshCompletion(out))
			case "fish":
				return printed(root.GenFishCompletion(out, true))
			case "powershell":
				return printed(root.GenPowerShellCompletionWithDesc(out))
			}
			return faas.Errorf(faas.Invalid, "no shell %q: it is one of bash, zsh, fish and powershell", args[0])
		},
	}
}

// completer offers what may stand in a place of a command line.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete offers the names that the server knows for the first most arguments,
// each once; any number if most is negative. When the server does not answer
// there is nothing to offer, and nothing to say in the middle of a command line.
func complete(c *cli, most int, names func(context.Context, *client.Client) ([]string, error)) completer {
	return completeArgs(most, func(cmd *cobra.Command, _ []string) []string {
		cl, err := c.client()
		if err != nil {
			return nil
		}
		defer cl.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		found, err := names(ctx, cl)
		if err != nil {
			return nil
		}
		return found
	})
}

func completeArgs(most int, names func(*cobra.Command, []string) []string) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found := slices.DeleteFunc(names(cmd, args), func(found string) bool {
			found, _, _ = strings.Cut(found, "\t") // behind it is what it means
			return slices.Contains(args, found)
		})
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFunctions offers the names of functions, of the app that --app names if
// it does.
func completeFunctions(c *cli, most int) completer {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		app := flagValue(cmd, "app")
		return complete(c, most, func(ctx context.Context, cl *client.Client) ([]string, error) {
			functions, err := cl.Functions(ctx, app)
			var names []string
			for _, f := range functions {
				n := name{f.App, f.Name}.short()
				if app != "" {
					n = f.Name
				}
				names = append(names, n)
			}
			return names, err
		})(cmd, args, begun)
	}
}

func flagValue(cmd *cobra.Command, flag string) string {
	if f := cmd.Flags().Lookup(flag); f != nil {
		return f.Value.String()
	}
	return ""
}

// completeApps offers the names of apps.
func completeApps(c *cli, most int) completer {
	return complete(c, most, func(ctx context.Context, cl *client.Client) ([]string, error) {
		apps, err := cl.Apps(ctx)
		var names []string
		for _, a := range apps {
			names = append(names, a.Name)
		}
		return names, err
	})
}

// completeTriggers offers the name of a function, and then those of its triggers.
func completeTriggers(c *cli, most int) completer {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return completeFunctions(c, 1)(cmd, args, begun)
		}
		return complete(c, most, func(ctx context.Context, cl *client.Client) ([]string, error) {
			of, err := parseName(args[0], flagValue(cmd, "app"))
			if err != nil {
				return nil, err
			}
			triggers, err := cl.Triggers(ctx, of.app, of.function)
			var names []string
			for _, t := range triggers {
				names = append(names, t.Name+"\t"+t.Source)
			}
			return names, err
		})(cmd, args, begun)
	}
}

// completeImages offers the references of images.
func completeImages(c *cli, most int) completer {
	return complete(c, most, func(ctx context.Context, cl *client.Client) ([]string, error) {
		images, err := cl.Images(ctx)
		var refs []string
		for _, m := range images {
			refs = append(refs, m.Refs...)
		}
		return refs, err
	})
}

// completeCalls offers the ids of the latest calls in one of these states, or of all.
func completeCalls(c *cli, most int, states ...faas.CallState) completer {
	return complete(c, most, func(ctx context.Context, cl *client.Client) ([]string, error) {
		calls, _, err := cl.Calls(ctx, client.CallFilter{Limit: 100})
		var ids []string
		for _, call := range calls {
			if len(states) == 0 || slices.Contains(states, call.State) {
				ids = append(ids, call.ID+"\t"+call.App+"/"+call.Function+", "+string(call.State))
			}
		}
		return ids, err
	})
}

// completeContexts offers the names of contexts.
func completeContexts(c *cli, most int) completer {
	return completeArgs(most, func(*cobra.Command, []string) []string {
		x, err := c.readContexts()
		if err != nil {
			return nil
		}
		return slices.Sorted(maps.Keys(x.Contexts))
	})
}

// completeFlags offers values for the flags of all commands below cmd that have
// names or words for values.
func completeFlags(c *cli, cmd *cobra.Command) {
	words := func(words ...string) completer {
		return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	}
	formats := []string{}
	for _, f := range faas.Formats() {
		formats = append(formats, string(f))
	}
	offers := map[string]completer{
		"app": completeApps(c, -1), "image": completeImages(c, -1), "call": completeCalls(c, -1), "callid": completeCalls(c, -1),
		"freeze": words("auto", faas.FreezeNever), "on-node-loss": words("rerun", faas.NodeLossFail),
		"profile": words(string(faas.ProfileFn)), "pull": words("missing", "always", "never"), "shape": words(faas.Shapes()...),
		"size": words(sizeNames()...), "state": words("queued", "running", "succeeded", "failed", "timed_out", "canceled"),
	}
	for _, sub := range cmd.Commands() {
		if sub.Flags().Lookup("freeze") != nil { // elsewhere --format is a template
			registerFlag(sub, "format", words(formats...))
			registerFlag(sub, "pull", words("missing", "always", "never", pullLater))
		}
		for flag, offer := range offers {
			registerFlag(sub, flag, offer)
		}
		completeFlags(c, sub)
	}
}

func registerFlag(cmd *cobra.Command, flag string, offer completer) {
	if cmd.Flags().Lookup(flag) == nil {
		return
	}
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return offer(cmd, nil, begun)
	}) // it fails only for one that is not there, or has one
}
