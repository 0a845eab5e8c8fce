package client

import (
	"context"
	"net/http"
	"net/url"
)

// Apps returns all apps, by name.
func (c *Client) Apps(ctx context.Context) ([]App, error) {
	var out struct {
		Apps []App `json:"apps"`
	}
	err := c.do(ctx, http.MethodGet, path("apps"), nil, nil, &out)
	return out.Apps, err
}

// App returns one app.
func (c *Client) App(ctx context.Context, name string) (App, error) {
	var out App
	err := c.do(ctx, http.MethodGet, path("apps", name), nil, nil, &out)
	return out, err
}

// CreateApp makes an app; a name that is taken is a Conflict.
func (c *Client) CreateApp(ctx context.Context, name string, s AppSettings) (App, error) {
	in := struct {
		Name string `json:"name"`
		plainAppSettings
	}{name, plainAppSettings(s)}
	var out App
	err := c.do(ctx, http.MethodPost, path("apps"), nil, in, &out)
	return out, err
}

// UpdateApp changes an app.
func (c *Client) UpdateApp(ctx context.Context, name string, s AppSettings) (App, error) {
	var out App
	err := c.do(ctx, http.MethodPatch, path("apps", name), nil, s, &out)
	return out, err
}

// DeleteApp removes an app. One that has functions is a Conflict unless force
// is set: then they go with it.
func (c *Client) DeleteApp(ctx context.Context, name string, force bool) error {
	var query url.Values
	if force {
		query = url.Values{"force": {"true"}}
	}
	return c.do(ctx, http.MethodDelete, path("apps", name), query, nil, nil)
}

// Functions returns the functions of an app by name, or of all apps if app is empty.
func (c *Client) Functions(ctx context.Context, app string) ([]Function, error) {
	at := path("functions")
	if app != "" {
		at = path("apps", app, "functions")
	}
	var out struct {
		Functions []Function `json:"functions"`
	}
	err := c.do(ctx, http.MethodGet, at, nil, nil, &out)
	return out.Functions, err
}

// Function returns one function.
func (c *Client) Function(ctx context.Context, app, name string) (Function, error) {
	var out Function
	err := c.do(ctx, http.MethodGet, path("apps", app, "functions", name), nil, nil, &out)
	return out, err
}

// CreateFunction makes a function; a name that is taken is a Conflict. pull is
// "missing" (also if empty), "always" or "never": what to do about the image; or
// "later", which leaves that to the first call.
func (c *Client) CreateFunction(ctx context.Context, app, name string, s Settings, pull string) (Function, error) {
	in := struct {
		Name string `json:"name"`
		plainSettings
	}{name, plainSettings(s)}
	var out Function
	err := c.do(ctx, http.MethodPost, path("apps", app, "functions"), pullQuery(pull), in, &out)
	return out, err
}

// UpdateFunction changes a function. The image is looked at (and, as pull says,
// pulled), and its digest pinned anew, only if s sets it.
func (c *Client) UpdateFunction(ctx context.Context, app, name string, s Settings, pull string) (Function, error) {
	var out Function
	err := c.do(ctx, http.MethodPatch, path("apps", app, "functions", name), pullQuery(pull), s, &out)
	return out, err
}

// DeleteFunction removes a function and its logs. Its queued calls are canceled.
// One of which a call runs is a Conflict unless force is set: then the call goes
// on to its end.
func (c *Client) DeleteFunction(ctx context.Context, app, name string, force bool) error {
	var query url.Values
	if force {
		query = url.Values{"force": {"true"}}
	}
	return c.do(ctx, http.MethodDelete, path("apps", app, "functions", name), query, nil, nil)
}

// RefreshFunction gives a function a new public address; the old one is gone.
func (c *Client) RefreshFunction(ctx context.Context, app, name string) (Function, error) {
	var out Function
	err := c.do(ctx, http.MethodPost, path("apps", app, "functions", name, "refresh"), nil, nil, &out)
	return out, err
}

// Status counts the asynchronous calls of a function.
func (c *Client) Status(ctx context.Context, app, name string) (Status, error) {
	var out Status
	err := c.do(ctx, http.MethodGet, path("apps", app, "functions", name, "status"), nil, nil, &out)
	return out, err
}

func pullQuery(pull string) url.Values {
	if pull == "" {
		return nil
	}
	return url.Values{"pull": {pull}}
}

// Sandboxes returns the live sandboxes, the oldest first.
func (c *Client) Sandboxes(ctx context.Context) ([]Sandbox, error) {
	var out struct {
		Sandboxes []Sandbox `json:"sandboxes"`
	}
	err := c.do(ctx, http.MethodGet, path("sandboxes"), nil, nil, &out)
	return out.Sandboxes, err
}

// Top returns what goes on at the node.
func (c *Client) Top(ctx context.Context) (Top, error) {
	var out Top
	err := c.do(ctx, http.MethodGet, path("top"), nil, nil, &out)
	return out, err
}

// Node returns what the daemon says of itself.
func (c *Client) Node(ctx context.Context) (Node, error) {
	var out Node
	err := c.do(ctx, http.MethodGet, path("node"), nil, nil, &out)
	return out, err
}
