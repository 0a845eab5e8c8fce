package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"hob/faas"
	"hob/internal/config"
	"hob/internal/daemon"
	"hob/internal/sandbox/fake"
)

// TestDaemonScript replays the transcripts in testdata/daemon, each against a
// whole daemon in this process, whose sandboxes are functions in Go.
func TestDaemonScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/daemon",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			cfg := config.Default()
			cfg.Data, cfg.Listen, cfg.Driver, cfg.Grace = filepath.Join(env.WorkDir, "data"), "127.0.0.1:0", "fake", time.Second
			cfg.MaxRequest = faas.MB
			d, err := daemon.New(context.Background(), cfg, slog.New(slog.DiscardHandler), daemon.WithDriver(fake.New(programs())), daemon.WithVersion("v1.2.3"))
			if err != nil {
				return err
			}
			ctx, stop := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- d.Run(ctx) }()
			env.Defer(func() {
				stop()
				if err := <-ended; err != nil {
					t.Errorf("the daemon ended with %v", err)
				}
			})
			if err := os.WriteFile(filepath.Join(env.WorkDir, "tiny"), tinyProgram(runtime.GOARCH), 0o755); err != nil {
				return err
			}
			env.Setenv("HOB_SERVER", "unix://"+d.Socket())
			env.Setenv("TCP", "http://"+d.Addr())
			env.Setenv("HOB_CONFIG_DIR", env.WorkDir+"/.hob")
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "callid": callID, "called": called, "step": step},
	})
}

func programs() map[string]fake.Program {
	return map[string]fake.Program{
		"echo": fake.Builtin()["echo"],
		"upper": func(_ context.Context, p *fake.Proc) int {
			payload, _ := io.ReadAll(p.Stdin)
			fmt.Fprintf(p.Stderr, "%s of %d bytes, level %q\n", p.Getenv("HOB_METHOD"), len(payload), p.Getenv("HTTP_X_LEVEL"))
			fmt.Fprint(p.Stdout, string(bytes.ToUpper(payload)), p.Getenv("SUFFIX"))
			return 0
		},
		"broken": func(_ context.Context, p *fake.Proc) int {
			_, _ = io.Copy(io.Discard, p.Stdin)
			fmt.Fprintln(p.Stdout, "half a picture")
			fmt.Fprintln(p.Stderr, "no such picture")
			return 3
		},
		"half": func(_ context.Context, p *fake.Proc) int {
			_, _ = io.Copy(io.Discard, p.Stdin)
			fmt.Fprint(p.Stdout, strings.Repeat("x", 64<<10)) // as much as makes the answer begin
			fmt.Fprintln(p.Stderr, "lost it")
			return 4
		},
		"hungry": func(_ context.Context, p *fake.Proc) int {
			_, _ = io.Copy(io.Discard, p.Stdin)
			p.Die(faas.Exit{Signal: "SIGKILL", OOM: true})
			return 0
		},
		"slow": func(ctx context.Context, _ *fake.Proc) int {
			<-ctx.Done()
			return 0
		},
	}
}
