package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

// bench is one run of the benchmarks: a daemon of its own on a directory of its
// own, and the peers that this machine has.
type bench struct {
	*cli
	dir    string // of everything that is made
	self   string // this program
	server string // address of the daemon
	daemon *exec.Cmd
	http   *http.Client
	rounds int
	short  bool
}

func newBench(c *cli) *cobra.Command {
	b := &bench{cli: c}
	var parent string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure this machine beside docker, runc and crun",
		Long: `Start a daemon of its own on a directory of its own and measure it beside the
container tools that are installed, in turns within one run: times drift with
the hour, ratios in one run do not. The program in the container is the same for
all: a few hundred bytes that write one line. What is not installed is left out
with one line. Needs root. Takes about three minutes, and leaves nothing behind.`,
		Example: "  hob bench\n  hob bench --short",
		Args:    exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := os.MkdirTemp(parent, "hob-bench-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			b.dir = dir
			return b.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&parent, "dir", "", "make everything below this `directory` (default: that of temporary files); its disk is the one measured")
	cmd.Flags().IntVar(&b.rounds, "rounds", 60, "`number` of calls of each kind that are timed one by one")
	cmd.Flags().BoolVar(&b.short, "short", false, "a tenth of the long runs, to see that everything works")
	return cmd
}

func (b *bench) run(ctx context.Context) (err error) {
	if !b.Root {
		return faas.Errorf(faas.Denied, "the benchmark needs root: it starts a daemon and containers")
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	b.conditions()
	tiny := filepath.Join(b.dir, "tiny")
	if err := os.WriteFile(tiny, tinyProgram(runtime.GOARCH), 0o755); err != nil {
		return err
	}
	if _, err := b.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.hob(ctx, "image", "build", "-t", "bench/tiny", tiny); err != nil {
		return err
	}
	if err := b.hob(ctx, "create", "--name", "tiny", "hob.local/bench/tiny"); err != nil {
		return err
	}
	peers, undo := b.peers(ctx, tiny)
	defer undo()
	for _, rest := range []time.Duration{100 * time.Millisecond, 0} {
		if err := b.latency(ctx, peers, rest); err != nil {
			return err
		}
	}
	if err := b.throughput(ctx); err != nil {
		return err
	}
	if err := b.leaks(ctx); err != nil {
		return err
	}
	return b.startWithMany(ctx)
}

func (b *bench) printf(format string, args ...any) { fmt.Fprintf(b.Stdout, format, args...) }

// conditions prints what the figures depend on.
func (b *bench) conditions() {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	b.printf("%d cores, Linux %s, %s, hob %s\n", runtime.NumCPU(), strings.TrimSpace(string(release)), runtime.Version(), version())
	b.printf("one move into a cgroup after 100 ms of rest: %s (7 ms: a stock kernel; 0.1 ms: favordynmods was set since boot)\n", b.attach())
}

// attach times one move of a process into a cgroup, as docker and runc do it for
// each controller.
func (b *bench) attach() string {
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		cgroup := filepath.Join(root, "hob-bench-"+strconv.Itoa(os.Getpid()))
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil || os.Mkdir(cgroup, 0o755) != nil {
			continue
		}
		defer os.Remove(cgroup)
		var all []time.Duration
		for range 5 {
			sleep := exec.Command("sleep", "5")
			if sleep.Start() != nil {
				return "not known"
			}
			time.Sleep(100 * time.Millisecond)
			begin := time.Now()
			err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(sleep.Process.Pid)), 0)
			all = append(all, time.Since(begin))
			sleep.Process.Kill()
			sleep.Wait()
			if err != nil {
				return "not known: " + err.Error()
			}
		}
		return ms(median(all))
	}
	return "not known: no cgroup could be made"
}

// start starts the daemon and returns how long it took to be ready.
func (b *bench) start(ctx context.Context) (time.Duration, error) {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	addr := port.Addr().String()
	port.Close()
	b.server = "http://" + addr
	log, err := os.OpenFile(filepath.Join(b.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	b.daemon = exec.CommandContext(ctx, b.self, "serve", "--data", filepath.Join(b.dir, "data"), "--listen", addr)
	b.daemon.Cancel = func() error { return b.daemon.Process.Signal(syscall.SIGTERM) }
	b.daemon.Stdout, b.daemon.Stderr = log, log
	b.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	begin := time.Now()
	if err := b.daemon.Start(); err != nil {
		return 0, err
	}
	for time.Since(begin) < 20*time.Second {
		resp, err := b.http.Get(b.server + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Since(begin), nil
			}
		}
		time.Sleep(time.Millisecond)
	}
	b.stop()
	text, _ := os.ReadFile(log.Name())
	return 0, fmt.Errorf("the daemon was not ready in 20 s: %s", text)
}

func (b *bench) stop() error {
	b.http.CloseIdleConnections()
	b.daemon.Process.Signal(syscall.SIGTERM)
	if err := b.daemon.Wait(); err != nil {
		return fmt.Errorf("stop the daemon: %w", err)
	}
	return nil
}

// hob carries out a command line against the daemon.
func (b *bench) hob(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, b.self, append([]string{"--server", b.server}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("hob %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// call calls the function and returns the time until the whole answer is there.
func (b *bench) call(ctx context.Context) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.server+"/api/apps/default/functions/tiny/call", nil)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	resp, err := b.http.Do(req)
	if err != nil {
		return 0, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	took := time.Since(begin)
	if err != nil || resp.StatusCode != http.StatusOK || string(body) != tinyLine {
		return 0, fmt.Errorf("call: %s %q: %w", resp.Status, body, err)
	}
	return took, nil
}

// A peer starts a container with the tiny program in another way.
type peer struct {
	name  string
	every int // a turn in so many rounds
	args  func(n int) []string
	first []time.Duration // from the command's start to the first byte
	done  []time.Duration // to its exit
}

// peers prepares those that are there, and says what is missing.
func (b *bench) peers(ctx context.Context, tiny string) (peers []*peer, undo func()) {
	undo = func() {}
	if err := exec.CommandContext(ctx, "docker", "info").Run(); err != nil {
		b.printf("docker: left out, no engine answers (%v)\n", err)
	} else if err := b.dockerImport(ctx, tiny); err != nil {
		b.printf("docker: left out: %v\n", err)
	} else {
		undo = func() { exec.Command("docker", "image", "rm", "-f", "hob-bench-tiny").Run() }
		peers = append(peers, &peer{name: "docker run --rm --network none", every: 4, args: func(int) []string {
			return []string{"docker", "run", "--rm", "--network", "none", "hob-bench-tiny", "/tiny"}
		}})
	}
	bundle := filepath.Join(b.dir, "bundle")
	if err := makeBundle(bundle, tiny); err != nil {
		b.printf("runc, crun: left out: %v\n", err)
		return peers, undo
	}
	for _, name := range []string{"runc", "crun"} {
		program, err := exec.LookPath(name)
		if err != nil {
			b.printf("%s: left out, it is not installed\n", name)
			continue
		}
		p := &peer{name: name + " run", every: 1, args: func(n int) []string {
			return []string{program, "--root", filepath.Join(b.dir, name), "run", "-b", bundle, fmt.Sprintf("hob-bench-%d-%d", os.Getpid(), n)}
		}}
		if _, _, err := p.run(ctx, 0); err != nil {
			b.printf("%s: left out: %v\n", name, err)
			continue
		}
		peers = append(peers, p)
	}
	return peers, undo
}

func (b *bench) dockerImport(ctx context.Context, tiny string) error {
	tar := exec.CommandContext(ctx, "tar", "-C", filepath.Dir(tiny), "-c", filepath.Base(tiny))
	archive, err := tar.Output()
	if err != nil {
		return err
	}
	load := exec.CommandContext(ctx, "docker", "import", "-", "hob-bench-tiny")
	load.Stdin = bytes.NewReader(archive)
	return load.Run()
}

// makeBundle writes an OCI bundle with the namespaces that a sandbox of ours has.
func makeBundle(dir, tiny string) error {
	for _, sub := range []string{"proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", sub), 0o755); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(tiny)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/tiny"), program, 0o755); err != nil {
		return err
	}
	var namespaces []map[string]string
	for _, ns := range []string{"pid", "mount", "ipc", "uts", "network", "cgroup"} {
		namespaces = append(namespaces, map[string]string{"type": ns})
	}
	config, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2",
		"process": map[string]any{
			"args": []string{"/tiny"}, "env": []string{"PATH=/"}, "cwd": "/", "noNewPrivileges": true,
			"user": map[string]int{"uid": 1000, "gid": 1000}, "capabilities": map[string]any{},
		},
		"root": map[string]any{"path": "rootfs", "readonly": true},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755", "size=65536k"}},
		},
		"linux": map[string]any{
			"namespaces": namespaces,
			"resources":  map[string]any{"memory": map[string]int64{"limit": int64(faas.DefaultMemory)}, "pids": map[string]int{"limit": 1024}},
		},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600)
}

// run starts one container.
func (p *peer) run(ctx context.Context, n int) (first, done time.Duration, err error) {
	args := p.args(n)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	line := make([]byte, len(tinyLine))
	_, rerr := io.ReadFull(out, line[:1])
	first = time.Since(begin)
	io.ReadFull(out, line[1:])
	err = cmd.Wait()
	done = time.Since(begin)
	if err != nil || rerr != nil || string(line) != tinyLine {
		return 0, 0, fmt.Errorf("%s: %w: %s", p.name, cmp.Or(err, rerr, errors.New("it wrote something else")), strings.TrimSpace(stderr.String()))
	}
	return first, done, nil
}

// latency times calls and containers in turns, each after a rest.
func (b *bench) latency(ctx context.Context, peers []*peer, rest time.Duration) error {
	if _, err := b.call(ctx); err != nil {
		return err
	}
	for _, p := range peers {
		p.first, p.done = nil, nil
	}
	var ours []time.Duration
	for n := range b.rounds {
		time.Sleep(rest)
		took, err := b.call(ctx)
		if err != nil {
			return err
		}
		ours = append(ours, took)
		for _, p := range peers {
			if n%p.every != 0 {
				continue
			}
			time.Sleep(rest)
			first, done, err := p.run(ctx, n+1)
			if err != nil {
				return err
			}
			p.first, p.done = append(p.first, first), append(p.done, done)
			if p.every > 1 {
				time.Sleep(300 * time.Millisecond) // its engine cleans up after its exit
			}
		}
	}
	b.printf("\none fresh container for each call, %v of rest before each, in turns, %d rounds\n", rest, b.rounds)
	b.printf("  %-34s %9s %9s %9s\n", "", "p50", "p90", "p99")
	b.printf("  %-34s %9s %9s %9s   HTTP request sent → whole answer read; on demand, no blank\n", "hob call", ms(median(ours)), ms(quantile(ours, .9)), ms(quantile(ours, .99)))
	for _, p := range peers {
		b.printf("  %-34s %9s %9s %9s   command started → first byte; hob's whole answer is %.0f × faster\n", p.name,
			ms(median(p.first)), ms(quantile(p.first, .9)), ms(quantile(p.first, .99)), ratio(median(p.first), median(ours)))
		b.printf("  %-34s %9s %9s %9s   command started → its exit\n", "", ms(median(p.done)), ms(quantile(p.done, .9)), ms(quantile(p.done, .99)))
	}
	return nil
}

// many makes n calls from callers at once.
func (b *bench) many(ctx context.Context, n, callers int) (time.Duration, error) {
	work := make(chan struct{})
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	begin := time.Now()
	for range callers {
		wg.Go(func() {
			for range work {
				if _, err := b.call(ctx); err != nil {
					mu.Lock()
					failed = cmp.Or(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	for range n {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	if err := b.quiet(ctx); err != nil {
		return 0, err
	}
	return time.Since(begin), failed
}

// quiet returns when no sandbox is left.
func (b *bench) quiet(ctx context.Context) error {
	c, err := client.New(b.server)
	if err != nil {
		return err
	}
	defer c.Close()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		live, err := c.Sandboxes(ctx)
		if err != nil {
			return err
		}
		if len(live) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d sandboxes are left after 20 s", len(live))
		}
	}
}

func (b *bench) throughput(ctx context.Context) error {
	n := 2000
	if b.short {
		n = 200
	}
	b.printf("\nfresh containers from 16 callers, cleaned up\n")
	for range 3 {
		took, err := b.many(ctx, n, 16)
		if err != nil {
			return err
		}
		rate := float64(n) / took.Seconds()
		b.printf("  %d in %v: %.0f per second, %.0f per second and core\n", n, took.Round(time.Millisecond), rate, rate/float64(runtime.NumCPU()))
	}
	return nil
}

// leaks makes many calls and compares the daemon before and after.
func (b *bench) leaks(ctx context.Context) error {
	n := 1000
	if b.short {
		n = 100
	}
	if _, err := b.many(ctx, 64, 32); err != nil { // what is made once is made
		return err
	}
	time.Sleep(time.Second)
	before := b.look()
	for _, callers := range []int{1, 32} {
		if _, err := b.many(ctx, n, callers); err != nil {
			return err
		}
	}
	time.Sleep(time.Second)
	after := b.look()
	b.printf("\nthe daemon before and after %d calls one by one and %d from 32 callers\n", n, n)
	for i := range before {
		b.printf("  %-28s %8d %8d\n", before[i].what, before[i].n, after[i].n)
	}
	return nil
}

type tally struct {
	what string
	n    int
}

// look counts what the daemon holds.
func (b *bench) look() []tally {
	pid := strconv.Itoa(b.daemon.Process.Pid)
	entries := func(path string) int { list, _ := os.ReadDir(path); return len(list) }
	lines := func(path string) int { text, _ := os.ReadFile(path); return bytes.Count(text, []byte("\n")) }
	cgroups, files := 0, 0
	for _, dir := range []string{"/sys/fs/cgroup/memory/hob", "/sys/fs/cgroup/hob"} {
		filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				cgroups++
			}
			return nil
		})
	}
	filepath.WalkDir(filepath.Join(b.dir, "data"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			files++
		}
		return nil
	})
	children := 0
	text, _ := exec.Command("ps", "-o", "pid=", "--ppid", pid).Output()
	children = len(strings.Fields(string(text)))
	return []tally{
		{"resident memory, KB", status(pid, "VmRSS:")},
		{"threads", status(pid, "Threads:")},
		{"descriptors", entries("/proc/" + pid + "/fd")},
		{"child processes", children},
		{"mounts it sees", lines("/proc/" + pid + "/mounts")},
		{"cgroups, berths included", cgroups},
		{"directories of its data", files},
	}
}

// status reads a number out of /proc/PID/status.
func status(pid, field string) int {
	text, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field); ok {
			n, _ := strconv.Atoi(strings.Fields(value)[0])
			return n
		}
	}
	return -1
}

// startWithMany restarts the daemon with a thousand functions.
func (b *bench) startWithMany(ctx context.Context) error {
	c, err := client.New(b.server)
	if err != nil {
		return err
	}
	tiny, err := c.Function(ctx, "default", "tiny")
	if err != nil {
		return err
	}
	for n := range 1000 {
		if _, err := c.CreateFunction(ctx, "default", fmt.Sprintf("copy-%d", n), client.Settings{Image: &tiny.Image}, ""); err != nil {
			return err
		}
	}
	c.Close()
	var ready []time.Duration
	var resident int
	for range 5 {
		if err := b.stop(); err != nil {
			return err
		}
		took, err := b.start(ctx)
		if err != nil {
			return err
		}
		ready = append(ready, took)
		time.Sleep(500 * time.Millisecond)
		resident = status(strconv.Itoa(b.daemon.Process.Pid), "VmRSS:")
	}
	slices.Sort(ready)
	b.printf("\ndaemon with 1,000 functions, 5 starts: ready after %s (median; least %s, most %s); idle it holds %.1f MB\n",
		ms(median(ready)), ms(ready[0]), ms(ready[len(ready)-1]), float64(resident)/1024)
	return nil
}

func median(d []time.Duration) time.Duration { return quantile(d, .5) }

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[int(float64(len(s)-1)*q)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }

func ratio(a, b time.Duration) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// tinyLine is what the tiny program writes.
const tinyLine = "hello from a fresh container\n"

// tinyProgram returns the smallest program that answers: an ELF file of a header,
// one segment, a write and an exit, for amd64 or arm64.
func tinyProgram(arch string) []byte {
	const base, head = 0x400000, 64 + 56
	var code []byte
	var machine uint16
	text := uint32(base + head)
	n := uint32(len(tinyLine))
	le := func(v uint32) []byte { return []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)} }
	switch arch {
	case "arm64":
		machine = 183
		address := text + 9*4
		movz := func(reg, v uint32) []byte { return le(0xd2800000 | v<<5 | reg) }
		movk := func(reg, v uint32) []byte { return le(0xf2a00000 | v<<5 | reg) } // into bits 16 to 31
		svc := le(0xd4000001)
		code = slices.Concat(movz(0, 1), movz(1, address&0xffff), movk(1, address>>16), movz(2, n), movz(8, 64), svc, // write
			movz(0, 0), movz(8, 93), svc) // exit
	default:
		machine = 62
		code = slices.Concat(
			[]byte{0xb8}, le(1), // mov eax, write
			[]byte{0xbf}, le(1), // mov edi, 1
			[]byte{0xbe}, le(text+32), // mov esi, the line
			[]byte{0xba}, le(n), // mov edx, its length
			[]byte{0x0f, 0x05},   // syscall
			[]byte{0xb8}, le(60), // mov eax, exit
			[]byte{0x31, 0xff, 0x0f, 0x05}, // xor edi, edi; syscall
			[]byte{0x90},                   // nop
		)
	}
	code = append(code, tinyLine...)
	size := uint64(head + len(code))
	var f bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			switch v := v.(type) {
			case uint16:
				f.Write([]byte{byte(v), byte(v >> 8)})
			case uint32:
				f.Write(le(v))
			case uint64:
				f.Write(le(uint32(v)))
				f.Write(le(uint32(v >> 32)))
			}
		}
	}
	f.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	put(uint16(2), machine, uint32(1), uint64(text), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0))
	put(uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000))
	f.Write(code)
	return f.Bytes()
}
