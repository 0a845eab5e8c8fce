package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"hob/faas"
)

// LogSelection chooses lines of one function's log.
type LogSelection struct {
	App, Function string
	Call          string // id: only the lines of this call
	Tail          int    // only the last so many of what is there; negative: all
	Follow        bool   // go on with what is written from now on, until the context ends
	NoEvents      bool   // leave out what hob wrote about calls
}

// Logs yields the chosen lines, the oldest first. After an error, which comes
// with an empty line, it ends. The end of ctx ends a followed log with its error.
func (c *Client) Logs(ctx context.Context, s LogSelection) iter.Seq2[faas.LogLine, error] {
	return func(yield func(faas.LogLine, error) bool) {
		query := url.Values{}
		if s.Call != "" {
			query.Set("call", s.Call)
		}
		if s.Tail >= 0 {
			query.Set("tail", strconv.Itoa(s.Tail))
		}
		if s.Follow {
			query.Set("follow", "true")
		}
		if s.NoEvents {
			query.Set("events", "false")
		}
		resp, err := c.send(ctx, http.MethodGet, path("apps", s.App, "functions", s.Function, "logs"), query, nil, nil)
		if err != nil {
			yield(faas.LogLine{}, err)
			return
		}
		defer resp.Body.Close()
		for line, err := range lines[wireLine](ctx, c, resp.Body) {
			if err == nil {
				err = line.failure("", nil)
			}
			if err != nil {
				yield(faas.LogLine{}, err)
				return
			}
			if !yield(line.line(), nil) {
				return
			}
		}
	}
}

type wireLine struct {
	Time   time.Time `json:"time"`
	Call   string    `json:"call"`
	Stream string    `json:"stream"`
	Text   string    `json:"text"`
	Event  *LogEvent `json:"event"`
	wireFault
}

func (l wireLine) line() faas.LogLine {
	line := faas.LogLine{Time: l.Time, Call: l.Call, Stream: l.Stream, Text: l.Text}
	if e := l.Event; e != nil {
		line.Event = &faas.Event{Name: e.Name, Call: l.Call, Attempt: e.Attempt,
			Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr, Message: e.Message}
	}
	return line
}

// LogEvent is a step in the life of a call, as a line of its function's log.
type LogEvent struct {
	Name    faas.EventName `json:"name"`
	Attempt int            `json:"attempt"`
	Stdin   string         `json:"stdin,omitempty"` // the beginnings, if the function has log_payload
	Stdout  string         `json:"stdout,omitempty"`
	Stderr  string         `json:"stderr,omitempty"`
	Message string         `json:"message,omitempty"` // why it failed, or when it is tried again
}

// lines decodes one value after the other from an answer of JSON lines.
func lines[T any](ctx context.Context, c *Client, body io.Reader) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		dec := json.NewDecoder(body)
		for {
			var line T
			err := dec.Decode(&line)
			switch {
			case err == nil:
				if !yield(line, nil) {
					return
				}
				continue
			case errors.Is(err, io.EOF):
				return
			case ctx.Err() != nil:
				err = ended(ctx)
			default:
				err = faas.Errorf(faas.Internal, "read the answer of %s: %w", c.address, err)
			}
			yield(line, err)
			return
		}
	}
}
