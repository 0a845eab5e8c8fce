package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

// name is a function as the command line names it.
type name struct{ app, function string }

func (n name) String() string { return n.app + "/" + n.function }

// short is n without the app that need not be named.
func (n name) short() string {
	if n.app == faas.DefaultApp {
		return n.function
	}
	return n.String()
}

// parseName reads NAME or APP/NAME; app is what --app says, empty for nothing.
func parseName(s, app string) (name, error) {
	before, function, both := strings.Cut(s, "/")
	switch {
	case !both:
		before, function = "", s
	case app != "" && app != before:
		return name{}, faas.Errorf(faas.Invalid, "%s names the app %q, and --app the app %q", s, before, app)
	}
	n := name{app: faas.DefaultApp, function: function}
	if app != "" {
		n.app = app
	}
	if both {
		n.app = before
	}
	if err := faas.CheckName("app", n.app); err != nil {
		return name{}, err
	}
	return n, faas.CheckName("function", n.function)
}

// appFlag adds --app.
func appFlag(cmd *cobra.Command, app *string) {
	cmd.Flags().StringVar(app, "app", "", "`app` of the function (default \"default\"); APP/NAME says the same")
}

// completeFunctions offers the names of functions to a shell.
func completeFunctions(c *cli) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return complete(c, func(cl *client.Client) ([]string, error) {
			functions, err := cl.Functions(cmd.Context(), "")
			var names []string
			for _, f := range functions {
				if f.App == faas.DefaultApp {
					names = append(names, f.Name)
				} else {
					names = append(names, f.App+"/"+f.Name)
				}
			}
			return names, err
		})
	}
}

// completeApps offers the names of apps to a shell.
func completeApps(c *cli) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return complete(c, func(cl *client.Client) ([]string, error) {
			apps, err := cl.Apps(cmd.Context())
			var names []string
			for _, a := range apps {
				names = append(names, a.Name)
			}
			return names, err
		})
	}
}

// completeImages offers the references of images to a shell.
func completeImages(c *cli) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return complete(c, func(cl *client.Client) ([]string, error) {
			images, err := cl.Images(cmd.Context())
			var refs []string
			for _, m := range images {
				refs = append(refs, m.Refs...)
			}
			return refs, err
		})
	}
}

// completeCalls offers the ids of the latest calls in one of these states, or of
// all, to a shell.
func completeCalls(c *cli, states ...faas.CallState) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return complete(c, func(cl *client.Client) ([]string, error) {
			calls, _, err := cl.Calls(cmd.Context(), client.CallFilter{Limit: 100})
			var ids []string
			for _, call := range calls {
				if len(states) == 0 || slices.Contains(states, call.State) {
					ids = append(ids, call.ID+"\t"+call.App+"/"+call.Function+", "+string(call.State))
				}
			}
			return ids, err
		})
	}
}

func complete(c *cli, names func(*client.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	cl, err := c.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	found, err := names(cl)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}
