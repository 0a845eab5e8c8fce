package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
	"hob/internal/build"
	"hob/internal/build/funcfile"
	"hob/internal/config"
	"hob/internal/daemon"
)

func newRun(c *cli) *cobra.Command {
	var flags imageFlags
	var confine confineFlags
	var env, files []string
	var format string
	cmd := &cobra.Command{
		Use:   "run [DIRECTORY | IMAGE]",
		Short: "run a function of this machine once, without a server",
		Long: `Run a function once, here and now: standard input is the payload, the result goes
to standard output, and what the function wrote on its own to standard error. What
is run is the function of a directory with a func.yaml (default: this one), made as
"hob deploy" makes it, with the variables and the network of its app.yaml; or an image, as "hob image
build --base" takes it.

The function runs as a server runs it, in the same sandbox and with the same limits,
in a server of its own on a temporary directory (below TMPDIR, else /tmp), which is
gone afterwards; of that server's own settings, those of networks, isolations and devices
are taken from the environment (HOB_NETWORK and so on). It needs root. The exit code is that of "hob call".`,
		Example: `  echo Ada | hob run hello
  hob run -e LEVEL=3 <photo.jpg >small.jpg
  hob run --format http hob.local/hot
  hob run --network allow --allow 10.1.2.3:5432 report`,
		Args: between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			vars, err := readEnv(c, files, env)
			if err != nil {
				return err
			}
			var set client.Settings
			if err := confine.set(cmd.Flags().Changed, &set); err != nil {
				return err
			}
			p, err := toRun(append(args, ".")[0], format)
			if err != nil {
				return err
			}
			p.set = set
			return runRun(cmd.Context(), c, flags, p, vars)
		},
	}
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "set a variable, as `NAME=value`; NAME alone takes the value from here")
	cmd.Flags().StringArrayVar(&files, "env-file", nil, "read variables from a `file`, one NAME=value a line")
	cmd.Flags().StringVar(&format, "format", "", "how an image is spoken to, as `name` (default \"default\")")
	flags.add(cmd)
	confine.add(cmd)
	return cmd
}

func runRun(ctx context.Context, c *cli, flags imageFlags, p project, vars map[string]*string) error {
	c.notes(p.Notes)
	if err := p.setenv(vars, c.Environ()); err != nil {
		return err
	}
	l, err := c.startLocal(ctx, p)
	if err != nil {
		return err
	}
	err = l.runOnce(ctx, c, flags, p)
	return errors.Join(err, l.stop())
}

// toRun is the function of a directory, or one that is nothing but an image.
func toRun(what, format string) (project, error) {
	info, err := os.Stat(what)
	if err == nil && info.IsDir() {
		if p, err := readProject(what); faas.KindOf(err) != faas.NotFound {
			if format != "" && err == nil {
				return p, faas.Errorf(faas.Invalid, "--format is for an image: %s says the format itself", p.Path)
			}
			return p, err
		} else if _, layout := os.Stat(filepath.Join(what, "index.json")); layout != nil {
			return project{}, err
		}
	}
	return project{dir: ".", Function: funcfile.Function{Name: "function", Image: what, Format: format}}, nil
}

// setenv completes the variables of a function that runs here: vars win over those
// of its file, and these over those of its app's file; what it expects and still has
// no value is taken from environ.
func (p *project) setenv(vars map[string]*string, environ []string) error {
	app, err := findApp(p.dir, ".", filepath.Join(p.dir, ".."))
	if err != nil {
		return err
	}
	p.app = app
	all := map[string]string{}
	maps.Copy(all, app.Config)
	maps.Copy(all, p.Config)
	for k, v := range vars {
		all[k] = *v
	}
	for _, e := range p.Expects {
		for _, entry := range environ {
			if v, ok := strings.CutPrefix(entry, e.Name+"="); ok && all[e.Name] == "" {
				all[e.Name] = v
			}
		}
	}
	p.Config = all
	return p.checkExpects()
}

// local is a server in this process, on a directory that is gone with it.
type local struct {
	cl    *client.Client
	self  string // registry of the server that hob.local/ means, for bases and images
	end   context.CancelFunc
	ended chan error
	dir   string
}

// localConfig is what the environment says of sandboxes, and nothing of a server. What
// the command line of root asks for is what the operator allows.
func (c *cli) localConfig(p project) (config.Config, error) {
	var environ []string
	for _, name := range []string{"DRIVER", "ISOLATION", "RUNTIMES", "DEVICES", "NETWORK", "ALLOW", "NETWORKS", "NETWORK_RANGE"} {
		environ = append(environ, "HOB_"+name+"="+c.Getenv("HOB_"+name))
	}
	cfg, err := config.Load(nil, append(environ, "HOB_CONFIG="+os.DevNull))
	if err != nil {
		return cfg, err
	}
	if p.set.Devices != nil {
		cfg.Devices = append(cfg.Devices, *p.set.Devices...)
	}
	cfg.Insecure = p.set.Network != nil && *p.set.Network == string(faas.NetworkHost)
	return cfg, nil
}

// startLocal starts one for p.
func (c *cli) startLocal(ctx context.Context, p project) (*local, error) {
	cfg, err := c.localConfig(p)
	if err != nil {
		return nil, err
	}
	if !c.Root && cfg.Driver == "ns" {
		return nil, faas.Errorf(faas.Denied, "a function runs in a sandbox, which only root can make: run this as root, or deploy the function and call it")
	}
	dir, err := os.MkdirTemp("", "hob-run-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	cfg.Data, cfg.Listen, cfg.Blanks, cfg.Grace = dir, "127.0.0.1:0", -1, time.Second
	d, err := daemon.New(ctx, cfg, slog.New(slog.NewTextHandler(c.Stderr, &slog.HandlerOptions{Level: slog.LevelError})), daemon.WithVersion(version()))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	running, end := context.WithCancel(context.WithoutCancel(ctx)) // it ends behind the call, not with it
	l := &local{end: end, ended: make(chan error, 1), dir: dir}
	go func() { l.ended <- d.Run(running) }()
	if l.cl, err = client.New("unix://" + d.Socket()); err != nil {
		return nil, errors.Join(err, l.stop())
	}
	if server, err := c.client(); err == nil { // perhaps there is none: then nothing is in hob.local
		l.self, _ = registryOf(ctx, server)
	}
	return l, nil
}

// stop ends the server and waits for it.
func (l *local) stop() error {
	l.end()
	err := <-l.ended
	return errors.Join(err, os.RemoveAll(l.dir))
}

// create makes p a function of the local server, whose image it brings there.
func (l *local) create(ctx context.Context, c *cli, flags imageFlags, p project) (name, error) {
	n := name{faas.DefaultApp, p.ShortName()}
	ref := cmp.Or(flags.image, p.Image)
	img := imageOf{ref: "hob.local/function:latest", pull: "never"}
	var err error
	switch {
	case ref == "" && flags.registry != "":
		return n, faas.Errorf(faas.Invalid, "--registry is for deploy: an image that is run here goes nowhere")
	case ref == "":
		img, err = flags.make(ctx, c, l.cl, p, "", l.self)
	default:
		err = l.load(ctx, ref, img.ref)
	}
	if err != nil {
		return n, err
	}
	var s client.AppSettings
	if reachSettings(&s, p.app); s.Network != nil || s.Allow != nil {
		if _, err := l.cl.UpdateApp(ctx, n.app, s); err != nil {
			return n, err
		}
	}
	_, err = l.cl.CreateFunction(ctx, n.app, n.function, p.settings(img, client.Function{}), "")
	return n, err
}

// load brings the image at where to the local server.
func (l *local) load(ctx context.Context, where, ref string) error {
	img, err := build.OpenBase(ctx, where, build.Remote{Self: l.self})
	if err != nil {
		return faas.Errorf(faas.KindOf(err), "%s", strings.Replace(err.Error(), "base image", "image", 1))
	}
	archive, done := piped(func(w io.Writer) error { return build.WriteTar(w, ref, img) })
	defer done()
	_, err = l.cl.Load(ctx, archive, "")
	return err
}

func (l *local) runOnce(ctx context.Context, c *cli, flags imageFlags, p project) error {
	n, err := l.create(ctx, c, flags, p)
	if err != nil {
		return fmt.Errorf("run %s: %w", p.ShortName(), err)
	}
	req := client.CallRequest{App: n.app, Function: n.function}
	if p.ContentType != "" {
		req.Header = map[string][]string{"Content-Type": {p.ContentType}}
	}
	if !c.Terminal(c.Stdin) {
		req.Body = payload(c.Stdin)
	}
	answer, err := l.cl.Call(ctx, req)
	if err == nil {
		_, err = c.printAnswer(answer, false)
	}
	l.printLog(ctx, c, n)
	switch {
	case err != nil && ctx.Err() != nil:
		return faas.Errorf(whyEnded(ctx), "run %s: %w", n.function, context.Cause(ctx))
	case err != nil:
		return inRun(n, err)
	}
	return nil
}

// inRun says what failed in words that do not name a call: its record is gone.
func inRun(n name, err error) error {
	words := strings.TrimPrefix(err.Error(), "call "+n.function+": ")
	return faas.Errorf(faas.KindOf(err), "run %s: %s", n.function, words)
}

// printLog prints what the function wrote on its own.
func (l *local) printLog(ctx context.Context, c *cli, n name) {
	for line, err := range l.cl.Logs(context.WithoutCancel(ctx), client.LogSelection{App: n.app, Function: n.function, Tail: -1, NoEvents: true}) {
		if err != nil {
			return
		}
		text := line.Text
		if line.Stream == "hob" { // what opens a connection that was refused is a flag of this very command
			text = strings.Replace(text, "hob update "+n.function+" --allow", "hob run --allow", 1)
		}
		fmt.Fprintln(c.Stderr, printable(text))
	}
}
