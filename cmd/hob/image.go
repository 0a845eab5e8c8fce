package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newImage(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "bring, make, list and remove images",
		Long: `Bring images to the server, make them, list and remove them. An image also comes
by a push to the server's own registry ("docker push", "skopeo copy"): what is
pushed as 127.0.0.1:8080/NAME:TAG is hob.local/NAME:TAG to functions.`,
		Example: "  hob image pull busybox\n  hob image build -t hello ./hello\n  hob image ls",
		Args:    cobra.ArbitraryArgs,
		RunE:    noVerb,
	}
	pull := newPull(c)
	pull.Example = strings.ReplaceAll(pull.Example, "hob pull", "hob image pull")
	cmd.AddCommand(pull, newImageLoad(c), newImageBuild(c), newImageLs(c), newImageInspect(c), newImageRm(c), newImagePrune(c))
	return cmd
}

func newImageLs(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Short:   "list the images on the server",
		Example: "  hob image ls\n  hob image ls --json",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runImageLs(cmd.Context(), c) },
	}
}

func runImageLs(ctx context.Context, c *cli) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	images, err := cl.Images(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(images)
	}
	t := c.table("REFERENCE", "DIGEST", "SIZE", "PULLED", "USED")
	for _, m := range images {
		refs := m.Refs
		if len(refs) == 0 {
			refs = []string{"<none>"}
		}
		for _, ref := range refs {
			t.row(ref, short(m.Digest), m.Size.String(), age(m.Pulled), age(m.Used))
		}
	}
	return t.flush()
}

func newImageInspect(c *cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect IMAGE...",
		Short:             "show everything about images",
		Long:              "Show everything about images, named by reference, digest, or the beginning of a digest.",
		Example:           "  hob image inspect busybox --format '{{.Digest}}'",
		Args:              between(1, -1),
		ValidArgsFunction: completeImages(c, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			return inspectEach(c, format, args, func(ref string) (client.Image, error) { return cl.Image(cmd.Context(), ref) }, imageRows)
		},
	}
	formatFlag(cmd, &format)
	return cmd
}

func imageRows(t table, m client.Image) {
	for _, ref := range m.Refs {
		t.row("reference", ref)
	}
	t.row("digest", m.Digest)
	t.row("from list", orDash(m.Index))
	t.row("platform", m.Platform)
	t.row("size", m.Size.String())
	t.row("created", stamp(m.Created))
	t.row("pulled", stamp(m.Pulled))
	t.row("used", stamp(m.Used))
	t.row("entrypoint", commandLine(list(m.Config.Entrypoint)))
	t.row("command", commandLine(list(m.Config.Command)))
	for _, e := range m.Config.Env {
		t.row("env", e)
	}
	t.row("workdir", or(m.Config.Workdir, "/"))
	t.row("user", orDash(m.Config.User))
	for _, v := range m.Config.Volumes {
		t.row("volume", v)
	}
	for _, p := range m.Config.ExposedPorts {
		t.row("port", p)
	}
	t.row("stop signal", orDash(m.Config.StopSignal))
	for _, k := range slices.Sorted(maps.Keys(m.Config.Labels)) {
		t.row("label", k+"="+m.Config.Labels[k])
	}
	for _, l := range m.Layers {
		t.row("layer", l.Digest+"  "+l.Size.String())
	}
}

// list makes nothing an empty list: an image's own command is there or is not.
func list(words []string) []string {
	if words == nil {
		return []string{}
	}
	return words
}

func newImageRm(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "remove images",
		Long: `Remove references, and with the last one of an image the image. One that a
function uses is not removed.`,
		Example:           "  hob image rm busybox",
		Args:              between(1, -1),
		ValidArgsFunction: completeImages(c, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			return each(c, args, func(ref string) (string, error) { return ref, cl.RemoveImage(cmd.Context(), ref) })
		},
	}
}

func newImagePrune(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:     "prune",
		Short:   "remove every image that no function uses",
		Example: "  hob image prune",
		Args:    exactly(0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runImagePrune(cmd.Context(), c) },
	}
}

func runImagePrune(ctx context.Context, c *cli) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	pruned, err := cl.PruneImages(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(pruned)
	}
	for _, m := range pruned.Removed {
		if err := c.printName(or(strings.Join(m.Refs, " "), m.Digest)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(c.Stdout, "freed %v\n", pruned.Freed)
	return printed(err)
}

// printImages says which images came to the server.
func (c *cli) printImages(images []client.Image) error {
	for _, m := range images {
		refs := m.Refs
		if len(refs) == 0 {
			refs = []string{"<none>"}
		}
		for _, ref := range refs {
			if err := c.printName(ref + " " + m.Digest); err != nil {
				return err
			}
		}
	}
	return nil
}

// pullLater leaves the image of a function to its first call.
const pullLater = "later"

// checkPull reports a policy that is none; more are policies besides the usual.
func checkPull(policy string, more ...string) error {
	words := append([]string{"missing", "always", "never"}, more...)
	if policy != "" && !slices.Contains(words, policy) {
		return faas.Errorf(faas.Invalid, "bad --pull %q: it is one of %s", policy, strings.Join(words, ", "))
	}
	return nil
}
