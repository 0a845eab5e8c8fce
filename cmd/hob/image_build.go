package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
	"hob/internal/build"
)

// buildFlags say what an image is made of.
type buildFlags struct {
	tag        string
	opt        build.Options
	entrypoint string
	command    string
	env        []string
	labels     []string
	output     string
}

func newImageBuild(c *cli) *cobra.Command {
	var flags buildFlags
	cmd := &cobra.Command{
		Use:   "build -t NAME [flags] PROGRAM | DIRECTORY",
		Short: "make an image out of a program or a directory",
		Long: `Make an image without Docker and bring it to the server. A program becomes the
only file of the image, and what it starts; a directory becomes its root. They
lie on nothing, or on a base image: a tar file, an OCI layout, or the name of an
image in a registry; hob.local/NAME is one that the server has.

The same input gives the same digest, whoever makes it and whenever.`,
		Example: `  CGO_ENABLED=0 go build -o hello . && hob image build -t hello hello
  hob image build -t site --entrypoint /bin/serve --cmd '["-v","/www"]' ./root
  hob image build -t tag --base debian:stable-slim --cmd /tag.sh tag.sh
  hob image build -t hello -o hello.tar hello`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runImageBuild(cmd, c, flags, args[0]) },
	}
	f := cmd.Flags()
	f.StringVarP(&flags.tag, "tag", "t", "", "`name` of the image, as NAME or NAME:TAG")
	f.StringVar(&flags.opt.From, "base", "", "what it lies on: a `file`, a directory or an image (default: nothing)")
	f.StringVar(&flags.entrypoint, "entrypoint", "", "`program` that it starts, or a JSON list for one with arguments (default: PROGRAM, or the base's)")
	f.StringVar(&flags.command, "cmd", "", "`command` or arguments, as one word or a JSON list (default: the base's)")
	f.StringArrayVarP(&flags.env, "env", "e", nil, "set a variable, as `NAME=value`")
	f.StringArrayVar(&flags.labels, "label", nil, "set a label, as `NAME=value`")
	f.StringVar(&flags.opt.Workdir, "workdir", "", "working `directory`")
	f.StringVar(&flags.opt.User, "user", "", "`user[:group]` that it runs as")
	f.StringVar(&flags.opt.Platform, "platform", "", "`platform`, as linux/arm64 (default: that of the program)")
	f.StringVarP(&flags.output, "output", "o", "", "write the image to this `file` (\"-\": standard output) in place of bringing it to the server")
	return cmd
}

func runImageBuild(cmd *cobra.Command, c *cli, flags buildFlags, from string) error {
	ctx := cmd.Context()
	if flags.tag == "" {
		return faas.Errorf(faas.Invalid, "the image needs a name: give it with -t")
	}
	if flags.output == "-" && c.json {
		return faas.Errorf(faas.Invalid, "--output - and --json exclude each other: both are for standard output")
	}
	tag := localName(flags.tag)
	opt := flags.opt
	var err error
	if cmd.Flags().Changed("entrypoint") {
		if opt.Entrypoint, err = words(flags.entrypoint); err != nil {
			return err
		}
	}
	if cmd.Flags().Changed("cmd") {
		if opt.Cmd, err = words(flags.command); err != nil {
			return err
		}
	}
	for _, e := range flags.env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return faas.Errorf(faas.Invalid, "--env: %q is no NAME=value", e)
		}
		opt.Env = append(opt.Env, e)
	}
	if opt.Labels, err = pairs("--label", flags.labels); err != nil {
		return err
	}
	if strings.HasPrefix(opt.From, "hob.local/") {
		if opt.Remote.Self, err = c.registry(ctx); err != nil {
			return err
		}
	}
	img, err := buildFrom(ctx, from, opt)
	if err != nil {
		return fmt.Errorf("build %s: %w", flags.tag, err)
	}
	warnings, err := build.Warnings(img)
	if err != nil {
		return fmt.Errorf("build %s: %w", flags.tag, err)
	}
	for _, w := range warnings {
		fmt.Fprintf(c.Stderr, "hob: note: %s\n", w)
	}
	if flags.output != "" {
		return c.writeImage(flags.output, tag, img)
	}
	archive, done := piped(func(w io.Writer) error { return build.WriteTar(w, tag, img) })
	defer done()
	return c.loadImage(ctx, archive, "")
}

// localName is a name without a registry as one of the server's own.
func localName(tag string) string {
	first, _, more := strings.Cut(tag, "/")
	if more && (strings.ContainsAny(first, ".:") || first == "localhost") {
		return tag
	}
	return "hob.local/" + tag
}

func buildFrom(ctx context.Context, from string, opt build.Options) (v1.Image, error) {
	info, err := os.Stat(from)
	if err == nil && info.IsDir() {
		opt.Dir = from
		return build.FromDir(ctx, opt)
	}
	opt.Program = from // what is wrong with it, build says
	return build.FromProgram(ctx, opt)
}

// registry is the "host:port" at which the server's own registry answers.
func (c *cli) registry(ctx context.Context) (string, error) {
	cl, err := c.client()
	if err != nil {
		return "", err
	}
	return registryOf(ctx, cl)
}

// registryOf is the "host:port" at which the registry of the server of cl answers.
func registryOf(ctx context.Context, cl *client.Client) (string, error) {
	if rest, ok := strings.CutPrefix(cl.Base(), "http://"); ok && !strings.HasPrefix(cl.Address(), "unix:") {
		host, _, _ := strings.Cut(rest, "/")
		return host, nil
	}
	node, err := cl.Node(ctx)
	return reachable(node.Listen), err
}

// writeImage writes an archive that "hob image load" and "docker load" read. A
// file appears only once it is whole.
func (c *cli) writeImage(file, tag string, img v1.Image) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	if file == "-" {
		return printed(build.WriteTar(c.Stdout, tag, img))
	}
	part := file + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return faas.Errorf(faas.Invalid, "write the image: %w", err)
	}
	defer os.Remove(part)
	err = build.WriteTar(f, tag, img)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(part, file)
	}
	if err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	if c.json {
		return c.printJSON(client.Image{Refs: []string{tag}, Digest: digest.String()})
	}
	return c.printName(tag + " " + digest.String())
}

// pairs reads NAME=value entries.
func pairs(flag string, entries []string) (map[string]string, error) {
	all := map[string]string{}
	for _, e := range entries {
		name, value, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return nil, faas.Errorf(faas.Invalid, "%s: %q is no NAME=value", flag, e)
		}
		all[name] = value
	}
	return all, nil
}
