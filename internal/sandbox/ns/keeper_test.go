package ns

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/sandbox"
)

// readers is how many sandboxes read their standard input when their daemon is killed.
const readers = 12

// TestKilledDaemonEndsNoInput kills processes that have a driver while sandboxes
// wait for more input, or start. None must take the daemon's end for the end of
// its input, be it the first process of its sandbox or another.
func TestKilledDaemonEndsNoInput(t *testing.T) {
	if addr := os.Getenv("HOB_TEST_READERS"); addr != "" {
		read(t, addr)
		return
	}
	d := open(t)
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	dir := readerImage(t)
	next := func() string {
		var buf [64]byte
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, _, err := conn.ReadFrom(buf[:])
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	early := make(map[string]int)
	const rounds = 40
	for i := range rounds {
		generation := fmt.Sprint("dead", i)
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledDaemonEndsNoInput$")
		cmd.Env = append(os.Environ(), "HOB_TEST_READERS="+conn.LocalAddr().String(), "HOB_TEST_CHILD="+generation,
			"HOB_TEST_LOCKS="+d.cfg.LockDir, "HOB_TEST_PARENT="+d.cfg.CgroupParent, "HOB_TEST_IMAGE="+dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 1 + rand.IntN(readers) {
			if what := next(); what != "reads" {
				t.Fatalf("a sandbox says %q before the kill", what)
			}
		}
		cmd.Process.Kill()
		cmd.Wait() // until nobody has its standard output
		until(t, "its sandboxes have ended", func() bool {
			return len(d.cgroups.Open(path.Join(d.cfg.CgroupParent, generation)).Processes()) == 0
		})
		if err := d.Reap(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.WriteTo([]byte("over"), conn.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		for what := next(); what != "over"; what = next() {
			if what != "reads" {
				early[what]++
			}
		}
	}
	if len(early) > 0 {
		t.Errorf("input ended early in %d kills: %v", rounds, early)
	}
}

// readerImage returns a layer with testdata/reader.
func readerImage(t *testing.T) string {
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "reader"), "./testdata/reader")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the reader: %v\n%s", err, out)
	}
	return dir
}

// read is the process that is killed.
func read(t *testing.T, addr string) {
	d, err := New(Config{Generation: os.Getenv("HOB_TEST_CHILD"), LockDir: os.Getenv("HOB_TEST_LOCKS"), CgroupParent: os.Getenv("HOB_TEST_PARENT")})
	if err != nil {
		t.Fatal(err)
	}
	dir := os.Getenv("HOB_TEST_IMAGE")
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			s := sandbox.Spec{
				ID: faas.NewID(), Hostname: "fn", Root: sandbox.Root{Key: dir, Layers: []string{dir}}, Args: []string{"/reader", "itself", addr},
				Memory: 64 * faas.MB, User: sandbox.User{UID: 1000, GID: 1000}, Network: faas.Egress{Mode: faas.NetworkHost},
			}
			if i%2 == 0 {
				s.Args[1] = "parent"
			}
			if _, err := d.Start(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	select {} // until killed
}

func TestKilledKeeperIsMadeAgain(t *testing.T) {
	d := open(t)
	keepers := func() []int {
		d.keeper.mu.Lock()
		defer d.keeper.mu.Unlock()
		return []int{d.keeper.process.PID}
	}
	for range 3 {
		was := keepers()
		if len(was) != 1 {
			t.Fatalf("processes of the keeper: %v", was)
		}
		if err := unix.Kill(was[0], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		until(t, "there is another", func() bool { now := keepers(); return len(now) == 1 && now[0] != was[0] })
		if r := sh(t, d, "echo works"); r.out != "works\n" {
			t.Errorf("got %q, %+v", r.out, r.exit)
		}
	}
}

// TestKeeperHoldsNothing looks at what the process has of ours.
func TestKeeperHoldsNothing(t *testing.T) {
	d := open(t)
	dir := fmt.Sprintf("/proc/%d/", d.keeper.process.PID)
	until(t, "it waits", func() bool { comm, _ := os.ReadFile(dir + "comm"); return string(comm) == "hob-keeper\n" })
	until(t, "its memory is small", func() bool {
		status, _ := os.ReadFile(dir + "status")
		var kb int
		if _, after, ok := bytes.Cut(status, []byte("RssAnon:")); ok {
			fmt.Sscan(string(after), &kb)
			return kb < 100
		}
		return false
	})
}
