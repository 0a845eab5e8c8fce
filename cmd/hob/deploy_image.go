package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"path"
	"path/filepath"
	"strings"

	"hob/client"
	"hob/faas"
	"hob/internal/build"
)

// imageOf is an image that a function can be made of.
type imageOf struct {
	ref   string
	built bool   // of the directory, which is then what entrypoint and cmd went into
	pull  string // whether the server fetches it
}

// image is the image of p: one that is named, or one that is built and brought to
// the server of cl, or to the registry that flags name. A base in hob.local is
// looked for at self, a registry as "host:port".
func (f imageFlags) make(ctx context.Context, c *cli, cl *client.Client, p project, version, self string) (imageOf, error) {
	if err := checkPull(f.pull); err != nil {
		return imageOf{}, err
	}
	if ref := cmp.Or(f.image, p.Image); ref != "" {
		return imageOf{ref: ref, pull: f.pull}, nil
	}
	ref := repository(p.ShortName()) + ":" + tagOf(version)
	if f.registry != "" {
		ref = strings.TrimRight(f.registry, "/") + "/" + ref
	} else {
		ref = "hob.local/" + ref
	}
	if hasDockerfile(p.dir) {
		return f.byEngine(ctx, c, cl, p, ref)
	}
	return f.byUs(ctx, c, cl, p, ref, self)
}

// repository is the name of an image that is named like a function: of that, only
// small letters, digits and single marks between them may stand there.
func repository(function string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(function) {
		letter := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		switch {
		case letter:
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	return cmp.Or(strings.Trim(b.String(), "-"), "function")
}

// tagOf is a version as the tag of an image.
func tagOf(version string) string {
	tag := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, version)
	return cmp.Or(strings.TrimLeft(tag, ".-"), "latest")
}

// byUs builds an image without an engine.
func (f imageFlags) byUs(ctx context.Context, c *cli, cl *client.Client, p project, ref, self string) (imageOf, error) {
	if len(f.buildArgs) > 0 || f.noCache || f.engine != "" {
		return imageOf{}, faas.Errorf(faas.Invalid, "--build-arg, --no-cache and --engine are for a Dockerfile, and there is none in %s", p.dir)
	}
	base := cmp.Or(f.base, p.RunImage)
	compiled := strings.HasPrefix(p.Runtime, "go")
	switch {
	case compiled && f.base == "":
		base = "" // that of Fn's own build holds nothing that a static program needs
	case base == "":
		return imageOf{}, faas.Errorf(faas.Invalid, "%s: what should the function of runtime %q lie on? Name a base image with --base, or as run_image in the file", p.Path, p.Runtime)
	case len(p.Entrypoint) == 0 && len(p.Cmd) == 0:
		return imageOf{}, faas.Errorf(faas.Invalid, "%s: what starts the function? Name an entrypoint in the file, such as ./func.sh", p.Path)
	}
	node, err := cl.Node(ctx)
	if err != nil {
		return imageOf{}, err
	}
	img, err := build.FromSource(ctx, build.Source{
		Dir: p.dir, Runtime: p.Runtime, Commands: p.Build, Entrypoint: p.Entrypoint, Cmd: p.Cmd,
		Base: base, Arch: path.Base(node.Platform), Remote: build.Remote{Self: self}, Out: c.Stderr,
	})
	if err != nil {
		return imageOf{}, fmt.Errorf("build the image: %w", err)
	}
	if f.registry != "" {
		return imageOf{ref, true, "always"}, build.Push(ctx, img, ref, build.Remote{Self: self, Insecure: []string{self}})
	}
	archive, done := piped(func(w io.Writer) error { return build.WriteTar(w, ref, img) })
	defer done()
	_, err = cl.Load(ctx, archive, "")
	return imageOf{ref, true, "never"}, err
}

// byEngine lets an engine build the Dockerfile and push the image.
func (f imageFlags) byEngine(ctx context.Context, c *cli, cl *client.Client, p project, ref string) (imageOf, error) {
	if f.base != "" {
		return imageOf{}, faas.Errorf(faas.Invalid, "--base is for images that hob builds: in %s the Dockerfile says what the image lies on", p.dir)
	}
	engine, err := build.FindEngine(ctx, f.engine, c.Stderr)
	if err != nil {
		return imageOf{}, err
	}
	tag, pull := ref, "always"
	plain := false
	if rest, own := strings.CutPrefix(ref, "hob.local/"); own {
		registry, err := registryOf(ctx, cl)
		if err != nil {
			return imageOf{}, err
		}
		tag, pull, plain = registry+"/"+rest, "missing", !strings.HasPrefix(cl.Base(), "https:")
		if at, err := netip.ParseAddrPort(registry); plain && engine.Name == "docker" && (err != nil || !at.Addr().IsLoopback()) {
			fmt.Fprintf(c.Stderr, "hob: note: docker pushes to %s only if its own configuration lists it under insecure-registries\n", registry)
		}
	}
	if err := engine.Build(ctx, build.Dockerfile{
		Dir: p.dir, File: filepath.Join(p.dir, "Dockerfile"), Tag: tag, Args: f.buildArgs, NoCache: f.noCache,
	}); err != nil {
		return imageOf{}, err
	}
	return imageOf{ref, true, pull}, engine.Push(ctx, tag, plain)
}
