package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"hob/faas"
)

func newImageLoad(c *cli) *cobra.Command {
	var named string
	cmd := &cobra.Command{
		Use:   "load [FILE | DIRECTORY | -]",
		Short: "bring images from an archive",
		Long: `Bring images to the server from what "docker save" writes, or from an OCI layout,
as a tar file or a directory. Without an argument, or with "-", the archive comes
on standard input.`,
		Example: "  docker save hello | hob image load\n  hob image load --name hello hello.tar",
		Args:    between(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from := "-"
			if len(args) == 1 {
				from = args[0]
			}
			return runImageLoad(cmd.Context(), c, from, named)
		},
	}
	cmd.Flags().StringVar(&named, "name", "", "`name` of the image in place of those in the archive")
	return cmd
}

func runImageLoad(ctx context.Context, c *cli, from, named string) error {
	archive, done, err := openArchive(c, from)
	if err != nil {
		return fmt.Errorf("load %s: %w", from, err)
	}
	defer done()
	return c.loadImage(ctx, archive, named)
}

// loadImage sends an archive to the server and says what came of it.
func (c *cli) loadImage(ctx context.Context, archive io.Reader, named string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	images, err := cl.Load(ctx, archive, named)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if c.json {
		return c.printJSON(images)
	}
	return c.printImages(images)
}

// openArchive opens a tar archive: a file, standard input, or a directory that
// becomes one while it is read. done closes it.
func openArchive(c *cli, from string) (archive io.Reader, done func(), err error) {
	if from == "-" {
		if c.Terminal(c.Stdin) {
			return nil, nil, faas.Errorf(faas.Invalid, "standard input is a terminal: name a file, or send an archive through a pipe")
		}
		return io.NopCloser(c.Stdin), func() {}, nil
	}
	info, err := os.Stat(from)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, faas.Errorf(faas.NotFound, "no such file or directory")
	case err != nil:
		return nil, nil, faas.Errorf(faas.Invalid, "%w", err)
	case !info.IsDir():
		f, err := os.Open(from)
		if err != nil {
			return nil, nil, faas.Errorf(faas.Denied, "%w", err)
		}
		return io.NopCloser(f), func() { _ = f.Close() }, nil
	}
	archive, done = piped(func(w io.Writer) error {
		t := tar.NewWriter(w)
		return errors.Join(t.AddFS(os.DirFS(from)), t.Close())
	})
	return archive, done, nil
}

// piped returns what write writes, while it is being written. done breaks it
// off, if it is still at work, and waits for it.
func piped(write func(io.Writer) error) (r io.Reader, done func()) {
	pr, pw := io.Pipe()
	var work sync.WaitGroup
	work.Go(func() { pw.CloseWithError(write(pw)) })
	return pr, func() {
		_ = pr.Close()
		work.Wait()
	}
}
