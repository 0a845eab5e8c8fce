package launch_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
	"hob/internal/launch"
	"hob/internal/sandbox"
	"hob/internal/sandbox/ns"
	"hob/internal/testenv"
)

// The tests of this file run testdata/contract in real sandboxes: what Fn promises
// of a container.

// fnProfile is what Fn has where its operator says nothing.
var fnProfile = launch.Profile{
	Limits: sandbox.Limits{PIDs: 50, Files: 350, LockedMemory: 64 * faas.KB, PendingSignals: 5000, MessageQueues: 819200},
}

// contractProgram is testdata/contract, built once.
var contractProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "hobtest-contract")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "contract")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "./testdata/contract")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(file)
})

// contract returns a rig of real sandboxes, and the function as the API of Fn
// makes it.
func contract(t *testing.T) (*rig, faas.Function) {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NothingLeft(t, testenv.Mark())
	program, err := contractProgram()
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	w.WriteHeader(&tar.Header{Name: "function", Mode: 0o755, Size: int64(len(program))})
	w.Write(program)
	w.WriteHeader(&tar.Header{Name: "srv/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1000, Gid: 1000})
	w.Close()

	r := newRig(t, nil)
	id := "t" + strings.ToLower(faas.NewID())
	d, err := ns.New(ns.Config{Generation: id, LockDir: t.TempDir(), CgroupParent: testenv.Mark() + id})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		removeCgroups(testenv.Mark() + id)
	})
	if r.only.Caps, err = d.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.only.Driver, r.Fn = d, fnProfile
	fn := r.image(t, v1.Config{Entrypoint: []string{"/function"}, Env: []string{"C=image", "D=image", "FN_TYPE=image"}}, layer.Bytes())
	fn.Format, fn.Profile, fn.User, fn.Memory, fn.TmpSize = faas.FormatHTTPStream, faas.ProfileFn, "1000:1000", 64*faas.MB, 64*faas.MB
	fn.Env = map[string]string{"B": "function", "c": "lower", "FN_MEMORY": "mine", "my-name.x": "odd"}
	return r, fn
}

// removeCgroups removes the parent of a driver's cgroups, in either version.
func removeCgroups(parent string) {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		dirs, _ := filepath.Glob(pattern + parent)
		for _, dir := range dirs {
			os.Remove(dir)
		}
	}
}

// ask starts a sandbox of fn, gives it one call and closes it.
func (r *rig) ask(ctx context.Context, t *testing.T, fn faas.Function, req *faas.Request) (*httptest.ResponseRecorder, faas.Outcome, error) {
	t.Helper()
	c, err := r.Start(t.Context(), testApp, fn, func() {})
	if err != nil {
		return nil, faas.Outcome{}, err
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	w := httptest.NewRecorder()
	out, err := c.Exchange(ctx, req, w)
	return w, out, err
}

// found is the report of testdata/contract.
type found struct {
	Method, URL, Host string
	Header            http.Header
	Env               []string
	Hostname          string
	User, Groups      []int
	PID               int
	Status            string
	Limits, Mounts    string
	Writes            map[string]string
}

// look starts a sandbox of fn and returns what it finds.
func (r *rig) look(t *testing.T, fn faas.Function) (f found) {
	t.Helper()
	req := request("CALL1")
	req.Header = http.Header{"Content-Type": {"text/plain"}, "X-Mine": {"1", "2"}, "Connection": {"X-Hop"}, "X-Hop": {"1"}, "Fn-Intent": {"httprequest"}, "Fn-Call-Id": {"forged"}}
	req.Deadline = time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	w, out, err := r.ask(t.Context(), t, fn, req)
	if err != nil || !out.Keep {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFunctionOfFnFindsWhatItIsPromised(t *testing.T) {
	r, fn := contract(t)
	f := r.look(t, fn)

	want := []string{"FN_MEMORY=64", "FN_TYPE=sync", "FN_FN_ID=f1", "FN_APP_ID=a1", "FN_LISTENER=unix:/tmp/iofs/lsnr.sock", "FN_FORMAT=http-stream",
		"FN_APP_NAME=photos", "FN_FN_NAME=resize", "A=app", "B=function", "C=image", "c=lower", "my-name.x=odd", "HOSTNAME=" + f.Hostname}
	for _, entry := range want {
		if !slices.Contains(f.Env, entry) {
			t.Errorf("environment lacks %s", entry)
		}
		name, _, _ := strings.Cut(entry, "=")
		if n := len(slices.DeleteFunc(slices.Clone(f.Env), func(e string) bool { return !strings.HasPrefix(e, name+"=") })); n != 1 {
			t.Errorf("%s is there %d times", name, n)
		}
	}

	if f.Method != "POST" || f.URL != "/call" || f.Host != "localhost" {
		t.Errorf("asked for %s %s of %s", f.Method, f.URL, f.Host)
	}
	wantHeader := http.Header{"Content-Type": {"text/plain"}, "X-Mine": {"1", "2"}, "Fn-Intent": {"httprequest"}, "Fn-Call-Id": {"CALL1"},
		"Fn-Deadline": {"2026-01-02T03:04:05.006Z"}, "Content-Length": {"0"}}
	if fmt.Sprint(f.Header) != fmt.Sprint(wantHeader) {
		t.Errorf("header %v, want %v", f.Header, wantHeader)
	}

	if !slices.Equal(f.User, []int{1000, 1000}) || len(f.Groups) != 0 || f.PID != 1 {
		t.Errorf("runs as %v, groups %v, process %d", f.User, f.Groups, f.PID)
	}
	for _, line := range []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(f.Status, line+"\n") {
			t.Errorf("status lacks %q", line)
		}
	}
	limits := strings.Join(strings.Fields(f.Limits), " ")
	for _, row := range []string{"Max open files 350 350 files", "Max locked memory 65536 65536 bytes", "Max pending signals 5000 5000 signals", "Max msgqueue size 819200 819200 bytes", "Max core file size 1 1 bytes"} {
		if !strings.Contains(limits, row) {
			t.Errorf("limits lack %q: %s", row, f.Limits)
		}
	}
	if !strings.Contains(f.Mounts, " /tmp tmpfs rw,nosuid,nodev,relatime,size=65536k,") || !strings.Contains(f.Mounts, " /tmp/iofs tmpfs rw,nosuid,nodev,noexec,") {
		t.Errorf("mounts %s", f.Mounts)
	}
	for dir, says := range map[string]string{"/": "read-only file system", "/srv": "read-only file system", "/tmp": "<nil>", "/tmp/iofs": "<nil>", "/dev/shm": "<nil>"} {
		if !strings.Contains(f.Writes[dir], says) {
			t.Errorf("write in %s: %s, want %s", dir, f.Writes[dir], says)
		}
	}
	if again := r.look(t, fn); again.Hostname == f.Hostname || len(again.Hostname) != 12 {
		t.Errorf("two sandboxes are both named %q", f.Hostname)
	}

	r.Fn.Writable, r.Fn.MaxFS = true, 8*faas.MB
	if f := r.look(t, fn); f.Writes["/srv"] != "<nil>" || f.Writes["/tmp"] != "<nil>" {
		t.Errorf("in a writable root: %v", f.Writes)
	}
}

func TestSocketOfAFunctionOfFn(t *testing.T) {
	r, fn := contract(t)
	for _, tt := range []struct {
		mode string
		kind faas.Kind
		is   error
		says string
	}{
		{mode: "linked"},
		{mode: "renamed"},
		{mode: "longest"},
		{mode: "private", kind: faas.TimedOut, is: faas.ErrStartTimeout, says: "0666"},
		{mode: "silent", kind: faas.TimedOut, is: faas.ErrStartTimeout, says: "start timeout of 2s"},
		{mode: "exit", kind: faas.FuncFailed, is: faas.ErrStartExited, says: "exit code 1"},
		{mode: "absolute", kind: faas.FuncFailed, is: faas.ErrStartExited, says: "an absolute link"},
		{mode: "elsewhere", kind: faas.FuncFailed, is: faas.ErrStartExited, says: "a link out of the directory"},
		{mode: "file", kind: faas.FuncFailed, is: faas.ErrStartExited, says: "a file and no socket"},
	} {
		fn.Env = map[string]string{"MODE": tt.mode}
		if fn.StartTimeout = time.Minute; tt.kind == faas.TimedOut {
			fn.StartTimeout = 2 * time.Second // in which it has come to where it waits
		}
		_, out, err := r.ask(t.Context(), t, fn, request("CALL1"))
		if faas.KindOf(err) != tt.kind || !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v of kind %q; want %v: %s", tt.mode, err, faas.KindOf(err), tt.is, tt.says)
		}
		if out.Keep != (tt.kind == faas.OK) || len(r.Live()) != 0 {
			t.Errorf("%s: %+v; %d sandboxes are left", tt.mode, out, len(r.Live()))
		}
	}
}

func TestAnswersOfAFunctionOfFn(t *testing.T) {
	r, fn := contract(t)
	for _, tt := range []struct {
		body   string
		kind   faas.Kind
		is     error
		says   string
		status int
		keep   bool
	}{
		{body: "status 200", status: 200, keep: true},
		{body: "status 502", kind: faas.FuncFailed, is: faas.ErrFunction, says: "no picture", keep: true},
		{body: "status 504", kind: faas.TimedOut, is: faas.ErrFunction, keep: true},
		{body: "status 500", kind: faas.FuncFailed, is: faas.ErrStatus},
		{body: "close", kind: faas.FuncFailed, is: faas.ErrBroken},
		{body: "exit 3", kind: faas.FuncFailed, is: faas.ErrBroken, says: "exit code 3"},
		{body: "hog", kind: faas.FuncFailed, is: faas.ErrBroken, says: "over its 64 MB memory limit"},
		{body: "header 2000", kind: faas.FuncFailed, is: faas.ErrHeaderTooLarge, says: "more than 1 KB"},
		{body: "header 500", status: 200, keep: true},
		{body: "hang", kind: faas.TimedOut, is: errOver},
	} {
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if tt.is == errOver {
			ctx, cancel = context.WithTimeoutCause(ctx, 300*time.Millisecond, errOver)
		}
		req := request("CALL1")
		req.Body, req.Size, req.MaxHeader = strings.NewReader(tt.body), int64(len(tt.body)), faas.KB
		_, out, err := r.ask(ctx, t, fn, req)
		cancel()
		if faas.KindOf(err) != tt.kind || !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v of kind %q; want %v: %s", tt.body, err, faas.KindOf(err), tt.is, tt.says)
		}
		if out.Keep != tt.keep || out.Status != tt.status || len(r.Live()) != 0 {
			t.Errorf("%s: %+v, want keep %t and status %d; %d sandboxes are left", tt.body, out, tt.keep, tt.status, len(r.Live()))
		}
	}
}

// errOver is why a call of these tests is ended.
var errOver = faas.Errorf(faas.TimedOut, "the function ran longer than its timeout")
