package main

import (
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
