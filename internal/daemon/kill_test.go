package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hob/client"
	"hob/faas"
	"hob/internal/config"
	"hob/internal/daemon"
	"hob/internal/sandbox/fake"
	"hob/internal/testenv"
)

// TestMain is a daemon to be killed when a kill test says so.
func TestMain(m *testing.M) {
	if dir := os.Getenv("HOB_TEST_DAEMON"); dir != "" {
		if err := toBeKilled(dir, os.Getenv("HOB_TEST_DRIVER")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// toBeKilled is a daemon on dir that says its address and serves until it is killed.
func toBeKilled(dir, driver string) error {
	cfg := config.Default()
	cfg.Data, cfg.Listen, cfg.Driver, cfg.Insecure, cfg.Blanks = dir, "127.0.0.1:0", driver, true, 4
	cfg.ResultPerFunction, cfg.ResultTotal = faas.GB, faas.GB
	var options []daemon.Option
	if driver == "fake" {
		options = append(options, daemon.WithDriver(fake.New(map[string]fake.Program{"books": keepBooks})))
	}
	d, err := daemon.New(context.Background(), cfg, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), options...)
	if err != nil {
		return err
	}
	fmt.Println(d.Addr())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return d.Run(ctx)
}

// keepBooks is testdata/books as a function in Go.
func keepBooks(_ context.Context, p *fake.Proc) int {
	payload, _ := io.ReadAll(p.Stdin)
	conn, err := net.Dial("unix", p.Getenv("BOOKS"))
	if err != nil {
		return 1
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s %s %s\n", p.Getenv("HOB_CALL_ID"), p.Getenv("HOB_ATTEMPT"), payload); err != nil {
		return 1
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil { // it stands in the books
		return 1
	}
	fmt.Fprintf(p.Stdout, "%s %s", payload, p.Getenv("HOB_ATTEMPT"))
	return 0
}

// A booking is one run of a call, as its function has told.
type booking struct{ attempt, payload string }

// books are what the functions of all daemons have told: nothing that happens to a
// daemon can touch them.
type books struct {
	addr string

	mu   sync.Mutex
	runs map[string][]booking // by call ID; guarded by mu
}

func openBooks(t *testing.T) *books {
	addr := "@hob-books-" + faas.NewID() // in no file system: a sandbox with the node's network reaches it
	l, err := net.Listen("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &books{addr: addr, runs: make(map[string][]booking)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { b.write(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return b
}

// write enters what one run tells, and says so. A run whose daemon is killed
// meanwhile may tell less than a line, and is not entered.
func (b *books) write(conn net.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	attempt, payload, _ := strings.Cut(rest, " ")
	b.mu.Lock()
	b.runs[id] = append(b.runs[id], booking{attempt, payload})
	b.mu.Unlock()
	_, _ = conn.Write([]byte{'.'})
}

func (b *books) calls() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.runs)
}

func (b *books) of(id string) []booking {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.runs[id]
}

// victim is a daemon in a process of its own.
type victim struct {
	*client.Client
	addr string // host and port
	cmd  *exec.Cmd
}

func victimCommand(t *testing.T, dir, driver string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HOB_TEST_DAEMON="+dir, "HOB_TEST_DRIVER="+driver, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = t.Output()
	return cmd
}

// killedEarly starts a daemon on dir and kills it on its way to serve.
func killedEarly(t *testing.T, dir, driver string) {
	t.Helper()
	cmd := victimCommand(t, dir, driver)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// victimOn starts a daemon on dir.
func victimOn(t *testing.T, dir, driver string) *victim {
	t.Helper()
	cmd := victimCommand(t, dir, driver)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = cmd.Process.Kill()
		t.Fatalf("the daemon did not start: %v, %v", err, cmd.Wait())
	}
	v := &victim{cmd: cmd, addr: strings.TrimSpace(line)}
	if v.Client, err = client.New("http://" + v.addr); err != nil {
		t.Fatal(err)
	}
	return v
}

// kill is kill -9.
func (v *victim) kill() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
	v.Client.Close()
}

// end lets the daemon end as it should.
func (v *victim) end(t *testing.T) {
	t.Helper()
	v.Client.Close()
	_ = v.cmd.Process.Signal(syscall.SIGTERM)
	if err := v.cmd.Wait(); err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
}

// TestNoAcceptedCallIsLostWhenItsDaemonIsKilled kills a daemon at random moments
// under load, and compares what it accepted, what it says of each call, and what
// the functions did.
func TestNoAcceptedCallIsLostWhenItsDaemonIsKilled(t *testing.T) {
	killRounds(t, "fake", 300, 100*time.Millisecond)
}

func TestNoCallOfARealSandboxIsLostWhenItsDaemonIsKilled(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay, testenv.Cgroups)
	testenv.NothingLeft(t)
	killRounds(t, "ns", 25, 400*time.Millisecond)
}

// killRounds kills a daemon so many times, each time after most at the latest.
func killRounds(t *testing.T, driver string, rounds int, most time.Duration) {
	if n, err := strconv.Atoi(os.Getenv("HOB_TEST_KILLS")); err == nil {
		rounds = n
	}
	b := openBooks(t)
	dir := filepath.Join(t.TempDir(), "data")
	v := victimOn(t, dir, driver)
	makeBooks(t, v, b, driver)

	var mu sync.Mutex
	accepted := make(map[string]string) // payload by call ID
	results := make(map[string]string)
	sent := 0
	for round := range rounds {
		if round%2 == 1 { // on a slow machine nothing would end between kills, and five in a row fail a call
			drained(t, v)
		}
		ctx, stop := context.WithCancel(t.Context())
		var load sync.WaitGroup
		for range 4 {
			load.Go(func() {
				for ctx.Err() == nil {
					mu.Lock()
					sent++
					payload := fmt.Sprint("payload ", sent)
					mu.Unlock()
					call, err := v.Enqueue(ctx, client.CallRequest{App: faas.DefaultApp, Function: "books", Body: client.Sized(strings.NewReader(payload), int64(len(payload)))})
					if err != nil {
						continue // it was killed: nobody knows whether this one was accepted
					}
					mu.Lock()
					accepted[call.ID] = payload
					var some string // the latest may stand behind many
					for some = range accepted {
						break
					}
					mu.Unlock()
					look(ctx, v, some, results, &mu)
				}
			})
		}
		select {
		case <-time.After(time.Duration(rand.Int64N(int64(most)))):
		case <-t.Context().Done():
		}
		v.kill()
		stop()
		load.Wait()
		if rand.IntN(5) == 0 {
			killedEarly(t, dir, driver)
		}
		v = victimOn(t, dir, driver)
	}
	defer v.end(t)

	tally := drained(t, v)
	t.Logf("%d rounds, %d calls accepted, %d results shown before the end, %d calls run", rounds, len(accepted), len(results), b.calls())
	if tally.Failed > 0 || tally.Succeeded < len(accepted) || tally.Succeeded > sent {
		t.Errorf("of %d calls sent, %d were accepted; the queue counts %+v", sent, len(accepted), tally)
	}
	if n := b.calls(); n != tally.Succeeded {
		t.Errorf("%d calls have run, %d have succeeded", n, tally.Succeeded)
	}
	wrong := 0
	for id, payload := range accepted {
		if !audit(t, v, b, id, payload, results) {
			wrong++
		}
		if wrong == 5 {
			t.Fatal("and maybe more")
		}
	}
	if len(accepted) == 0 || len(results) == 0 {
		t.Errorf("%d calls were accepted in %d rounds and %d results shown: that shows nothing", len(accepted), rounds, len(results))
	}
}

// makeBooks makes the function.
func makeBooks(t *testing.T, v *victim, b *books, driver string) {
	t.Helper()
	n := &node{Client: v.Client, t: t}
	image := n.image("books")
	settings := client.Settings{Image: &image, Env: map[string]*string{"BOOKS": &b.addr}}
	if driver == "fake" {
		settings.Entrypoint = ptr([]string{"books"})
	} else {
		settings.Network = ptr("host")
	}
	if _, err := v.CreateFunction(t.Context(), faas.DefaultApp, "books", settings, ""); err != nil {
		t.Fatal(err)
	}
}

// look looks for a result as a user would, and remembers it.
func look(ctx context.Context, v *victim, id string, results map[string]string, mu *sync.Mutex) {
	answer, err := v.Result(ctx, id, 0)
	if err != nil {
		return
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	results[id] = string(body)
}

// drained waits until every call is over.
func drained(t *testing.T, v *victim) client.Status {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		tally, err := v.Status(t.Context(), faas.DefaultApp, "books")
		if err != nil {
			t.Fatal(err)
		}
		if tally.Queued+tally.Running == 0 {
			return tally
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("calls are left: %+v", tally)
		}
	}
}

// audit compares the books with what the daemon says of a call.
func audit(t *testing.T, v *victim, b *books, id, payload string, results map[string]string) (right bool) {
	t.Helper()
	right = true
	wrong := func(format string, args ...any) {
		t.Helper()
		right = false
		t.Errorf(format, args...)
	}
	call, err := v.CallRecord(t.Context(), id)
	if err != nil {
		wrong("call %s: %v", id, err)
		return false
	}
	answer, err := v.Result(t.Context(), id, 0)
	if err != nil {
		wrong("result of call %s: %v", id, err)
		return false
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		wrong("result of call %s: %v", id, err)
	}
	runs := b.of(id)
	seen := make(map[string]bool)
	for _, run := range runs {
		attempt, _ := strconv.Atoi(run.attempt)
		if run.payload != payload || seen[run.attempt] || attempt < 1 || attempt > call.Attempt {
			wrong("call %s with %q is at attempt %d and ran as %+v", id, payload, call.Attempt, runs)
		}
		seen[run.attempt] = true
	}
	last := strconv.Itoa(call.Attempt)
	if call.State != faas.CallSucceeded || !seen[last] {
		wrong("call %s is %s at attempt %s and ran as %+v", id, call.State, last, runs)
	}
	if want := payload + " " + last; string(bytes.TrimSpace(body)) != want {
		wrong("call %s has the result %q, want %q", id, body, want)
	}
	if was, looked := results[id]; looked && was != string(body) {
		wrong("call %s was shown with the result %q; now it is %q", id, was, body)
	}
	return right
}
