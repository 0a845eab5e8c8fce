package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/linux"
	"hob/internal/sandbox"
	"hob/internal/testenv"
)

// TestDaemonsDeathEndsItsSandboxes kills a process that has a driver and two
// sandboxes, one of them frozen, and looks for what is left before and after the
// next driver's Reap.
func TestDaemonsDeathEndsItsSandboxes(t *testing.T) {
	if program := os.Getenv("HOB_TEST_PROGRAM"); program != "" {
		victim(t, program)
		return
	}
	each(t, func(t *testing.T, program string) {
		testenv.NothingLeft(t, testenv.Mark())
		d := open(t, program)
		cmd := exec.Command(os.Args[0], "-test.run=^TestDaemonsDeathEndsItsSandboxes$")
		cmd.Env = append(os.Environ(), "HOB_TEST_PROGRAM="+program, "HOB_TEST_LAYER="+layer(t), "HOB_TEST_STATE="+d.cfg.State, "HOB_TEST_PARENT="+d.cfg.CgroupParent)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var name, frozen string
		if _, err := fmt.Fscanf(stdout, "sandboxes %s %s\n", &name, &frozen); err != nil {
			t.Fatalf("the victim did not start: %v", err)
		}
		if err := d.Reap(t.Context()); err != nil {
			t.Fatal(err)
		}
		living := d.cgroups.Open(name).Processes()
		if len(living) == 0 {
			t.Fatal("the sandbox of a living daemon was reaped")
		}
		cmd.Process.Kill()
		cmd.Wait()
		for _, pid := range living {
			until(t, "a process outlives its daemon", func() bool { return linux.HasEnded(pid) })
		}
		stood := d.cgroups.Open(frozen).Processes()
		until(t, "the dead generation is not reaped", func() bool {
			// One that is just ending is left alone. No program is asked for.
			if err := Reap(t.Context(), Config{Generation: d.cfg.Generation, State: d.cfg.State, CgroupParent: d.cfg.CgroupParent}); err != nil {
				t.Fatal(err)
			}
			_, err := os.Stat(filepath.Join(d.cfg.State, "dead"))
			return errors.Is(err, fs.ErrNotExist)
		})
		for _, pid := range stood { // in version 1 of cgroups only a thaw lets it end
			until(t, "a frozen process is left", func() bool { return linux.HasEnded(pid) })
		}
		if left, _ := d.cgroups.Children(d.cfg.CgroupParent); len(left) != 1 {
			t.Errorf("generations after Reap: %v, want only this one", left)
		}
		if left, _ := filepath.Glob(filepath.Join(d.cfg.State, "*")); len(left) != 2 {
			t.Errorf("after Reap there is %v, want only what is of this generation", left)
		}
	})
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// victim is the process that is killed.
func victim(t *testing.T, program string) {
	d, err := New(Config{Program: program, Generation: "dead", State: os.Getenv("HOB_TEST_STATE"), CgroupParent: os.Getenv("HOB_TEST_PARENT")})
	if err != nil {
		t.Fatal(err)
	}
	var names []any
	for range 2 {
		b, err := d.Start(t.Context(), spec(t, "prog", "hang"))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, path.Join(b.(*box).name, innerCgroup))
		if len(names) == 2 && d.caps.Freezer {
			until(t, "it does not stand still", func() bool { return b.(*box).Freeze() == nil })
		}
	}
	fmt.Printf("sandboxes %s %s\n", names...)
	select {} // until killed
}

func TestManyStartsLeaveNothing(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		testenv.NothingLeft(t, testenv.Mark())
		d := open(t, program)
		run(t, d, spec(t, "true"))
		before := len(testenv.Descriptors())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 3 {
					s := spec(t, "true")
					s.Sockets = "/tmp/s"
					if r := run(t, d, s); r.exit != (faas.Exit{}) {
						t.Errorf("ended %+v: %s", r.exit, r.err)
					}
					s.Args = []string{"nope"}
					if _, err := d.Start(t.Context(), s); faas.KindOf(err) != faas.Invalid {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if live := d.live(); len(live) != 0 {
			t.Errorf("%d sandboxes are live", len(live))
		}
		until(t, "descriptors are not closed", func() bool { return len(testenv.Descriptors()) <= before+2 })
		if left := d.cgroups.Open(d.cgroup()).Processes(); len(left) > 0 {
			t.Errorf("processes in the cgroups: %v", left)
		}
		if left, _ := os.ReadDir(d.dir); len(left) > 0 {
			t.Errorf("bundles are left: %v", left)
		}
	})
}

func TestStartThatIsGivenUpLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		testenv.NothingLeft(t, testenv.Mark())
		d := open(t, program)
		for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			b, err := d.Start(ctx, spec(t, "prog", "hang"))
			cancel()
			if err == nil {
				err = b.Stop(t.Context(), 0)
			} else if faas.KindOf(err) == faas.Busy {
				err = nil
			}
			if err != nil {
				t.Errorf("given up after %v: %v", after, err)
			}
		}
		if left, _ := os.ReadDir(d.dir); len(left) > 0 {
			t.Errorf("bundles are left: %v", left)
		}
	})
}

func TestFrozenSandboxUsesNoProcessor(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		testenv.SkipUnless(t, d.caps.Freezer, "sandboxes cannot be frozen", "mount the freezer")
		s, err := d.Start(t.Context(), spec(t, "prog", "spin", "1h"))
		if err != nil {
			t.Fatal(err)
		}
		b := s.(*box)
		for range 2 {
			before := b.Usage().CPUTime
			until(t, "it uses no processor time", func() bool { return b.Usage().CPUTime > before+time.Millisecond })
			until(t, "it does not stand still", func() bool { return b.Freeze() == nil })
			// On its last steps to where it stands the kernel may have interrupted it.
			until(t, "frozen, it uses processor time", func() bool {
				before := b.Usage().CPUTime
				time.Sleep(20 * time.Millisecond)
				return b.Usage().CPUTime == before
			})
			if err := b.Thaw(); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "it does not stand still", func() bool { return b.Freeze() == nil })
		if err := b.Stop(t.Context(), 0); err != nil {
			t.Errorf("Stop of a frozen one: %v", err)
		}
	})
}

func TestHogsMakeWay(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		hog, err := d.Start(t.Context(), spec(t, "sh", "-c", "prog spin 1h & prog spin 1h"))
		if err != nil {
			t.Fatal(err)
		}
		defer hog.Stop(context.Background(), 0)
		name := hog.(*box).cgroup.Name
		until(t, "the hog does not make way", func() bool { return testenv.CPUIdle(t, name) == "1" })
		until(t, "it does not stand still", func() bool { return hog.(*box).Freeze() == nil })
		until(t, "it still does when it stands still", func() bool { return testenv.CPUIdle(t, name) == "0" })
	})
}

func TestSandboxKilledFromOutsideIsSeen(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		d := open(t, program)
		s, err := d.Start(t.Context(), spec(t, "prog", "hang"))
		if err != nil {
			t.Fatal(err)
		}
		b := s.(*box)
		pids := b.inner.Processes()
		for _, pid := range pids { // or gVisor sees what it holds killed, and ends by itself
			unix.Kill(pid, unix.SIGSTOP)
		}
		for _, pid := range pids {
			until(t, "a process does not stop", func() bool {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				return err != nil || strings.Contains(strings.ToUpper(string(stat)), ") T ")
			})
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		exit, err := b.Wait(t.Context())
		if err != nil || exit.Signal != "SIGKILL" || exit.OOM {
			t.Errorf("Wait = %+v, %v; want SIGKILL", exit, err)
		}
		if err := b.Stop(t.Context(), 0); err != nil {
			t.Error(err)
		}
	})
}

// TestOrdinaryEndIsNoWarning stops programs that end with their input, mostly while they
// are being asked to, and some that end when they are asked.
func TestOrdinaryEndIsNoWarning(t *testing.T) {
	each(t, func(t *testing.T, program string) {
		var warned strings.Builder
		d := open(t, program, func(c *Config) {
			c.Log = slog.New(slog.NewTextHandler(&warned, &slog.HandlerOptions{Level: slog.LevelWarn}))
		})
		for _, what := range []string{"echo", "echo", "echo", "term"} {
			b, err := d.Start(t.Context(), spec(t, "prog", what))
			if err != nil {
				t.Fatal(err)
			}
			if what == "term" {
				b.Stdio().Stdout.Read(make([]byte, 1)) // it is ready
			}
			if err := b.Stop(t.Context(), 20*time.Second); err != nil {
				t.Error(err)
			}
			exit, err := b.Wait(t.Context()) // the others may not have come to anything yet
			if what == "term" && exit != (faas.Exit{}) || err != nil {
				t.Errorf("%s ended %+v, %v", what, exit, err)
			}
		}
		if warned.Len() > 0 {
			t.Errorf("warned: %s", &warned)
		}
	}, "crun")
}

func TestWhatIsNoRuntimeIsUnsupported(t *testing.T) {
	testenv.NeedRoot(t)
	talks := filepath.Join(t.TempDir(), "talks")
	if err := os.WriteFile(talks, []byte("#!/bin/sh\necho podman version 5\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\n[ $1 = --version ] && exec echo runc version 1\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]string{
		"no-such-runtime": "there is no runtime program", "/bin/false": "does not tell its version", talks: `its version is "podman version 5"`,
	} {
		_, err := New(Config{Program: program, Generation: "g", State: state(t), CgroupParent: testenv.Mark() + "none"})
		if faas.KindOf(err) != faas.Unsupported || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want Unsupported with %q", program, err, want)
		}
	}
	d := open(t, broken)
	if _, err := d.Probe(t.Context()); faas.KindOf(err) != faas.Unsupported || !strings.Contains(err.Error(), "cannot start a sandbox on this node") {
		t.Errorf("Probe = %v, want Unsupported", err)
	}
	if _, err := New(Config{Program: broken, Generation: d.cfg.Generation, State: d.cfg.State, CgroupParent: d.cfg.CgroupParent}); faas.KindOf(err) != faas.Conflict {
		t.Errorf("a second driver of a generation: %v, want Conflict", err)
	}
	var _ sandbox.Driver = d
}
