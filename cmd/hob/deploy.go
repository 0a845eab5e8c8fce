package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
	"hob/internal/build"
	"hob/internal/build/funcfile"
)

// deployFlags say what is deployed, how its image comes about, and where it goes.
type deployFlags struct {
	app       string
	createApp bool
	all       bool
	dir       string // --working-dir
	noBump    bool
	bump      string
	image     imageFlags
	confine   confineFlags
	set       client.Settings // what the command line says of the function
	watch     bool
	debounce  time.Duration
	ignore    []string
}

// maxProjects is the most functions that --all deploys.
const maxProjects = 1000

func newDeploy(c *cli) *cobra.Command {
	var flags deployFlags
	cmd := &cobra.Command{
		Use:   "deploy [DIRECTORY]",
		Short: "bring a function with a func.yaml to the server",
		Long: `Bring the function of a directory to the server: count up the version in its
func.yaml, make the image, and create or update app, function and triggers as the
files say. Files of Fn in version 1 and 20180708 are read, as func.yaml, func.yml
or func.json. Deploying again changes what differs; what the files do not name
stays as it is.

The image is the one that --image or "image" in func.yaml names; else, with a
Dockerfile, what docker, podman or buildah builds of it; else hob makes one itself:
of a go function the program, of all others the directory, on --base, or the
"run_image" of func.yaml. What is built goes to the server's own registry, unless
--registry names another.

The app is that of --app, else the one that an app.yaml names which lies beside the
function, in the working directory or above the function; else "default". An app.yaml
also gives the app variables, annotations and a network, and makes it if it is missing. --all
deploys every function below the directory.

The new version is written to func.yaml once the function is deployed; a failure
leaves the file as it was and says what was done before it. With --watch each change
of a file deploys again, without a new version, until Ctrl-C.`,
		Example: `  hob deploy
  hob deploy --app photos --create-app resize
  hob deploy --all --bump minor
  hob deploy --image hob.local/hello:7 --no-bump
  hob deploy --app trial --allow 10.1.2.3:5432 --disallow db.example.com:5432
  hob deploy --app photos --base hob.local/python --watch`,
		Args: between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.confine.set(cmd.Flags().Changed, &flags.set); err != nil {
				return err
			}
			dir := below(flags.dir, args)
			if flags.watch {
				return runWatch(cmd.Context(), c, flags, dir)
			}
			return runDeploy(cmd.Context(), c, flags, dir)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.app, "app", "", "`app` of the function (default: that of app.yaml, else \"default\")")
	f.BoolVar(&flags.createApp, "create-app", false, "make the app if it is missing")
	f.BoolVar(&flags.all, "all", false, "deploy every function below the directory")
	f.StringVarP(&flags.dir, "working-dir", "w", ".", "`directory` in place of the one that hob is run in")
	f.BoolVar(&flags.noBump, "no-bump", false, "leave the version as it is")
	f.StringVar(&flags.bump, "bump", "patch", "`part` of the version that is counted up: major, minor or patch")
	flags.image.add(cmd)
	flags.confine.add(cmd)
	f.StringArrayVar(&flags.confine.disallow, "disallow", nil, "leave out this `rule` of func.yaml, or if that has no \"allow\", of the function")
	registerFlag(cmd, "disallow", cobra.NoFileCompletions)
	f.BoolVar(&flags.watch, "watch", false, "deploy again with each change of a file, without a new version, until Ctrl-C")
	f.DurationVar(&flags.debounce, "debounce", 500*time.Millisecond, "watch: how long no file changes before it is deployed")
	f.StringArrayVar(&flags.ignore, "ignore", nil, "watch: `pattern` of files that are left alone, beside those in .fnignore")
	cmd.ValidArgsFunction = completeDirectory
	registerFlag(cmd, "working-dir", completeDirectory)
	registerFlag(cmd, "bump", cobra.FixedCompletions([]string{"major", "minor", "patch"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// completeDirectory offers directories for the first argument.
func completeDirectory(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// below is the directory that the command line names, if it does, from dir on.
func below(dir string, args []string) string {
	if len(args) == 0 {
		return dir
	}
	if filepath.IsAbs(args[0]) {
		return args[0]
	}
	return filepath.Join(dir, args[0])
}

// project is a function in a directory.
type project struct {
	dir string
	funcfile.Function
	set      client.Settings // what the command line says of its network, isolation and devices
	disallow []string        // rules that it takes away
	app      funcfile.App    // of one that is run here; without a name if there is none
}

// deployed is what --json prints of one function.
type deployed struct {
	App      string           `json:"app"`
	Version  string           `json:"version"`
	Image    string           `json:"image"`
	Function client.Function  `json:"function"`
	Triggers []client.Trigger `json:"triggers"`
}

func runDeploy(ctx context.Context, c *cli, flags deployFlags, dir string) error {
	if !slices.Contains([]string{"major", "minor", "patch"}, flags.bump) {
		return faas.Errorf(faas.Invalid, "bad --bump %q: it is major, minor or patch", flags.bump)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	projects, app, err := flags.find(dir)
	if err != nil {
		return err
	}
	for _, p := range projects {
		c.notes(p.Notes)
	}
	d := &deployer{c: c, cl: cl, flags: flags, file: app}
	if d.app, err = d.putApp(ctx); err != nil {
		return err
	}
	all := []deployed{}
	for _, p := range projects {
		result, err := d.deploy(ctx, p)
		if err != nil {
			return d.failed(p, all, err)
		}
		all = append(all, result)
		if !c.json {
			if err := c.printDeployed(cl, result); err != nil {
				return err
			}
		}
	}
	var result any = all
	if !flags.all {
		result = all[0]
	}
	switch {
	case !c.json:
		return nil
	case flags.watch: // one of many
		return c.printLine(result)
	}
	return c.printJSON(result)
}

// find reads the files of what is to be deployed.
func (flags deployFlags) find(dir string) ([]project, funcfile.App, error) {
	app, err := findApp(dir, flags.dir, filepath.Join(dir, ".."))
	if err != nil {
		return nil, app, err
	}
	dirs := []string{dir}
	if flags.all {
		if app.Name == "" && flags.app == "" {
			return nil, app, faas.Errorf(faas.Invalid, "App name must be provided, try `--app APP_NAME`, or an app.yaml in %s", dir)
		}
		if dirs, err = projectsBelow(dir); err != nil {
			return nil, app, err
		}
	}
	var projects []project
	for _, dir := range dirs {
		p, err := readProject(dir)
		if err != nil {
			return nil, app, err
		}
		p.set, p.disallow = flags.set, flags.confine.disallow
		projects = append(projects, p)
	}
	return projects, app, nil
}

func readProject(dir string) (project, error) {
	file, err := funcfile.Find(dir)
	if err != nil {
		return project{}, fmt.Errorf(`%w: "hob init" makes one`, err)
	}
	f, err := funcfile.Read(file)
	if err == nil {
		err = faas.CheckName("function", f.ShortName())
	}
	return project{dir: dir, Function: f}, err
}

// findApp reads the first app.yaml in these directories; none is no error.
func findApp(dirs ...string) (funcfile.App, error) {
	for _, dir := range dirs {
		file, err := funcfile.FindApp(dir)
		if err == nil {
			return funcfile.ReadApp(file)
		}
	}
	return funcfile.App{}, nil
}

// projectsBelow lists the directories with a func.yaml, by name.
func projectsBelow(top string) (dirs []string, err error) {
	err = filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != top && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || !slices.Contains(funcfile.Names(), d.Name()):
			return nil
		}
		if dir := filepath.Dir(name); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
		if len(dirs) > maxProjects {
			return faas.Errorf(faas.TooLarge, "below %s are more than the limit of %d functions", top, maxProjects)
		}
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, faas.Errorf(faas.NotFound, "there is no directory %s", top)
	case err == nil && len(dirs) == 0:
		return nil, faas.Errorf(faas.NotFound, "there is no func.yaml below %s", top)
	}
	slices.Sort(dirs)
	return dirs, err
}

// notes says what a file names and hob does not heed.
func (c *cli) notes(notes []string) {
	for _, n := range notes {
		fmt.Fprintf(c.Stderr, "hob: note: %s\n", printable(n))
	}
}

func (c *cli) printDeployed(cl *client.Client, d deployed) error {
	n := name{d.App, d.Function.Name}
	version := ""
	if d.Version != "" {
		version = " " + d.Version
	}
	if err := c.printName(n.short() + version + " is deployed with " + d.Image); err != nil {
		return err
	}
	for _, t := range d.Triggers {
		url := t.URL
		if base := cl.Address(); strings.HasPrefix(url, "/") && !strings.HasPrefix(base, "unix:") {
			url = strings.TrimRight(base, "/") + url
		}
		if err := c.printName("  " + t.Name + " at " + url); err != nil {
			return err
		}
	}
	return nil
}

// failed says what was done before a deploy failed.
func (d *deployer) failed(p project, all []deployed, err error) error {
	var done []string
	for _, r := range all {
		done = append(done, "deployed "+r.Function.Name)
	}
	done = append(done, d.done...)
	if len(done) > 0 {
		err = fmt.Errorf("%w (done before: %s)", err, strings.Join(done, ", "))
	}
	return fmt.Errorf("deploy %s: %w", p.ShortName(), err)
}

// nextVersion is the version that p is deployed with.
func (flags deployFlags) nextVersion(p project) (string, error) {
	if flags.noBump {
		return p.Version, nil
	}
	version, err := funcfile.Next(p.Version, funcfile.Part(flags.bump))
	if err != nil {
		return "", fmt.Errorf("%w; --no-bump leaves it alone", err)
	}
	return version, nil
}

// hasDockerfile reports whether dir has a Dockerfile.
func hasDockerfile(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, "Dockerfile"))
	return err == nil && info.Mode().IsRegular()
}

// imageFlags say how the image of a function in a directory comes about.
type imageFlags struct {
	image     string
	base      string
	buildArgs []string
	noCache   bool
	engine    string
	registry  string
	pull      string
}

func (f *imageFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.image, "image", "", "`image` that is there already, in place of building one")
	cmd.Flags().StringVar(&f.base, "base", "", "what a built image lies on: a `file`, a directory or an image (default: run_image of func.yaml; nothing for go)")
	cmd.Flags().StringArrayVar(&f.buildArgs, "build-arg", nil, "Dockerfile: set a build `argument`, as NAME=value")
	cmd.Flags().BoolVar(&f.noCache, "no-cache", false, "Dockerfile: build without a cache")
	cmd.Flags().StringVar(&f.engine, "engine", "", "Dockerfile: `program` that builds: "+strings.Join(build.Engines(), ", ")+" (default: the first of them that answers)")
	cmd.Flags().StringVar(&f.registry, "registry", "", "`registry` that a built image goes to, as HOST[:PORT][/PATH] (default: the server's own)")
	cmd.Flags().StringVar(&f.pull, "pull", "", "whether to pull --image: `when`: missing, always or never (default missing)")
	registerFlag(cmd, "engine", cobra.FixedCompletions(build.Engines(), cobra.ShellCompDirectiveNoFileComp))
}
