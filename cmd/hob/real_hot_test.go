package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hob/internal/testenv"
)

// The tests of this file run the hot functions of examples/ as their READMEs say.

// example builds an example in Go and makes an image of it.
func (s *realServer) example(name string) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), name)
	cmd := exec.Command("go", "build", "-o", file, ".")
	cmd.Dir = filepath.Join("../../examples", name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	s.run(nil, "image", "build", "-t", name, file)
}

// says calls a function and compares the answer.
func (s *realServer) says(want, input string, args ...string) {
	s.t.Helper()
	if got := string(s.run([]byte(input), append([]string{"call"}, args...)...)); got != want {
		s.t.Errorf("hob call %s = %q, want %q", strings.Join(args, " "), got, want)
	}
}

func TestExamplesOfHotFunctions(t *testing.T) {
	s := serve(t)
	for _, name := range []string{"hot", "json", "event", "stream", "port"} {
		s.example(name)
	}
	s.run(nil, "create", "--name", "hot", "--format", "http", "hob.local/hot")
	s.says("Hello Ada, call 1 of this container.\n", "Ada", "hot")
	s.says("Hello Bob, call 2 of this container.\n", "Bob", "hot")

	s.run(nil, "create", "--name", "json", "--format", "json", "hob.local/json")
	s.says("WHISPER\n", "whisper", "json")
	resp, err := http.Post("http://"+s.addr+"/api/apps/default/functions/json/call", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusBadRequest || string(out) != "say something\n" {
		t.Errorf("json without a body: %s %q", resp.Status, out)
	}
	resp.Body.Close()

	s.run(nil, "create", "--name", "event", "--format", "cloudevent", "hob.local/event")
	var data struct {
		Said struct{ Name string }
		ID   string
	}
	if out := s.run([]byte(`{"name":"Ada"}`), "call", "event"); json.Unmarshal(out, &data) != nil || data.Said.Name != "Ada" || data.ID == "" {
		t.Errorf("event says %s", out)
	}

	s.run(nil, "create", "--name", "stream", "--format", "http-stream", "hob.local/stream")
	if out := string(s.run([]byte("Ada"), "call", "stream")); !strings.HasPrefix(out, "3 bytes in call 0") || !strings.Contains(out, ", to end by 2") {
		t.Errorf("stream says %q", out)
	}

	s.run(nil, "create", "--name", "port", "--format", "port", "--concurrency", "20", "hob.local/port")
	s.says("Hello Ada!\n", "", "port", "--path", "/hello/Ada")
	resp, err = http.Get("http://" + s.addr + "/api/apps/default/functions/port/call/count")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for n := 1; lines.Scan(); n++ {
		if want := fmt.Sprintf("data: %d", n); lines.Text() != want {
			t.Errorf("event %q, want %q", lines.Text(), want)
		}
		lines.Scan() // the empty line
	}
}

func TestHotShellFunction(t *testing.T) {
	s := serve(t)
	root := busyboxRoot(t)
	script, err := os.ReadFile("../../examples/shell/serve.sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/serve.sh"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"sh", "tr", "dd"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", tool)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	s.run(nil, "image", "build", "-t", "shell", "--entrypoint", `["/bin/serve.sh"]`, root)
	s.run(nil, "create", "--name", "shell", "--format", "http", "hob.local/shell")
	s.says("call 1: ONE\n", "one", "shell")
	s.says("call 2: TWO\n", "two", "shell")
}

// TestNodeDevelopmentKit runs a function made with Fn's own kit, unchanged.
func TestNodeDevelopmentKit(t *testing.T) {
	testenv.NeedTool(t, "node")
	testenv.NeedTool(t, "npm")
	s := serve(t)
	root := filepath.Join(t.TempDir(), "root")
	tool(t, "bash", "../../examples/node-fdk/make.sh", root)
	s.run(nil, "image", "build", "-t", "node-fdk", "--entrypoint", `["/bin/node","/function/func.js"]`, root)
	s.run(nil, "create", "--name", "node-fdk", "--format", "http-stream", "--memory", "256m", "--start-timeout", "20s", "hob.local/node-fdk")
	for n := 1; n <= 3; n++ {
		want := fmt.Sprintf(`{"hello":"Ada","call":%d,"function":"node-fdk"}`, n)
		s.says(want, `{"name":"Ada"}`, "node-fdk", "-H", "Content-Type: application/json")
		time.Sleep(200 * time.Millisecond) // it is frozen in between
	}
}

// TestKilledServerLeavesNoHotFunctions kills the server with hot functions at
// work, idle, frozen and starting, and looks what is left after the next start.
func TestKilledServerLeavesNoHotFunctions(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	hob, err := program()
	if err != nil {
		t.Fatal(err)
	}
	data, addr := filepath.Join(t.TempDir(), "data"), freePort()
	var server *exec.Cmd
	begin := func() {
		server = exec.Command(hob, "serve", "--data", data, "--listen", addr)
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, "http://"+addr+"/readyz", http.StatusOK)
	}
	begin()
	s := &realServer{t: t, hob: hob, addr: addr}
	s.example("hot")
	s.example("stream")
	for n := range 10 {
		s.run(nil, "create", "--name", fmt.Sprint("hot-", n), "--format", "http", "--idle-timeout", "300ms", "hob.local/hot")
		s.run(nil, "create", "--name", fmt.Sprint("stream-", n), "--format", "http-stream", "hob.local/stream")
	}
	for round := range 3 {
		var callers sync.WaitGroup
		answered := make(chan struct{}, 1) // there is a word if one was
		dead := make(chan struct{})
		for worker := range 6 {
			callers.Go(func() {
				for n := worker; ; n++ {
					select {
					case <-dead:
						return
					default:
					}
					name := fmt.Sprint([]string{"hot-", "stream-"}[n%2], n*7%10)
					resp, err := http.Post("http://"+addr+"/api/apps/default/functions/"+name+"/call", "", strings.NewReader("x"))
					if err == nil {
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						select {
						case answered <- struct{}{}:
						default:
						}
					}
				}
			})
		}
		select {
		case <-answered:
		case <-time.After(time.Minute):
			t.Error("no call was answered")
		}
		time.Sleep(time.Duration(200+100*round) * time.Millisecond)
		server.Process.Kill()
		server.Wait()
		close(dead)
		callers.Wait()
		begin()
		if out := string(s.run(nil, "ps", "--json")); strings.Contains(out, "hot-") {
			t.Errorf("sandboxes after the start: %s", out)
		}
	}
	if got := string(s.run([]byte("Ada"), "call", "hot-1")); got != "Hello Ada, call 1 of this container.\n" {
		t.Errorf("call after the kills = %q", got)
	}
	server.Process.Signal(syscall.SIGTERM)
	if err := server.Wait(); err != nil {
		t.Errorf("serve ended with %v", err)
	}
}
