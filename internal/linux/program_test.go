package linux

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

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
	p := NewProgram(8)
	p.Exec([]string{"/does/not/exist", "/bin/sh"}, []string{"sh", "-c", "exit $N"}, []string{"N=7"})
	e, err := spawn(t, p)
	if err != nil || e.Code != 7 || e.Signal != 0 {
		t.Errorf("ended %+v, %v; want code 7", e, err)
	}
}

func TestProgramStopsAtTheFailedStep(t *testing.T) {
	p := NewProgram(8)
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
	p := NewProgram(8)
	p.Exec([]string{"/no/a", file, "/no/b"}, []string{"x"}, nil)
	_, err := spawn(t, p)
	if errno, ok := ExecFailed(err); !ok || errno != unix.EACCES {
		t.Errorf("spawn = %v, want the EACCES of the file", err)
	}
}

func TestResultOfAStepCanBeUsed(t *testing.T) {
	p := NewProgram(8)
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
	p := NewProgram(8)
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
	p := NewProgram(8)
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
		p := NewProgram(8)
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
	p := NewProgram(8)
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

// wait spawns p, which waits, and returns what Spawn returned when it has.
func wait(t *testing.T, p *Program, flags CloneFlags) (result func() (Ended, error)) {
	t.Helper()
	th, err := NewThread(func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(th.Close)
	type spawned struct {
		pid, fd int
		err     error
	}
	done := make(chan spawned, 1)
	th.Begin(func() {
		pid, fd, err := p.Spawn(flags, -1)
		done <- spawned{pid, fd, err}
	})
	return func() (Ended, error) {
		s := <-done
		if s.err != nil {
			return Ended{}, s.err
		}
		proc, err := NewProcess(s.pid, s.fd)
		if err != nil {
			t.Fatal(err)
		}
		return proc.Wait()
	}
}

// arrived waits until the process of p waits.
func arrived(t *testing.T, p *Program) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !p.Waiting(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatal("the process does not come to its wait")
		}
	}
}

func TestProcessWaitsForMoreSteps(t *testing.T) {
	for _, early := range []bool{false, true} {
		first, second, third := NewProgram(8), NewProgram(8), NewProgram(8)
		first.Wait()
		second.Do("enter /tmp", 0, unix.SYS_CHDIR, second.String("/tmp"))
		second.Wait()
		third.Exec([]string{"/bin/sh"}, []string{"sh", "-c", `test "$PWD" = /tmp && exit $N`}, []string{"N=7"})
		if early {
			first.Resume(second)
			second.Resume(third)
		}
		result := wait(t, first, unix.CLONE_FILES)
		if !early {
			arrived(t, first)
			if second.Waiting() {
				t.Error("the process has passed a wait that is not over")
			}
			first.Resume(second)
			arrived(t, second)
			second.Resume(third)
		}
		if e, err := result(); err != nil || e.Code != 7 {
			t.Errorf("ended %+v, %v; want code 7", e, err)
		}
	}
}

func TestExecutionIsSeenWithoutTheThread(t *testing.T) {
	for _, program := range []string{"/bin/sh", "/does/not/exist"} {
		first, second := NewProgram(8), NewProgram(8)
		first.Wait()
		second.Exec([]string{program}, []string{"sh", "-c", "read x; exit 7"}, nil)
		result := wait(t, first, 0)
		arrived(t, first)
		if _, _, ok := first.Executed(); ok {
			t.Error("executed before it was resumed")
		}
		first.Resume(second)
		if program != "/bin/sh" {
			if _, err := result(); err == nil {
				t.Error("no error")
			}
			if _, _, ok := first.Executed(); ok {
				t.Error("executed what does not exist")
			}
			continue
		}
		end := time.Now().Add(time.Minute)
		pid, pidfd, ok := first.Executed()
		for ; !ok; pid, pidfd, ok = first.Executed() {
			if time.Now().After(end) {
				t.Fatal("it was not executed")
			}
		}
		for comm := ""; comm != "sh\n"; { // which the kernel says a little later
			text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
			if comm = string(text); time.Now().After(end) {
				t.Fatalf("process %d is %q", pid, comm)
			}
		}
		if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil {
			t.Error(err)
		}
		if e, err := result(); err != nil || e.Signal != unix.SIGKILL && e.Code != 7 {
			t.Errorf("ended %+v, %v", e, err)
		}
	}
}

func TestStepThatFailsAfterAWaitIsNamed(t *testing.T) {
	first, second := NewProgram(8), NewProgram(8)
	first.Do("fine", 0, unix.SYS_GETPID)
	first.Wait()
	second.Do("fine, too", 0, unix.SYS_GETPID)
	second.Do("enter /nowhere", 0, unix.SYS_CHDIR, second.String("/nowhere"))
	second.Wait()
	result := wait(t, first, 0)
	first.Resume(second)
	_, err := result()
	if e, ok := errors.AsType[*StepError](err); !ok || e.Step != "enter /nowhere" || e.Errno != unix.ENOENT {
		t.Errorf("spawn = %v, want enter /nowhere: no such file", err)
	}
}

func TestWaitingProcessIsEnded(t *testing.T) {
	p := NewProgram(8)
	p.Wait()
	result := wait(t, p, 0)
	arrived(t, p)
	p.Resume(Quit())
	if _, err := result(); err == nil {
		t.Error("a process that was ended has executed something")
	}
}

func TestKilledWhileWaitingIsNoExecution(t *testing.T) {
	p := NewProgram(8)
	p.Do("tell", 0, unix.SYS_PRCTL, unix.PR_SET_NAME, p.String("hobwaits"))
	p.Wait()
	result := wait(t, p, 0)
	arrived(t, p)
	tasks, _ := os.ReadDir("/proc")
	killed := 0
	for _, e := range tasks {
		pid, _ := strconv.Atoi(e.Name())
		status, _ := os.ReadFile("/proc/" + e.Name() + "/status")
		if strings.HasPrefix(string(status), "Name:\thobwaits\n") && strings.Contains(string(status), "\nPPid:\t"+strconv.Itoa(os.Getpid())+"\n") {
			unix.Kill(pid, unix.SIGKILL)
			killed++
		}
	}
	if killed != 1 {
		t.Fatalf("found %d waiting processes", killed)
	}
	if _, err := result(); !errors.Is(err, ErrGone) {
		t.Errorf("spawn = %v, want ErrGone", err)
	}
}
