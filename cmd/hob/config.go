package main

import (
	"github.com/spf13/cobra"

	"hob/faas"
	"hob/internal/config"
)

func newConfig(c *cli) *cobra.Command {
	var format bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "print every setting of a server, and where it comes from",
		Long: `Print every setting that "hob serve" would start with here, and where its value
comes from: the default, the configuration file, the environment, or a flag,
the later winning. With --file it is printed as a configuration file.

It is the configuration of a server that starts on this machine, not that of one
that runs already.`,
		Example: "  hob config\n  HOB_MEMORY=4g hob config --listen 127.0.0.1:9000\n  hob config --file >/etc/hob/hob.conf",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runConfig(c, cmd, format) },
	}
	config.Flags(cmd.Flags())
	cmd.Flags().BoolVar(&format, "file", false, "print a configuration file")
	return cmd
}

// runConfig prints a configuration that could not be used too, and then says
// what is wrong with it.
func runConfig(c *cli, cmd *cobra.Command, file bool) error {
	cfg, err := config.Load(cmd.Flags(), c.Environ())
	if err != nil {
		return err
	}
	switch {
	case file && c.json:
		return faas.Errorf(faas.Invalid, "--file and --json exclude each other")
	case file:
		if _, err := cfg.WriteTo(c.Stdout); err != nil {
			return printed(err)
		}
	case c.json:
		type entry struct {
			Name   string `json:"name"`
			Value  string `json:"value"`
			Origin string `json:"origin"`
			Env    string `json:"env"`
			Help   string `json:"help"`
		}
		all := []entry{}
		for _, e := range cfg.Entries() {
			all = append(all, entry{e.Name, e.Value, e.Origin, e.Env, e.Help})
		}
		if err := c.printJSON(all); err != nil {
			return err
		}
	default:
		t := c.table("SETTING", "VALUE", "ORIGIN")
		for _, e := range cfg.Entries() {
			t.row(e.Name, orDash(e.Value), e.Origin)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return cfg.Check()
}
