package main

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"hob/client"
	"hob/faas"
	"hob/internal/build/funcfile"
)

// Limits of what an init-image writes.
const (
	maxInitBytes = 100 * faas.MB
	maxInitFiles = 10_000
)

// initFile is what an init-image says of its function.
const initFile = "func.init.yaml"

// unpackFrom lets the server run an image once and unpacks the tar archive that it
// writes, all of it into dir. It returns the names of the files.
func (c *cli) unpackFrom(ctx context.Context, image, function string, dir *os.Root) ([]string, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	name := "init-" + strings.ToLower(faas.NewID())
	format := string(faas.FormatDefault)
	s := client.Settings{Image: &image, Format: &format, Env: variables(map[string]string{"FN_FUNCTION_NAME": function})}
	if err := withImage(ctx, c, cl, faas.DefaultApp, image, "", func(pull string) error {
		_, err := cl.CreateFunction(ctx, faas.DefaultApp, name, s, pull)
		return err
	}); err != nil {
		return nil, err
	}
	defer func() { // also when ctx has ended
		_ = cl.DeleteFunction(context.WithoutCancel(ctx), faas.DefaultApp, name, true)
	}()
	answer, err := cl.Call(ctx, client.CallRequest{App: faas.DefaultApp, Function: name})
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	files, err := unpack(answer.Body, dir)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, answer.Body) // whether the image succeeded stands behind its end
	return files, err
}

// unpack writes the directories and files of an archive into dir, which none
// leaves, and over none that is there.
func unpack(archive io.Reader, dir *os.Root) (files []string, err error) {
	in := tar.NewReader(archive)
	files = []string{}
	left := int64(maxInitBytes)
	for count := 0; ; count++ {
		h, err := in.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			if faas.KindOf(err) != faas.Internal {
				return files, err
			}
			return files, faas.Errorf(faas.Invalid, "its output is no tar archive: %w", err)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		left -= h.Size
		switch {
		case count >= maxInitFiles:
			return files, faas.Errorf(faas.TooLarge, "its archive holds more than the limit of %d files", maxInitFiles)
		case left < 0:
			return files, faas.Errorf(faas.TooLarge, "the files in its archive are over the limit of %v", maxInitBytes)
		case name == ".":
			continue
		case !fs.ValidPath(name):
			return files, faas.Errorf(faas.Invalid, "the name %q in its archive leads out of the directory", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = dir.MkdirAll(name, 0o755)
		case tar.TypeReg:
			err = unpackFile(in, dir, name, h.FileInfo().Mode()&0o111)
			if name != initFile && name != "func.yaml" {
				files = append(files, name)
			}
		default:
			err = faas.Errorf(faas.Invalid, "%s in its archive is neither a file nor a directory", h.Name)
		}
		if err != nil {
			if faas.KindOf(err) == faas.Internal {
				err = faas.Errorf(faas.Invalid, "unpack %s: %w", name, err)
			}
			return files, err
		}
	}
}

func unpackFile(in io.Reader, dir *os.Root, name string, executable fs.FileMode) error {
	if err := dir.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644|executable)
	if errors.Is(err, fs.ErrExist) {
		return faas.Errorf(faas.Conflict, "%s is there already", name)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	return errors.Join(err, f.Close())
}

// adopt is the func.yaml that the files of an init-image ask for: its
// func.init.yaml, which goes, or its func.yaml, or else what f says.
func (flags initFlags) adopt(dir *os.Root, f *funcfile.Function) ([]byte, error) {
	for _, name := range []string{initFile, "func.yaml"} {
		data, err := readSmall(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		file, err := funcfile.Adopt(data, *f)
		if err != nil {
			return nil, err
		}
		made, err := funcfile.Parse("func.yaml", file)
		if err != nil {
			return nil, err
		}
		f.Runtime = made.Runtime
		return file, dir.Remove(name)
	}
	f.Runtime = "docker"
	return funcfile.New(*f)
}

func readSmall(dir *os.Root, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, funcfile.MaxBytes+1))
}
