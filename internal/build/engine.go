package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"hob/faas"
)

// An Engine is a program on this machine that builds images of Dockerfiles.
type Engine struct {
	Name string // one of Engines
	path string
	out  io.Writer // what it says
}

// Engines are the programs that can be one, the first one first.
func Engines() []string { return []string{"docker", "podman", "buildah"} }

// FindEngine returns the engine of this name, or with no name the first that is
// installed and answers. What the engine says goes to out. Unsupported says why
// there is none.
func FindEngine(ctx context.Context, name string, out io.Writer) (Engine, error) {
	names := Engines()
	if name != "" {
		names = []string{name}
	}
	var why []string
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			why = append(why, name+" is not installed")
			continue
		}
		if said, err := exec.CommandContext(ctx, path, "version").CombinedOutput(); err != nil {
			lines := strings.Split(strings.TrimSpace(string(said)), "\n")
			why = append(why, name+" does not answer: "+lines[len(lines)-1])
			continue
		}
		return Engine{Name: name, path: path, out: out}, nil
	}
	return Engine{}, faas.Errorf(faas.Unsupported, "a Dockerfile needs docker, podman or buildah: %s", strings.Join(why, "; "))
}

// Dockerfile says what Build builds.
type Dockerfile struct {
	Dir     string // the context
	File    string
	Tag     string   // name of the image
	Args    []string // "NAME=value"
	NoCache bool
}

// Build builds an image, whose name the engine knows from then on.
func (e Engine) Build(ctx context.Context, d Dockerfile) error {
	args := []string{"build", "-t", d.Tag, "-f", d.File}
	for _, a := range d.Args {
		args = append(args, "--build-arg", a)
	}
	if d.NoCache {
		args = append(args, "--no-cache")
	}
	return e.run(ctx, append(args, d.Dir)...)
}

// Push pushes an image to the registry in its name; over plain HTTP where that may
// be. docker does so for loopback and for what its own configuration names.
func (e Engine) Push(ctx context.Context, tag string, plain bool) error {
	args := []string{"push"}
	if plain && e.Name != "docker" {
		args = append(args, "--tls-verify=false")
	}
	return e.run(ctx, append(args, tag)...)
}

func (e Engine) run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, e.path, args...)
	cmd.Stdout, cmd.Stderr = e.out, e.out
	cmd.WaitDelay = leaveWithin
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return faas.Errorf(faas.Canceled, "%s %s: %w", e.Name, args[0], context.Cause(ctx))
	}
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return faas.Errorf(faas.Invalid, "%s %s failed (%w): it says why above", e.Name, args[0], err)
	}
	return fmt.Errorf("%s %s: %w", e.Name, args[0], err)
}
