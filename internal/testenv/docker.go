package testenv

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// needDocker makes the program docker speak to an engine: the one that runs on
// this machine, else one that it starts for the test, with data of its own and
// without a network. Where dockerd is installed but will not start (in many
// containers) the test is skipped, also where tests must run.
func needDocker(t testing.TB) {
	t.Helper()
	docker := NeedTool(t, "docker")
	if engineAnswers(t.Context(), docker, os.Getenv("DOCKER_HOST")) {
		return
	}
	dockerd := NeedTool(t, "dockerd")
	NeedRoot(t)
	dir, err := os.MkdirTemp("/var/tmp", "engine-") // a short name: the address of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(dockerd,
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "run"),
		"--pidfile", filepath.Join(dir, "pid"), "--host", "unix://"+filepath.Join(dir, "sock"),
		"--bridge=none", "--iptables=false")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start dockerd: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop := func() {
		cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		os.RemoveAll(dir)
	}
	host := "unix://" + filepath.Join(dir, "sock")
	for end := time.Now().Add(30 * time.Second); !engineAnswers(t.Context(), docker, host); {
		select {
		case <-ended:
			ended <- nil // for stop
			stop()
			t.Skipf("dockerd is installed and does not start here: %s", lastLine(log.Bytes()))
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(end) {
			stop()
			t.Skipf("dockerd is installed and does not answer after 30 s: %s", lastLine(log.Bytes()))
		}
	}
	t.Cleanup(stop)
	t.Setenv("DOCKER_HOST", host)
}

func engineAnswers(ctx context.Context, docker, host string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, docker, "version", "--format", "{{.Server.Version}}")
	cmd.Env = os.Environ()
	if host != "" {
		cmd.Env = append(cmd.Env, fmt.Sprintf("DOCKER_HOST=%s", host))
	}
	return cmd.Run() == nil
}

func lastLine(log []byte) []byte {
	log = bytes.TrimSpace(log)
	return log[bytes.LastIndexByte(log, '\n')+1:]
}
