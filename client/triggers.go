package client

import (
	"context"
	"net/http"
)

// Triggers returns the triggers of a function, by name, or those of all functions
// of the app if fn is empty.
func (c *Client) Triggers(ctx context.Context, app, fn string) ([]Trigger, error) {
	at := path("apps", app, "triggers")
	if fn != "" {
		at = path("apps", app, "functions", fn, "triggers")
	}
	var out struct {
		Triggers []Trigger `json:"triggers"`
	}
	err := c.do(ctx, http.MethodGet, at, nil, nil, &out)
	return out.Triggers, err
}

// Trigger returns one trigger.
func (c *Client) Trigger(ctx context.Context, app, fn, name string) (Trigger, error) {
	var out Trigger
	err := c.do(ctx, http.MethodGet, triggerPath(app, fn, name), nil, nil, &out)
	return out, err
}

// CreateTrigger makes a trigger; a name that another of the function has is a
// Conflict, and so is a source that another of the app has.
func (c *Client) CreateTrigger(ctx context.Context, app, fn, name string, s TriggerSettings) (Trigger, error) {
	in := struct {
		Name string `json:"name"`
		TriggerSettings
	}{name, s}
	in.Revision = 0
	var out Trigger
	err := c.do(ctx, http.MethodPost, path("apps", app, "functions", fn, "triggers"), nil, in, &out)
	return out, err
}

// PutTrigger makes a trigger, or changes the one that has the name.
func (c *Client) PutTrigger(ctx context.Context, app, fn, name string, s TriggerSettings) (Trigger, error) {
	var out Trigger
	err := c.do(ctx, http.MethodPut, triggerPath(app, fn, name), nil, s, &out)
	return out, err
}

// UpdateTrigger changes a trigger that is there.
func (c *Client) UpdateTrigger(ctx context.Context, app, fn, name string, s TriggerSettings) (Trigger, error) {
	var out Trigger
	err := c.do(ctx, http.MethodPatch, triggerPath(app, fn, name), nil, s, &out)
	return out, err
}

// DeleteTrigger removes a trigger.
func (c *Client) DeleteTrigger(ctx context.Context, app, fn, name string) error {
	return c.do(ctx, http.MethodDelete, triggerPath(app, fn, name), nil, nil, nil)
}

func triggerPath(app, fn, name string) string {
	return path("apps", app, "functions", fn, "triggers", name)
}
