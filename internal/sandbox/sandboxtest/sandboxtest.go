// Package sandboxtest is the contract of package sandbox as tests. A driver that
// passes them may be used anywhere in the system; a driver that needs a test
// changed needs the contract changed first.
package sandboxtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hob/faas"
	"hob/internal/sandbox"
)

// Rig is a driver under test.
type Rig struct {
	Driver sandbox.Driver
	// Spec returns a Spec whose program is package program, with these arguments
	// behind its name, and whose other fields are such that it can start.
	Spec func(args ...string) sandbox.Spec

	// World is where the driver's Router is; nil: what sandboxes reach is not tested.
	World *World

	// What a driver cannot do that leaves it to a program of others. Each has to say so.
	Counted []string // the limits that are enforced, as testLimits calls them; nil: all
	// OwnKernel: a sandbox has a kernel of its own. Nobody outside reaches its TCP ports
	// (Dial and Listen are Unsupported) or sees its named pipes, and who connects to a
	// socket that nobody listens on any more waits.
	OwnKernel bool
}

// Build builds the program of the sandboxes, static, into dir and returns its path.
func Build(t testing.TB, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "prog")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "hob/internal/sandbox/sandboxtest/prog")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the program of the sandboxes: %v\n%s", err, out)
	}
	return file
}

// patience bounds what should take milliseconds.
const patience = time.Minute

// TestDriver runs the contract: at least one case for each sentence of its
// comments. open returns a driver that nobody else uses; its Close is the suite's.
func TestDriver(t *testing.T, open func(t *testing.T) Rig) {
	rig := open(t)
	t.Cleanup(func() {
		if err := rig.Driver.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	s := &suite{Rig: rig}

	t.Run("ProbeSaysWhoItIs", func(t *testing.T) {
		caps, err := s.Driver.Probe(t.Context())
		if err != nil || caps.Driver == "" {
			t.Errorf("Probe = %+v, %v; want a name", caps, err)
		}
	})
	t.Run("InputReachesTheProgramAndOutputTheCaller", func(t *testing.T) {
		b := s.start(t, "echo")
		go func() {
			io.WriteString(b.Stdio().Stdin, "hello")
			b.Stdio().Stdin.Close()
		}()
		if out := read(t, b.Stdio().Stdout); out != "hello" {
			t.Errorf("output %q, want hello", out)
		}
		s.ends(t, b, faas.Exit{})
	})
	t.Run("StreamsAreKeptApart", func(t *testing.T) {
		b := s.start(t, "say", "x")
		if out := read(t, b.Stdio().Stdout); out != "out x" {
			t.Errorf("standard output %q", out)
		}
		if out := read(t, b.Stdio().Stderr); out != "err x" {
			t.Errorf("standard error %q", out)
		}
	})
	t.Run("ArgumentsArriveAsTheyAre", func(t *testing.T) {
		want := []string{"", "a b", "$HOME", `"`, "ä\n"}
		b := s.start(t, append([]string{"args"}, want...)...)
		if out := read(t, b.Stdio().Stdout); out != strings.Join(want, "\n") {
			t.Errorf("arguments %q, want %q", out, want)
		}
	})
	t.Run("EnvironmentIsExactlyThatOfTheSpec", func(t *testing.T) {
		spec := s.Spec("env")
		spec.Env = []string{"B=2", "A=1 2", "PATH=/bin"}
		b := s.startSpec(t, spec)
		got := strings.Split(read(t, b.Stdio().Stdout), "\n")
		if !slices.Equal(got, spec.Env) {
			t.Errorf("environment %q, want %q", got, spec.Env)
		}
	})
	t.Run("SandboxWithoutANameGetsOne", func(t *testing.T) {
		named := make(map[string]bool)
		for _, env := range [][]string{{"A=1"}, {"A=1"}, {"A=1", "HOSTNAME=mine"}} {
			spec := s.Spec("env")
			spec.Hostname, spec.Env = "", env
			said := strings.Split(read(t, s.startSpec(t, spec).Stdio().Stdout), "\n")
			name := strings.TrimPrefix(said[len(said)-1], "HOSTNAME=")
			if len(said) != 2 || said[0] != "A=1" || named[name] || len(name) != 12 && name != "mine" {
				t.Errorf("environment %q, with a name of its own; taken are %v", said, named)
			}
			named[name] = true
		}
	})
	t.Run("ExitStatusIsReported", func(t *testing.T) {
		b := s.start(t, "exit", "7")
		s.ends(t, b, faas.Exit{Code: 7})
		s.ends(t, b, faas.Exit{Code: 7}) // and again
	})
	t.Run("MuchOutputArrivesWhole", func(t *testing.T) {
		b := s.start(t, "big", "10000000")
		n, err := io.Copy(io.Discard, b.Stdio().Stdout)
		if n != 10_000_000 || err != nil {
			t.Errorf("got %d bytes, %v; want 10000000", n, err)
		}
		s.ends(t, b, faas.Exit{})
	})
	t.Run("ClosedOutputIsSeenWhileTheProgramRuns", func(t *testing.T) {
		b := s.start(t, "close")
		if out := read(t, b.Stdio().Stdout); out != "" {
			t.Errorf("output %q, want none", out)
		}
		b.Stdio().Stdin.Close()
		s.ends(t, b, faas.Exit{Code: 3})
	})
	t.Run("ProgramThatDoesNotListenAnswers", func(t *testing.T) {
		b := s.start(t, "deaf")
		if out := read(t, b.Stdio().Stdout); out != "did not listen" {
			t.Errorf("output %q", out)
		}
		block := make([]byte, 1<<20)
		for i := 0; ; i++ {
			if _, err := b.Stdio().Stdin.Write(block); err != nil {
				break
			}
			if i == 100 {
				t.Fatal("100 MB written to a program that has closed its input")
			}
		}
		s.ends(t, b, faas.Exit{})
	})
	t.Run("ReadsHonourDeadlines", func(t *testing.T) {
		b := s.start(t, "hang")
		out, ok := b.Stdio().Stdout.(interface{ SetReadDeadline(time.Time) error })
		if !ok {
			t.Fatal("standard output takes no deadline")
		}
		if err := out.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(b.Stdio().Stdout); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read = %v, want the deadline", err)
		}
	})
	t.Run("WaitEndsWithItsContextAndTheSandboxGoesOn", func(t *testing.T) {
		b := s.start(t, "echo")
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if _, err := b.Wait(ctx); !errors.Is(err, cause) {
			t.Errorf("Wait = %v, want the cause", err)
		}
		b.Stdio().Stdin.Close()
		s.ends(t, b, faas.Exit{})
	})
	t.Run("StartOutlivesItsContext", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b, err := s.Driver.Start(ctx, s.Spec("echo"))
		if err != nil {
			t.Fatal(err)
		}
		s.stopAfter(t, b)
		cancel()
		io.WriteString(b.Stdio().Stdin, "still here")
		b.Stdio().Stdin.Close()
		if out := read(t, b.Stdio().Stdout); out != "still here" {
			t.Errorf("output %q", out)
		}
	})
	t.Run("StopAsksFirst", func(t *testing.T) {
		b := s.start(t, "term")
		lines := bufio.NewReader(b.Stdio().Stdout)
		if line, _ := lines.ReadString('\n'); line != "ready\n" {
			t.Fatalf("first line %q", line)
		}
		rest := make(chan string)
		go func() { text, _ := io.ReadAll(lines); rest <- string(text) }()
		if err := b.Stop(t.Context(), patience); err != nil {
			t.Fatal(err)
		}
		if got := <-rest; !strings.HasPrefix(got, "asked to end") {
			t.Errorf("rest of the output %q, want the answer to the request", got)
		}
		s.ends(t, b, faas.Exit{})
	})
	t.Run("LastWordsAreThereForAMoment", func(t *testing.T) {
		b := s.start(t, "term")
		lines := bufio.NewReader(b.Stdio().Stdout)
		if line, _ := lines.ReadString('\n'); line != "ready\n" {
			t.Fatalf("first line %q", line)
		}
		stopped := make(chan error)
		go func() { stopped <- b.Stop(t.Context(), patience) }()
		s.ends(t, b, faas.Exit{})
		if text, _ := io.ReadAll(lines); !strings.HasPrefix(string(text), "asked to end") {
			t.Errorf("after the end the output is %q, want the answer to the request", text)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	t.Run("StopKillsWhatDoesNotEnd", func(t *testing.T) {
		b := s.start(t, "hang")
		if line, _ := bufio.NewReader(b.Stdio().Stdout).ReadString('\n'); line != "ready\n" {
			t.Fatalf("first line %q", line)
		}
		if err := b.Stop(t.Context(), 20*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		exit, err := b.Wait(t.Context())
		if err != nil || exit.Signal != "SIGKILL" {
			t.Errorf("Wait = %+v, %v; want SIGKILL", exit, err)
		}
	})
	t.Run("StopMayBeCalledAgain", func(t *testing.T) {
		b := s.start(t, "hang")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := b.Stop(t.Context(), 0); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("StopClosesTheStreams", func(t *testing.T) {
		b := s.start(t, "hang")
		done := make(chan error)
		go func() { _, err := io.ReadAll(b.Stdio().Stdout); done <- err }()
		if err := b.Stop(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("a reader still waits")
		}
	})
	t.Run("UsageKeepsItsLastAnswer", func(t *testing.T) {
		b := s.start(t, "exit", "0")
		s.ends(t, b, faas.Exit{})
		if err := b.Stop(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if first, again := b.Usage(), b.Usage(); first != again {
			t.Errorf("usage %+v, then %+v", first, again)
		}
	})
	t.Run("UnknownProgramIsInvalid", func(t *testing.T) {
		spec := s.Spec()
		spec.Args = []string{"no-such-program"}
		_, err := s.Driver.Start(t.Context(), spec)
		if faas.KindOf(err) != faas.Invalid || !strings.Contains(err.Error(), "no-such-program") {
			t.Errorf("Start = %v, want Invalid with the program's name", err)
		}
	})
	t.Run("NoProgramIsInvalid", func(t *testing.T) {
		spec := s.Spec()
		spec.Args = nil
		if _, err := s.Driver.Start(t.Context(), spec); faas.KindOf(err) != faas.Invalid {
			t.Errorf("Start = %v, want Invalid", err)
		}
	})
	t.Run("StartTellsWhatItWasMadeFrom", func(t *testing.T) {
		b := s.start(t, "exit", "0")
		if from := b.Start(); from != faas.StartPrepared && from != faas.StartBare && from != faas.StartOnDemand {
			t.Errorf("Start() = %q", from)
		}
	})
	t.Run("Limits", func(t *testing.T) { s.testLimits(t) })
	t.Run("UnreadBytesAreCounted", func(t *testing.T) { s.testUnread(t) })
	t.Run("DialUnix", func(t *testing.T) { s.testDialUnix(t) })
	t.Run("DialTCP", func(t *testing.T) { s.testDialTCP(t) })
	t.Run("ListenerIsThereBeforeTheProcess", func(t *testing.T) { s.testListener(t) })
	t.Run("ListenerThatCannotBeIsInvalid", func(t *testing.T) { s.testNoListener(t) })
	t.Run("Devices", func(t *testing.T) { s.testDevices(t) })
	t.Run("Networks", func(t *testing.T) { s.testNetworks(t) })
	t.Run("FrozenOnesAreThawedByStop", func(t *testing.T) { s.testFreeze(t) })
	t.Run("ManyAtOnce", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 24 {
			wg.Go(func() {
				word := fmt.Sprint("word ", i)
				b, err := s.Driver.Start(t.Context(), s.Spec("args", word))
				if err != nil {
					t.Error(err)
					return
				}
				if out, err := io.ReadAll(b.Stdio().Stdout); err != nil || string(out) != word {
					t.Errorf("output %q, %v; want %q", out, err, word)
				}
				if exit, err := b.Wait(t.Context()); err != nil || exit != (faas.Exit{}) {
					t.Errorf("Wait = %+v, %v", exit, err)
				}
				if err := b.Stop(t.Context(), 0); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("CloseEndsWhatIsLeft", func(t *testing.T) {
		rig := open(t)
		b, err := rig.Driver.Start(t.Context(), rig.Spec("hang"))
		if err != nil {
			t.Fatal(err)
		}
		if err := rig.Driver.Close(); err != nil {
			t.Fatal(err)
		}
		if exit, err := b.Wait(t.Context()); err != nil || exit.Signal != "SIGKILL" {
			t.Errorf("Wait after Close = %+v, %v; want SIGKILL", exit, err)
		}
		if _, err := rig.Driver.Start(t.Context(), rig.Spec("exit", "0")); faas.KindOf(err) != faas.Busy {
			t.Errorf("Start after Close = %v, want Busy", err)
		}
	})
	t.Run("NoGoroutineIsLeft", func(t *testing.T) {
		warm := func() {
			b, err := s.Driver.Start(t.Context(), s.Spec("say", "x"))
			if err != nil {
				t.Fatal(err)
			}
			b.Wait(t.Context())
			if err := b.Stop(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 { // until what is made ahead is there
			warm()
		}
		before := runtime.NumGoroutine()
		for range 40 {
			warm()
		}
		// Drivers make things ahead as they like; what is left by each start counts.
		for end := time.Now().Add(patience); runtime.NumGoroutine() > before+20; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
			}
		}
	})
}

type suite struct{ Rig }

// start starts the program with args and stops it when the test ends.
func (s *suite) start(t *testing.T, args ...string) sandbox.Sandbox {
	t.Helper()
	return s.startSpec(t, s.Spec(args...))
}

func (s *suite) startSpec(t *testing.T, spec sandbox.Spec) sandbox.Sandbox {
	t.Helper()
	b, err := s.Driver.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if b.ID() != spec.ID {
		t.Errorf("ID %q, want %q", b.ID(), spec.ID)
	}
	s.stopAfter(t, b)
	return b
}

func (s *suite) stopAfter(t *testing.T, b sandbox.Sandbox) {
	t.Cleanup(func() {
		if err := b.Stop(context.Background(), 0); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
}

// ends waits for the end of the sandbox's process, which must be just this.
func (s *suite) ends(t *testing.T, b sandbox.Sandbox, want faas.Exit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if exit, err := b.Wait(ctx); err != nil || exit != want {
		t.Errorf("Wait = %+v, %v; want %+v", exit, err, want)
	}
}

func read(t *testing.T, r io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("read: %v", err)
	}
	return string(text)
}
