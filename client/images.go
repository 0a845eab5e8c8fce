package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"

	"hob/faas"
)

// PullRequest says what to pull, and how.
type PullRequest struct {
	Image  string    `json:"image"`
	Policy string    `json:"policy,omitempty"` // "missing", "always" (also if empty) or "never"
	Auth   *PullAuth `json:"auth,omitempty"`   // nil: what the daemon's Docker config says
}

// PullAuth are credentials for the registry, for this pull only.
type PullAuth struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	Token    string `json:"token,omitempty"` // a registry token instead of a password
}

// Pull brings an image from a registry to the node. progress, unless nil, is
// called with each step, from one goroutine.
func (c *Client) Pull(ctx context.Context, r PullRequest, progress func(Progress)) (Image, error) {
	resp, err := c.sendJSON(ctx, path("images", "pull"), r)
	if err != nil {
		return Image{}, err
	}
	defer resp.Body.Close()
	type step struct {
		Progress *Progress `json:"progress"`
		Image    *Image    `json:"image"`
		wireFault
	}
	for line, err := range lines[step](ctx, c, resp.Body) {
		if err == nil {
			err = line.failure("", nil)
		}
		switch {
		case err != nil:
			return Image{}, err
		case line.Image != nil:
			return *line.Image, nil
		case line.Progress != nil && progress != nil:
			progress(*line.Progress)
		}
	}
	return Image{}, faas.Errorf(faas.Internal, "the pull was broken off: %s closed the connection before its end", c.address)
}

// Load brings the images of a tar archive to the node: what "docker save"
// writes, or an OCI layout. A name that is not empty is given to the one image
// in it. r is read while it is sent and may be of any size.
func (c *Client) Load(ctx context.Context, r io.Reader, name string) ([]Image, error) {
	var query url.Values
	if name != "" {
		query = url.Values{"name": {name}}
	}
	header := http.Header{"Content-Type": {"application/x-tar"}, "Expect": {"100-continue"}}
	resp, err := c.send(ctx, http.MethodPost, path("images", "load"), query, header, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out struct {
		Images []Image `json:"images"`
	}
	return out.Images, c.decode(resp.Body, &out)
}

// Images returns the images on the node.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	var out struct {
		Images []Image `json:"images"`
	}
	err := c.do(ctx, http.MethodGet, path("images"), nil, nil, &out)
	return out.Images, err
}

// Image returns the image with this reference, digest or prefix of a digest.
func (c *Client) Image(ctx context.Context, ref string) (Image, error) {
	var out Image
	err := c.do(ctx, http.MethodGet, imagePath(ref), nil, nil, &out)
	return out, err
}

// RemoveImage removes a reference, and the image with its last one. An image
// that a function uses is a Conflict.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	return c.do(ctx, http.MethodDelete, imagePath(ref), nil, nil, nil)
}

// PruneImages removes every image that no function uses.
func (c *Client) PruneImages(ctx context.Context) (Pruned, error) {
	var out Pruned
	err := c.do(ctx, http.MethodPost, path("images", "prune"), nil, nil, &out)
	return out, err
}

// imagePath keeps the slashes of a reference, for they are easier to read in a
// server's log.
func imagePath(ref string) string {
	segments := []string{"images"}
	return path(append(segments, strings.Split(ref, "/")...)...)
}
