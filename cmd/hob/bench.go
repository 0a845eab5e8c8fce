package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// bench is one run of the benchmarks: daemons of its own on a directory of its
// own, and the peers that this machine has.
type bench struct {
	*cli
	dir      string // of everything that is made
	self     string // this program
	rounds   int
	short    bool
	only     []string // parts to run; none: all but soak
	soakTime time.Duration
	rows     []benchRow
}

// A benchRow is what was measured of one thing in one way.
type benchRow struct {
	What    string    `json:"what"`
	Way     string    `json:"way"`
	Unit    string    `json:"unit"`
	Samples []float64 `json:"samples"` // in the order they were taken
	Note    string    `json:"note,omitempty"`
}

func newBench(c *cli) *cobra.Command {
	b := &bench{cli: c}
	var parent string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure this machine beside docker, runc, crun and nginx",
		Long: `Start daemons of its own on a directory of its own and measure them beside the
container tools and the proxy that are installed, in turns within one run: times
drift with the hour, ratios in one run do not. The program in the container is
the same for all. What is not installed is left out with one line. Needs root.
Takes about ten minutes, and leaves nothing behind.

The parts are cold (fresh containers), network (fresh containers that reach nothing,
the internet, what rules say), isolation (gVisor, runc, crun), hot (one container, many calls), density
(a thousand idle functions), evict (more functions than memory), start (of the
daemon), fn (calls through the API of Fn, and 10,000 definitions), queue
(asynchronous calls, and 200,000 of them in line), logs, and, only if it is named,
soak (half of what is possible, for long).`,
		Example: "  hob bench\n  hob bench --short\n  hob bench --only cold,hot --json",
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
	cmd.Flags().DurationVar(&b.soakTime, "soak", 10*time.Minute, "how long the part soak takes")
	cmd.Flags().StringSliceVar(&b.only, "only", nil, "run these `parts` only")
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
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"cold", b.cold}, {"network", b.network}, {"isolation", b.isolation}, {"hot", b.hot}, {"density", b.density}, {"evict", b.evict}, {"start", b.startWithMany}, {"fn", b.fn}, {"queue", b.queue}, {"logs", b.logs}, {"soak", b.soak}} {
		if !slices.Contains(b.only, part.name) && (len(b.only) > 0 || part.name == "soak") {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if b.json {
		return json.NewEncoder(b.Stdout).Encode(b.rows)
	}
	return nil
}

// printf prints a line of the table, which --json leaves out.
func (b *bench) printf(format string, args ...any) {
	if !b.json {
		fmt.Fprintf(b.Stdout, format, args...)
	}
}

// head begins a part of the table.
func (b *bench) head(format string, args ...any) {
	b.printf("\n"+format+"\n  %-34s %9s %9s %9s\n", append(args, "", "p50", "p90", "p99")...)
}

// times adds a row of durations.
func (b *bench) times(what, way string, d []time.Duration, note string) {
	r := benchRow{What: what, Way: way, Unit: "ms", Note: note}
	for _, d := range d {
		r.Samples = append(r.Samples, float64(d.Nanoseconds())/1e6)
	}
	b.rows = append(b.rows, r)
	b.printf("  %-34s %9s %9s %9s   %s\n", way, ms(median(d)), ms(quantile(d, .9)), ms(quantile(d, .99)), note)
}

// number adds a row of other numbers.
func (b *bench) number(what, way, unit, note string, n ...float64) {
	b.rows = append(b.rows, benchRow{what, way, unit, n, note})
	s := slices.Sorted(slices.Values(n))
	b.printf("  %-34s %9.4g %s   %s\n", way, s[len(s)/2], unit, note)
}

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

// benchDaemon is one daemon of the benchmarks.
type benchDaemon struct {
	b      *bench
	name   string // of its directory
	args   []string
	server string // its address
	cmd    *exec.Cmd
	http   *http.Client
	kept   sync.Pool     // of net.Conn, for calls that are timed
	ready  time.Duration // it took to be ready
}

// freeAddr returns an address on loopback that was free a moment ago.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// daemon starts a daemon. One with a name that was used before finds what that
// one left.
func (b *bench) daemon(ctx context.Context, name string, args ...string) (*benchDaemon, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(b.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &benchDaemon{b: b, name: name, args: args, server: "http://" + addr}
	d.cmd = exec.CommandContext(ctx, b.self, append([]string{"serve", "--data", filepath.Join(b.dir, name), "--listen", addr}, args...)...)
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	begin := time.Now()
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	for time.Since(begin) < 20*time.Second {
		resp, err := d.http.Get(d.server + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				d.ready = time.Since(begin)
				return d, nil
			}
		}
		time.Sleep(time.Millisecond)
	}
	d.stop()
	text, _ := os.ReadFile(log.Name())
	return nil, fmt.Errorf("the daemon was not ready in 20 s: %s", text)
}

func (d *benchDaemon) stop() error {
	d.http.CloseIdleConnections()
	d.cmd.Process.Signal(syscall.SIGTERM)
	if err := d.cmd.Wait(); err != nil {
		return fmt.Errorf("stop the daemon: %w", err)
	}
	return nil
}

// hob carries out a command line against the daemon.
func (d *benchDaemon) hob(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, d.b.self, append([]string{"--server", d.server}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("hob %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// function makes a function of a program file, which gets args.
func (d *benchDaemon) function(ctx context.Context, file, name string, flags []string, args ...string) error {
	image := "bench/" + filepath.Base(file)
	if err := d.hob(ctx, "image", "build", "-t", image, file); err != nil {
		return err
	}
	create := slices.Concat([]string{"create", "--name", name}, flags, []string{"hob.local/" + image})
	return d.hob(ctx, append(create, args...)...)
}

// copies makes n functions like one that is there.
func (d *benchDaemon) copies(ctx context.Context, of string, n int, settings client.Settings) error {
	c, err := client.New(d.server)
	if err != nil {
		return err
	}
	defer c.Close()
	fn, err := c.Function(ctx, "default", of)
	if err != nil {
		return err
	}
	settings.Image = &fn.Image
	for i := range n {
		if _, err := c.CreateFunction(ctx, "default", copyName(i), settings, ""); err != nil {
			return err
		}
	}
	return nil
}

func copyName(i int) string { return "copy-" + strconv.Itoa(i) }

func (d *benchDaemon) path(function string) string {
	return "/api/apps/default/functions/" + function + "/call"
}

// startWithMany restarts a daemon with a thousand functions.
func (b *bench) startWithMany(ctx context.Context) error {
	d, err := b.daemon(ctx, "many")
	if err != nil {
		return err
	}
	tiny, err := b.program("tiny", tinyProgram(runtime.GOARCH))
	if err == nil {
		err = d.function(ctx, tiny, "tiny", nil)
	}
	if err == nil {
		err = d.copies(ctx, "tiny", 1000, client.Settings{})
	}
	var ready []time.Duration
	var resident int
	for range 5 {
		if err = cmp.Or(err, d.stop()); err != nil {
			break
		}
		if d, err = b.daemon(ctx, "many"); err != nil {
			return err
		}
		ready = append(ready, d.ready)
		time.Sleep(500 * time.Millisecond)
		resident = status(strconv.Itoa(d.cmd.Process.Pid), "VmRSS:")
	}
	if err = errors.Join(err, d.stop()); err != nil {
		return err
	}
	b.head("daemon with 1,000 functions, 5 starts")
	b.times("start", "ready", ready, fmt.Sprintf("idle it holds %.1f MB", float64(resident)/1024))
	return nil
}

// program writes an executable file.
func (b *bench) program(name string, content []byte) (string, error) {
	file := filepath.Join(b.dir, name)
	return file, os.WriteFile(file, content, 0o755)
}

// status reads a number out of /proc/PID/status.
func status(pid, field string) int {
	return numberIn("/proc/"+pid+"/status", field)
}

// numberIn reads the number behind field in a file of lines; -1 if it is not there.
func numberIn(file, field string) int {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field); ok {
			n, _ := strconv.Atoi(strings.Fields(value)[0])
			return n
		}
	}
	return -1
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
