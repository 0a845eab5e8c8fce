package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"hob/faas"
	"hob/internal/build/funcfile"
)

func newBump(c *cli) *cobra.Command {
	var major, minor bool
	dir := "."
	cmd := &cobra.Command{
		Use:   "bump [DIRECTORY]",
		Short: "count up the version in a func.yaml",
		Long: `Count up the last part of the version in the func.yaml of a directory, or another
one. Nothing else in the file changes.`,
		Example:           "  hob bump\n  hob bump --minor hello",
		Args:              between(0, 1),
		ValidArgsFunction: completeDirectory,
		RunE: func(_ *cobra.Command, args []string) error {
			part := funcfile.Patch
			switch {
			case major && minor:
				return faas.Errorf(faas.Invalid, "--major and --minor do not go together")
			case major:
				part = funcfile.Major
			case minor:
				part = funcfile.Minor
			}
			return runBump(c, below(dir, args), part)
		},
	}
	cmd.Flags().BoolVar(&major, "major", false, "count up the first part")
	cmd.Flags().BoolVar(&minor, "minor", false, "count up the second part")
	cmd.Flags().StringVarP(&dir, "working-dir", "w", ".", "`directory` in place of the one that hob is run in")
	return cmd
}

func runBump(c *cli, dir string, part funcfile.Part) error {
	p, err := readProject(dir)
	if err != nil {
		return err
	}
	version, err := funcfile.Next(p.Version, part)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Path, err)
	}
	if err := funcfile.WriteVersion(p.Path, version); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]string{"file": p.Path, "version": version})
	}
	return c.printName("Bumped to version " + version)
}

func newMigrate(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate [DIRECTORY]",
		Short: "turn a func.yaml of version 1 into one of version 20180708",
		Long: `Turn the func.yaml of a directory from version 1 into version 20180708, which Fn
wants, and keep the old one as func.yaml.bak. Comments and order stay; a path
becomes a trigger, and a format that was not named is named, so that the function
goes on as it is.`,
		Example:           "  hob migrate hello",
		Args:              between(0, 1),
		ValidArgsFunction: completeDirectory,
		RunE: func(_ *cobra.Command, args []string) error {
			return runMigrate(c, below(".", args))
		},
	}
}

func runMigrate(c *cli, dir string) error {
	file, err := funcfile.Find(dir)
	if err != nil {
		return err
	}
	if err := funcfile.Migrate(file); err != nil {
		return err
	}
	if c.json {
		return c.printJSON(map[string]string{"file": file, "backup": file + ".bak"})
	}
	name := filepath.Base(file)
	return c.printName("Successfully migrated " + name + " and created a back up " + name + ".bak")
}
