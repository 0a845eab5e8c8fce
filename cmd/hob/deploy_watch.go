package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"hob/faas"
	"hob/internal/build"
)

// maxWatched is the most directories that --watch looks at.
const maxWatched = 10_000

// runWatch deploys dir now and after each change below it, until ctx ends, which
// is no failure: it is how a watch is ended.
func runWatch(ctx context.Context, c *cli, flags deployFlags, dir string) error {
	flags.noBump = true // a new version is a change of a file
	if flags.debounce < 0 {
		return faas.Errorf(faas.Invalid, "bad --debounce %v: it is negative", flags.debounce)
	}
	w, err := watchTree(dir, flags.ignore)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		if err := runDeploy(ctx, c, flags, dir); err != nil && ctx.Err() == nil {
			c.printFailure(err)
		}
		if ctx.Err() == nil && !c.json {
			fmt.Fprintf(c.Stderr, "watching %s: Ctrl-C ends it\n", printable(dir))
		}
		if changed, err := w.changed(ctx, flags.debounce); !changed {
			return err
		}
	}
}

// watched tells of changes of the files in a directory and below it.
type watched struct {
	*fsnotify.Watcher
	top    string
	ignore build.Ignore
}

func watchTree(top string, more []string) (*watched, error) {
	ignore, err := build.ReadIgnore(filepath.Join(top, ".fnignore"))
	if err != nil {
		return nil, err
	}
	own := build.Ignore{".git/", ".hg/", ".svn/", "node_modules/", ".hob-*", "*.swp", "*~", "4913"} // what editors and we leave for a moment
	w := &watched{top: top, ignore: slices.Concat(own, ignore, more)}
	if err := w.ignore.Check(); err != nil {
		return nil, err
	}
	if w.Watcher, err = fsnotify.NewWatcher(); err != nil {
		return nil, fmt.Errorf("watch %s: %w", top, err)
	}
	if err := w.add(top); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// add watches a directory and those below it.
func (w *watched) add(dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && name == w.top:
			return faas.Errorf(faas.NotFound, "watch: %w", err)
		case err != nil || !d.IsDir():
			return nil // it is gone again, and its directory tells so
		case name != w.top && w.ignored(name, true):
			return fs.SkipDir
		case len(w.WatchList()) >= maxWatched:
			return faas.Errorf(faas.TooLarge, "%s holds more than the limit of %d directories to watch: name some in .fnignore", w.top, maxWatched)
		}
		if err := w.Add(name); err != nil {
			return fmt.Errorf("watch %s: %w", name, err)
		}
		return nil
	})
}

func (w *watched) ignored(name string, dir bool) bool {
	rel, err := filepath.Rel(w.top, name)
	return err == nil && w.ignore.Match(filepath.ToSlash(rel), dir)
}

// changed waits until a file has changed and then none for this long; false with
// the end of ctx.
func (w *watched) changed(ctx context.Context, quiet time.Duration) (bool, error) {
	var still <-chan time.Time // nil until a file has changed
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-still:
			return true, nil
		case err := <-w.Errors:
			return false, fmt.Errorf("watch %s: %w", w.top, err)
		case e := <-w.Events:
			info, err := os.Lstat(e.Name)
			dir := err == nil && info.IsDir()
			if e.Op == fsnotify.Chmod || w.ignored(e.Name, dir) {
				continue
			}
			if dir && e.Has(fsnotify.Create) {
				if err := w.add(e.Name); err != nil {
					return false, err
				}
			}
			still = time.After(quiet)
		}
	}
}
