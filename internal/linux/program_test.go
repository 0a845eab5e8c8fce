package linux

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hob/internal/testenv"
)

func spawn(t *testing.T, p *Program) (Ended, error) {
	t.Helper()
	th, err := NewThread(func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer th.Close()
	var pid, fd int
	th.Do(func() { pid, fd, err = p.Spawn(0, -1) })
	if err != nil {
		return Ended{}, err
	}
	proc, err := NewProcess(pid, fd)
	if err != nil {
		t.Fatal(err)
	}
	return proc.Wait()
}

// begin starts the process of p, which must execute its program.
func begin(t *testing.T, th *Thread, p *Program, flags CloneFlags, cgroup int) *Process {
	t.Helper()
	var pid, fd int
	var err error
	th.Do(func() { pid, fd, err = p.Spawn(flags, cgroup) })
	if err != nil {
		t.Fatal(err)
	}
	proc, err := NewProcess(pid, fd)
	if err != nil {
		t.Fatal(err)
	}
	return proc
}

func TestProgramExecutes(t *testing.T) {
	p := NewProgram()
	p.Exec([]string{"/does/not/exist", "/bin/sh"}, []string{"sh", "-c", "exit $N"}, []string{"N=7"})
	e, err := spawn(t, p)
	if err != nil || e.Code != 7 || e.Signal != 0 {
		t.Errorf("ended %+v, %v; want code 7", e, err)
	}
}

func TestProgramStopsAtTheFailedStep(t *testing.T) {
	p := NewProgram()
	p.Do("ignored", IgnoreError, unix.SYS_CHDIR, p.String("/no"))
	p.Do("enter /nowhere", 0, unix.SYS_CHDIR, p.String("/nowhere"))
	p.Exec([]string{"/bin/true"}, []string{"true"}, nil)
	_, err := spawn(t, p)
	if e, ok := errors.AsType[*StepError](err); !ok || e.Step != "enter /nowhere" || e.Errno != unix.ENOENT {
		t.Errorf("spawn = %v, want enter /nowhere: no such file", err)
	}
}

func TestExecFailureTellsOfTheFileThatExists(t *testing.T) {
	file := t.TempDir() + "/data"
	if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := NewProgram()
	p.Exec([]string{"/no/a", file, "/no/b"}, []string{"x"}, nil)
	_, err := spawn(t, p)
	if errno, ok := ExecFailed(err); !ok || errno != unix.EACCES {
		t.Errorf("spawn = %v, want the EACCES of the file", err)
	}
}

func TestResultOfAStepCanBeUsed(t *testing.T) {
	p := NewProgram()
	p.Do("open", SaveResult, unix.SYS_OPENAT, ^uintptr(99), p.String("/dev/null"), unix.O_RDONLY)
	p.Do("dup", UseResult, unix.SYS_DUP3, 0, 77, 0)
	p.Do("same", MustBeZero, unix.SYS_FCNTL, 77, unix.F_GETFD)
	p.Do("not zero", MustBeZero, unix.SYS_FCNTL, 77, unix.F_DUPFD, 90)
	p.Exec([]string{"/bin/true"}, []string{"true"}, nil)
	_, err := spawn(t, p)
	if e, ok := errors.AsType[*StepError](err); !ok || e.Step != "not zero" {
		t.Errorf("spawn = %v, want the step whose result is not zero", err)
	}
}

func TestSignalEndsAProcess(t *testing.T) {
	th, err := NewThread(func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer th.Close()
	p := NewProgram()
	p.Exec([]string{"/bin/sleep"}, []string{"sleep", "60"}, nil)
	proc := begin(t, th, p, 0, -1)
	if err := proc.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e, err := proc.Wait(); err != nil || e.Signal != unix.SIGKILL {
		t.Errorf("ended %+v, %v; want SIGKILL", e, err)
	}
	if err := proc.Signal(unix.SIGKILL); err != nil {
		t.Errorf("signal after the end: %v", err)
	}
}

func TestChildrenDieWithTheirThread(t *testing.T) {
	th, err := NewThread(func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	p := NewProgram()
	p.Do("die with the parent", 0, unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	p.Exec([]string{"/bin/sleep"}, []string{"sleep", "60"}, nil)
	proc := begin(t, th, p, 0, -1)
	th.Close()
	if e, err := proc.Wait(); err != nil || e.Signal != unix.SIGKILL {
		t.Errorf("ended %+v, %v; want SIGKILL", e, err)
	}
}

func TestThreadsAreNeverTheFirstThread(t *testing.T) {
	for range 50 {
		th, err := NewThread(func() error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if th.TID() == os.Getpid() {
			t.Error("a Thread is the first thread of the process")
		}
		th.Close()
	}
}

func BenchmarkSpawnTrue(b *testing.B) {
	th, err := NewThread(func() error { return nil })
	if err != nil {
		b.Fatal(err)
	}
	defer th.Close()
	for b.Loop() {
		p := NewProgram()
		p.Exec([]string{"/bin/true"}, []string{"true"}, nil)
		var pid, fd int
		th.Do(func() { pid, fd, err = p.Spawn(0, -1) })
		if err != nil {
			b.Fatal(err)
		}
		proc, _ := NewProcess(pid, fd)
		proc.Wait()
	}
}

// TestProcessIsBornInACgroup begins a process in a cgroup of version 2: the way
// that machines with that version go. The tree beside version 1 will do for it.
func TestProcessIsBornInACgroup(t *testing.T) {
	testenv.NeedRoot(t)
	root := ""
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(dir + "/cgroup.controllers"); err == nil {
			root = dir
		}
	}
	testenv.SkipUnless(t, root != "", "no cgroup tree of version 2 is mounted", "mount -t cgroup2 none /sys/fs/cgroup/unified")
	name := "hobtest-" + strconv.Itoa(os.Getpid())
	c := &Cgroups{Version: 2, mounts: map[string]string{"memory": root, "pids": root, "cpu": root}}
	g, err := c.Make(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	}()
	th, err := NewThread(func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer th.Close()
	p := NewProgram()
	p.Exec([]string{"/bin/sleep"}, []string{"sleep", "60"}, nil)
	proc := begin(t, th, p, unix.CLONE_NEWNS|unix.CLONE_NEWPID, g.FD())
	pid := proc.PID
	if got := g.Processes(); len(got) != 1 || got[0] != pid {
		t.Errorf("processes of the cgroup %v, want %d", got, pid)
	}
	if text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup"); !strings.Contains(string(text), "0::/"+name+"\n") {
		t.Errorf("the process says %s", text)
	}
	if err := proc.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := proc.Wait(); err != nil {
		t.Fatal(err)
	}
}
