package fake_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"hob/faas"
	"hob/internal/sandbox"
	"hob/internal/sandbox/fake"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/sandbox/sandboxtest/program"
)

func TestDriver(t *testing.T) {
	sandboxtest.TestDriver(t, func(t *testing.T) sandboxtest.Rig {
		d := fake.New(map[string]fake.Program{
			"prog": func(_ context.Context, p *fake.Proc) int {
				return program.Main(program.Proc{Args: p.Args, Env: p.Env, Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr, Term: p.Term, Sockets: p.Sockets, Listen: p.Listen})
			},
		})
		return sandboxtest.Rig{Driver: d, Spec: func(args ...string) sandbox.Spec {
			return sandbox.Spec{ID: faas.NewID(), Hostname: "fn", Args: append([]string{"prog"}, args...), Env: []string{"PATH=/"}, Memory: 64 * faas.MB}
		}}
	})
}

// run starts a program with input and returns its streams and end.
func run(t *testing.T, p fake.Program, in string) (out, errs string, exit faas.Exit) {
	t.Helper()
	d := fake.New(map[string]fake.Program{"p": p})
	t.Cleanup(func() { d.Close() })
	b, err := d.Start(t.Context(), sandbox.Spec{ID: "x", Args: []string{"/bin/p"}, Env: []string{"A=1", "A=2"}})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(b.Stdio().Stdin, in)
	b.Stdio().Stdin.Close()
	o, _ := io.ReadAll(b.Stdio().Stdout)
	e, _ := io.ReadAll(b.Stdio().Stderr)
	exit, err = b.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(o), string(e), exit
}

func TestTextIsAProgram(t *testing.T) {
	upper := fake.Text(func(in string) (string, error) {
		if in == "" {
			return "", errors.New("say something")
		}
		return strings.ToUpper(in), nil
	})
	if out, _, exit := run(t, upper, "hot"); out != "HOT" || exit.Code != 0 {
		t.Errorf("output %q, %+v", out, exit)
	}
	if _, errs, exit := run(t, upper, ""); errs != "say something\n" || exit.Code != 1 {
		t.Errorf("standard error %q, %+v", errs, exit)
	}
}

func TestProgramCanDieAndPanic(t *testing.T) {
	want := faas.Exit{Code: 137, Signal: "SIGKILL", OOM: true}
	if _, _, exit := run(t, func(_ context.Context, p *fake.Proc) int { p.Die(want); return 0 }, ""); exit != want {
		t.Errorf("exit %+v, want %+v", exit, want)
	}
	if _, errs, exit := run(t, func(context.Context, *fake.Proc) int { panic("at the disco") }, ""); exit.Code != 2 || errs != "panic: at the disco\n" {
		t.Errorf("exit %+v, standard error %q", exit, errs)
	}
}

func TestLastValueOfAVariableCounts(t *testing.T) {
	var got string
	run(t, func(_ context.Context, p *fake.Proc) int { got = p.Getenv("A") + p.Getenv("B"); return 0 }, "")
	if got != "2" {
		t.Errorf("A is %q, want 2", got)
	}
}
