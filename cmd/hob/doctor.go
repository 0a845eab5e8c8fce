package main

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hob/internal/config"
	"hob/internal/doctor"
)

func newDoctor(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "check what this machine lacks to run a server",
		Long: `Check this machine: what "hob serve" needs is there, or is missing, and how to get
it. It changes nothing. The exit code is 10 if a server could not start here.`,
		Example: "  sudo hob doctor\n  hob doctor --data /srv/hob --json",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDoctor(c, cmd) },
	}
	config.Flags(cmd.Flags())
	cmd.Flags().VisitAll(func(f *pflag.Flag) { // the others are taken, so that a server's own flags can be given, and mean nothing here
		f.Hidden = !slices.Contains([]string{"config", "data", "driver"}, f.Name)
	})
	return cmd
}

func runDoctor(c *cli, cmd *cobra.Command) error {
	cfg, err := config.Load(cmd.Flags(), c.Environ())
	if err != nil {
		return err
	}
	checks := doctor.Look(doctor.Machine{Data: cfg.Data, Driver: cfg.Driver})
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
