package daemon_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"hob/client"
	"hob/faas"
	"hob/internal/build"
	"hob/internal/config"
	"hob/internal/daemon"
	"hob/internal/sandbox/fake"
	"hob/internal/testenv"
)

// BenchmarkLine is what hob itself costs in a call: a whole daemon over HTTP, with
// functions that run in this process in place of sandboxes.
func BenchmarkLine(b *testing.B) {
	testenv.NeedRoot(b) // images are unpacked with their owners
	cfg := config.Default()
	cfg.Data, cfg.Listen, cfg.Driver = filepath.Join(b.TempDir(), "data"), "127.0.0.1:0", "fake"
	d, err := daemon.New(b.Context(), cfg, slog.New(slog.DiscardHandler), daemon.WithDriver(fake.New(fake.Builtin())))
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	c, err := client.New("http://" + d.Addr())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cat"), []byte("#!/bin/cat\n"), 0o755); err != nil { // an image needs a file; the fake driver looks at none
		b.Fatal(err)
	}
	img, err := build.FromDir(b.Context(), build.Options{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	var tar bytes.Buffer
	if err := build.WriteTar(&tar, "hob.local/cat:latest", img); err != nil {
		b.Fatal(err)
	}
	if _, err := c.Load(b.Context(), &tar, ""); err != nil {
		b.Fatal(err)
	}
	image := "hob.local/cat:latest"
	if _, err := c.CreateFunction(b.Context(), faas.DefaultApp, "cat", client.Settings{Image: &image, Command: &[]string{"cat"}}, ""); err != nil {
		b.Fatal(err)
	}
	url := "http://" + d.Addr() + "/api/apps/default/functions/cat/call"
	call := func() {
		resp, err := http.Post(url, "text/plain", bytes.NewReader([]byte("hello")))
		if err != nil {
			b.Error(err)
			return
		}
		defer resp.Body.Close()
		if out, err := io.ReadAll(resp.Body); err != nil || string(out) != "hello" {
			b.Errorf("answer %q, %v", out, err)
		}
	}
	b.Run("one caller", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			call()
		}
	})
	b.Run("many callers", func(b *testing.B) {
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				call()
			}
		})
	})
}
