package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

func TestTinyProgramRuns(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		file := filepath.Join(t.TempDir(), "tiny")
		if err := os.WriteFile(file, tinyProgram(arch), 0o755); err != nil {
			t.Fatal(err)
		}
		if arch != runtime.GOARCH {
			continue // only that it can be written
		}
		if out, err := exec.Command(file).Output(); err != nil || string(out) != tinyLine {
			t.Errorf("output %q, %v; want %q", out, err, tinyLine)
		}
	}
}

func TestTinyHotProgramAnswersEachRequest(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		return // the program is for that one only
	}
	file := filepath.Join(t.TempDir(), "tinyhot")
	if err := os.WriteFile(file, tinyHotProgram(), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file)
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
	for range 3 {
		io.WriteString(in, "GET / HTTP/1.1\r\n\r\n")
		got := make([]byte, len(tinyHot))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != tinyHot {
			t.Fatalf("answer %q, %v; want %q", got, err, tinyHot)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v at the end of its input", err)
	}
}
