package testenv_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hob/internal/testenv"
)

// recorder is a test that is watched: it keeps what it was told instead of
// telling it to the real test. Fatalf and Skipf end the goroutine, as they must.
type recorder struct {
	testing.TB
	fatal, skipped string
	errors         []string
	cleanups       []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// watch runs f as a test would be run, cleanups included.
func watch(t *testing.T, f func(testing.TB)) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	for _, c := range slices.Backward(r.cleanups) {
		c()
	}
	return r
}

func TestMissingToolSkipsWithTheReason(t *testing.T) {
	t.Setenv("HOB_TEST_MUST_RUN", "")
	r := watch(t, func(t testing.TB) { testenv.NeedTool(t, "no-such-program") })
	if want := "no-such-program"; !strings.Contains(r.skipped, want) || r.fatal != "" {
		t.Errorf("skipped with %q, failed with %q; want a skip that names %s", r.skipped, r.fatal, want)
	}
}

func TestMissingToolFailsWhereTestsMustRun(t *testing.T) {
	t.Setenv("HOB_TEST_MUST_RUN", "1")
	t.Setenv("PATH", "")
	r := watch(t, func(t testing.TB) { testenv.NeedTool(t, "no-such-program") })
	if r.skipped != "" || !strings.Contains(r.fatal, "apt-get install no-such-program") {
		t.Errorf("skipped with %q, failed with %q; want a failure that says how to get it", r.skipped, r.fatal)
	}
}

func TestUnknownFeatureIsAMistakeOfTheTest(t *testing.T) {
	r := watch(t, func(t testing.TB) { testenv.NeedFeature(t, "teleport") })
	if !strings.Contains(r.fatal, "teleport") {
		t.Errorf("failed with %q; want the unknown feature named", r.fatal)
	}
}

func TestProcessLeftRunningIsFound(t *testing.T) {
	var cmd *exec.Cmd
	r := watch(t, func(rt testing.TB) {
		testenv.NothingLeft(rt, testenv.Mark()) // nobody waits while it looks in vain
		cmd = exec.Command("cat")
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	})
	cmd.Process.Kill()
	cmd.Wait()
	want := fmt.Sprintf("process %d ", cmd.Process.Pid)
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], want) || !strings.Contains(r.errors[0], ", now cat in state ") {
		t.Errorf("told of %q; want one line with %q, of cat", r.errors, want)
	}
}

func TestProcessThatWasThereMayHaveAnotherStateLater(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x; exec cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := watch(t, func(rt testing.TB) {
		testenv.NothingLeft(rt, testenv.Mark())
		io.WriteString(in, "\nhello")
		if _, err := io.ReadFull(out, make([]byte, 5)); err != nil { // it is cat now
			t.Fatal(err)
		}
	})
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if len(r.errors) > 0 {
		t.Errorf("told of %q; want nothing", r.errors)
	}
}

func TestMountLeftInTheTemporaryDirectoryIsFound(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Tmpfs)
	dir := t.TempDir()
	r := watch(t, func(rt testing.TB) {
		testenv.NothingLeft(rt, dir)
		if out, err := exec.Command("mount", "-t", "tmpfs", "none", dir).CombinedOutput(); err != nil {
			t.Fatalf("mount: %v\n%s", err, out)
		}
	})
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v\n%s", err, out)
	}
	if want := []string{"left behind: mount " + dir}; !slices.Equal(r.errors, want) {
		t.Errorf("told of %q; want %q", r.errors, want)
	}
}

func TestTestThatCleansUpLeavesNothing(t *testing.T) {
	r := watch(t, func(rt testing.TB) {
		testenv.NothingLeft(rt)
		if err := exec.Command("true").Run(); err != nil {
			t.Fatal(err)
		}
	})
	if len(r.errors) > 0 {
		t.Errorf("told of %q; want nothing", r.errors)
	}
}

func TestDockerAnswersOnceATestHasAskedForIt(t *testing.T) {
	testenv.NeedFeature(t, testenv.Docker)
	if out, err := exec.Command("docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		t.Errorf("docker version: %v\n%s", err, out)
	}
}

func TestDescriptorsNamesOpenFiles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "open")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(testenv.Descriptors(), name) {
		t.Errorf("%s is open and not in the list", name)
	}
	f.Close()
	if slices.Contains(testenv.Descriptors(), name) {
		t.Errorf("%s is closed and in the list", name)
	}
}
