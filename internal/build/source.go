package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
)

// SourceDir is where a function lies in its image.
const SourceDir = "/function"

// leaveWithin is how long what a killed program has started may hold on to its output.
const leaveWithin = 5 * time.Second

// Source is a directory in which somebody writes a function.
type Source struct {
	Dir        string
	Runtime    string   // of func.yaml: go, and what begins so, is compiled; all else is taken as it is
	Commands   []string // for a shell, before all else
	Entrypoint []string // nil: the program that was compiled, or the base's
	Cmd        []string
	Base       string // what it lies on, as Options.From; "": nothing
	Arch       string // that it is compiled for; "": this machine's
	Remote     Remote
	Out        io.Writer // what compilers say
}

// FromSource makes an image of a function: of a go function the program alone, of
// all others the directory without what its .dockerignore names, at SourceDir.
func FromSource(ctx context.Context, s Source) (v1.Image, error) {
	for _, line := range s.Commands {
		if err := s.run(ctx, nil, "sh", "-c", line); err != nil {
			return nil, err
		}
	}
	opt := Options{
		From: s.Base, Remote: s.Remote, Workdir: SourceDir, Dir: s.Dir, Into: SourceDir,
		Entrypoint: inside(s.Entrypoint), Cmd: s.Cmd,
	}
	if s.Entrypoint == nil {
		opt.Cmd = inside(s.Cmd)
	}
	if !strings.HasPrefix(s.Runtime, "go") {
		return s.asItIs(ctx, opt)
	}
	dir, err := os.MkdirTemp("", "hob-build-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	defer os.RemoveAll(dir) // the layer is a file of its own by then
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + cmp.Or(s.Arch, runtime.GOARCH), "GOFLAGS=" + os.Getenv("GOFLAGS") + " -trimpath"}
	if err := s.run(ctx, env, "go", "build", "-o", filepath.Join(dir, "func"), "."); err != nil {
		return nil, err
	}
	opt.Dir = dir
	if opt.Entrypoint == nil {
		opt.Entrypoint = []string{SourceDir + "/func"}
	}
	return FromDir(ctx, opt)
}

func (s Source) asItIs(ctx context.Context, opt Options) (v1.Image, error) {
	ignore, err := ReadIgnore(filepath.Join(s.Dir, ".dockerignore"))
	if err != nil {
		return nil, err
	}
	ignore = append(Ignore{".git", ".hg", ".svn", ".hob-*"}, ignore...)
	opt.Skip = ignore.Match
	return FromDir(ctx, opt)
}

// inside makes "./func" the name that it has in the image.
func inside(command []string) []string {
	if len(command) == 0 || !strings.HasPrefix(command[0], "./") {
		return command
	}
	return append([]string{path.Join(SourceDir, command[0])}, command[1:]...)
}

func (s Source) run(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, s.Out, s.Out
	cmd.WaitDelay = leaveWithin
	cmd.Env = append(os.Environ(), env...)
	err := cmd.Run()
	line := strings.Join(append([]string{name}, args...), " ")
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return faas.Errorf(faas.Canceled, "%s: %w", line, context.Cause(ctx))
	case errors.Is(err, exec.ErrNotFound):
		return faas.Errorf(faas.Unsupported, "%s is needed on this machine to build a function of runtime %s: install it, or write a Dockerfile", name, s.Runtime)
	}
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return faas.Errorf(faas.Invalid, "%s failed (%w): it says why above", line, err)
	}
	return fmt.Errorf("%s: %w", line, err)
}
