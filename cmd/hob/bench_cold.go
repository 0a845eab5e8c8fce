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
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/plainserver"
)

// cold measures fresh containers: a daemon that prepares blanks, one that does
// not, and the peers.
func (b *bench) cold(ctx context.Context) (err error) {
	tiny, err := b.program("tiny", tinyProgram(runtime.GOARCH))
	if err != nil {
		return err
	}
	var ours []*freshCalls
	for _, way := range []struct {
		name string
		args []string
	}{{"hob, blanks", nil}, {"hob, no prepared blanks", []string{"--blanks", "-1"}}} {
		d, err := b.daemon(ctx, "cold-"+strconv.Itoa(len(ours)), way.args...)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.stop()) }()
		if err := d.function(ctx, tiny, "tiny", nil); err != nil {
			return err
		}
		ours = append(ours, &freshCalls{daemon: d, name: way.name, copies: -1})
	}
	if err := ours[0].daemon.copies(ctx, "tiny", 2*(b.rounds+3), client.Settings{}); err != nil {
		return err
	}
	bare := &freshCalls{daemon: ours[0].daemon, name: "hob, first call of a function"}
	peers, undo := b.peers(ctx, tiny)
	defer undo()
	for _, rest := range []time.Duration{100 * time.Millisecond, 0} {
		if err := b.latency(ctx, append(ours[:2:2], bare), peers, rest); err != nil {
			return err
		}
	}
	if err := b.burst(ctx, ours); err != nil {
		return err
	}
	if err := b.throughput(ctx, ours); err != nil {
		return err
	}
	return b.leaks(ctx, ours[0].daemon)
}

// freshCalls are calls of the tiny function of one daemon.
type freshCalls struct {
	name   string
	daemon *benchDaemon
	of     string // the function; "": tiny

	copies int // of the function that have been called; each is called once, and finds a bare blank. Negative: the function itself is called

	took   []time.Duration
	found  map[string][]time.Duration // by what the call found
	counts map[string]int
}

// function is the one that is called next.
func (o *freshCalls) function() string {
	if o.copies < 0 {
		return cmp.Or(o.of, "tiny")
	}
	o.copies++
	return copyName(o.copies - 1)
}

// call calls the function over a connection that is kept, and returns the time
// until the first byte of the answer, and what the call found.
func (d *benchDaemon) call(ctx context.Context, function string) (took time.Duration, found string, err error) {
	addr := strings.TrimPrefix(d.server, "http://")
	c, _ := d.kept.Get().(net.Conn)
	if c == nil {
		if c, err = new(net.Dialer).DialContext(ctx, "tcp", addr); err != nil {
			return 0, "", err
		}
	}
	buf, n := make([]byte, 4<<10), 0
	begin := time.Now()
	if _, err := io.WriteString(c, "POST "+d.path(function)+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"); err != nil {
		c.Close()
		return 0, "", err
	}
	for {
		k, err := c.Read(buf[n:])
		if err != nil {
			c.Close()
			return 0, "", err
		}
		if n == 0 {
			took = time.Since(begin)
		}
		n += k
		if size := plainserver.MessageSize(buf[:n]); size > 0 && n >= size {
			break
		}
	}
	head, body, _ := strings.Cut(string(buf[:n]), "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 200") || body != tinyLine {
		c.Close()
		return 0, "", fmt.Errorf("call: %s", buf[:n])
	}
	d.kept.Put(c)
	if _, rest, ok := strings.Cut(head, "Hob-Start: "); ok {
		found, _, _ = strings.Cut(rest, "\r\n")
	}
	return took, found, nil
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
func (b *bench) latency(ctx context.Context, ours []*freshCalls, peers []*peer, rest time.Duration) error {
	for _, p := range peers {
		p.first, p.done = nil, nil
	}
	for _, o := range ours {
		o.took, o.found = nil, make(map[string][]time.Duration)
		for range 3 { // from now on the node knows it
			if _, _, err := o.daemon.call(ctx, o.function()); err != nil {
				return err
			}
			time.Sleep(rest)
		}
	}
	for n := range b.rounds {
		for _, o := range ours {
			time.Sleep(rest)
			took, found, err := o.daemon.call(ctx, o.function())
			if err != nil {
				return err
			}
			o.took, o.found[found] = append(o.took, took), append(o.found[found], took)
		}
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
	what := fmt.Sprintf("fresh container, %v of rest", rest)
	b.head("one fresh container for each call, %v of rest before each, in turns, %d rounds, to the first byte of the answer", rest, b.rounds)
	for _, o := range ours {
		b.times(what, o.name, o.took, "HTTP request sent → first byte")
		for _, start := range []faas.Start{faas.StartPrepared, faas.StartBare, faas.StartOnDemand} {
			if d := o.found[string(start)]; len(d) > 0 {
				b.times(what, "  that found: "+string(start), d, fmt.Sprintf("%d calls", len(d)))
			}
		}
	}
	for _, p := range peers {
		b.times(what, p.name, p.first, fmt.Sprintf("command started → first byte: %.0f × hob", ratio(median(p.first), median(ours[0].took))))
		b.times(what, "  to its exit", p.done, "")
	}
	return nil
}

// burst calls a hundred times at once on a node that rests.
func (b *bench) burst(ctx context.Context, ours []*freshCalls) error {
	b.head("100 fresh containers at once, until the last first byte")
	for _, o := range ours {
		var all []time.Duration
		for range 5 {
			time.Sleep(time.Second)
			begin := time.Now()
			if _, err := o.many(ctx, 100, 100); err != nil {
				return err
			}
			all = append(all, time.Since(begin))
			if err := o.daemon.quiet(ctx); err != nil {
				return err
			}
		}
		b.times("burst of 100", o.name, all, "5 bursts")
	}
	return nil
}

// many makes n calls from callers at once and returns how long they took.
func (o *freshCalls) many(ctx context.Context, n, callers int) (time.Duration, error) {
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	o.counts = make(map[string]int)
	begin := time.Now()
	for range callers {
		wg.Go(func() {
			for range work {
				_, found, err := o.daemon.call(ctx, o.function())
				mu.Lock()
				failed = cmp.Or(failed, err)
				o.counts[found]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return time.Since(begin), failed
}

// quiet returns when no sandbox is left.
func (d *benchDaemon) quiet(ctx context.Context) error {
	c, err := client.New(d.server)
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

func (b *bench) throughput(ctx context.Context, ours []*freshCalls) error {
	n := 2000
	if b.short {
		n = 200
	}
	b.printf("\nfresh containers from 16 callers, cleaned up, three times %d\n", n)
	for _, o := range ours {
		var rates []float64
		for range 3 {
			begin := time.Now()
			if _, err := o.many(ctx, n, 16); err != nil {
				return err
			}
			if err := o.daemon.quiet(ctx); err != nil {
				return err
			}
			rates = append(rates, float64(n)/time.Since(begin).Seconds()/float64(runtime.NumCPU()))
		}
		b.number("fresh containers, 16 callers", o.name, "per second and core", fmt.Sprintf("the last %d found: %v", n, o.counts), rates...)
	}
	return nil
}

// leaks makes many calls and compares the daemon before and after.
func (b *bench) leaks(ctx context.Context, d *benchDaemon) error {
	o := &freshCalls{daemon: d, copies: -1}
	n := 1000
	if b.short {
		n = 100
	}
	if _, err := o.many(ctx, 64, 32); err != nil { // what is made once is made
		return err
	}
	time.Sleep(time.Second)
	before := b.look(d)
	for _, callers := range []int{1, 32} {
		if _, err := o.many(ctx, n, callers); err != nil {
			return err
		}
	}
	if err := d.quiet(ctx); err != nil {
		return err
	}
	time.Sleep(time.Second)
	after := b.look(d)
	b.printf("\nthe daemon before and after %d calls one by one and %d from 32 callers\n", n, n)
	for i := range before {
		b.rows = append(b.rows, benchRow{What: "left behind", Way: before[i].what, Samples: []float64{float64(before[i].n), float64(after[i].n)}})
		b.printf("  %-34s %9d %9d\n", before[i].what, before[i].n, after[i].n)
	}
	return nil
}

type tally struct {
	what string
	n    int
}

// look counts what the daemon holds.
func (b *bench) look(d *benchDaemon) []tally {
	pid := strconv.Itoa(d.cmd.Process.Pid)
	entries := func(path string) int { list, _ := os.ReadDir(path); return len(list) }
	lines := func(path string) int { text, _ := os.ReadFile(path); return bytes.Count(text, []byte("\n")) }
	cgroups, files := 0, 0
	for _, dir := range []string{"/sys/fs/cgroup/memory/hob", "/sys/fs/cgroup/hob"} {
		filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				cgroups++
			}
			return nil
		})
	}
	filepath.WalkDir(filepath.Join(b.dir, d.name), func(_ string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
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
		{"child processes, blanks included", children},
		{"mounts it sees", lines("/proc/" + pid + "/mounts")},
		{"cgroups, berths included", cgroups},
		{"directories of its data", files},
	}
}
