package main

import (
	"strings"

	"github.com/spf13/cobra"

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
