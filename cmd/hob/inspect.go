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

func newInspect(c *cli) *cobra.Command {
	var app, format string
	cmd := &cobra.Command{
		Use:   "inspect NAME...",
		Short: "show everything about functions",
		Long: `Show everything about functions: as a table, as JSON with --json (one object for
one function, else a list), or as the Go template of --format says. The fields of
a template are named as in --json, in camel case: {{.Image}}, {{.MaxConcurrency}},
{{range .Command}}…{{end}}, {{json .Env}}.`,
		Example: `  hob inspect hello
  hob inspect hello --format '{{.Digest}}'
  hob inspect photos/resize --json`,
		Args:              between(1, -1),
		ValidArgsFunction: completeFunctions(c, -1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runInspect(cmd.Context(), c, app, format, args) },
	}
	appFlag(cmd, &app)
	formatFlag(cmd, &format)
	return cmd
}

func formatFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVarP(format, "format", "f", "", "print what this Go `template` says")
}

func runInspect(ctx context.Context, c *cli, app, format string, args []string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	return inspectEach(c, format, args, func(arg string) (client.Function, error) {
		name, err := parseName(arg, app)
		if err != nil {
			return client.Function{}, err
		}
		return cl.Function(ctx, name.app, name.function)
	}, func(t table, f client.Function) { functionRows(t, f, callAddress(ctx, cl, f), defaultsOf(ctx, cl, f)) })
}

// inspectEach shows each of args: by rows, as JSON, or by a template.
func inspectEach[T any](c *cli, format string, args []string, get func(string) (T, error), rows func(table, T)) error {
	if format != "" && c.json {
		return faas.Errorf(faas.Invalid, "--format and --json exclude each other")
	}
	var all []T
	for _, arg := range args {
		v, err := get(arg)
		if err != nil {
			return err
		}
		all = append(all, v)
	}
	if c.json && len(all) == 1 {
		return c.printJSON(all[0])
	}
	if c.json {
		return c.printJSON(all)
	}
	for i, v := range all {
		if format != "" {
			if err := c.printTemplate(format, v); err != nil {
				return err
			}
			continue
		}
		t := c.table()
		if i > 0 {
			t.row("")
		}
		rows(t, v)
		if err := t.flush(); err != nil {
			return err
		}
	}
	return nil
}

func functionRows(t table, f client.Function, address string, defaults defaults) {
	t.row("name", f.Name)
	t.row("app", f.App)
	t.row("id", f.ID)
	t.row("address", orDash(address))
	t.row("image", f.Image)
	t.row("digest", or(f.Digest, "of its first call"))
	t.row("format", f.Format)
	t.row("entrypoint", commandLine(f.Entrypoint))
	t.row("command", commandLine(f.Command))
	for _, k := range slices.Sorted(maps.Keys(f.Env)) {
		t.row("env", k+"="+f.Env[k])
	}
	t.row("workdir", or(f.Workdir, "of the image"))
	t.row("user", or(f.User, "of the image"))
	t.row("writable", yesNo(f.Writable))
	reachRows(t, f, defaults)
	t.row("memory", f.Memory.String())
	if f.CPUs == 0 {
		t.row("cpus", "no limit")
	} else {
		t.row("cpus", f.CPUs.String())
	}
	t.row("tmp size", f.TmpSize.String())
	t.row("timeout", f.Timeout.String())
	t.row("wait", f.Wait.String())
	t.row("start timeout", f.StartTimeout.String())
	if f.MaxConcurrency == 0 {
		t.row("max concurrency", "as memory allows")
	} else {
		t.row("max concurrency", count(f.MaxConcurrency))
	}
	t.row("line", count(f.Line))
	if faas.Format(f.Format).Hot() {
		t.row("idle timeout", f.IdleTimeout.String())
		t.row("min", count(f.Min))
		if f.MaxCalls == 0 {
			t.row("max calls", "no limit")
		} else {
			t.row("max calls", count(f.MaxCalls))
		}
		t.row("freeze", or(f.Freeze, "auto"))
	}
	if faas.Format(f.Format) == faas.FormatPort {
		t.row("port", count(f.Port))
		t.row("concurrency", count(f.Concurrency))
	}
	asyncRows(t, f)
	t.row("profile", or(f.Profile, "hob"))
	t.row("shape", or(f.Shape, "any"))
	annotationRows(t, f.Annotations)
	t.row("revision", count(int(f.Revision)))
	t.row("created", stamp(f.Created))
	t.row("updated", stamp(f.Updated))
}

// asyncRows are the settings of asynchronous calls.
func asyncRows(t table, f client.Function) {
	t.row("async timeout", or(f.AsyncTimeout, "as timeout"))
	t.row("delay", f.Delay.String())
	t.row("retries", count(f.Retries))
	t.row("retry delay", f.RetryDelay.String())
	t.row("retry max", f.RetryMax.String())
	t.row("on success", orDash(f.OnSuccess))
	t.row("on failure", orDash(f.OnFailure))
	t.row("on node loss", or(f.OnNodeLoss, "rerun"))
	t.row("log payload", yesNo(f.LogPayload))
}

func annotationRows(t table, annotations client.Annotations) {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		t.row("annotation", key+"="+string(annotations[key]))
	}
}

func commandLine(words []string) string {
	if words == nil {
		return "of the image"
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$*?;&|<>()#") {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return or(strings.Join(quoted, " "), "none")
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.RFC3339)
}
