package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

func newPull(c *cli) *cobra.Command {
	var r client.PullRequest
	var username string
	var password bool
	cmd := &cobra.Command{
		Use:   "pull IMAGE",
		Short: "fetch an image from a registry",
		Long: `Fetch an image from a registry to the server. A name is read as Docker reads it:
busybox is docker.io/library/busybox:latest. What is there already is not fetched
again. The server looks for credentials in its own Docker configuration, unless
they are given here.`,
		Example: `  hob pull busybox
  hob pull registry.example.com/photos/resize@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
  hob pull registry.example.com/private --username ann --password-stdin <password.txt`,
		ValidArgsFunction: completeImages(c, 1),
		Args:              exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Image = args[0]
			if username != "" || password {
				if username == "" || !password {
					return faas.Errorf(faas.Invalid, "--username and --password-stdin go together")
				}
				secret, err := readPassword(c)
				if err != nil {
					return err
				}
				r.Auth = &client.PullAuth{Username: username, Password: secret}
			}
			return runPull(cmd.Context(), c, r)
		},
	}
	cmd.Flags().StringVar(&r.Policy, "pull", "always", "\"missing\" asks the registry only if the server has no such image")
	cmd.Flags().StringVar(&username, "username", "", "`user` at the registry, for this pull")
	cmd.Flags().BoolVar(&password, "password-stdin", false, "read the password from standard input")
	return cmd
}

func runPull(ctx context.Context, c *cli, r client.PullRequest) error {
	if err := checkPull(r.Policy); err != nil {
		return err
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	progress := newProgress(c, r.Image)
	m, err := cl.Pull(ctx, r, progress.step)
	progress.end()
	if err != nil {
		return fmt.Errorf("pull %s: %w", r.Image, err)
	}
	if c.json {
		return c.printJSON(m)
	}
	return c.printImages([]client.Image{m})
}

// readPassword reads one line.
func readPassword(c *cli) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(c.Stdin, 64<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", faas.Errorf(faas.Invalid, "standard input has no password")
	}
	return line, nil
}
