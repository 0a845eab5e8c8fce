package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"hob/faas"
	"hob/internal/linux"
)

// Reap removes what dead generations left, of the sandboxes of every kind: it asks for
// no runtime program, which may be gone, too. Of cfg it takes Generation, which is left
// alone, and Log; State and CgroupParent, if they are set, are the only ones it looks at.
// A daemon calls it once, before its first driver is made.
func Reap(ctx context.Context, cfg Config) error {
	cgroups, err := linux.FindCgroups()
	if err != nil {
		return faas.Errorf(faas.Unsupported, "%w: what dead daemons left cannot be found", err)
	}
	var errs []error
	for i, k := range kinds {
		if of := cfg.of(k); i == 0 || cfg.State == "" || cfg.CgroupParent == "" {
			errs = append(errs, of.reap(ctx, cgroups))
		}
	}
	return errors.Join(errs...)
}

// Reap implements sandbox.Driver.
func (d *Driver) Reap(ctx context.Context) error { return d.cfg.reap(ctx, d.cgroups) }

// of returns cfg with the places of a kind.
func (cfg Config) of(k kind) Config {
	cfg.State, cfg.CgroupParent = cmp.Or(cfg.State, "/run/hob-"+k.name), cmp.Or(cfg.CgroupParent, "hob-"+k.name)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg
}

// reap removes the dead generations of one place. Each leaves cgroups, with processes
// that stood still, bundles and a lock file: its mounts live in namespaces that ended
// with it.
func (cfg Config) reap(ctx context.Context, cgroups *linux.Cgroups) error {
	names, err := cgroups.Children(cfg.CgroupParent)
	if err != nil {
		return fmt.Errorf("look for dead generations: %w", err)
	}
	locks, _ := filepath.Glob(filepath.Join(cfg.State, "*"+lockSuffix))
	for _, file := range locks {
		names = append(names, strings.TrimSuffix(filepath.Base(file), lockSuffix))
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if name == cfg.Generation {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := cfg.bury(cgroups, name); err != nil {
			return fmt.Errorf("reap generation %s: %w", name, err)
		}
	}
	return nil
}

// bury removes what a generation left, unless it lives.
func (cfg Config) bury(cgroups *linux.Cgroups, name string) error {
	if err := os.MkdirAll(cfg.State, 0o711); err != nil {
		return err
	}
	lock, err := lockGeneration(cfg.State, name)
	if faas.KindOf(err) == faas.Conflict {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlockGeneration(lock)
	cfg.Log.Info("removing what a dead daemon left", "generation", name)
	err = errors.Join(cgroups.Open(path.Join(cfg.CgroupParent, name)).RemoveTree(), os.RemoveAll(filepath.Join(cfg.State, name)))
	cgroups.Open(cfg.CgroupParent).RemoveIfEmpty()
	return err
}
