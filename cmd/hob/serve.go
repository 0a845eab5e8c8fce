package main

import (
	"context"
	"runtime/debug"

	"github.com/spf13/cobra"

	"hob/internal/config"
	"hob/internal/daemon"
)

func newServe(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "run a server on this machine",
		Long: `Run a server: the HTTP API, the registry, the images, the sandboxes and their logs,
in one process. It needs root. Each setting is a flag, a variable of the
environment (HOB_DATA for --data) and a line of the configuration file; a flag
wins over the environment, and that over the file. "hob config" shows what comes
of it, and "hob doctor" what this machine lacks.

The variables of Fn's server (FN_PORT, FN_DB_URL, FN_MAX_REQUEST_SIZE, ...) and of
IronFunctions' (PORT, DB_URL, JWT_AUTH_KEY, ...) are other names of these settings;
hob's own win over them. Any variable may be given as NAME_FILE, the name of a file
with the value. What has no effect here is logged.

With a key in JWT_AUTH_KEY, or --jwt-auth-key, all that manages the server over TCP
needs a token: "hob token" makes them.

With --tls-listen it serves HTTPS beside HTTP: with the certificate of --tls-cert, or
with one that it makes at the first start, whose fingerprint and file it logs.

The first SIGTERM or SIGINT drains: no new calls are taken and those in flight get
the time of --grace. The second ends the process at once.`,
		Example: "  hob serve\n  hob serve --data /srv/hob --listen 127.0.0.1:9000 --memory 4g\n  hob serve --tls-listen 127.0.0.1:2376",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runServe(cmd.Context(), c, cmd) },
	}
	config.Flags(cmd.Flags())
	return cmd
}

func runServe(ctx context.Context, c *cli, cmd *cobra.Command) error {
	cfg, err := config.Load(cmd.Flags(), c.Environ())
	if err != nil {
		return err
	}
	if err := cfg.Check(); err != nil { // the log needs it
		return err
	}
	log, dest, err := newLog(c.Stderr, cfg)
	if err != nil {
		return err
	}
	defer dest.Close()
	if c.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	d, err := daemon.New(ctx, cfg, log, daemon.WithVersion(version()))
	if err != nil {
		return err
	}
	return d.Run(ctx)
}

// collectAt is by how many percent the daemon's memory grows before what is not
// used is collected. Its memory is a few megabytes, and calls make garbage quickly:
// with Go's own 100 a tenth of the processor goes into collecting.
const collectAt = 400
