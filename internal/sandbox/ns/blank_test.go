package ns

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hob/faas"
	"hob/internal/network"
	"hob/internal/sandbox"
	"hob/internal/sandbox/sandboxtest"
	"hob/internal/testenv"
)

// until waits for something that happens in the background.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// stocked waits until there are n prepared blanks, or more, for what s is.
func stocked(t *testing.T, d *Driver, s sandbox.Spec, n int) {
	t.Helper()
	until(t, "a blank is prepared", func() bool { return len(blanksOf(t, d, s)) >= n })
}

func blanksOf(t *testing.T, d *Driver, s sandbox.Spec) []*prepared {
	t.Helper()
	s, err := d.complete(s)
	if err != nil {
		t.Fatal(err)
	}
	d.stock.mu.Lock()
	defer d.stock.mu.Unlock()
	if k := d.stock.kinds[d.stock.key(s)]; k != nil {
		return slices.Clone(k.ready)
	}
	return nil
}

// from starts s, ends it and returns what it was made from.
func from(t *testing.T, d *Driver, s sandbox.Spec) faas.Start {
	t.Helper()
	b, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
	return b.Start()
}

func TestStartReportsItsBlank(t *testing.T) {
	d := open(t)
	s := spec(t, "prog", "args", "one")
	until(t, "berths are ready", func() bool { return len(d.ready) == d.base })
	if got := from(t, d, s); got != faas.StartBare {
		t.Errorf("the first start was made from %s, want bare", got)
	}
	for _, word := range []string{"two", "three"} {
		stocked(t, d, s, 1)
		s.Args[2], s.Env = word, []string{"PATH=/bin", "WORD=" + word}
		b := start(t, d, s)
		if b.Start() != faas.StartPrepared {
			t.Errorf("a later start was made from %s, want prepared", b.Start())
		}
		if b.ID() != s.ID {
			t.Errorf("ID %s, want %s", b.ID(), s.ID)
		}
		if r := run(t, d, s); r.out != word || r.exit != (faas.Exit{}) {
			t.Errorf("got %q, %+v; want %s", r.out, r.exit, word)
		}
	}
	none := open(t, func(c *Config) { c.Blanks = -1 })
	for range 2 {
		if got := from(t, none, s); got != faas.StartOnDemand {
			t.Errorf("without blanks: made from %s, want on demand", got)
		}
	}
}

// TestSandboxOfABlankIsLikeAnyOther compares what a process sees of itself.
func TestSandboxOfABlankIsLikeAnyOther(t *testing.T) {
	s := spec(t, "sh", "-c", `id; pwd; hostname; ls -l /proc/self/fd | sed 's/.* //;s/[0-9]*//g' ; cut -d' ' -f 5- /proc/self/mountinfo | sed 's/ - / /'
grep -vE 'ctxt|^(Pid|Tgid|PPid|NSpid|NStgid|NSpgid|NSsid|Ngid|Vm|Rss|Hug|Cpus|Mems|Sig[QP]|Shd|THP|untag|Core|x86)' /proc/self/status; ulimit -a; echo "$@"; env; cat /proc/self/cgroup | cut -d: -f3; stat -c "%A %u %g %n" /tmp/* /dev/*; cut -c1-5 /proc/net/dev; cat /etc/resolv.conf`, "sh", "x", "y z")
	s.Listen = "127.0.0.1:9001" // of which nothing is seen
	w := sandboxtest.NewWorld(t)
	withRouter := func(c *Config) { c.Router = w.Router }
	s.Network.Mode, s.Devices = faas.NetworkOpen, []string{"/dev/tty1"}
	s.Sockets, s.Volumes, s.Dir, s.User.Groups = "/tmp/iofs", []string{"/data"}, "/srv", []uint32{7, 9}
	layer(t)
	for _, applet := range []string{"sed", "cut", "env", "sort"} {
		dir, _ := image()
		os.Symlink("busybox", filepath.Join(dir, "bin", applet))
	}
	want := make(map[faas.Start]string)
	d := open(t, withRouter)
	got := func(d *Driver) {
		b := start(t, d, s)
		b.Stdio().Stdin.Close()
		var out strings.Builder
		buf := make([]byte, 1<<16)
		for {
			n, err := b.Stdio().Stdout.Read(buf)
			out.Write(buf[:n])
			if err != nil {
				break
			}
		}
		want[b.Start()] = out.String()
	}
	users := d.ranges.last
	until(t, "berths are ready", func() bool { return len(d.ready) == d.base })
	got(d)
	stocked(t, d, s, 1)
	got(d)
	without := open(t, withRouter, func(c *Config) { c.Blanks = -1 })
	without.ranges.last = users
	got(without)
	if len(want) != 3 || want[faas.StartOnDemand] == "" {
		t.Fatalf("starts of %d sorts, want 3", len(want))
	}
	for _, sort := range []faas.Start{faas.StartBare, faas.StartPrepared} {
		if want[sort] != want[faas.StartOnDemand] {
			t.Errorf("%s:\n%s\non demand:\n%s", sort, want[sort], want[faas.StartOnDemand])
		}
	}
}

// TestBlankIsNeverAnothers changes each field of a Spec in turn.
func TestBlankIsNeverAnothers(t *testing.T) {
	d := open(t)
	s := spec(t, "true")
	s.Memory, s.CPU, s.TmpSize = 32*faas.MB, 500, 4*faas.MB
	s.Limits = sandbox.Limits{PIDs: 64, Files: 256, LockedMemory: 64 * faas.KB, PendingSignals: 100, MessageQueues: 64 * faas.KB, TmpInodes: 100}
	from(t, d, s)
	stocked(t, d, s, 1)
	for _, field := range reflect.VisibleFields(reflect.TypeFor[sandbox.Spec]()) {
		if field.Anonymous {
			continue // its own fields follow
		}
		other := s
		name := field.Name
		shared := false
		switch name {
		case "ID", "Args", "Env":
			shared = true
			other.ID, other.Args, other.Env = faas.NewID(), []string{"sh"}, []string{"PATH=/bin", "A=1"}
		case "Root":
			other.Root.Key += "x"
		case "Listen":
			other.Listen = "127.0.0.1:9001"
		case "User":
			other.User.Groups = []uint32{1}
		case "Network":
			other.Network.Mode = faas.NetworkHost
		default:
			switch f := reflect.ValueOf(&other).Elem().FieldByIndex(field.Index); f.Kind() {
			case reflect.String:
				f.SetString("/tmp/x" + f.String())
			case reflect.Bool:
				f.SetBool(!f.Bool())
			case reflect.Slice:
				f.Set(reflect.ValueOf([]string{"/dev/data"}))
			default:
				f.SetInt(f.Int() + 1)
			}
		}
		other, err := d.complete(other)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p := d.stock.take(d.stock.key(other)); (p != nil) != shared {
			t.Errorf("%s changed: got the other's blank %t, want %t", name, p != nil, shared)
			if p != nil {
				p.end()
			}
		} else if p != nil {
			p.end()
			from(t, d, s)
			stocked(t, d, s, 1)
		}
	}
}

func TestDeadBlankIsPassedBy(t *testing.T) {
	d := open(t)
	s := spec(t, "prog", "args", "alive")
	from(t, d, s)
	stocked(t, d, s, 1)
	for range 3 {
		for _, p := range blanksOf(t, d, s) {
			for _, pid := range p.box.cgroup.Processes() {
				if pid != os.Getpid() {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
		for range 2 {
			if r := run(t, d, s); r.out != "alive" || r.exit != (faas.Exit{}) {
				t.Errorf("got %q, %+v", r.out, r.exit)
			}
		}
		until(t, "a blank is prepared", func() bool { return len(blanksOf(t, d, s)) > 0 })
	}
	// The bare ones, too.
	until(t, "berths are ready", func() bool { return len(d.ready) >= d.base })
	for _, pid := range d.cgroups.Open(d.cgroup()).Processes() {
		if pid != os.Getpid() {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	s.Files = 99
	for range 2 * d.base {
		if r := run(t, d, s); r.out != "alive" || r.exit != (faas.Exit{}) {
			t.Errorf("got %q, %+v", r.out, r.exit)
		}
	}
}

func TestSweepFindsDeadBlanks(t *testing.T) {
	d := open(t)
	s := spec(t, "true")
	from(t, d, s)
	stocked(t, d, s, 1)
	p := blanksOf(t, d, s)[0]
	for _, pid := range p.box.cgroup.Processes() {
		if pid != os.Getpid() {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	until(t, "the thread notices", func() bool { // if the driver's own sweep has not found it before
		return len(p.result) > 0 || !slices.Contains(blanksOf(t, d, s), p)
	})
	d.stock.sweep(time.Now())
	if got := blanksOf(t, d, s); slices.Contains(got, p) {
		t.Error("a dead blank is in stock after a sweep")
	}
}

func TestStockFollowsTheStarts(t *testing.T) {
	d := open(t)
	s := spec(t, "true")
	depth := func() int {
		d.stock.mu.Lock()
		defer d.stock.mu.Unlock()
		for _, k := range d.stock.kinds {
			return k.depth
		}
		return 0
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			s := s
			s.ID = faas.NewID()
			from(t, d, s)
		})
	}
	wg.Wait()
	if got := depth(); got < 10 {
		t.Errorf("after a burst of 100: depth %d", got)
	}
	filled := func() bool { return len(blanksOf(t, d, s)) >= depth() } // which falls with each sweep that finds unused ones
	until(t, "blanks are prepared", filled)
	if held := d.stock.held(); held > d.stock.most {
		t.Errorf("%d blanks, at most %d", held, d.stock.most)
	}
	now := time.Now()
	for range 10 {
		now = now.Add(time.Second)
		d.stock.sweep(now)
	}
	if got := depth(); got != 1 || d.stock.held() != 1 {
		t.Errorf("after calm: depth %d, %d blanks; want 1", got, d.stock.held())
	}
	d.stock.sweep(now.Add(keptUnused))
	if d.stock.held() != 0 || d.stock.bytes != 0 || len(d.stock.kinds) != 0 {
		t.Errorf("two minutes later: %d blanks, %d bytes, %d kinds", d.stock.held(), d.stock.bytes, len(d.stock.kinds))
	}
	until(t, "the berths are as many as before", func() bool {
		d.trim()
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.berths == d.base && len(d.ready) == d.base
	})
	for _, r := range d.roots.byKey {
		if r.uses != 0 {
			t.Errorf("%d users of a root", r.uses)
		}
	}
}

func TestStockIsBounded(t *testing.T) {
	d := open(t, func(c *Config) { c.Blanks = 2 })
	kind := func(i int) sandbox.Spec {
		s := spec(t, "true")
		s.PIDs = 100 + i
		return s
	}
	for i := range 4 {
		from(t, d, kind(i))
		stocked(t, d, kind(i), 1)
		if held := d.stock.held(); held > 2 {
			t.Errorf("%d blanks, at most 2", held)
		}
	}
	for i, want := range []int{0, 0, 1, 1} {
		if got := len(blanksOf(t, d, kind(i))); got != want {
			t.Errorf("kind %d has %d blanks, want %d: what was started least lately goes first", i, got, want)
		}
	}
	if d.stock.bytes <= 0 {
		t.Error("blanks hold no memory")
	}

	// Memory for one.
	d.stock.mu.Lock()
	d.stock.memory = 1
	d.stock.mu.Unlock()
	from(t, d, kind(4))
	stocked(t, d, kind(4), 1)
	if got := len(blanksOf(t, d, kind(2))); got != 0 {
		t.Error("the memory of blanks is not bounded")
	}
}

// TestBlankThatCannotBePreparedIsTriedOnce has an image change under the driver,
// so that the next blank fails.
func TestBlankThatCannotBePreparedIsTriedOnce(t *testing.T) {
	d := open(t)
	s := spec(t, "true")
	from(t, d, s)
	stocked(t, d, s, 1)
	d.stock.mu.Lock()
	var k *kind
	for _, k = range d.stock.kinds {
		k.spec.Dir = "/etc/text" // is a file
	}
	d.stock.mu.Unlock()
	from(t, d, s) // takes the blank
	until(t, "the stock gives up", func() bool {
		d.stock.mu.Lock()
		defer d.stock.mu.Unlock()
		return k.failing
	})
	if d.stock.held() != 0 {
		t.Errorf("%d blanks", d.stock.held())
	}
	if got := from(t, d, s); got != faas.StartBare && got != faas.StartOnDemand {
		t.Errorf("made from %s", got)
	}
}

func TestBlanksWithoutADeviceDoNotWaitForSlots(t *testing.T) {
	w := sandboxtest.NewWorld(t)
	d := open(t, func(c *Config) { c.Router = w.Router })
	own, none := spec(t, "true"), spec(t, "true")
	own.Network = faas.Egress{Mode: faas.NetworkOpen}
	from(t, d, own)
	if err := w.Router.Close(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := w.Router.Spare(own.Network, ""); errors.Is(err, network.ErrFew) {
			break
		}
	}
	complete, err := d.complete(own)
	if err != nil {
		t.Fatal(err)
	}
	d.stock.started(d.stock.key(complete), complete, faas.StartOnDemand) // it lacks one more
	until(t, "the stock finds no slot", func() bool {
		d.stock.mu.Lock()
		defer d.stock.mu.Unlock()
		return !d.stock.short.IsZero()
	})
	from(t, d, none)
	stocked(t, d, none, 1)
	d.stock.mu.Lock()
	defer d.stock.mu.Unlock()
	if d.stock.kinds[d.stock.key(complete)].failing {
		t.Error("the blanks that lack a slot are not tried again")
	}
}

func TestFailedExecutionOfABlankIsTheSame(t *testing.T) {
	d := open(t)
	s := spec(t, "true")
	for _, args := range [][]string{{"nope"}, {"/etc/text"}, {"/etc/script"}, {"/etc/alien"}, {"/etc"}} {
		from(t, d, s)
		stocked(t, d, s, 1)
		bad := s
		bad.Args = args
		_, first := d.Start(t.Context(), bad)
		bad.PIDs = 77 // no blank is prepared for it
		_, second := d.Start(t.Context(), bad)
		if first == nil || second == nil || first.Error() != second.Error() || faas.KindOf(first) != faas.Invalid {
			t.Errorf("%v: prepared: %v; else: %v", args, first, second)
		}
	}
}

func TestCloseEndsBlanks(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NothingLeft(t, testenv.Mark())
	before := len(testenv.Descriptors())
	for i := range 5 {
		d := open(t)
		s := spec(t, "true")
		from(t, d, s)
		stocked(t, d, s, 1)
		d.stock.mu.Lock()
		for _, k := range d.stock.kinds {
			k.used = k.used.Add(time.Duration(i) * keptUnused) // as in a driver that is older
		}
		d.stock.mu.Unlock()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if n := d.stock.held(); n != 0 {
			t.Errorf("%d blanks", n)
		}
	}
	if after := len(testenv.Descriptors()); after > before+1 { // the poller's
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
	open(t).Close() // at once, when nothing is ready yet
}

func TestManyStartsAtOnce(t *testing.T) {
	d := open(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	sorts := make(map[faas.Start]int)
	ready := func() bool { // all that are wanted, which is fewer after sweeps
		d.stock.mu.Lock()
		defer d.stock.mu.Unlock()
		for _, k := range d.stock.kinds {
			return len(k.ready) >= k.depth
		}
		return false
	}
	for range 3 {
		for range 100 {
			wg.Go(func() {
				s := spec(t, "prog", "args", faas.NewID())
				b, err := d.Start(t.Context(), s)
				if err != nil {
					t.Error(err)
					return
				}
				buf := make([]byte, 100)
				n, _ := b.Stdio().Stdout.Read(buf)
				if string(buf[:n]) != s.Args[2] {
					t.Errorf("output %q, want %q", buf[:n], s.Args[2])
				}
				if err := b.Stop(t.Context(), 0); err != nil {
					t.Error(err)
				}
				mu.Lock()
				sorts[b.Start()]++
				mu.Unlock()
			})
		}
		wg.Wait()
		until(t, "blanks are prepared", ready)
	}
	if sorts[faas.StartPrepared] < 32 {
		t.Errorf("starts by what they were made from: %v", sorts)
	}
}

// TestSandboxOutlivesTheStock has more berths than are needed when calm comes back:
// the thread of one must not end, for the kernel would end what it has made.
func TestSandboxOutlivesTheStock(t *testing.T) {
	d := open(t)
	s := spec(t, "prog", "hang")
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() { from(t, d, s) })
	}
	wg.Wait()
	until(t, "blanks are prepared", func() bool { return d.stock.held() >= 10 })
	var live []*box
	for range 10 {
		live = append(live, start(t, d, s))
	}
	d.stock.sweep(time.Now().Add(2 * keptUnused))
	until(t, "the berths are as many as before", func() bool {
		d.trim()
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.berths == d.base && len(d.ready) == d.base && len(d.idle) > 0
	})
	from(t, d, s)
	for _, b := range live {
		select {
		case <-b.ended:
			t.Errorf("a sandbox made from %s ended by itself: %+v", b.from, b.exit)
		default:
		}
	}
	until(t, "idle berths are used again", func() bool {
		for range 20 {
			wg.Go(func() { from(t, d, s) })
		}
		wg.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.idle) == 0 || d.berths > d.base
	})
}

// TestEachSandboxHasANameOfItsOwn, whatever it was made from.
func TestEachSandboxHasANameOfItsOwn(t *testing.T) {
	d := open(t)
	s := spec(t, "sh", "-c", "echo $HOSTNAME; hostname")
	s.Hostname = ""
	taken := make(map[string]bool)
	for range 4 {
		r := run(t, d, s)
		told, name, _ := strings.Cut(strings.TrimSpace(r.out), "\n")
		if told != name || len(name) != 12 || taken[name] {
			t.Errorf("told %q, is named %q; taken are %v", told, name, taken)
		}
		taken[name] = true
		stocked(t, d, s, 1)
	}
}

// TestBlanksWaitBeforeTheFirstStart: as many as the operator asks for, or more.
func TestBlanksWaitBeforeTheFirstStart(t *testing.T) {
	d := open(t, func(c *Config) { c.Blanks = 2 })
	until(t, "two processes wait", func() bool {
		waiting := 0
		for _, pid := range d.cgroups.Open(d.cgroup()).Processes() {
			status, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
			if strings.Contains(string(status), "\nNSpid:\t"+strconv.Itoa(pid)+"\t1\n") { // the first of a PID namespace
				waiting++
			}
		}
		return waiting >= 2
	})
}
