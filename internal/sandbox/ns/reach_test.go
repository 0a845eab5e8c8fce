package ns

import (
	"bufio"
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

// start starts s, which is stopped when the test ends.
func start(t *testing.T, d *Driver, s sandbox.Spec) *box {
	t.Helper()
	b, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(context.Background(), 0); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	return b.(*box)
}

// ready waits for the first line of a sandbox, which is "ready".
func ready(t *testing.T, b *box) {
	t.Helper()
	if line, err := bufio.NewReader(b.std.Stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("first line %q, %v", line, err)
	}
}

func TestSocketsAreTheUsersWhereverTheyAre(t *testing.T) {
	d := open(t)
	for _, dir := range []string{"/tmp/iofs", "/iofs", "/tmp/a/b/c", "/run/fn", "/data/in/it", "/data", "/tmp"} {
		for _, writable := range []bool{false, true} {
			for _, uid := range []uint32{0, 1000} {
				s := spec(t, "prog", "serve", "hello")
				s.Sockets, s.Writable, s.Volumes, s.User = dir, writable, []string{"/data"}, sandbox.User{UID: uid, GID: uid}
				b := sandboxtest.Serve(t, d, s)
				b.Do("listen unix @a")
				if got, err := b.Hear("unix", "a"); got != "hello" || err != nil {
					t.Errorf("%s, writable root %t, user %d: heard %q, %v", dir, writable, uid, got, err)
				}
			}
		}
	}
	for _, dir := range []string{"/", "/etc/text", "/no/../.."} {
		s := spec(t, "true")
		s.Sockets = dir
		if _, err := d.Start(t.Context(), s); faas.KindOf(err) != faas.Invalid {
			t.Errorf("sockets in %s: %v, want Invalid", dir, err)
		}
	}
}

func TestSocketsAreSmallAndHoldNoProgram(t *testing.T) {
	d := open(t)
	r := sh(t, d, `stat -c '%a %u %g' /tmp /tmp/x /tmp/x/iofs; cd /tmp/x/iofs; grep -o ' /tmp/x/iofs rw,[a-z,]*' /proc/self/mountinfo
echo 'echo run' > p; chmod 755 p; ./p 2>&1; dd if=/dev/zero of=big bs=1k count=100 2>&1 | grep -o "No space.*"; touch $(seq 100) 2>&1 | wc -l`,
		func(s *sandbox.Spec) { s.Sockets = "/tmp/x/iofs" })
	lines := strings.Split(r.out, "\n")
	if len(lines) < 7 || lines[0] != "1777 0 0" || lines[1] != "755 0 0" || lines[2] != "755 1000 1000" ||
		lines[3] != " /tmp/x/iofs rw,nosuid,nodev,noexec,relatime" || !strings.Contains(lines[4], "Permission denied") || lines[5] != "No space left on device" || lines[6] == "0" {
		t.Errorf("got %s\n%s", r.out, r.err)
	}
}

func TestEachSandboxHasItsPorts(t *testing.T) {
	d := open(t)
	var servers []*sandboxtest.Server
	for _, word := range []string{"one", "two"} {
		b := sandboxtest.Serve(t, d, spec(t, "prog", "serve", word))
		b.Do("listen tcp 127.0.0.1:8080")
		b.Do("listen tcp [::1]:8080")
		servers = append(servers, b)
	}
	for i, word := range []string{"one", "two"} {
		for _, addr := range []string{"127.0.0.1:8080", "[::1]:8080"} {
			if got, err := servers[i].Hear("tcp", addr); got != word || err != nil {
				t.Errorf("%s: heard %q, %v; want %s", addr, got, err, word)
			}
		}
		if _, err := servers[i].Hear("tcp", "somewhere:80"); faas.KindOf(err) != faas.Invalid {
			t.Errorf("a name: %v, want Invalid", err)
		}
	}
	b := start(t, d, spec(t, "true"))
	b.Wait(t.Context())
	if _, err := b.Dial(t.Context(), "tcp", "127.0.0.1:8080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a sandbox that has ended: %v, want a refusal", err)
	}
	if r := sh(t, d, "cat /proc/net/dev | wc -l"); r.out != "3\n" {
		t.Errorf("another sandbox has %s lines of devices", r.out)
	}
}

// frozen checks that the processes of b use no processor time.
func frozen(t *testing.T, b *box) {
	t.Helper()
	// On its last steps to where it stands the kernel may have interrupted it.
	until(t, "it uses no processor time", func() bool {
		before := b.Usage().CPUTime
		time.Sleep(20 * time.Millisecond)
		return b.Usage().CPUTime == before && before > 0
	})
}

// freeze freezes b. A machine that is busy may keep it from standing still for longer
// than Freeze waits: then it goes on, and may be tried again.
func freeze(t *testing.T, b *box) {
	t.Helper()
	err := b.Freeze()
	for range 20 {
		if err == nil || !strings.Contains(err.Error(), "does not stand still") {
			break
		}
		err = b.Freeze()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// spins waits until the processes of b use processor time.
func spins(t *testing.T, b *box) {
	t.Helper()
	before := b.Usage().CPUTime
	for end := time.Now().Add(time.Minute); b.Usage().CPUTime < before+time.Millisecond; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it uses no processor time")
		}
	}
}

func TestFrozenSandboxUsesNoProcessor(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NothingLeft(t, testenv.Mark())
	d := open(t)
	testenv.SkipUnless(t, d.caps.Freezer, "sandboxes cannot be frozen", "mount the freezer")
	for _, args := range [][]string{{"prog", "spin", "1h"}, {"prog", "spinners", "3"}} {
		t.Run(args[1], func(t *testing.T) {
			b := start(t, d, spec(t, args...))
			if args[1] == "spinners" {
				ready(t, b)
			}
			for range 3 {
				spins(t, b)
				freeze(t, b)
				frozen(t, b)
				if err := b.Thaw(); err != nil {
					t.Fatal(err)
				}
			}
			spins(t, b)
			freeze(t, b)
			if err := b.Stop(t.Context(), 0); err != nil {
				t.Errorf("Stop of a frozen one: %v", err)
			}
		})
	}
}

func TestFrozenSandboxCanBeKilled(t *testing.T) {
	d := open(t)
	testenv.SkipUnless(t, d.caps.Freezer, "sandboxes cannot be frozen", "mount the freezer")
	b := start(t, d, spec(t, "prog", "hang"))
	ready(t, b)
	freeze(t, b)
	unix.Kill(b.process.PID, unix.SIGKILL)
	if err := b.Thaw(); err != nil {
		t.Error(err)
	}
	if exit, err := b.Wait(t.Context()); err != nil || exit.Signal != "SIGKILL" {
		t.Errorf("Wait = %+v, %v; want SIGKILL", exit, err)
	}
	if err := b.Freeze(); err != nil {
		t.Errorf("Freeze of one that has ended: %v", err)
	}
	if err := b.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if err := b.Freeze(); err == nil {
		t.Error("Freeze after Stop: no error")
	}
}

func TestStopComesInTheMiddleOfAFreeze(t *testing.T) {
	d := open(t)
	testenv.SkipUnless(t, d.caps.Freezer, "sandboxes cannot be frozen", "mount the freezer")
	for range 10 {
		b := start(t, d, spec(t, "prog", "spinners", "2"))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for b.Freeze() == nil && b.Thaw() == nil {
				select {
				case <-b.ending:
					return
				default:
				}
			}
		}()
		time.Sleep(3 * time.Millisecond)
		if err := b.Stop(t.Context(), 0); err != nil {
			t.Error(err)
		}
		<-done
	}
}
