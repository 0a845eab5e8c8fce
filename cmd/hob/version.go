package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
)

func newVersion(c *cli) *cobra.Command {
	var own bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "print the versions of this program and of the server",
		Example: "  hob version\n  hob version --client --json",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runVersion(cmd.Context(), c, own) },
	}
	cmd.Flags().BoolVar(&own, "client", false, "ask no server")
	return cmd
}

// linked is the version that the Makefile gives to the linker.
var linked string

// version is what the Makefile said, else that of the module this program was
// built from.
func version() string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

func runVersion(ctx context.Context, c *cli, own bool) error {
	var out struct {
		Client struct {
			Version  string `json:"version"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
		} `json:"client"`
		Server  *client.Node `json:"server,omitempty"`
		Address string       `json:"address,omitempty"`
	}
	out.Client.Version, out.Client.Go, out.Client.Platform = version(), runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH
	var problem error
	if !own {
		cl, err := c.client()
		if err != nil {
			return err
		}
		out.Address = cl.Address()
		if node, err := cl.Node(ctx); err != nil {
			problem = err // the version of this program is known all the same
		} else {
			out.Server = &node
		}
	}
	if c.json {
		if err := c.printJSON(out); err != nil {
			return err
		}
		return problem
	}
	t := c.table()
	t.row("client", out.Client.Version, out.Client.Go, out.Client.Platform)
	if n := out.Server; n != nil {
		t.row("server", n.Version, n.Go, n.Platform, out.Address)
		cgroup := "no cgroups"
		if n.CgroupVersion > 0 {
			cgroup = fmt.Sprintf("cgroup v%d", n.CgroupVersion)
		}
		t.row("driver", n.Driver, cgroup)
		var have []string
		for _, i := range n.Isolations {
			if i.Available {
				have = append(have, i.Name)
			}
		}
		t.row("isolation", orDash(strings.Join(have, ", ")))
		t.row("network", orDash(n.Network), fmt.Sprintf("%d packets refused", n.Refused))
	}
	if err := t.flush(); err != nil {
		return err
	}
	return problem
}
