package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
)

func TestTopShowsTheBusiestFirst(t *testing.T) {
	top := client.Top{
		Time: time.Date(2026, 11, 21, 5, 4, 3, 0, time.Local),
		Node: client.Node{Running: 3, Waiting: 2, Sandboxes: 6, Memory: 4 * faas.GB, Reserved: faas.GB},
		Functions: []client.TopFunction{
			{App: "a", Function: "quiet", Sandboxes: client.TopSandboxes{Frozen: 2}, Memory: 3 * faas.MB},
			{App: "a", Function: "quick", PerSecond: 1234.5, P50: client.Duration(1234 * time.Microsecond)},
			{App: "b", Function: "full", Running: 3, Queued: 2, Waiting: "1st in line, for a slot:\x1b the function is at its limit of 3",
				Sandboxes: client.TopSandboxes{Starting: 1, Busy: 3}, Memory: 29 * faas.MB, PerSecond: 2, Failed: 0.5, P50: client.Duration(2 * time.Second)},
		},
	}
	var got strings.Builder
	if err := writeTop(&got, top, 2); err != nil {
		t.Fatal(err)
	}
	want := `05:04:03  calls: 3 running, 2 waiting  sandboxes: 6, 2 hot  memory: 32 MB used, 1 GB reserved of 4 GB

FUNCTION  RUNNING  WAITING  STARTING  BUSY  IDLE  FROZEN  CALLS/S  FAILED/S  P50     MEMORY   FIRST IN LINE
b/full    3        2        1         3     0     0       2.0      0.5       2s      29 MB    1st in line, for a slot:? the function is at its limit of 3
a/quick   0        0        0         0     0     0       1234     0.0       1.23ms  0 bytes  -
and 1 more: --limit shows them
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func TestTopLooksEverySecondUntilItIsInterrupted(t *testing.T) {
	looks := 0
	ctx, interrupt := context.WithCancelCause(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if looks++; looks == 2 {
			interrupt(errors.New("interrupt signal received"))
		}
		io.WriteString(w, `{"time":"2026-11-21T05:04:03Z","functions":[]}`)
	}))
	defer server.Close()
	env, stdout, stderr := testEnv(map[string]string{"HOB_SERVER": server.URL}, "")
	env.Terminal = func(stream any) bool { return stream == env.Stdout }
	if code := run(ctx, env, []string{"top"}); code != 0 || stderr.Len() > 0 {
		t.Errorf("exit code %d, %s; want 0: Ctrl-C is how it ends", code, stderr)
	}
	if out := stdout.String(); !strings.HasPrefix(out, toCorner) || !strings.HasSuffix(out, emptyScreen) || strings.Contains(strings.ReplaceAll(out, emptyLine+"\n", ""), "\n") {
		t.Errorf("a terminal is given %q, which does not cover the look before", out)
	}
}
