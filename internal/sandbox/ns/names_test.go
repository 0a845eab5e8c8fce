package ns

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
)

func TestNameServerIsOursWhateverTheImageHas(t *testing.T) {
	w := sandboxtest.NewWorld(t)
	d := open(t, func(c *Config) { c.Router = w.Router })
	ours := string(w.Router.ResolvConf())
	etc := func(make func(etc string) error) func(string) error {
		return func(dir string) error {
			etc := filepath.Join(dir, "etc")
			if err := os.Mkdir(etc, 0o755); err != nil {
				return err
			}
			return make(etc)
		}
	}
	link := func(to string) func(string) error {
		return etc(func(etc string) error { return os.Symlink(to, filepath.Join(etc, "resolv.conf")) })
	}
	for name, tt := range map[string]struct {
		make func(dir string) error
		want string
	}{
		"nothing": {etc(func(string) error { return nil }), ours},
		"a file": {etc(func(etc string) error {
			return os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("of the image\n"), 0o600)
		}), ours},
		"a directory":                {etc(func(etc string) error { return os.Mkdir(filepath.Join(etc, "resolv.conf"), 0o755) }), ours},
		"the link of systemd":        {link("../run/systemd/resolve/stub-resolv.conf"), ours},
		"an absolute link":           {link("/bin/busybox"), ours},
		"a mark that it is removed":  {etc(func(etc string) error { return unix.Mknod(filepath.Join(etc, "resolv.conf"), unix.S_IFCHR, 0) }), ours},
		"no directory /etc":          {func(string) error { return nil }, ours},
		"/etc that is removed":       {func(dir string) error { return unix.Mknod(filepath.Join(dir, "etc"), unix.S_IFCHR, 0) }, ours},
		"a link in the place of it":  {func(dir string) error { return os.Symlink("/tmp", filepath.Join(dir, "etc")) }, "cat: can't open '/etc/resolv.conf': No such file or directory\n"},
		"a file in the place of etc": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "etc"), nil, 0o644) }, "cat: can't open '/etc/resolv.conf': Not a directory\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			os.Chmod(dir, 0o755)
			if err := tt.make(dir); err != nil {
				t.Fatal(err)
			}
			for _, writable := range []bool{false, true} {
				r := sh(t, d, "cat /etc/resolv.conf 2>&1; id -u", func(s *sandbox.Spec) {
					s.Root = sandbox.Root{Key: dir, Layers: []string{dir, layer(t)}}
					s.Network, s.Writable = faas.Egress{Mode: faas.NetworkOpen}, writable
				})
				if r.out != tt.want+"1000\n" {
					t.Errorf("got %q, %q; want %q", r.out, r.err, tt.want)
				}
			}
		})
	}
}

func TestDirectoriesOfAnImageKeepTheirOwnersBesideOurNameServer(t *testing.T) {
	w := sandboxtest.NewWorld(t)
	d := open(t, func(c *Config) { c.Router = w.Router })
	dir := t.TempDir()
	os.Chmod(dir, 0o751)
	os.Mkdir(filepath.Join(dir, "etc"), 0o700)
	os.Chmod(filepath.Join(dir, "etc"), 0o775)
	os.Chown(filepath.Join(dir, "etc"), 7, 9)
	r := sh(t, d, "stat -c '%a %u %g' / /etc /etc/resolv.conf /etc/hosts /etc/owned; cat /etc/hosts", func(s *sandbox.Spec) {
		s.Root = sandbox.Root{Key: dir, Layers: []string{dir, layer(t)}}
		s.Network = faas.Egress{Mode: faas.NetworkAllow}
	})
	if want := "751 0 0\n775 7 9\n644 0 0\n644 0 0\n600 1000 1000\n" + sandbox.Hosts; r.out != want {
		t.Errorf("got %q, %q; want %q", r.out, r.err, want)
	}
}

func TestHostsAndNamesOfOtherNetworks(t *testing.T) {
	d := open(t)
	nodes, _ := os.ReadFile("/etc/resolv.conf")
	if r := sh(t, d, "cat /etc/resolv.conf", func(s *sandbox.Spec) { s.Network.Mode = faas.NetworkHost }); r.out != string(nodes) {
		t.Errorf("in the node's network it has %q, the node %q", r.out, nodes)
	}
	if r := sh(t, d, "cat /etc/resolv.conf; cat /etc/hosts"); r.out != sandbox.Hosts || !strings.Contains(r.err, "No such file") {
		t.Errorf("without a network it has %q, %q; want no name server", r.out, r.err)
	}
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	os.Mkdir(filepath.Join(dir, "etc"), 0o755)
	os.WriteFile(filepath.Join(dir, "etc/hosts"), []byte("of the image\n"), 0o644)
	if r := sh(t, d, "cat /etc/hosts", func(s *sandbox.Spec) {
		s.Root = sandbox.Root{Key: dir, Layers: []string{dir, layer(t)}}
	}); r.out != "of the image\n" {
		t.Errorf("hosts of the image are %q", r.out)
	}
}

func TestWithoutARouterNothingIsReached(t *testing.T) {
	d := open(t)
	for _, mode := range []faas.NetworkMode{faas.NetworkOpen, faas.NetworkAllow} {
		s := spec(t, "true")
		s.Network.Mode = mode
		if _, err := d.Start(t.Context(), s); faas.KindOf(err) != faas.Unsupported {
			t.Errorf("network %s: %v, want Unsupported", mode, err)
		}
	}
	w := sandboxtest.NewWorld(t)
	if err := w.Router.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, func(c *Config) { c.Router = w.Router })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for range 100 { // until those that were ready are used up
		s := spec(t, "true")
		s.Network.Mode = faas.NetworkOpen
		if _, err := d.Start(ctx, s); faas.KindOf(err) != faas.Busy {
			t.Fatalf("with a router that is closed: %v, want Busy", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}
