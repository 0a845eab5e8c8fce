package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/api/core"
	"hob/internal/catalog"
	"hob/internal/image"
	"hob/internal/logs"
	"hob/internal/store/memory"
)

// newServer starts a server of which everything is real but the functions, on
// directories of its own, and returns its address.
func newServer(t testing.TB) string {
	t.Helper()
	definitions := memory.New()
	t.Cleanup(func() { definitions.Close() })
	index, err := catalog.Load(context.Background(), definitions)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(nil)
	images, err := image.Open(image.Config{Dir: t.TempDir(), Self: []string{server.Listener.Addr().String()}, InUse: index.Digests})
	if err != nil {
		t.Fatal(err)
	}
	lines, err := logs.Open(logs.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lines.Close() })
	api := &core.Server{
		Catalog: index, Images: images, Logs: lines,
		Caller:     &functions{logs: lines},
		MaxPayload: 1 << 20,
		Sandboxes: func() []faas.Sandbox {
			return []faas.Sandbox{
				{ID: "s1", App: "default", Function: "slow", Format: faas.FormatHTTP, Call: "01K9ZZ8N2R6W0V5T3YQ4XH7JGM", State: "busy",
					Start: faas.StartPrepared, Calls: 7, Started: time.Now(),
					Memory: 3 * faas.MB, PeakMemory: 4 * faas.MB, CPUTime: 5 * time.Millisecond, Processes: 2},
				{ID: "s2", App: "default", Function: "quiet", Format: faas.FormatPort, State: "frozen", Start: faas.StartBare, Calls: 3, Started: time.Now()},
			}
		},
		Node: func() core.Node {
			return core.Node{Version: "v1.2.3", Go: "go1", Platform: "linux/amd64", Driver: "fake", CgroupVersion: 2, Started: time.Now(), Listen: server.Listener.Addr().String(),
				Network: "open", Refused: 7, Isolations: []core.Isolation{{Name: faas.IsolationNative}, {Name: faas.IsolationRunc}, {Name: faas.IsolationGVisor, Missing: errors.New("no program runsc")}}}
		},
		Refusals: func(string) int { return 3 },
		Log:      slog.New(slog.DiscardHandler),
	}
	server.Config.Handler = api.Handler()
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// functions stands for what runs calls: what a function is called decides what
// becomes of it.
type functions struct{ logs *logs.Store }

func (f *functions) Live() []faas.Call { return nil }

func (f *functions) Call(ctx context.Context, fn faas.Function, call *faas.Call, req *faas.Request, w http.ResponseWriter) error {
	if err := call.Advance(faas.CallRunning, time.Now()); err != nil {
		return err
	}
	log := f.logs.Writer(fn.ID, call.ID, "stderr")
	err := run1(ctx, fn.Name, req, w, log, &call.Outcome)
	log.Close()
	call.Run = 4 * time.Millisecond
	if fn.Name == "web" {
		call.Waiting = "2nd in line, for memory"
	}
	if err != nil {
		call.Error, call.ErrKind = err.Error(), faas.KindOf(err)
	}
	if advance := call.Advance(faas.StateAfter(err), time.Now()); advance != nil {
		return advance
	}
	f.logs.Record(*call)
	return err
}

func run1(ctx context.Context, name string, req *faas.Request, w http.ResponseWriter, log io.Writer, out *faas.Outcome) error {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return faas.Errorf(faas.TooLarge, "the payload is over the limit: %w", err)
	}
	out.In, out.Exit, out.Start = int64(len(body)), &faas.Exit{}, faas.StartOnDemand
	switch name {
	case "upper":
		fmt.Fprintf(log, "%s of %d bytes, X-Level %q\n", req.Method, len(body), req.Header.Get("X-Level"))
		n, err := w.Write(bytes.ToUpper(body))
		out.Status, out.Out = http.StatusOK, int64(n)
		return err
	case "web":
		out.Start = faas.StartHot
		switch req.Target {
		case "/teapot":
			w.WriteHeader(http.StatusTeapot)
		case "/moved":
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusFound)
		}
		_, err := fmt.Fprintf(w, "%s %s\n", req.Method, req.Target)
		return err
	case "half":
		io.WriteString(w, "the first ha")
		http.NewResponseController(w).Flush()
		out.Exit = &faas.Exit{Signal: "SIGKILL", OOM: true}
		return faas.Errorf(faas.FuncFailed, "killed: over its 128 MB memory limit")
	case "broken":
		fmt.Fprintln(log, "no such picture")
		out.Exit.Code = 3
		return faas.Errorf(faas.FuncFailed, "exit code 3: no such picture")
	case "full":
		return faas.Errorf(faas.Busy, "no sandbox became free in 30s")
	case "defect":
		return errors.New("open /var/lib/hob/db: permission denied")
	case "slow":
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return faas.Errorf(faas.Internal, "function %s is not in this test", name)
}
