package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
)

// TaskDir is where the files of a function of AWS Lambda lie in its image.
const TaskDir = "/var/task"

// Limits of such a function; the first is Lambda's own.
const (
	MaxLambdaBytes = 250 * faas.MB // unpacked
	MaxLambdaFiles = 50_000
)

// bootstrap is the program that a custom runtime starts in TaskDir.
const bootstrap = "bootstrap"

// Lambda is a function of AWS Lambda: the files of its zip.
type Lambda struct {
	From       string    // a zip file, a directory, or "-" for a zip file in In
	In         io.Reader // read to its end if From is "-"
	Base       string    // what it lies on, as Options.From; "": nothing, for custom runtimes
	Handler    string    // the method that is called, as the runtime writes it; "": the base's
	Entrypoint []string  // nil: the bootstrap of the files if they have one, else the base's
	Platform   string    // as "linux/arm64"
	Remote     Remote
}

// FromLambda makes an image of a function of AWS Lambda: its files at TaskDir as a
// layer on the base, the handler as the command.
func FromLambda(ctx context.Context, l Lambda) (v1.Image, error) {
	dir, done, err := l.files(ctx)
	if err != nil {
		return nil, err
	}
	defer done() // the layer is a file of its own by then
	opt := Options{
		Dir: dir, Shown: l.named(), Into: TaskDir, Workdir: TaskDir, From: l.Base, Remote: l.Remote, Platform: l.Platform,
		Entrypoint: l.Entrypoint, MaxBytes: MaxLambdaBytes, MaxFiles: MaxLambdaFiles,
	}
	opt.Remote.Platform = cmp.Or(opt.Remote.Platform, l.Platform)
	info, err := os.Stat(filepath.Join(dir, bootstrap))
	custom := err == nil && info.Mode().IsRegular()
	if l.Base == "" && !custom {
		return nil, faas.Errorf(faas.Invalid, "%s holds no %s, so it is for a runtime of Lambda: name an image that has it with --base, such as public.ecr.aws/lambda/python:3.13", l.named(), bootstrap)
	}
	if custom && info.Mode()&0o111 == 0 {
		return nil, faas.Errorf(faas.Invalid, "%s in %s is not executable: chmod +x it before it is packed", bootstrap, l.named())
	}
	switch custom = custom && l.Entrypoint == nil; {
	case custom:
		opt.Entrypoint = []string{path.Join(TaskDir, bootstrap)}
		if l.Handler != "" {
			opt.Env = []string{"_HANDLER=" + l.Handler} // Lambda gives a bootstrap no arguments
		}
	case l.Handler != "":
		opt.Cmd = []string{l.Handler}
	}
	if l.Base != "" {
		if opt.Base, err = OpenBase(ctx, l.Base, opt.Remote); err != nil {
			return nil, err
		}
		if err := l.checkHandler(opt); err != nil {
			return nil, err
		}
	}
	return FromDir(ctx, opt)
}

// checkHandler reports a base that would start without what it needs.
func (l Lambda) checkHandler(opt Options) error {
	cf, err := opt.Base.ConfigFile()
	switch {
	case err != nil:
		return faas.Errorf(faas.Invalid, "read the base image: %w", err)
	case opt.Entrypoint != nil:
		return nil
	case len(cf.Config.Entrypoint) == 0:
		return faas.Errorf(faas.Invalid, "the base image %s has no entrypoint that speaks the Runtime API: name the program with --entrypoint, or take a base that was made for Lambda", l.Base)
	case l.Handler == "" && len(cf.Config.Cmd) == 0:
		return faas.Errorf(faas.Invalid, "the base image %s names no handler: give that of the function with --handler, such as app.handler", l.Base)
	}
	return nil
}

func (l Lambda) named() string {
	if l.From == "-" {
		return "the zip file on standard input"
	}
	return l.From
}

// files is a directory with the files of l, and what to do when it is not needed
// any more.
func (l Lambda) files(ctx context.Context) (dir string, done func(), err error) {
	info, err := os.Stat(l.From)
	switch {
	case l.From == "-":
	case errors.Is(err, fs.ErrNotExist):
		return "", nil, faas.Errorf(faas.NotFound, "there is no file or directory %s", l.From)
	case err != nil:
		return "", nil, faas.Errorf(faas.Invalid, "%w", err)
	case info.IsDir():
		return l.From, func() {}, nil
	case !info.Mode().IsRegular():
		return "", nil, faas.Errorf(faas.Invalid, "%s is neither a zip file nor a directory", l.From)
	}
	top, err := os.MkdirTemp("", "hob-build-*")
	if err != nil {
		return "", nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	done = func() { os.RemoveAll(top) }
	file := l.From
	if file == "-" {
		file = filepath.Join(top, "zip")
		err = l.keep(ctx, file)
	}
	dir = filepath.Join(top, "task")
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if err == nil {
		err = unzip(ctx, file, l.named(), dir, MaxLambdaBytes, MaxLambdaFiles)
	}
	if err != nil {
		done()
		return "", nil, err
	}
	return dir, done, nil
}

// keep writes what comes in to a file: a zip file is read from its end.
func (l Lambda) keep(ctx context.Context, file string) error {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("keep %s: %w", l.named(), err)
	}
	n, err := io.Copy(out, &limited{r: io.LimitReader(l.In, int64(MaxLambdaBytes)+1), left: 1<<63 - 1, ctx: ctx})
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("keep %s: %w", l.named(), err)
	}
	if faas.Bytes(n) > MaxLambdaBytes {
		return faas.Errorf(faas.TooLarge, "%s is over the limit of %v", l.named(), MaxLambdaBytes)
	}
	return nil
}
