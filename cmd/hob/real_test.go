package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"math/rand/v2"
	"net"
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

// The tests of this file run hob as its users do: the program, a server of its
// own, and images that other tools made.

// program is hob, built once for all tests that want it.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hobtest-program")
	if err != nil {
		return "", err
	}
	built = dir
	file := filepath.Join(dir, "hob")
	cmd := exec.Command("go", "build", "-o", file, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build hob: %w: %s", err, out)
	}
	return file, nil
})

var built string // directory of program, once it was asked for

// removeProgram is called when all tests have ended.
func removeProgram() {
	if built != "" {
		os.RemoveAll(built)
	}
}

// realServer is a running "hob serve".
type realServer struct {
	t    *testing.T
	hob  string
	addr string // host and port
	data string
	log  *bytes.Buffer
}

// serve starts a server on a directory and a port of its own. It must end without
// an error when the test ends.
func serve(t *testing.T, flags ...string) *realServer {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	hob, err := program()
	if err != nil {
		t.Fatal(err)
	}
	s := &realServer{t: t, hob: hob, addr: freePort(), data: filepath.Join(t.TempDir(), "data"), log: new(bytes.Buffer)}
	cmd := exec.Command(hob, append([]string{"serve", "--data", s.data, "--listen", s.addr}, flags...)...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("serve ended with %v", err)
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", s.log)
		}
	})
	await(t, "http://"+s.addr+"/readyz", http.StatusOK)
	return s
}

// freePort is an address with a port below those that the kernel gives to who asks for
// any: nobody gets it by chance before it is used, or between a server and its next start.
func freePort() string {
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
}

// await waits until url answers with status.
func await(t *testing.T, url string, status int) {
	t.Helper()
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil {
			last = err
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == status {
			return
		}
		last = errors.New(resp.Status)
	}
	t.Fatalf("%s does not answer %d: %v", url, status, last)
}

// run carries out a command line of hob with this input, which must succeed, and
// returns what it printed.
func (s *realServer) run(input []byte, args ...string) []byte {
	s.t.Helper()
	cmd := exec.Command(s.hob, append([]string{"--server", "http://" + s.addr}, args...)...)
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("hob %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.Bytes()
}

// tool carries out a command of another program, which must succeed.
func tool(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, testenv.NeedTool(t, args[0]), args[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestPictureIsResized is the example of Hyper Func's page: ImageMagick, as Debian
// packages it, in an image of its own.
func TestPictureIsResized(t *testing.T) {
	s := serve(t)
	root := filepath.Join(t.TempDir(), "root")
	tool(t, "mmdebstrap", "--quiet", "--variant=essential", "--include=imagemagick", "--format=directory", "trixie", root) // ImageMagick 6 of bookworm makes a file called fd:1 when its output is a pipe
	s.run(nil, "image", "build", "-t", "imagemagick", root)
	s.run(nil, "create", "--name", "resizer", "--memory", "256m", "hob.local/imagemagick", "convert", "-", "-resize", "50%", "fd:1")

	picture := image.NewRGBA(image.Rect(0, 0, 640, 480))
	for x := range 640 {
		for y := range 480 {
			picture.Set(x, y, color.RGBA{uint8(x), uint8(y), uint8(x * y), 255})
		}
	}
	var jpg bytes.Buffer
	if err := jpeg.Encode(&jpg, picture, nil); err != nil {
		t.Fatal(err)
	}
	small, err := jpeg.DecodeConfig(bytes.NewReader(s.run(jpg.Bytes(), "call", "resizer")))
	if err != nil || small.Width != 320 || small.Height != 240 {
		t.Errorf("result: %+v, %v; want a JPEG of 320 × 240", small, err)
	}
}

// busyboxRoot is a directory with a busybox and a program of one line.
func busyboxRoot(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	for _, sub := range []string{"", "/bin"} {
		if err := os.Mkdir(dir+sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile(testenv.NeedTool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"busybox": busybox, "greet": []byte("#!/bin/busybox sh\necho \"hello from $MADE_BY, $(/bin/busybox cat)\"\n")} {
		if err := os.WriteFile(filepath.Join(dir, "bin", name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// greets checks that the image answers.
func (s *realServer) greets(name, image, madeBy string) {
	s.t.Helper()
	s.run(nil, "create", "--name", name, image)
	if got, want := string(s.run([]byte("you"), "call", name)), "hello from "+madeBy+", you\n"; got != want {
		s.t.Errorf("call %s = %q, want %q", name, got, want)
	}
}

func TestImageBuiltAndPushedByDocker(t *testing.T) {
	s := serve(t)
	testenv.NeedFeature(t, testenv.Docker)
	root := busyboxRoot(t)
	dockerfile := "FROM scratch\nCOPY bin /bin\nENV MADE_BY=docker\nCMD [\"/bin/greet\"]\n"
	if err := os.WriteFile(filepath.Join(root, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	name := s.addr + "/made/by-docker:1"
	tool(t, "docker", "build", "-t", name, root)
	tool(t, "docker", "push", name)
	s.greets("pushed", name, "docker")
	// The same image under its own name, whatever the port is.
	s.greets("named", "hob.local/made/by-docker:1", "docker")

	archive := filepath.Join(t.TempDir(), "saved.tar")
	tool(t, "docker", "tag", name, "saved/by-docker:2")
	tool(t, "docker", "save", "-o", archive, "saved/by-docker:2")
	s.run(nil, "image", "load", archive)
	s.greets("loaded", "saved/by-docker:2", "docker")

	// And back: what hob has, docker pulls.
	tool(t, "docker", "image", "rm", name)
	tool(t, "docker", "pull", name)
}

// layout makes an OCI layout with umoci.
func layout(t *testing.T, madeBy string) string {
	t.Helper()
	root := busyboxRoot(t)
	dir := filepath.Join(t.TempDir(), "layout")
	tool(t, "umoci", "init", "--layout", dir)
	tool(t, "umoci", "new", "--image", dir+":1")
	tool(t, "umoci", "insert", "--image", dir+":1", filepath.Join(root, "bin"), "/bin")
	tool(t, "umoci", "config", "--image", dir+":1", "--config.env", "MADE_BY="+madeBy, "--config.cmd", "/bin/greet")
	return dir
}

func TestImageCopiedBySkopeo(t *testing.T) {
	s := serve(t)
	dir := layout(t, "umoci")
	name := s.addr + "/made/by-umoci:1"
	tool(t, "skopeo", "copy", "--dest-tls-verify=false", "oci:"+dir+":1", "docker://"+name)
	s.greets("copied", name, "umoci")

	// From hob into an archive, and the archive into hob.
	archive := filepath.Join(t.TempDir(), "archive.tar")
	tool(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+name, "docker-archive:"+archive+":from/skopeo:1")
	s.run(nil, "image", "load", archive)
	s.greets("archived", "from/skopeo:1", "umoci")
	s.run(nil, "image", "load", dir, "--name", "from/layout:1")
	s.greets("layout", "from/layout:1", "umoci")
}

func TestImageBuiltByBuildah(t *testing.T) {
	s := serve(t)
	root := busyboxRoot(t)
	store := []string{"buildah", "--root", filepath.Join(t.TempDir(), "root"), "--runroot", filepath.Join(t.TempDir(), "run"), "--storage-driver", "vfs"}
	buildah := func(args ...string) string {
		return strings.TrimSpace(string(tool(t, append(store[:len(store):len(store)], args...)...)))
	}
	container := buildah("from", "scratch")
	buildah("copy", container, filepath.Join(root, "bin"), "/bin")
	buildah("config", "--env", "MADE_BY=buildah", "--cmd", "/bin/greet", container)
	buildah("commit", container, "greet")
	name := s.addr + "/made/by-buildah"
	buildah("push", "--tls-verify=false", "greet", "docker://"+name)
	s.greets("built", name, "buildah")
}

// TestImagePulledFromAPasswordedRegistry pulls from Debian's registry with basic
// authentication, from a Docker configuration file, and not without.
func TestImagePulledFromAPasswordedRegistry(t *testing.T) {
	home := t.TempDir()
	addr := debianRegistry(t, "alice", "secret")
	tool(t, "skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "alice:secret", "oci:"+layout(t, "umoci")+":1", "docker://"+addr+"/private/greet:1")

	t.Setenv("DOCKER_CONFIG", home)
	s := serve(t)
	cmd := exec.Command(s.hob, "--server", "http://"+s.addr, "image", "pull", addr+"/private/greet:1")
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 5 || !strings.Contains(string(out), addr) {
		t.Errorf("pull without a password: %v: %s; want exit code 5 and the registry's name", err, out)
	}
	config := fmt.Sprintf(`{"auths":{%q:{"auth":"YWxpY2U6c2VjcmV0"}}}`, addr)
	if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(nil, "image", "pull", addr+"/private/greet:1")
	s.greets("pulled", addr+"/private/greet:1", "umoci")
}

// debianRegistry starts docker-registry with a password and returns its address.
func debianRegistry(t *testing.T, user, password string) string {
	t.Helper()
	dir, addr := t.TempDir(), freePort()
	passwords := tool(t, "htpasswd", "-Bbn", user, password)
	if err := os.WriteFile(filepath.Join(dir, "htpasswd"), passwords, 0o600); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %s/data}}
http: {addr: %s}
auth: {htpasswd: {realm: test, path: %s/htpasswd}}
`, dir, addr, dir)
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testenv.NeedTool(t, "docker-registry"), "serve", filepath.Join(dir, "config.yml"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	await(t, "http://"+addr+"/v2/", http.StatusUnauthorized)
	return addr
}

// TestKilledServerLosesNothing kills the server with SIGKILL while functions are
// made and called, starts it again on the same directory, and looks for what it
// said was done.
func TestKilledServerLosesNothing(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	hob, err := program()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	addr := freePort()
	var server *exec.Cmd
	begin := func() {
		server = exec.Command(hob, "serve", "--data", data, "--listen", addr)
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, "http://"+addr+"/readyz", http.StatusOK)
	}
	cli := func(args ...string) (string, error) {
		out, err := exec.Command(hob, append([]string{"--server", "http://" + addr}, args...)...).CombinedOutput()
		return string(out), err
	}
	begin()
	root := busyboxRoot(t)
	if out, err := cli("image", "build", "-t", "box", "--entrypoint", "/bin/busybox", root); err != nil {
		t.Fatal(out)
	}
	var made []string
	var callers sync.WaitGroup
	for round := range 3 {
		var mu sync.Mutex
		var wg sync.WaitGroup
		some := make(chan struct{}, 1) // there is a word if one was made
		for worker := range 4 {
			wg.Go(func() {
				for n := 0; ; n++ {
					name := fmt.Sprintf("f-%d-%d-%d", round, worker, n)
					if _, err := cli("create", "--name", name, "hob.local/box", "sleep", "30"); err != nil {
						return // the server is gone
					}
					mu.Lock()
					made = append(made, name)
					mu.Unlock()
					select {
					case some <- struct{}{}:
					default:
					}
					callers.Go(func() { cli("call", name) }) // ends with its server, if not before
				}
			})
		}
		select {
		case <-some:
		case <-time.After(time.Minute):
			t.Error("no function was made")
		}
		time.Sleep(time.Duration(50+50*round) * time.Millisecond)
		server.Process.Kill()
		server.Wait()
		wg.Wait()
		begin()
	}
	callers.Wait()
	out, err := cli("ls", "--json")
	if err != nil {
		t.Fatal(out)
	}
	for _, name := range made {
		if !strings.Contains(out, `"`+name+`"`) {
			t.Errorf("function %s was made and is gone", name)
		}
	}
	if out, err := cli("create", "--name", "echo", "hob.local/box", "echo", "whole"); err != nil {
		t.Fatal(out)
	}
	if out, err := cli("call", "echo"); out != "whole\n" || err != nil {
		t.Errorf("call after the kills = %q, %v", out, err)
	}
	server.Process.Signal(syscall.SIGTERM)
	if err := server.Wait(); err != nil {
		t.Errorf("serve ended with %v", err)
	}
}
