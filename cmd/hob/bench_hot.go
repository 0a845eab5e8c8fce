package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hob/client"
	"hob/faas"
)

// A way is one chain to the function of the hot benchmarks.
type way struct {
	name, addr, path string

	p50  [2][]time.Duration // of each round; with 1 connection, with 16
	p99  [2][]time.Duration
	rate [2][]float64
}

// hot measures calls of a function that runs: spoken to directly, through nginx,
// and through hob in its formats.
func (b *bench) hot(ctx context.Context) (err error) {
	d, err := b.daemon(ctx, "hot")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	for _, format := range []faas.Format{faas.FormatHTTP, faas.FormatHTTPStream} {
		if err := d.function(ctx, b.self, string(format), []string{"--format", string(format)}, "bench-function"); err != nil {
			return err
		}
	}
	addr := strings.TrimPrefix(d.server, "http://")
	direct, undo, err := b.directFunction(ctx)
	if err != nil {
		return err
	}
	defer undo()
	ways := []*way{{name: "the function, spoken to directly", addr: direct, path: "/"}}
	if proxy, undo, err := b.nginx(ctx); err != nil {
		b.printf("nginx: left out: %v\n", err)
	} else {
		defer undo()
		ways = append(ways, &way{name: "nginx, to a Unix socket", addr: proxy, path: "/"})
	}
	ways = append(ways, &way{name: "hob, http over stdio", addr: addr, path: d.path("http")}, &way{name: "hob, http-stream", addr: addr, path: d.path("http-stream")})

	rounds, each := 10, 500*time.Millisecond
	if b.short {
		rounds, each = 3, 100*time.Millisecond
	}
	connections := []int{1, 16}
	for i, n := range connections {
		for round := range rounds + 1 { // the first one warms up
			for k := range ways {
				w := ways[(k+round)%len(ways)]
				begin := time.Now()
				took, err := load(w.addr, getRequest(w.path), n, each)
				if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				if round > 0 {
					w.p50[i], w.p99[i] = append(w.p50[i], median(took)), append(w.p99[i], quantile(took, .99))
					w.rate[i] = append(w.rate[i], float64(len(took))/time.Since(begin).Seconds())
				}
			}
		}
	}
	added := func(w *way) time.Duration { return median(w.p50[0]) - median(ways[0].p50[0]) }
	for i, n := range connections {
		b.printf("\nhot calls, %d connection(s), %d rounds in turns; the client shares the cores\n  %-34s %9s %9s %9s\n", n, rounds, "", "p50", "p99", "calls/s")
		for _, w := range ways {
			note := ""
			if i == 0 && w != ways[0] {
				note = fmt.Sprintf("added %d µs", added(w).Microseconds())
				if w != ways[1] && ways[1].name[0] == 'n' {
					note += fmt.Sprintf(", %.2f × what nginx adds", ratio(added(w), added(ways[1])))
				}
			} else if i == 1 && w != ways[1] && w != ways[0] && ways[1].name[0] == 'n' {
				note = fmt.Sprintf("%.2f × nginx", middle(w.rate[i])/middle(ways[1].rate[i]))
			}
			what := fmt.Sprintf("hot, %d connections", n)
			b.rows = append(b.rows, benchRow{what, w.name, "p50 µs", micros(w.p50[i]), note},
				benchRow{what, w.name, "p99 µs", micros(w.p99[i]), ""}, benchRow{what, w.name, "calls/s", w.rate[i], ""})
			b.printf("  %-34s %6d µs %6d µs %9.0f   %s\n", w.name, median(w.p50[i]).Microseconds(), median(w.p99[i]).Microseconds(), middle(w.rate[i]), note)
		}
	}
	return nil
}

func micros(d []time.Duration) (out []float64) {
	for _, d := range d {
		out = append(out, float64(d.Nanoseconds())/1000)
	}
	return out
}

func middle(n []float64) float64 { return slices.Sorted(slices.Values(n))[len(n)/2] }

// directFunction starts the function as a process of this machine, and returns
// its address.
func (b *bench) directFunction(ctx context.Context) (addr string, undo func(), err error) {
	cmd := exec.CommandContext(ctx, b.self, "bench-function", "tcp", "127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	undo = func() { cmd.Process.Kill(); cmd.Wait() }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		undo()
		return "", nil, err
	}
	return strings.TrimSpace(line), undo, nil
}

var errNoPeer = faas.Errorf(faas.NotFound, "not installed")

// nginx starts the function on a Unix socket and nginx before it.
func (b *bench) nginx(ctx context.Context) (addr string, undo func(), err error) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		return "", nil, errNoPeer
	}
	dir := filepath.Join(b.dir, "nginx")
	socket := filepath.Join(dir, "function.sock")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	function := exec.CommandContext(ctx, b.self, "bench-function", "unix", socket)
	if err := function.Start(); err != nil {
		return "", nil, err
	}
	port, err := freeAddr()
	if err != nil {
		return "", nil, err
	}
	conf := fmt.Sprintf(`daemon off; master_process on; worker_processes %d; user root; pid %[2]s/pid; error_log %[2]s/log;
events { worker_connections 1024; }
http {
	access_log off; keepalive_requests 100000000; client_body_temp_path %[2]s/1; proxy_temp_path %[2]s/2; fastcgi_temp_path %[2]s/3; uwsgi_temp_path %[2]s/4; scgi_temp_path %[2]s/5;
	upstream function { server unix:%[3]s; keepalive 128; keepalive_requests 100000000; }
	server { listen %[4]s; location / { proxy_pass http://function; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}`, runtime.NumCPU(), dir, socket, port)
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return "", nil, err
	}
	proxy := exec.CommandContext(ctx, program, "-c", file, "-p", dir)
	if err := proxy.Start(); err != nil {
		return "", nil, err
	}
	undo = func() {
		proxy.Process.Signal(os.Interrupt)
		proxy.Wait()
		function.Process.Kill()
		function.Wait()
	}
	for range 200 {
		if _, err = load(port, getRequest("/"), 1, time.Millisecond); err == nil {
			return port, undo, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	undo()
	text, _ := os.ReadFile(filepath.Join(dir, "log"))
	return "", nil, fmt.Errorf("it does not answer: %w: %s", err, text)
}

// density measures what a thousand idle functions cost besides their processes.
func (b *bench) density(ctx context.Context) error {
	if runtime.GOARCH != "amd64" {
		b.printf("\ndensity: left out, its program is for amd64\n")
		return nil
	}
	n := 1000
	if b.short {
		n = 100
	}
	for _, network := range []string{"open", "none"} {
		if err := b.idle(ctx, n, network); err != nil {
			return err
		}
	}
	return nil
}

// idle measures n functions that are idle.
func (b *bench) idle(ctx context.Context, n int, network string) (err error) {
	d, err := b.daemon(ctx, "density-"+network, "--network", network)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := b.hotCopies(ctx, d, n, "10m"); err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	pid := strconv.Itoa(d.cmd.Process.Pid)
	before, resident := numberIn("/proc/meminfo", "MemAvailable:"), status(pid, "VmRSS:")
	for i := range n {
		if err := d.get(ctx, copyName(i)); err != nil {
			return err
		}
	}
	time.Sleep(5 * time.Second) // all are frozen, and what the kernel frees later is free
	after, grown := numberIn("/proc/meminfo", "MemAvailable:"), status(pid, "VmRSS:")-resident
	frozen, err := d.frozen(ctx)
	if err != nil {
		return err
	}
	own := b.ownMemory(pid)
	used := processorTime(pid)
	time.Sleep(5 * time.Second)
	used = processorTime(pid) - used
	b.printf("\n%d functions that ran once and are idle, %d of them frozen, network %s\n", n, frozen, network)
	per := func(kb int) float64 { return float64(kb) / float64(n) / 1024 }
	b.number("idle functions, network "+network, "memory of the machine, each", "MB", "", per(before-after))
	b.number("idle functions, network "+network, "of that: its own process", "MB", "proportional set size", own)
	b.number("idle functions, network "+network, "so on top of it", "MB", fmt.Sprintf("%.3f MB of that in the daemon", per(grown)), per(before-after)-own)
	b.number("idle functions, network "+network, "the daemon's processor time in 5 s", "ms", "", float64(used.Milliseconds()))
	return nil
}

// hotCopies makes n functions of the smallest hot program.
func (b *bench) hotCopies(ctx context.Context, d *benchDaemon, n int, memory string) error {
	file, err := b.program("tinyhot", tinyHotProgram())
	if err != nil {
		return err
	}
	if err := d.function(ctx, file, "tinyhot", []string{"--format", "http"}); err != nil {
		return err
	}
	bytes, err := faas.ParseBytes(memory)
	if err != nil {
		return err
	}
	format, idle := string(faas.FormatHTTP), client.Duration(time.Hour)
	return d.copies(ctx, "tinyhot", n, client.Settings{Format: &format, Memory: &bytes, IdleTimeout: &idle})
}

// get calls a function of the smallest hot program.
func (d *benchDaemon) get(ctx context.Context, function string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.server+d.path(function), nil)
	if err != nil {
		return err
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || resp.StatusCode != http.StatusOK || line != tinyLine {
		return fmt.Errorf("call %s: %s %q: %w", function, resp.Status, line, err)
	}
	return nil
}

// frozen counts the sandboxes that stand still.
func (d *benchDaemon) frozen(ctx context.Context) (n int, err error) {
	c, err := client.New(d.server)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	live, err := c.Sandboxes(ctx)
	for _, s := range live {
		if s.State == "frozen" {
			n++
		}
	}
	return n, err
}

// ownMemory returns the mean proportional set size of a daemon's children that
// run something of their own, in MB.
func (b *bench) ownMemory(pid string) float64 {
	children, _ := exec.Command("ps", "-o", "pid=,comm=", "--ppid", pid).Output()
	sum, n := 0, 0
	for line := range strings.Lines(string(children)) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == "tinyhot" {
			if pss := numberIn("/proc/"+f[0]+"/smaps_rollup", "Pss:"); pss >= 0 {
				sum, n = sum+pss, n+1
			}
		}
	}
	return float64(sum) / float64(max(n, 1)) / 1024
}

// processorTime is what a process has used, user and system.
func processorTime(pid string) time.Duration {
	text, _ := os.ReadFile("/proc/" + pid + "/stat")
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // 100 ticks a second
}

// evict calls more functions than memory holds.
func (b *bench) evict(ctx context.Context) (err error) {
	if runtime.GOARCH != "amd64" {
		b.printf("\nevict: left out, its program is for amd64\n")
		return nil
	}
	const functions, room = 200, 50
	n := 20_000
	if b.short {
		n = 1000
	}
	d, err := b.daemon(ctx, "evict", "--memory", strconv.Itoa(room*16)+"m", "--freeze-after", "-1s")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := b.hotCopies(ctx, d, functions, "16m"); err != nil {
		return err
	}
	var failed, left atomic.Int64
	left.Store(int64(n))
	var first error
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := time.Now()
	for range 16 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := d.get(ctx, copyName(rand.IntN(functions))); err != nil {
					failed.Add(1)
					mu.Lock()
					first = cmp.Or(first, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	b.printf("\n%d functions called at random, memory for %d, 16 callers\n", functions, room)
	b.number("evict and start", fmt.Sprintf("failed of %d calls", n), "calls", fmt.Sprintf("%.0f calls per second", float64(n)/time.Since(begin).Seconds()), float64(failed.Load()))
	return first
}
