package main

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hob/faas"
	"hob/internal/config"
	"hob/internal/doctor"
)

func newDoctor(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "check what this machine lacks to run a server",
		Long: `Check this machine: what "hob serve" needs is there, or is missing, and how to get
it; whether functions can reach the internet; and which isolations they can have
(yes, or no with the reason). Programs of isolations are asked for their version and,
by root, for a sandbox that ends at once; the name servers of /etc/resolv.conf whether
they answer. Everything is left as it was.

The exit code is 10 if a server with these settings could not start here. What is
weak, and an isolation that the settings do not ask for, is no reason for that.`,
		Example: "  sudo hob doctor\n  sudo hob doctor --isolation gvisor --runtimes gvisor=/opt/bin/runsc\n  hob doctor --data /srv/hob --json",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDoctor(c, cmd) },
	}
	config.Flags(cmd.Flags())
	cmd.Flags().VisitAll(func(f *pflag.Flag) { // the others are taken, so that a server's own flags can be given, and mean nothing here
		f.Hidden = !slices.Contains([]string{"config", "data", "driver", "isolation", "runtimes", "network", "network-bandwidth"}, f.Name)
	})
	return cmd
}

func runDoctor(c *cli, cmd *cobra.Command) error {
	cfg, err := config.Load(cmd.Flags(), c.Environ())
	if err != nil {
		return err
	}
	programs, err := cfg.Programs()
	if err != nil {
		return err
	}
	needed := map[faas.Isolation]string{faas.Isolation(cfg.Isolation): "isolation"}
	if cfg.HyperIsolation != "" && cfg.HyperIsolation != cfg.Isolation {
		needed[faas.Isolation(cfg.HyperIsolation)] = "hyper-isolation"
	}
	checks := doctor.Look(doctor.Machine{
		Data: cfg.Data, Driver: cfg.Driver,
		Offer: &doctor.Offer{Network: cfg.Network, Bandwidth: cfg.Bandwidth, Programs: programs, Needed: needed},
	})
	if c.json {
		type check struct {
			Name  string `json:"name"`
			OK    bool   `json:"ok"`
			Fatal bool   `json:"fatal"`
			Found string `json:"found"`
			Need  string `json:"need"`
			Fix   string `json:"fix,omitempty"`
		}
		all := []check{}
		for _, k := range checks {
			all = append(all, check{k.Name, k.OK, k.Fatal, k.Found, k.Need, k.Fix})
		}
		err = c.printJSON(all)
	} else {
		err = printed(doctor.Print(c.Stdout, checks))
	}
	if err != nil {
		return err
	}
	return doctor.Refusal(checks)
}
